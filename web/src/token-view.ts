/** Tokens as elements: coloured by probability, and with their alternatives when pointed at. */

import { bar, h } from "./dom";
import { choices, heat, percent, pieces, visible, type Alternative, type Span, type Token } from "./tokens";

/** The part [from, to) of a text, each token in an element that knows its number. */
export function tokenSpans(
  text: string,
  spans: readonly Span[],
  tokens: readonly Token[],
  from: number,
  to: number,
): (HTMLElement | string)[] {
  return pieces(text, spans, from, to).map((piece) => {
    const token = piece.token === null ? undefined : tokens[piece.token];
    if (token === undefined) return piece.text;
    return h("span", { class: `token heat-${heat(token.logprob)}`, "data-token": piece.token }, piece.text);
  });
}

/** A token that can be looked at, and exchanged for another. */
export interface TokenSubject {
  readonly token: Token;
  pick(other: Alternative): void;
}

/** A token's alternatives as buttons with their share. */
export function alternativesList(subject: TokenSubject): HTMLElement {
  const { token } = subject;
  const rows = choices(token).map((one) => {
    const isOwn = one.id === token.id;
    return h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: `alternative${isOwn ? " is-own" : ""}`,
          "aria-current": isOwn ? "true" : null,
          disabled: isOwn,
          on: { click: () => subject.pick(one) },
        },
        h("code", {}, one.bytes.length === 0 ? `${one.text || "∅"} (end)` : visible(one.text)),
        bar(Math.exp(one.logprob)),
        h("span", { class: "share" }, percent(one.logprob)),
        h("span", { class: "unseen" }, isOwn ? " was written" : " continue from here"),
      ),
    );
  });
  return h("ul", { class: "alternatives" }, ...rows);
}

const SHOW_MS = 90;
const HIDE_MS = 260;

/** The card beside the token under the pointer. */
export class Popover {
  readonly element = h("div", { class: "popover", hidden: true, role: "group", "aria-label": "Token" });
  #timer = 0;
  #shown: HTMLElement | null = null;

  constructor() {
    this.element.addEventListener("pointerenter", () => clearTimeout(this.#timer));
    this.element.addEventListener("pointerleave", () => this.#later(HIDE_MS, () => this.hide()));
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
    document.addEventListener("scroll", () => this.hide(), { capture: true, passive: true });
  }

  /** Watches the tokens under `root`; `subjectOf` says which token an element shows. */
  watch(root: HTMLElement | ShadowRoot, subjectOf: (element: HTMLElement) => TokenSubject | null): void {
    const over = (event: Event): void => {
      const found = tokenAt(event);
      if (found === null) {
        if (this.#shown !== null) this.#later(HIDE_MS, () => this.hide());
        return;
      }
      if (found === this.#shown) clearTimeout(this.#timer);
      else this.#later(SHOW_MS, () => this.#show(found, subjectOf(found)));
    };
    root.addEventListener("pointerover", over);
    root.addEventListener("pointerdown", (event) => {
      const found = tokenAt(event);
      if (found !== null) this.#show(found, subjectOf(found));
    });
    (root instanceof ShadowRoot ? root.host : root).addEventListener("pointerleave", () => {
      this.#later(HIDE_MS, () => this.hide());
    });
  }

  hide(): void {
    clearTimeout(this.#timer);
    this.#shown = null;
    this.element.hidden = true;
  }

  #later(ms: number, what: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(what, ms);
  }

  #show(anchor: HTMLElement, subject: TokenSubject | null): void {
    if (subject === null || !anchor.isConnected) return;
    clearTimeout(this.#timer);
    const { token } = subject;
    const picked: TokenSubject = {
      token,
      pick: (other) => {
        this.hide();
        subject.pick(other);
      },
    };
    this.element.replaceChildren(
      h("p", { class: "popover-head" }, h("code", {}, visible(token.text)), h("strong", {}, percent(token.logprob)),
        h("span", { class: "muted" }, `id ${token.id}`)),
      alternativesList(picked),
    );
    this.element.hidden = false;
    this.#shown = anchor;
    const box = anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const left = Math.max(8, Math.min(box.left, window.innerWidth - width - 8));
    const below = box.bottom + 6;
    const top = below + height > window.innerHeight - 8 ? Math.max(8, box.top - height - 6) : below;
    this.element.style.left = `${left}px`;
    this.element.style.top = `${top}px`;
  }
}

function tokenAt(event: Event): HTMLElement | null {
  const first = event.composedPath()[0];
  const element = first instanceof Element ? first.closest<HTMLElement>("[data-token]") : null;
  return element;
}

/** The number of the token that an element shows. */
export function tokenNumber(element: HTMLElement): number {
  return Number(element.dataset["token"]);
}
