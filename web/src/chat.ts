/** A conversation, streamed, with its code at hand. */

import type { App, Pane } from "./app";
import type { Ask, Message, Wish } from "./ask";
import { fill, h, key } from "./dom";
import type { Subject } from "./inspector";
import { Latest } from "./latest";
import { blocks, type Block } from "./markdown";
import { Notice } from "./notice";
import { continueFrom, generate, NOTHING, type Reply } from "./reply";
import { tokenNumber, tokenSpans } from "./token-view";
import type { Alternative } from "./tokens";

const EXAMPLES = ["Write a function that adds two numbers.", "What does a list comprehension do?", "Write a class for a stack."];

interface Turn {
  readonly question: string;
  reply: Reply;
  ask: Ask;
  readonly element: HTMLElement;
  readonly body: HTMLElement;
  readonly tools: HTMLElement;
  drawn: { block: Block; text: string; element: HTMLElement }[];
}

export class ChatPane implements Pane {
  readonly element: HTMLElement;
  #turns: Turn[] = [];
  #active: Turn | null = null;
  #sent: Ask | null = null;
  #latest = new Latest();
  #notice = new Notice();
  #log = h("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: "0" });
  #input: HTMLTextAreaElement;
  #send: HTMLButtonElement;
  #stop: HTMLButtonElement;
  #isBusy = false;

  constructor(readonly app: App) {
    this.#input = h("textarea", { rows: 2, "aria-label": "Message", placeholder: "Ask about code…", on: {
      keydown: (event) => {
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          this.#submit();
        } else if (event.key === "Escape") this.stop();
      },
      input: () => this.#fit(),
    } });
    this.#send = h("button", { type: "submit", class: "button primary" }, "Send");
    this.#stop = h("button", { type: "button", class: "button", hidden: true, on: { click: () => this.stop() } }, "Stop");
    const clear = h("button", { type: "button", class: "button quiet", on: { click: () => this.#clear() } }, "New chat");
    const form = h("form", { class: "composer", on: { submit: (event) => { event.preventDefault(); this.#submit(); } } },
      this.#input, h("div", { class: "row" }, h("span", { class: "hint" }, key("Enter"), " sends, ", key("Shift"), key("Enter"), " a new line, ", key("Esc"), " stops"),
        h("span", { class: "grow" }), clear, this.#stop, this.#send));
    this.element = h("div", { class: "pane chat" }, this.#notice.element, this.#log, form);
    this.#empty();
    app.popover.watch(this.#log, (element) => {
      const found = element.closest("[data-turn]");
      const turn = this.#turns.find((one) => one.element === found);
      const at = tokenNumber(element);
      const token = turn?.reply.tokens[at];
      return turn && token ? { token, pick: (other) => this.#pick(turn, at, other) } : null;
    });
  }

  prompt(): Ask | null {
    return this.#sent ?? (this.#input.value.trim() === "" ? null : { kind: "chat", messages: this.#messages(this.#input.value) });
  }

  subject(): Subject | null {
    const turn = this.#active;
    return turn ? { title: "Answer", reply: turn.reply, pick: (at, other) => this.#pick(turn, at, other) } : null;
  }

  focus(): void {
    this.#input.focus();
  }

  stop(): void {
    this.#latest.stop();
  }

  #submit(): void {
    const question = this.#input.value.trim();
    if (question === "" || this.#isBusy) return;
    this.#input.value = "";
    this.#fit();
    this.#askAbout(question);
  }

  #askAbout(question: string): void {
    const ask: Ask = { kind: "chat", messages: this.#messages(question) };
    if (this.#turns.length === 0) fill(this.#log);
    const body = h("div", { class: "answer" });
    const tools = h("div", { class: "row tools" });
    const element = h("article", { class: "turn", "data-turn": this.#turns.length },
      h("div", { class: "question" }, h("span", { class: "unseen" }, "You: "), question),
      h("div", { class: "reply" }, h("span", { class: "unseen" }, "Model: "), body, tools));
    const turn: Turn = { question, reply: NOTHING, ask, element, body, tools, drawn: [] };
    this.#turns.push(turn);
    this.#log.append(element);
    this.#run(turn, (signal, watcher, wish) => {
      this.#sent = ask;
      this.app.inspector.refreshPrompt();
      return generate(this.app.api, this.app.model()?.id ?? "", ask, wish, this.app.settings.values, watcher, signal).then(([reply]) => reply ?? NOTHING);
    });
  }

  #pick(turn: Turn, at: number, other: Alternative): void {
    const place = this.#turns.indexOf(turn);
    if (place < 0) return;
    for (const later of this.#turns.splice(place + 1)) later.element.remove();
    const { reply } = turn;
    this.#run(turn, async (signal, watcher, wish) => {
      const found = await continueFrom(this.app.api, this.app.model()?.id ?? "", turn.ask, reply, at, other, wish, this.app.settings.values, watcher, signal);
      this.#sent = found.ask;
      this.app.inspector.refreshPrompt();
      return found.reply;
    });
  }

  #run(
    turn: Turn,
    work: (signal: AbortSignal, watcher: Parameters<typeof generate>[5], wish: Wish) => Promise<Reply>,
  ): void {
    const { values } = this.app.settings;
    const wish: Wish = { n: 1, maxTokens: values.chatTokens, temperature: values.temperature, stop: null };
    this.#notice.hide();
    this.#active = turn;
    this.#latest.run(0, async (signal) => {
      const meter = this.app.status.begin();
      this.#setBusy(true);
      fill(turn.tools);
      if (turn.reply.text === "") fill(turn.body, h("p", { class: "waiting muted" }, "Reading…"));
      try {
        const reply = await work(signal, {
          replies: ([first]) => first && this.#draw(turn, first),
          tokens: meter.tokens,
          timings: meter.timings,
        }, wish);
        this.#draw(turn, reply);
        this.app.say(signal.aborted ? "Stopped" : `Answer: ${reply.text}`);
      } catch (error) {
        if (signal.aborted) this.#draw(turn, { ...turn.reply, finish: "stopped" });
        else this.#fail(turn, error);
      } finally {
        meter.end();
        this.#setBusy(signal.aborted && this.#latest.isBusy);
        this.#addTools(turn);
      }
    });
  }

  #fail(turn: Turn, error: unknown): void {
    if (turn.reply.text !== "") {
      this.#draw(turn, { ...turn.reply, finish: "stopped" });
      this.#notice.show(error);
      return;
    }
    turn.element.remove();
    this.#turns = this.#turns.filter((one) => one !== turn);
    this.#active = this.#turns.at(-1) ?? null;
    if (this.#turns.length === 0) this.#empty();
    this.#notice.show(error, () => this.#askAbout(turn.question));
  }

  #messages(question: string): Message[] {
    const { system } = this.app.settings.values;
    return [
      ...(system.trim() === "" ? [] : [{ role: "system" as const, content: system }]),
      ...this.#turns.flatMap((turn): Message[] => [
        { role: "user", content: turn.question },
        { role: "assistant", content: turn.reply.text },
      ]),
      { role: "user", content: question },
    ];
  }

  /** Shows a reply; blocks that are as they were stay, so that what is selected stays so. */
  #draw(turn: Turn, reply: Reply): void {
    const isAtEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 60;
    const isOn = reply.tokens.length > 0 && turn.reply.tokens[0] === reply.tokens[0];
    turn.reply = reply;
    const found = blocks(reply.text);
    const kept = isOn ? turn.drawn : [];
    turn.drawn = found.map((block, i) => {
      const text = reply.text.slice(block.from, block.to);
      const old = kept[i];
      if (old && old.text === text && old.block.kind === block.kind && old.block.from === block.from && old.block.language === block.language) return old;
      return { block, text, element: this.#block(reply, block, text) };
    });
    turn.body.classList.toggle("is-writing", reply.finish === null && found.length > 0);
    const none = reply.finish !== null && found.length === 0 ? h("p", { class: "muted" }, "The model had nothing to say.") : null;
    if (turn.drawn.some(({ element }, i) => turn.body.children[i] !== element) || turn.body.children.length !== turn.drawn.length) {
      fill(turn.body, ...turn.drawn.map((one) => one.element), none);
    }
    if (isAtEnd) this.#log.scrollTop = this.#log.scrollHeight;
    if (turn === this.#active) this.app.inspector.show(this.subject());
  }

  #block(reply: Reply, block: Block, text: string): HTMLElement {
    const content = tokenSpans(reply.text, reply.spans, reply.tokens, block.from, block.to);
    if (block.kind === "text") return h("p", {}, ...content);
    const copy = h("button", { type: "button", class: "button small quiet", on: { click: () => {
      void navigator.clipboard.writeText(text).then(
        () => { copy.textContent = "Copied"; this.app.say("Copied"); },
        () => { copy.textContent = "Not allowed"; },
      );
    } } }, "Copy");
    const insert = h("button", { type: "button", class: "button small quiet", on: { click: () => this.app.insert(text) } }, "Insert in editor");
    return h("figure", { class: "code" },
      h("figcaption", {}, h("span", {}, block.language || "code"), h("span", { class: "grow" }), copy, insert),
      h("pre", {}, h("code", {}, ...content)));
  }

  #addTools(turn: Turn): void {
    if (!this.#turns.includes(turn)) return;
    const again = h("button", { type: "button", class: "button small quiet", on: { click: () => {
      if (this.#isBusy) return;
      const place = this.#turns.indexOf(turn);
      for (const later of this.#turns.splice(place)) later.element.remove();
      this.#askAbout(turn.question);
    } } }, "Ask again");
    const tokens = h("button", { type: "button", class: "button small quiet", on: { click: () => {
      this.#active = turn;
      this.app.inspector.show(this.subject());
    } } }, "Tokens");
    const end = { length: "Cut at the limit of tokens.", stopped: "Stopped." }[turn.reply.finish ?? ""];
    fill(turn.tools, end ? h("span", { class: "muted" }, end) : null, again, tokens);
  }

  #setBusy(isBusy: boolean): void {
    this.#isBusy = isBusy;
    this.#stop.hidden = !isBusy;
    this.#send.hidden = isBusy;
    this.#log.setAttribute("aria-busy", String(isBusy));
  }

  #clear(): void {
    this.stop();
    this.#turns = [];
    this.#active = null;
    this.#sent = null;
    this.#empty();
    this.app.inspector.show(null);
    this.focus();
  }

  #empty(): void {
    fill(this.#log, h("div", { class: "empty" },
      h("p", {}, "Ask the model something."),
      h("div", { class: "examples" }, ...EXAMPLES.map((text) =>
        h("button", { type: "button", class: "button", on: { click: () => !this.#isBusy && this.#askAbout(text) } }, text)))));
  }

  #fit(): void {
    this.#input.style.height = "auto";
    this.#input.style.height = `${Math.min(180, this.#input.scrollHeight + 2)}px`;
  }
}
