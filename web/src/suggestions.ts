/** Suggestions that were made, found again while the text at the cursor still fits them. */

import type { Token } from "./tokens";

/** What was suggested between two texts. `text` and `tokens` grow while the model writes. */
export interface Suggestion {
  readonly prefix: string;
  readonly suffix: string;
  text: string;
  tokens: Token[];
  isDone: boolean;
  finish: string | null;
}

export interface Hit {
  readonly suggestion: Suggestion;
  /** Characters of it that have been typed since. */
  readonly typed: number;
}

/**
 * The last suggestions. One serves a place when the text before it is the suggestion's prefix and a
 * beginning of its text: typing along, and going back, need no model.
 */
export class SuggestionCache {
  #kept: Suggestion[] = [];

  constructor(readonly capacity = 64) {}

  add(suggestion: Suggestion): void {
    this.#kept = [suggestion, ...this.#kept.filter((one) => one !== suggestion)];
    this.#kept.length = Math.min(this.#kept.length, this.capacity);
  }

  drop(suggestion: Suggestion): void {
    this.#kept = this.#kept.filter((one) => one !== suggestion);
  }

  clear(): void {
    this.#kept = [];
  }

  /** The newest suggestion that fits and has text left, or is still being written. */
  find(prefix: string, suffix: string): Hit | null {
    for (const suggestion of this.#kept) {
      const typed = prefix.length - suggestion.prefix.length;
      if (typed < 0 || suggestion.suffix !== suffix || !prefix.startsWith(suggestion.prefix)) continue;
      const fits = suggestion.text.startsWith(prefix.slice(suggestion.prefix.length));
      if (fits && (typed < suggestion.text.length || !suggestion.isDone)) return { suggestion, typed };
    }
    return null;
  }
}

/** The part of a suggestion that accepting one line takes: up to and with its first line end. */
export function firstLine(text: string): string {
  const end = text.search(/\S/) < 0 ? text.length : text.indexOf("\n", text.search(/\S/));
  return end < 0 ? text : text.slice(0, end + 1);
}
