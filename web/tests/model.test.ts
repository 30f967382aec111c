import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Api, eventsOf, Refused, Unreachable, type Event } from "../src/api";
import { promptCall, replyCall, type Ask, type Wish } from "../src/ask";
import { Latest } from "../src/latest";
import { Paced } from "../src/paced";
import { explain } from "../src/notice";
import { branch, continueFrom, generate, Growing, type Reply } from "../src/reply";
import { checked, DEFAULTS, FIELDS, NAMES, Settings } from "../src/settings";
import { spansOf, type Token } from "../src/tokens";

const utf8 = new TextEncoder();

function token(id: number, text: string, top: Token["top"] = []): Token {
  return { id, text, bytes: [...utf8.encode(text)], logprob: -1, top };
}

function replyOf(...tokens: Token[]): Reply {
  const text = tokens.map((one) => one.text).join("");
  return { text, tokens, spans: spansOf(text, tokens), finish: "stop" };
}

const wish: Wish = { n: 1, maxTokens: 8, temperature: 0.5, stop: null };
const hole: Ask = { kind: "infill", prefix: "a", suffix: "b" };

describe("requests", () => {
  it("say what is meant, and leave out what is off", () => {
    const { path, body } = replyCall("m", hole, { ...wish, stop: "\n", seedOffset: 2 }, { ...DEFAULTS, seed: 5 });
    expect(path).toBe("/v1/completions");
    expect(body).toMatchObject({ model: "m", prompt: "a", suffix: "b", seed: 7, stop: ["\n"], stream: true, logprobs: 5, return_token_ids: true });
    expect(Object.keys(body)).not.toContain("top_k");
    expect(Object.keys(body)).not.toContain("min_p");
    expect(Object.keys(replyCall("m", hole, wish, DEFAULTS).body)).not.toContain("seed");
  });

  it("for a chat ask for its log-probabilities", () => {
    const ask: Ask = { kind: "chat", messages: [{ role: "user", content: "Hi" }] };
    const { path, body } = replyCall("", ask, wish, { ...DEFAULTS, alternatives: 3 });
    expect(path).toBe("/v1/chat/completions");
    expect(body).toMatchObject({ messages: ask.messages, logprobs: true, top_logprobs: 3 });
    expect(promptCall("", ask).body).toEqual({ model: "", messages: ask.messages });
  });

  it("go on from ids, with what ends the reply", () => {
    const { body } = replyCall("", { kind: "ids", ids: [1, 2], stopIds: [9] }, wish, DEFAULTS);
    expect(body).toMatchObject({ prompt: [1, 2], stop_token_ids: [9] });
  });
});

describe("settings", () => {
  it("hold what their fields allow", () => {
    expect(checked("temperature", "0.7")).toBe(0.7);
    expect(checked("temperature", 99)).toBe(2);
    expect(checked("temperature", "hot")).toBe(DEFAULTS.temperature);
    expect(checked("maxTokens", 3.6)).toBe(4);
    expect(checked("seed", "")).toBeNull();
    expect(checked("lines", "many")).toBe(DEFAULTS.lines);
    expect(checked("heat", "yes")).toBe(DEFAULTS.heat);
    for (const name of NAMES) expect(checked(name, DEFAULTS[name])).toEqual(DEFAULTS[name]);
  });

  it("are kept, and damage to what was kept does no harm", () => {
    const kept = new Map<string, string>();
    const storage = { getItem: (k: string) => kept.get(k) ?? null, setItem: (k: string, v: string) => void kept.set(k, v) };
    new Settings(storage).set("topK", 40);
    expect(new Settings(storage).values.topK).toBe(40);
    for (const damage of ["{", "3", '{"topK": "x", "other": 1}', "null"]) {
      kept.set("settings", damage);
      expect(new Settings(storage).values).toEqual(DEFAULTS);
    }
  });

  it("tell who listens, and go back", () => {
    const settings = new Settings(null);
    const heard: string[] = [];
    settings.onChange((name) => heard.push(name));
    settings.set("minP", 0.5);
    expect(heard).toEqual(["minP"]);
    settings.reset();
    expect(settings.values).toEqual(DEFAULTS);
    expect(heard.length).toBe(1 + NAMES.length);
  });

  it("each have a sentence", () => {
    for (const name of NAMES) expect(FIELDS[name].meaning).toMatch(/^[A-Z].{15,}\.$/);
  });
});

describe("the latest work", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("waits, and ends what it replaces", async () => {
    const latest = new Latest();
    const ran: string[] = [];
    const work = (name: string) => async (signal: AbortSignal): Promise<void> => {
      ran.push(name);
      await new Promise<void>((done) => signal.addEventListener("abort", () => done()));
      ran.push(`${name} ended`);
    };
    latest.run(100, work("a"));
    await vi.advanceTimersByTimeAsync(99);
    latest.run(100, work("b"));
    await vi.advanceTimersByTimeAsync(150);
    expect(ran).toEqual(["b"]);
    expect(latest.isBusy).toBe(true);
    latest.run(0, work("c"));
    await vi.advanceTimersByTimeAsync(1);
    expect(ran).toEqual(["b", "b ended", "c"]);
    expect(latest.cancelled).toBe(1);
    latest.stop();
    expect(latest.isBusy).toBe(false);
  });
});

describe("drawing", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  async function drawnInASecond(): Promise<number> {
    let drawn = 0;
    const paced = new Paced(() => void (drawn += 1));
    for (let ms = 0; ms < 1000; ms++) {
      paced.ask();
      await vi.advanceTimersByTimeAsync(1);
    }
    paced.stop();
    return drawn;
  }

  it("happens once a frame, however often it is asked for", async () => {
    const drawn = await drawnInASecond();
    expect(drawn).toBeGreaterThan(20);
    expect(drawn).toBeLessThan(40);
  });

  it("leaves time where it is slow", async () => {
    let now = 0;
    vi.spyOn(performance, "now").mockImplementation(() => (now += 50));
    expect(await drawnInASecond()).toBeLessThan(8);
    vi.restoreAllMocks();
  });
});

describe("events", () => {
  it("become pieces with their tokens, and times", () => {
    const [piece] = [...eventsOf({ choices: [{ index: 1, text: "x", finish_reason: null, logprobs: { content: [
      { id: 3, token: "x", bytes: [120], logprob: -0.5, top_logprobs: [{ id: 4, token: "y", bytes: [121], logprob: -2 }] }] } }] })];
    expect(piece).toMatchObject({ kind: "piece", index: 1, text: "x", finish: null });
    expect(piece?.kind === "piece" && piece.tokens[0]?.top[0]?.id).toBe(4);
    const [times] = [...eventsOf({ choices: [], usage: { prompt_tokens: 9, prompt_tokens_details: { cached_tokens: 4 } }, timings: { predicted_per_second: 80 } })];
    expect(times).toMatchObject({ kind: "timings", timings: { promptTokens: 9, cachedTokens: 4, perSecond: 80 } });
  });

  it("may say that the reply failed", () => {
    expect(() => [...eventsOf({ error: { message: "no", code: "engine_error" } })]).toThrow(Refused);
  });
});

describe("a reply", () => {
  it("grows, and ends once", () => {
    const growing = new Growing();
    const piece = (text: string, finish: string | null): Event & { kind: "piece" } => ({ kind: "piece", index: 0, text, tokens: [token(1, text)], finish });
    growing.push(piece("a", null));
    growing.push(piece("b", "length"));
    growing.end("stopped");
    expect(growing.reply).toMatchObject({ text: "ab", finish: "length" });
  });

  it("branches at a token", () => {
    const other = { id: 8, text: " z", bytes: [32, 122], logprob: -2 };
    const found = branch(replyOf(token(1, "x"), token(2, " y", [other]), token(3, "!")), 1, other);
    expect(found.text).toBe("x z");
    expect(found.tokens.map((one) => one.id)).toEqual([1, 8]);
    expect(found.tokens[1]?.top.map((one) => one.id)).toEqual([2, 8]);
  });

  it("that lost its first space loses it again", () => {
    const reply = { ...replyOf(token(1, " Hi"), token(2, " you")), text: "Hi you" };
    expect(branch(reply, 1, token(5, " all")).text).toBe("Hi all");
    expect(branch(reply, 0, token(6, " Yo")).text).toBe("Yo");
  });
});

/** A server that answers with what a test says, and remembers what it was asked. */
function serverOf(answers: Record<string, () => Response>): { asked: { path: string; body: unknown }[] } {
  const asked: { path: string; body: unknown }[] = [];
  vi.stubGlobal("fetch", async (path: string, init: RequestInit) => {
    asked.push({ path, body: JSON.parse(String(init.body ?? "null")) });
    const answer = answers[path];
    if (!answer) throw new TypeError("no such server");
    return answer();
  });
  return { asked };
}

const stream = (...events: unknown[]): Response =>
  new Response([...events.map((one) => `data: ${JSON.stringify(one)}\n\n`), "data: [DONE]\n\n"].join(""));
const watcher = { replies: () => undefined, tokens: () => undefined, timings: () => undefined };

describe("the server", () => {
  afterEach(() => void vi.unstubAllGlobals());

  it("streams several replies, each by its number", async () => {
    serverOf({ "/v1/completions": () => stream(
      { choices: [{ index: 1, text: "b", finish_reason: null }] },
      { choices: [{ index: 0, text: "a", finish_reason: "stop" }] },
      { choices: [{ index: 1, text: "B", finish_reason: "length" }] }) });
    const found = await generate(new Api(), "", hole, { ...wish, n: 2 }, DEFAULTS, watcher, new AbortController().signal);
    expect(found.map((one) => [one.text, one.finish])).toEqual([["a", "stop"], ["bB", "length"]]);
  });

  it("goes on from another token with the exact ids", async () => {
    const { asked } = serverOf({
      "/v1/prompt_ids": () => Response.json({ tokens: [{ id: 1 }, { id: 50 }], stop_token_ids: [2], max_model_len: 99 }),
      "/v1/completions": () => stream({ choices: [{ index: 0, text: "!", finish_reason: "stop", logprobs: { content: [{ id: 7, token: "!", bytes: [33], logprob: 0 }] } }] }),
    });
    const reply = replyOf(token(10, "x"), token(11, " y"));
    const found = await continueFrom(new Api(), "", hole, reply, 1, token(12, " z"), wish, DEFAULTS, watcher, new AbortController().signal);
    expect(asked[1]?.body).toMatchObject({ prompt: [1, 50, 10, 12], stop_token_ids: [2] });
    expect(found.reply.text).toBe("x z!");
    expect(found.reply.tokens.map((one) => one.id)).toEqual([10, 12, 7]);
  });

  it("is not asked where the other token is the end", async () => {
    const { asked } = serverOf({ "/v1/prompt_ids": () => Response.json({ tokens: [], stop_token_ids: [2] }) });
    const reply = replyOf(token(10, "x"), token(11, " y"));
    const found = await continueFrom(new Api(), "", hole, reply, 1, token(2, " <EOT>"), wish, DEFAULTS, watcher, new AbortController().signal);
    expect(found.reply).toMatchObject({ text: "x", finish: "stop" });
    expect(asked.length).toBe(1);
  });

  it("says no in words, or not at all", async () => {
    serverOf({ "/v1/models": () => Response.json({ error: { message: "too many", code: "queue_full" } }, { status: 429, headers: { "retry-after": "3" } }) });
    const api = new Api();
    const outcomes: unknown[] = [];
    api.onOutcome = (failure) => outcomes.push(failure);
    await expect(api.models()).rejects.toMatchObject({ status: 429, code: "queue_full", retryAfterS: 3 });
    await expect(api.promptIds("", hole)).rejects.toBeInstanceOf(Unreachable);
    expect(outcomes.length).toBe(2);
    expect(await api.isHealthy()).toBe(false);
  });

  it("gets the key, and only where there is one", async () => {
    const seen: unknown[] = [];
    vi.stubGlobal("fetch", async (_: string, init: RequestInit) => {
      seen.push((init.headers as Record<string, string>)["authorization"]);
      return Response.json({ data: [] });
    });
    const api = new Api();
    await api.models();
    api.key = "k";
    await api.models();
    expect(seen).toEqual([undefined, "Bearer k"]);
  });
});

describe("what went wrong", () => {
  it("is said with what to do", () => {
    expect(explain(new Unreachable()).hint).toContain("codellama serve");
    expect(explain(new Refused(401, "invalid_api_key", "x", null)).title).toContain("key");
    expect(explain(new Refused(429, "queue_full", "x", 7)).hint).toContain("7 s");
    expect(explain(new Refused(503, "loading", "x", 2)).title).toContain("loading");
    expect(explain(new Refused(400, "context_length_exceeded", "the prompt has 9 tokens", null)).hint).toMatch(/^The prompt has 9 tokens\. Shorten/);
    expect(explain(new Refused(400, "invalid_value", "no", null)).hint).toBe("No.");
    expect(explain(new TypeError("boom")).hint).not.toContain("boom");
  });
});
