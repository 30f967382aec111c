import { describe, expect, it } from "vitest";
import { around } from "../src/around";
import { diffLines, firstLines, lastLines } from "../src/diff";
import { blocks } from "../src/markdown";
import { EventParser } from "../src/sse";
import { firstLine, SuggestionCache, type Suggestion } from "../src/suggestions";
import { choices, heat, meanLogprob, percent, pieces, spansOf, visible, type Token } from "../src/tokens";

const utf8 = new TextEncoder();

function token(text: string | number[], logprob = -0.1): Token {
  const bytes = typeof text === "string" ? [...utf8.encode(text)] : text;
  return { id: 7, text: String(text), bytes, logprob, top: [] };
}

describe("server-sent events", () => {
  it("come whole, however the bytes are cut", () => {
    const bytes = utf8.encode('data: {"a":"é"}\n\ndata: [DONE]\n\n');
    for (let cut = 0; cut <= bytes.length; cut++) {
      const parser = new EventParser();
      const found = [...parser.push(bytes.slice(0, cut)), ...parser.push(bytes.slice(cut))];
      expect(found).toEqual(['{"a":"é"}', "[DONE]"]);
    }
  });

  it("leave comments out and join lines of data", () => {
    const parser = new EventParser();
    expect(parser.push(utf8.encode(": hello\n\ndata: a\ndata: b\n\n"))).toEqual(["a\nb"]);
  });
});

describe("tokens", () => {
  it("stand where their text does", () => {
    expect(spansOf("def f", [token("def"), token(" f")])).toEqual([
      { from: 0, to: 3 },
      { from: 3, to: 5 },
    ]);
  });

  it("may be halves of a character", () => {
    const spans = spansOf("a😀b", [token("a"), token([0xf0, 0x9f]), token([0x98, 0x80]), token("b")]);
    expect(spans.map((s) => "a😀b".slice(s.from, s.to))).toEqual(["a", "", "😀", "b"]);
  });

  it("may lose the first space and the end of the text", () => {
    const spans = spansOf("Hi th", [token(" Hi"), token(" there")]);
    expect(spans).toEqual([
      { from: 0, to: 2 },
      { from: 2, to: 5 },
    ]);
  });

  it("cut a part of the text into pieces that join to it", () => {
    const text = "one two three";
    const spans = spansOf(text, [token("one"), token(" two"), token(" three")]);
    expect(pieces(text, spans, 1, 9)).toEqual([
      { text: "ne", token: 0 },
      { text: " two", token: 1 },
      { text: " t", token: 2 },
    ]);
    expect(pieces(text, [], 0, 3)).toEqual([{ text: "one", token: null }]);
  });

  it("are shown with their probability", () => {
    expect(percent(0)).toBe("100 %");
    expect(percent(Math.log(0.5))).toBe("50 %");
    expect(percent(Math.log(0.015))).toBe("1.5 %");
    expect(percent(-30)).toBe("< 0.1 %");
    expect([0.95, 0.7, 0.4, 0.2, 0.05].map((share) => heat(Math.log(share)))).toEqual([0, 1, 2, 3, 4]);
    expect(visible(" a\n\t")).toBe("·a⏎⇥");
    expect(visible("")).toBe("∅");
  });

  it("have themselves among their alternatives, in order", () => {
    const other = { id: 9, text: "x", bytes: [120], logprob: -0.01 };
    const own = { ...token("def", -3), top: [other] };
    expect(choices(own).map((one) => one.id)).toEqual([9, 7]);
    expect(choices({ ...own, top: [other, own] }).map((one) => one.id)).toEqual([9, 7]);
  });

  it("have a mean", () => {
    expect(meanLogprob([])).toBeNull();
    expect(meanLogprob([token("a", -1), token("b", -3)])).toBe(-2);
  });
});

describe("suggestions", () => {
  const made = (text: string, isDone = true): Suggestion => ({
    prefix: "a = ",
    suffix: "\nend",
    text,
    tokens: [],
    isDone,
    finish: null,
  });

  it("are found while they are typed along, and going back", () => {
    const cache = new SuggestionCache();
    cache.add(made("b + c"));
    expect(cache.find("a = ", "\nend")?.typed).toBe(0);
    expect(cache.find("a = b +", "\nend")?.typed).toBe(3);
    expect(cache.find("a = b + c", "\nend")).toBeNull();
    expect(cache.find("a = x", "\nend")).toBeNull();
    expect(cache.find("a =", "\nend")).toBeNull();
    expect(cache.find("a = b", "\nother")).toBeNull();
  });

  it("that are being written may still reach the cursor", () => {
    const cache = new SuggestionCache();
    cache.add(made("b", false));
    expect(cache.find("a = b", "\nend")?.typed).toBe(1);
  });

  it("are forgotten, the oldest first", () => {
    const cache = new SuggestionCache(1);
    cache.add(made("b + c"));
    cache.add(made("d"));
    expect(cache.find("a = b", "\nend")).toBeNull();
    expect(cache.find("a = ", "\nend")?.suggestion.text).toBe("d");
  });

  it("are taken a line at a time", () => {
    expect(firstLine("x + 1\n    y\n")).toBe("x + 1\n");
    expect(firstLine("\n    y = 1\nz")).toBe("\n    y = 1\n");
    expect(firstLine("x")).toBe("x");
    expect(firstLine("\n\n")).toBe("\n\n");
  });
});

describe("the text around a place", () => {
  it("is whole where it fits", () => {
    expect(around("ab", "cd", 4)).toEqual({ prefix: "ab", suffix: "cd", isCut: false });
  });

  it("is cut at lines, far from the place, within the budget", () => {
    const prefix = Array.from({ length: 50 }, (_, i) => `before ${i}\n`).join("");
    const suffix = Array.from({ length: 50 }, (_, i) => `behind ${i}\n`).join("");
    for (const budget of [10, 37, 100, 300, 700]) {
      const found = around(prefix, suffix, budget);
      expect(found.isCut).toBe(true);
      expect(found.prefix.length + found.suffix.length).toBeLessThanOrEqual(budget);
      expect(prefix.endsWith(found.prefix)).toBe(true);
      expect(suffix.startsWith(found.suffix)).toBe(true);
      if (budget > 100) {
        expect(found.prefix.startsWith("before")).toBe(true);
        expect(found.suffix.endsWith("\n")).toBe(true);
      }
    }
  });

  it("begins at the same place while a few characters are typed", () => {
    const text = "line of text\n".repeat(100);
    const starts = new Set<number>();
    for (let n = 600; n < 700; n++) starts.add(n - around(text.slice(0, n), "", 400).prefix.length);
    expect(starts.size).toBeLessThanOrEqual(2);
  });

  it("gives one side what the other does not use", () => {
    expect(around("x".repeat(100), "", 50).prefix.length).toBeGreaterThan(37);
    expect(around("", "x".repeat(100), 50).suffix.length).toBe(50);
  });
});

describe("the difference of two texts", () => {
  it("says what stays, goes and comes", () => {
    const found = diffLines("a\nb\nc", "a\nx\nc\nd");
    expect(found.map((line) => `${line.kind[0]}${line.text}`)).toEqual(["sa", "rb", "ax", "sc", "ad"]);
  });

  it("gives either text back", () => {
    const before = "one\ntwo\n\nthree";
    const after = "two\nthree\n\nfour\n";
    const found = diffLines(before, after);
    const without = (kind: string): string =>
      found.filter((line) => line.kind !== kind).map((line) => line.text).join("\n");
    expect(without("added")).toBe(before);
    expect(without("removed")).toBe(after);
    for (const line of found) {
      const text = line.kind === "removed" ? before : after;
      expect(text.slice(line.at, line.at + line.text.length)).toBe(line.text);
    }
  });

  it("has a few lines around it", () => {
    expect(lastLines("a\nb\nc", 1)).toBe("b\nc");
    expect(firstLines("a\nb\nc", 1)).toBe("a\nb");
    expect(lastLines("a", 3)).toBe("a");
  });
});

describe("a reply's blocks", () => {
  const shown = (text: string): string[] =>
    blocks(text).map((b) => `${b.kind}:${b.language}:${text.slice(b.from, b.to)}`);

  it("are text and code", () => {
    expect(shown("Use this:\n```python\nx = 1\n```\nDone.")).toEqual([
      "text::Use this:",
      "code:python:x = 1",
      "text::Done.",
    ]);
  });

  it("may be unfinished, at every length", () => {
    const whole = "Hi\n```py\nx = `1`\n\ny\n```\nBye\n~~~\nz\n~~~";
    expect(shown(whole)).toEqual(["text::Hi", "code:py:x = `1`\n\ny", "text::Bye", "code::z"]);
    for (let n = 0; n <= whole.length; n++) {
      let at = 0;
      for (const block of blocks(whole.slice(0, n))) {
        expect(block.from).toBeGreaterThanOrEqual(at);
        expect(block.to).toBeGreaterThanOrEqual(block.from);
        at = block.to;
      }
    }
  });

  it("hold markup as text", () => {
    expect(shown("<img src=x onerror=alert(1)>")).toEqual(["text::<img src=x onerror=alert(1)>"]);
  });
});
