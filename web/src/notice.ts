/** What went wrong, in a person's words, with what to do about it. */

import { Refused, Unreachable } from "./api";
import { fill, h } from "./dom";

export interface Explanation {
  readonly title: string;
  readonly hint: string;
}

export function explain(error: unknown): Explanation {
  if (error instanceof Unreachable) {
    return {
      title: "The server does not answer.",
      hint: "See whether codellama serve still runs. This page looks for it every two seconds.",
    };
  }
  if (!(error instanceof Refused)) {
    return { title: "This page failed.", hint: "Reload it; what you wrote is kept." };
  }
  if (error.status === 401) {
    return { title: "This server asks for a key.", hint: "Give it with the key button at the top." };
  }
  if (error.status === 429) {
    const wait = error.retryAfterS === null ? "in a moment" : `in ${error.retryAfterS} s`;
    return { title: "The server is busy.", hint: `It holds as many replies as it can. Try again ${wait}.` };
  }
  if (error.code === "loading") {
    return { title: "The model is loading.", hint: "It answers as soon as it is there." };
  }
  if (error.code === "context_length_exceeded") {
    return { title: "This does not fit the model's context.", hint: `${sentence(error.message)} Shorten the text, or ask for fewer tokens in the settings.` };
  }
  if (error.status >= 500) {
    return { title: "The server could not compute this.", hint: sentence(error.message) };
  }
  return { title: "The server said no.", hint: sentence(error.message) };
}

function sentence(message: string): string {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** A place for one explanation, with a button that tries again. */
export class Notice {
  readonly element = h("div", { class: "notice", role: "alert", hidden: true });

  show(error: unknown, retry?: () => void): void {
    const { title, hint } = explain(error);
    this.#fill(title, hint, retry);
  }

  tell(title: string, hint: string): void {
    this.#fill(title, hint);
  }

  hide(): void {
    this.element.hidden = true;
    fill(this.element);
  }

  #fill(title: string, hint: string, retry?: () => void): void {
    fill(
      this.element,
      h("div", {}, h("strong", {}, title), " ", hint),
      retry && h("button", { type: "button", class: "button small", on: { click: () => { this.hide(); retry(); } } }, "Try again"),
      h("button", { type: "button", class: "button small quiet", on: { click: () => this.hide() } }, "Close"),
    );
    this.element.hidden = false;
  }
}
