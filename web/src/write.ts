/** Writing with suggestions at the cursor. */

import { Prec } from "@codemirror/state";
import { EditorView, keymap } from "@codemirror/view";
import type { App, Pane } from "./app";
import { replyToHole } from "./app";
import type { Ask, Wish } from "./ask";
import { fill, h, icon, key } from "./dom";
import { Editor, LANGUAGES, type Language } from "./editor";
import { ghostOf, ghostText, setGhost } from "./ghost";
import type { Subject } from "./inspector";
import { Latest } from "./latest";
import { Notice } from "./notice";
import { branch, continueFrom, type Reply } from "./reply";
import { firstLine, SuggestionCache, type Suggestion } from "./suggestions";
import { tokenNumber } from "./token-view";
import { spansOf, type Alternative, type Token } from "./tokens";

const SAMPLE = `import os


def read(path):
    with open(path) as file:
        `;

export class WritePane implements Pane {
  readonly element: HTMLElement;
  readonly editor: Editor;
  #cache = new SuggestionCache();
  #latest = new Latest();
  #notice = new Notice();
  #candidates: Suggestion[] = [];
  #shown: Suggestion | null = null;
  #sent: Ask | null = null;
  #base: Ask | null = null;
  #isMuted = false;
  #bar: HTMLElement;
  #count = h("span", { class: "count" });
  #hint = h("p", { class: "hint" });

  constructor(readonly app: App, text: string | null) {
    this.editor = new Editor("Code to write", text ?? SAMPLE, [
      ghostText,
      Prec.highest(keymap.of([
        { key: "Tab", run: () => this.accept() },
        { key: "Alt-Enter", run: () => this.acceptLine() },
        { key: "Escape", run: () => this.dismiss() },
        { key: "Alt-]", run: () => this.step(1), preventDefault: true },
        { key: "Alt-[", run: () => this.step(-1), preventDefault: true },
        { key: "Alt-\\", run: () => this.ask(0), preventDefault: true },
      ])),
      EditorView.updateListener.of((update) => {
        const isOurs = update.transactions.some((one) => one.effects.some((effect) => effect.is(setGhost)));
        if (!isOurs && (update.docChanged || update.selectionSet)) this.#look(update.docChanged);
      }),
    ]);
    const button = (label: string, keyName: string, act: () => void, ...content: (Node | string)[]): HTMLElement =>
      h("button", { type: "button", class: "button small", "aria-label": label, title: `${label} (${keyName})`, on: { click: () => { act(); this.editor.view.focus(); } } }, ...content);
    this.#bar = h("div", { class: "suggestion-bar", role: "group", "aria-label": "Suggestion", hidden: true },
      button("Previous suggestion", "Alt-[", () => this.step(-1), icon("M15 6l-6 6 6 6")),
      this.#count,
      button("Next suggestion", "Alt-]", () => this.step(1), icon("M9 6l6 6-6 6")),
      button("Accept a line", "Alt-Enter", () => this.acceptLine(), "Line"),
      button("Accept all", "Tab", () => this.accept(), "Accept"),
      button("Dismiss", "Esc", () => this.dismiss(), icon("M6 6l12 12M18 6L6 18")));
    const language = h("select", { "aria-label": "Language", on: { change: () => (this.editor.language = language.value as Language) } },
      ...Object.entries(LANGUAGES).map(([value, label]) => h("option", { value }, label)));
    const suggest = h("button", { type: "button", class: "button", title: "Alt-\\", on: { click: () => { this.ask(0); this.editor.view.focus(); } } }, "Suggest");
    this.#hintAt("keys");
    this.element = h("div", { class: "pane write" },
      h("div", { class: "toolbar" }, language, suggest, h("span", { class: "grow" }), this.#bar),
      this.#notice.element, this.editor.element, this.#hint);
    app.popover.watch(this.editor.root, (element) => {
      const at = tokenNumber(element);
      const token = this.#shown?.tokens[at];
      return token ? { token, pick: (other) => this.#pick(at, other) } : null;
    });
    if (text === null) this.editor.view.dispatch({ selection: { anchor: SAMPLE.length } });
    app.settings.onChange((name) => {
      if (["temperature", "topP", "topK", "minP", "repetitionPenalty", "maxTokens", "seed", "alternatives", "lines", "order"].includes(name)) {
        this.#latest.stop();
        this.#cache.clear();
        this.#hide();
      }
    });
  }

  prompt(): Ask | null {
    const { prefix, suffix } = this.editor.split;
    return this.#sent ?? { kind: "infill", prefix, suffix };
  }

  subject(): Subject | null {
    const shown = this.#shown;
    if (shown === null) return null;
    const spans = spansOf(shown.text, shown.tokens);
    const reply: Reply = { text: shown.text, tokens: shown.tokens, spans, finish: shown.isDone ? shown.finish : null };
    return { title: "Suggestion", reply, pick: (at, other) => this.#pick(at, other) };
  }

  focus(): void {
    this.editor.view.focus();
  }

  /** Puts text at the cursor, as typing would. */
  insert(text: string): void {
    const { from, to } = this.editor.view.state.selection.main;
    this.#isMuted = true; // what was just put there is to be read first
    this.editor.replace(from, to, text);
    this.#isMuted = false;
    this.focus();
  }

  accept(): boolean {
    return this.#take((rest) => rest);
  }

  acceptLine(): boolean {
    return this.#take(firstLine);
  }

  dismiss(): boolean {
    const wasBusy = this.#latest.isBusy;
    this.#stop();
    if (ghostOf(this.editor.view) === null) return wasBusy;
    for (const one of this.#candidates) this.#cache.drop(one);
    this.#hide();
    return true;
  }

  /** Shows another suggestion; asks for more the first time. */
  step(by: number): boolean {
    const ghost = ghostOf(this.editor.view);
    if (ghost === null) return this.ask(0);
    const typed = ghost.text.slice(0, ghost.from);
    const fitting = this.#candidates.filter((one) => one.text.startsWith(typed) && one.text.length > typed.length);
    if (fitting.length < 2) {
      void this.#askForMore(by);
      return true;
    }
    const at = fitting.findIndex((one) => one === this.#shown);
    const next = fitting[(at + by + fitting.length) % fitting.length];
    if (next) {
      this.#cache.add(next);
      this.#show(next, ghost.from, ghost.at);
    }
    return true;
  }

  /** Asks for a suggestion at the cursor after `delayMs`. */
  ask(delayMs: number): boolean {
    const { main } = this.editor.view.state.selection;
    if (!main.empty) return false;
    this.#stop();
    const { prefix, suffix } = this.editor.split;
    const suggestion: Suggestion = { prefix, suffix, text: "", tokens: [], isDone: false, finish: null };
    this.#latest.run(delayMs, (signal) => this.#suggest(suggestion, signal));
    return true;
  }

  #look(isTyped: boolean): void {
    const { main } = this.editor.view.state.selection;
    const { prefix, suffix } = this.editor.split;
    const hit = main.empty && !this.#isMuted ? this.#cache.find(prefix, suffix) : null;
    if (hit !== null) {
      if (!this.#candidates.includes(hit.suggestion)) {
        this.#stop();
        this.#candidates = [hit.suggestion];
      }
      if (isTyped) this.app.status.countMemory();
      this.#show(hit.suggestion, hit.typed, main.head);
      return;
    }
    this.#stop();
    this.#hide();
    this.#hintAt("keys");
    if (isTyped && main.empty && !this.#isMuted && this.app.settings.values.auto) this.ask(this.app.settings.values.debounceMs);
  }

  async #suggest(suggestion: Suggestion, signal: AbortSignal): Promise<void> {
    this.#notice.hide();
    this.#candidates = [suggestion];
    this.#cache.add(suggestion);
    try {
      const [reply] = await this.#replies(suggestion, this.#wish(1, this.app.settings.values.temperature, 0), signal, ([first]) => {
        if (first) this.#grow(suggestion, first);
      });
      if (signal.aborted) return;
      if (reply) this.#grow(suggestion, reply, true);
      if (suggestion.text === "") {
        this.#cache.drop(suggestion);
        this.app.say("No suggestion here");
        this.#hintAt("none");
      } else {
        this.app.say(`Suggestion: ${suggestion.text}`);
      }
    } catch (error) {
      if (!signal.aborted) this.#notice.show(error, () => this.ask(0));
    } finally {
      if (!suggestion.isDone) this.#cache.drop(suggestion);
    }
  }

  async #askForMore(by: number): Promise<void> {
    const shown = this.#shown;
    if (shown === null || !shown.isDone) return;
    const { candidates, spread } = this.app.settings.values;
    const n = Math.max(1, candidates - 1);
    this.#count.textContent = "…";
    this.#latest.run(0, async (signal) => {
      try {
        const replies = await this.#replies(shown, this.#wish(n, spread, 1), signal, () => undefined);
        if (signal.aborted) return;
        for (const reply of replies) {
          if (reply.text !== "" && !this.#candidates.some((one) => one.text === reply.text)) {
            this.#candidates.push({ prefix: shown.prefix, suffix: shown.suffix, text: reply.text, tokens: [...reply.tokens], isDone: true, finish: reply.finish });
          }
        }
        if (this.#candidates.length > 1) this.step(by);
        else this.app.say("There is no other suggestion");
        this.#refresh();
      } catch (error) {
        if (!signal.aborted) this.#notice.show(error);
      }
    });
  }

  #pick(at: number, other: Alternative): void {
    const old = this.#shown;
    const base = this.#base;
    if (old === null || base === null) return;
    const { prefix, suffix } = old;
    const spans = spansOf(old.text, old.tokens);
    const reply: Reply = { text: old.text, tokens: old.tokens, spans, finish: old.finish };
    const now = this.editor.split;
    const isStill = now.suffix === suffix && now.prefix.startsWith(prefix)
      && branch(reply, at, other).text.startsWith(now.prefix.slice(prefix.length));
    if (!isStill) {
      this.#notice.tell("The text has changed.", "This suggestion was for another place; ask for a new one.");
      return;
    }
    const next: Suggestion = { prefix, suffix, text: "", tokens: [], isDone: false, finish: null };
    this.#stop();
    this.#latest.run(0, async (signal) => {
      this.#candidates = [next, ...this.#candidates.filter((one) => one.isDone)];
      this.#cache.add(next);
      const meter = this.app.status.begin();
      const { values } = this.app.settings;
      try {
        const found = await continueFrom(this.app.api, this.app.model()?.id ?? "", base, reply, at, other,
          this.#wish(1, values.temperature, 0), values, {
            replies: ([first]) => first && this.#grow(next, first),
            tokens: meter.tokens,
            timings: meter.timings,
          }, signal);
        if (signal.aborted) return;
        this.#sent = found.ask;
        this.#grow(next, found.reply, true);
        this.app.say(`Suggestion: ${next.text}`);
      } catch (error) {
        if (!signal.aborted) this.#notice.show(error);
      } finally {
        meter.end();
        if (!next.isDone) this.#cache.drop(next);
      }
    });
  }

  #replies(place: Suggestion, wish: Wish, signal: AbortSignal, on: (replies: readonly Reply[]) => void): Promise<Reply[]> {
    return replyToHole(this.app, place.prefix, place.suffix, wish, signal, on, (ask) => {
      this.#sent = this.#base = ask;
      this.app.inspector.refreshPrompt();
    });
  }

  #wish(n: number, temperature: number, seedOffset: number): Wish {
    const { maxTokens, lines } = this.app.settings.values;
    return { n, maxTokens, temperature, stop: lines === "one" ? "\n" : null, seedOffset };
  }

  #grow(suggestion: Suggestion, reply: Reply, isDone = false): void {
    suggestion.text = reply.text;
    suggestion.tokens = [...reply.tokens] as Token[];
    suggestion.isDone = isDone;
    suggestion.finish = reply.finish;
    const { main } = this.editor.view.state.selection;
    const { prefix, suffix } = this.editor.split;
    const hit = main.empty ? this.#cache.find(prefix, suffix) : null;
    if (hit?.suggestion === suggestion) this.#show(suggestion, hit.typed, main.head);
    else if (this.#shown === suggestion) this.#hide();
  }

  #show(suggestion: Suggestion, from: number, at: number): void {
    this.#shown = suggestion;
    this.#hintAt("keys");
    if (from >= suggestion.text.length) return this.#clearGhost();
    const spans = spansOf(suggestion.text, suggestion.tokens);
    this.editor.view.dispatch({ effects: setGhost.of({ at, text: suggestion.text, tokens: suggestion.tokens, spans, from }) });
    this.#refresh();
  }

  #hintAt(state: "keys" | "none"): void {
    if (this.#hint.dataset["state"] === state) return;
    this.#hint.dataset["state"] = state;
    if (state === "none") return fill(this.#hint, "No suggestion here.");
    fill(this.#hint, "Type, or ", key("Alt"), key("\\"), " to ask. ", key("Tab"), " accepts, ", key("Alt"), key("Enter"),
      " a line, ", key("Esc"), " dismisses, ", key("Alt"), key("]"), " shows another.");
  }

  #refresh(): void {
    const ghost = ghostOf(this.editor.view);
    const typed = ghost?.text.slice(0, ghost.from) ?? "";
    const fitting = this.#candidates.filter((one) => one.text.startsWith(typed) && one.text.length > typed.length);
    const at = fitting.findIndex((one) => one === this.#shown);
    this.#count.textContent = fitting.length > 1 ? `${at + 1} of ${fitting.length}` : "1";
    this.#bar.hidden = ghost === null;
    this.app.inspector.show(this.subject());
  }

  #take(part: (rest: string) => string): boolean {
    const ghost = ghostOf(this.editor.view);
    if (ghost === null) return false;
    const text = part(ghost.text.slice(ghost.from));
    this.editor.replace(ghost.at, ghost.at, text);
    this.app.say("Accepted");
    return true;
  }

  #clearGhost(): void {
    if (ghostOf(this.editor.view) !== null) this.editor.view.dispatch({ effects: setGhost.of(null) });
    this.#bar.hidden = true;
  }

  #hide(): void {
    this.#clearGhost();
    this.#candidates = [];
    this.app.popover.hide();
  }

  #stop(): void {
    this.#latest.stop();
    this.app.status.countCancelled(this.#latest.cancelled);
  }
}
