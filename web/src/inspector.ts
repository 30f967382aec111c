/** The panel beside the work: the last reply's tokens, the prompt's ids, the settings. */

import type { Api } from "./api";
import type { Ask } from "./ask";
import { fill, h } from "./dom";
import { explain } from "./notice";
import type { Reply } from "./reply";
import { settingsForm } from "./settings-form";
import type { Settings } from "./settings";
import { alternativesList } from "./token-view";
import { tabs } from "./tabs";
import { heat, meanLogprob, percent, visible, type Alternative, type Token } from "./tokens";

/** A reply that can be looked into. */
export interface Subject {
  readonly title: string;
  readonly reply: Reply;
  pick(at: number, other: Alternative): void;
}

const ENDS: Readonly<Record<string, string>> = {
  stop: "ended by itself",
  length: "reached the limit of tokens",
  stopped: "was stopped",
  abort: "was stopped",
  timeout: "took too long",
};

export class Inspector {
  readonly element: HTMLElement;
  #tokens = h("div", { class: "panel-body" });
  #prompt = h("div", { class: "panel-body" });
  #subject: Subject | null = null;
  #shown: Token[] = [];
  #selected = 0;
  #list = h("div", { class: "token-list", role: "listbox", "aria-label": "Tokens of the reply", tabindex: "0" });
  #summary = h("p", { class: "summary" });
  #detail = h("div", { class: "detail" });
  #isOnPrompt = false;

  /** Which prompt there is to show. */
  prompt: () => Ask | null = () => null;

  constructor(
    readonly api: Api,
    readonly model: () => string,
    settings: Settings,
  ) {
    const sheets = tabs("Details", [
      { name: "tokens", label: "Tokens", content: this.#tokens },
      { name: "prompt", label: "Prompt", content: this.#prompt },
      { name: "settings", label: "Settings", content: h("div", { class: "panel-body" }, settingsForm(settings)) },
    ], (name) => {
      this.#isOnPrompt = name === "prompt";
      if (this.#isOnPrompt) void this.showPrompt();
    });
    this.element = h("aside", { class: "inspector", "aria-label": "Details" }, sheets.list, ...sheets.panels);
    this.#list.addEventListener("keydown", (event) => this.#onKey(event));
    this.#list.addEventListener("click", (event) => {
      const found = event.target instanceof Element ? event.target.closest<HTMLElement>("[data-token]") : null;
      if (found) this.select(Number(found.dataset["token"]));
    });
    this.show(null);
    this.#emptyPrompt();
  }

  /** Shows a reply; the same one again as it grows. */
  show(subject: Subject | null): void {
    this.#subject = subject;
    const tokens = subject?.reply.tokens ?? [];
    if (subject === null || tokens.length === 0) {
      this.#shown = [];
      this.#list.replaceChildren();
      fill(this.#tokens, h("div", { class: "empty" }, h("p", {}, "No tokens yet."),
        h("p", { class: "muted" }, "Whatever the model writes is listed here token by token, with how probable each was and what it might have written instead.")));
      return;
    }
    if (this.#list.parentElement !== this.#tokens) {
      fill(this.#tokens, this.#summary, legend(), this.#list, this.#detail);
    }
    const isSame = this.#shown.length <= tokens.length && this.#shown.every((token, i) => token === tokens[i]);
    if (!isSame) {
      this.#list.replaceChildren();
      this.#shown = [];
      this.#selected = Math.min(this.#selected, tokens.length - 1);
    }
    for (let i = this.#shown.length; i < tokens.length; i++) {
      const token = tokens[i];
      if (token) this.#list.append(chip(token, i));
    }
    const hadNone = this.#shown.length === 0;
    this.#shown = [...tokens];
    const mean = meanLogprob(tokens);
    const end = subject.reply.finish === null ? "is being written" : (ENDS[subject.reply.finish] ?? subject.reply.finish);
    this.#summary.textContent = `${subject.title}: ${tokens.length} tokens, ${mean === null ? "" : percent(mean)} on average; it ${end}.`;
    if (hadNone || !isSame) this.select(hadNone ? 0 : this.#selected);
  }

  select(at: number): void {
    const token = this.#shown[at];
    if (token === undefined) return;
    this.#selected = at;
    for (const one of this.#list.querySelectorAll("[aria-selected=true]")) one.setAttribute("aria-selected", "false");
    const option = this.#list.children[at];
    if (option instanceof HTMLElement) {
      option.setAttribute("aria-selected", "true");
      this.#list.setAttribute("aria-activedescendant", option.id);
      if (this.#list.matches(":focus")) option.scrollIntoView({ block: "nearest" });
    }
    fill(this.#detail,
      h("h3", {}, `Token ${at + 1}`, h("span", { class: "muted" }, ` id ${token.id}, ${percent(token.logprob)}, log-probability ${token.logprob.toFixed(3)}`)),
      h("p", { class: "muted" }, "Choose another to go on from there."),
      alternativesList({ token, pick: (other) => this.#subject?.pick(at, other) }));
  }

  /** Asks for the ids of the prompt, if that sheet is open. */
  refreshPrompt(): void {
    if (this.#isOnPrompt) void this.showPrompt();
  }

  async showPrompt(): Promise<void> {
    const ask = this.prompt();
    if (ask === null) {
      this.#emptyPrompt();
      return;
    }
    try {
      const found = await this.api.promptIds(this.model(), ask);
      const ids = found.tokens.map((token) => token.id);
      const copy = h("button", { type: "button", class: "button small", on: { click: () => {
        void navigator.clipboard.writeText(ids.join(" ")).then(() => (copy.textContent = "Copied"));
      } } }, "Copy ids");
      const list = h("ol", { class: "ids", "aria-label": "Ids of the prompt", tabindex: "0" }, ...found.tokens.map((token) =>
        h("li", { class: token.isControl ? "id is-control" : "id" },
          h("code", {}, visible(token.text)), h("span", {}, String(token.id)))));
      fill(this.#prompt,
        h("p", { class: "summary" }, `${ids.length} of ${found.context} tokens of context. `,
          h("span", { class: "id is-control sample" }, "Control tokens"), " have no text: they tell the model where things begin."),
        found.begun === "" ? null : h("p", { class: "summary" }, "Then ", h("code", {}, visible(found.begun)),
          " from before the cursor, which stops inside a token: what is drawn has to begin with it."),
        h("div", { class: "row" }, copy),
        list);
    } catch (error) {
      const { title, hint } = explain(error);
      fill(this.#prompt, h("div", { class: "empty" }, h("p", {}, title), h("p", { class: "muted" }, hint)));
    }
  }

  #emptyPrompt(): void {
    fill(this.#prompt, h("div", { class: "empty" }, h("p", {}, "No prompt yet."),
      h("p", { class: "muted" }, "Ask the model for something, and the exact ids that it read are shown here.")));
  }

  #onKey(event: KeyboardEvent): void {
    const last = this.#shown.length - 1;
    const to = { ArrowRight: this.#selected + 1, ArrowDown: this.#selected + 1, ArrowLeft: this.#selected - 1,
      ArrowUp: this.#selected - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.select(Math.max(0, Math.min(last, to)));
  }
}

function chip(token: Token, at: number): HTMLElement {
  return h("span", {
    role: "option", id: `token-${at}`, "aria-selected": "false", class: `chip heat-${heat(token.logprob)}`, "data-token": at,
    "aria-label": `${token.text || "end"}, ${percent(token.logprob)}`,
  }, visible(token.text));
}

function legend(): HTMLElement {
  const steps = ["≥ 90 %", "60", "30", "10", "< 10 %"];
  return h("p", { class: "legend", "aria-label": "Colours by probability" },
    ...steps.map((step, i) => h("span", { class: `heat-${i}` }, step)));
}
