/** The line at the foot of the page: what the server does, and how fast. */

import type { Timings } from "./api";
import { h } from "./dom";

interface Figure {
  readonly element: HTMLElement;
  set(text: string): void;
}

function figure(name: string, label: string, meaning: string): Figure {
  const value = h("dd", { "data-figure": name }, "–");
  const element = h("div", { class: "figure", title: meaning }, h("dt", {}, label), value);
  return { element, set: (text) => (value.textContent = text) };
}

/** Measures one request from its sending: what a person waits for. */
export interface Meter {
  tokens(n: number): void;
  timings(timings: Timings): void;
  end(): void;
}

export class Status {
  readonly element: HTMLElement;
  #state = h("span", { class: "state", "data-state": "ready" }, "Ready");
  #speed = figure("speed", "Speed", "Tokens per second after the first one, of all candidates together");
  #first = figure("first", "First token", "From the request to the first token, as this page saw it");
  #prompt = figure("prompt", "Prompt", "Tokens that the model was given");
  #cached = figure("cached", "From cache", "Tokens of the prompt that the server still knew and did not read again");
  #memory = figure("memory", "Without the model", "Suggestions that followed your typing without a request");
  #cancelled = figure("cancelled", "Cancelled", "Requests that your typing made needless and that were ended early");
  #busy = 0;
  #isDown = false;
  #fromMemory = 0;

  constructor() {
    const figures = [this.#speed, this.#first, this.#prompt, this.#cached, this.#memory, this.#cancelled];
    this.element = h("footer", { class: "status" },
      h("div", { class: "state-box", role: "status" }, this.#state),
      h("div", { class: "figures-box", role: "group", "aria-label": "Speed and cache", tabindex: "0" },
        h("dl", { class: "figures" }, ...figures.map((one) => one.element))));
    this.#memory.set("0");
    this.#cancelled.set("0");
  }

  begin(): Meter {
    const began = performance.now();
    let first: number | null = null;
    let counted = 0;
    let isOver = false;
    this.#busy += 1;
    this.#show();
    return {
      tokens: (n) => {
        if (n === 0) return;
        const now = performance.now();
        if (first === null) {
          first = now;
          this.#first.set(`${Math.round(now - began)} ms`);
        } else if (now - first > 100) {
          this.#speed.set(`${Math.round((1000 * counted) / (now - first))} tok/s`);
        }
        counted += n;
      },
      timings: (timings) => {
        if (timings.perSecond > 0) this.#speed.set(`${Math.round(timings.perSecond)} tok/s`);
        this.#prompt.set(`${timings.promptTokens} tokens`);
        const share = Math.round((100 * timings.cachedTokens) / Math.max(1, timings.promptTokens));
        this.#cached.set(`${timings.cachedTokens} (${share} %)`);
      },
      end: () => {
        if (isOver) return;
        isOver = true;
        this.#busy -= 1;
        this.#show();
      },
    };
  }

  /** A suggestion went on without a request. */
  countMemory(): void {
    this.#fromMemory += 1;
    this.#memory.set(String(this.#fromMemory));
  }

  countCancelled(n: number): void {
    this.#cancelled.set(String(n));
  }

  set isDown(isDown: boolean) {
    this.#isDown = isDown;
    this.#show();
  }

  #show(): void {
    const state = this.#isDown ? "down" : this.#busy > 0 ? "busy" : "ready";
    this.#state.dataset["state"] = state;
    this.#state.textContent = { down: "No server", busy: "Writing", ready: "Ready" }[state];
  }
}
