/** Filling a hole with several candidates side by side. */

import { Prec } from "@codemirror/state";
import { EditorView, keymap } from "@codemirror/view";
import type { App, Pane } from "./app";
import { replyToHole } from "./app";
import type { Ask, Wish } from "./ask";
import { diffLines, firstLines, lastLines } from "./diff";
import { fill, h, key } from "./dom";
import { Editor, LANGUAGES, type Language, type Split } from "./editor";
import type { Subject } from "./inspector";
import { Latest } from "./latest";
import { Notice } from "./notice";
import { continueFrom, NOTHING, type Reply } from "./reply";
import { FIELDS } from "./settings";
import { tokenNumber, tokenSpans } from "./token-view";
import { meanLogprob, percent, type Alternative } from "./tokens";

const SAMPLE = `def count_words(text):
    """How often each word occurs."""
    counts = {}
    for word in text.split():
        pass
    return counts


print(count_words("one two two"))
`;
const HOLE = "pass";
const CONTEXT_LINES = 2;

interface Card {
  reply: Reply;
  /** How many candidates say the same; 0 for one that another stands for. */
  weight: number;
  readonly element: HTMLElement;
}

export class FillPane implements Pane {
  readonly element: HTMLElement;
  readonly editor: Editor;
  #latest = new Latest();
  #notice = new Notice();
  #cards: Card[] = [];
  #active = 0;
  #hole: Split | null = null;
  #sent: Ask | null = null;
  #base: Ask | null = null;
  #where = h("span", { class: "where" });
  #results = h("div", { class: "cards" });
  #fill: HTMLButtonElement;
  #stop: HTMLButtonElement;

  constructor(readonly app: App, text: string | null) {
    this.editor = new Editor("Code with a hole", text ?? SAMPLE, [
      Prec.highest(keymap.of([
        { key: "Mod-Enter", run: () => this.fill() },
        { key: "Escape", run: () => this.stop() },
      ])),
      EditorView.updateListener.of((update) => {
        if (update.docChanged || update.selectionSet) this.#tellWhere();
        if (update.docChanged) this.#refreshButtons();
      }),
    ]);
    if (text === null) {
      const at = SAMPLE.indexOf(HOLE);
      this.editor.view.dispatch({ selection: { anchor: at, head: at + HOLE.length } });
    }
    const language = h("select", { "aria-label": "Language", on: { change: () => (this.editor.language = language.value as Language) } },
      ...Object.entries(LANGUAGES).map(([value, label]) => h("option", { value }, label)));
    const field = FIELDS.candidates;
    const range = field.kind === "number" ? Array.from({ length: field.max }, (_, i) => String(i + 1)) : [];
    const count = h("select", { "aria-label": "Candidates", on: { change: () => app.settings.set("candidates", count.value) } },
      ...range.map((n) => h("option", { value: n }, n === "1" ? "1 candidate" : `${n} candidates`)));
    const showCount = (): void => void (count.value = String(app.settings.values.candidates));
    showCount();
    app.settings.onChange((name) => name === "candidates" && showCount());
    this.#fill = h("button", { type: "button", class: "button primary", title: "Ctrl-Enter", on: { click: () => this.fill() } }, "Fill the hole");
    this.#stop = h("button", { type: "button", class: "button", hidden: true, on: { click: () => this.stop() } }, "Stop");
    this.element = h("div", { class: "pane fill" },
      h("div", { class: "toolbar" }, language, count, this.#fill, this.#stop, this.#where),
      this.#notice.element, this.editor.element, this.#results);
    this.#tellWhere();
    this.#empty();
    app.popover.watch(this.#results, (element) => {
      const i = Number(element.closest<HTMLElement>("[data-card]")?.dataset["card"]);
      const at = tokenNumber(element);
      const token = this.#cards[i]?.reply.tokens[at];
      return token ? { token, pick: (other) => this.#pick(i, at, other) } : null;
    });
  }

  prompt(): Ask | null {
    const { prefix, suffix } = this.editor.split;
    return this.#sent ?? { kind: "infill", prefix, suffix };
  }

  subject(): Subject | null {
    const i = this.#active;
    const card = this.#cards[i];
    return card ? { title: `Candidate ${i + 1}`, reply: card.reply, pick: (at, other) => this.#pick(i, at, other) } : null;
  }

  focus(): void {
    this.editor.view.focus();
  }

  fill(): boolean {
    const hole = this.editor.split;
    const { values } = this.app.settings;
    const n = values.candidates;
    const wish: Wish = { n, maxTokens: values.maxTokens, temperature: n > 1 ? values.spread : values.temperature, stop: null };
    this.#notice.hide();
    this.#hole = hole;
    this.#active = 0;
    this.#cards = Array.from({ length: n }, (_, i) => ({ reply: NOTHING, weight: 1, element: h("article", { class: "card", "data-card": i, "aria-label": `Candidate ${i + 1}` }) }));
    fill(this.#results, ...this.#cards.map((card) => card.element));
    for (let i = 0; i < n; i++) this.#draw(i);
    this.#results.classList.remove("is-empty");
    this.#latest.run(0, async (signal) => {
      this.#setBusy(true);
      try {
        const replies = await replyToHole(this.app, hole.prefix, hole.suffix, wish, signal,
          (found) => found.forEach((reply, i) => this.#take(i, reply)),
          (ask, isCut) => {
            this.#sent = this.#base = ask;
            if (isCut) this.app.say("What is far from the hole was left out");
            this.app.inspector.refreshPrompt();
          });
        this.#group();
        const n = this.#cards.filter((card) => card.weight > 0).length;
        if (!signal.aborted) this.app.say(replies.every((reply) => reply.text === "") ? "Nothing to fill in" : `${n} candidates`);
      } catch (error) {
        this.#cards = [];
        this.#empty();
        this.#notice.show(error, () => this.fill());
      } finally {
        this.#setBusy(signal.aborted && this.#latest.isBusy);
      }
    });
    return true;
  }

  stop(): boolean {
    const wasBusy = this.#latest.isBusy;
    this.#latest.stop();
    return wasBusy;
  }

  #pick(i: number, at: number, other: Alternative): void {
    const card = this.#cards[i];
    const base = this.#base;
    if (card === undefined || base === null) return;
    const reply = card.reply;
    this.#active = i;
    this.#latest.run(0, async (signal) => {
      const { values } = this.app.settings;
      const meter = this.app.status.begin();
      this.#setBusy(true);
      try {
        const wish: Wish = { n: 1, maxTokens: values.maxTokens, temperature: values.temperature, stop: null };
        const found = await continueFrom(this.app.api, this.app.model()?.id ?? "", base, reply, at, other, wish, values, {
          replies: ([first]) => first && this.#take(i, first),
          tokens: meter.tokens,
          timings: meter.timings,
        }, signal);
        this.#sent = found.ask;
        card.weight = 1;
        this.#take(i, found.reply);
        this.app.inspector.refreshPrompt();
      } catch (error) {
        if (!signal.aborted) this.#notice.show(error);
      } finally {
        meter.end();
        this.#setBusy(signal.aborted && this.#latest.isBusy);
      }
    });
  }

  #take(i: number, reply: Reply): void {
    const card = this.#cards[i];
    if (card === undefined || (card.reply.tokens.length === reply.tokens.length && card.reply.finish === reply.finish)) return;
    card.reply = reply;
    this.#draw(i);
    if (i === this.#active) this.app.inspector.show(this.subject());
  }

  /** Candidates that say the same become one. */
  #group(): void {
    this.#cards.forEach((card, i) => {
      const first = this.#cards.findIndex((one) => one.reply.text === card.reply.text);
      const other = this.#cards[first];
      if (first === i || other === undefined) return;
      other.weight += 1;
      card.weight = 0;
    });
    this.#cards.forEach((_, i) => this.#draw(i));
  }

  #draw(i: number): void {
    const card = this.#cards[i];
    const hole = this.#hole;
    if (card === undefined || hole === null) return;
    const { reply } = card;
    card.element.hidden = card.weight === 0;
    const mean = meanLogprob(reply.tokens);
    const facts = [
      reply.finish === null ? "writing…" : null,
      card.weight > 1 ? `${card.weight} agree` : null,
      `${reply.tokens.length} tokens`,
      mean === null ? null : percent(mean),
      reply.finish === "length" ? "cut at the limit" : null,
    ].filter((fact) => fact !== null);
    const hasText = reply.text !== "";
    const look = h("button", { type: "button", class: "button small quiet", on: { click: () => {
      this.#active = i;
      this.app.inspector.show(this.subject());
    } } }, "Tokens");
    const apply = h("button", { type: "button", class: "button small primary apply", disabled: !this.#fits(hole) || reply.finish === null,
      on: { click: () => this.#apply(i) } }, "Apply");
    fill(card.element,
      h("header", {}, h("h3", {}, `Candidate ${i + 1}`), h("span", { class: "muted" }, facts.join(" · ")), h("span", { class: "grow" }), look, apply),
      hasText ? diffView(hole, reply) : h("p", { class: "muted nothing" }, reply.finish === null ? "Waiting for the first token…" : "Nothing: the model would leave the hole empty."));
  }

  /** Whether what is around the hole is still there. */
  #fits(hole: Split): boolean {
    const { text } = this.editor;
    return text.length >= hole.prefix.length + hole.suffix.length && text.startsWith(hole.prefix) && text.endsWith(hole.suffix);
  }

  #apply(i: number): void {
    const hole = this.#hole;
    const card = this.#cards[i];
    if (hole === null || card === undefined || !this.#fits(hole)) return;
    const from = hole.prefix.length;
    this.editor.replace(from, this.editor.text.length - hole.suffix.length, card.reply.text);
    this.app.say(`Candidate ${i + 1} applied`);
    this.focus();
  }

  #refreshButtons(): void {
    if (this.#hole === null) return;
    const fits = this.#fits(this.#hole);
    for (const [i, card] of this.#cards.entries()) {
      const button = card.element.querySelector<HTMLButtonElement>(".apply");
      if (button) button.disabled = !fits || this.#cards[i]?.reply.finish === null;
    }
    if (!fits && this.#cards.length > 0) this.#where.textContent = "The text around the hole has changed: fill again to apply.";
  }

  #tellWhere(): void {
    const { state } = this.editor.view;
    const { from, to, empty } = state.selection.main;
    const line = state.doc.lineAt(from);
    this.#where.textContent = empty
      ? `Hole: at the cursor, line ${line.number}, column ${from - line.from + 1}`
      : `Hole: ${to - from} selected characters from line ${line.number}`;
  }

  #setBusy(isBusy: boolean): void {
    this.#stop.hidden = !isBusy;
    this.#fill.disabled = isBusy;
    this.#results.setAttribute("aria-busy", String(isBusy));
  }

  #empty(): void {
    this.#results.classList.add("is-empty");
    fill(this.#results, h("div", { class: "empty" },
      h("p", {}, "Candidates appear here, side by side."),
      h("p", { class: "muted" }, "Select what is to be replaced, or put the cursor where something is missing, and press ", key("Ctrl"), key("Enter"), ".")));
  }
}

/** What a candidate changes, with a few lines around it and its tokens to point at. */
function diffView(hole: Split, reply: Reply): HTMLElement {
  const above = lastLines(hole.prefix, CONTEXT_LINES);
  const below = firstLines(hole.suffix, CONTEXT_LINES);
  const before = above + hole.selected + below;
  const after = above + reply.text + below;
  const rows = diffLines(before, after).map((line) => {
    const mark = { same: " ", removed: "−", added: "+" }[line.kind];
    const content: (HTMLElement | string)[] = line.kind === "removed" ? [line.text] : withTokens(line.at, line.at + line.text.length, above.length, after, reply);
    return h("div", { class: `line is-${line.kind}` },
      h("span", { class: "mark", "aria-hidden": "true" }, mark),
      line.kind === "same" ? null : h("span", { class: "unseen" }, line.kind === "added" ? "added: " : "removed: "),
      h("code", {}, ...content));
  });
  return h("div", { class: "diff", role: "group", "aria-label": "Changes", tabindex: "0" }, ...rows);
}

function withTokens(from: number, to: number, offset: number, after: string, reply: Reply): (HTMLElement | string)[] {
  const begin = Math.min(to, Math.max(from, offset));
  const end = Math.max(begin, Math.min(to, offset + reply.text.length));
  return [
    after.slice(from, begin),
    ...(end > begin ? tokenSpans(reply.text, reply.spans, reply.tokens, begin - offset, end - offset) : []),
    after.slice(end, to),
  ];
}
