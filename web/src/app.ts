/** What the three panes share. */

import { Api, Refused, type ModelEntry } from "./api";
import type { Ask, Wish } from "./ask";
import { around } from "./around";
import type { Inspector, Subject } from "./inspector";
import { generate, type Reply } from "./reply";
import type { Settings } from "./settings";
import type { Status } from "./status";
import type { Popover } from "./token-view";

export interface App {
  readonly api: Api;
  readonly settings: Settings;
  readonly status: Status;
  readonly popover: Popover;
  readonly inspector: Inspector;
  /** The model in use; null until the server has named it. */
  readonly model: () => ModelEntry | null;
  /** Says something to those who listen instead of looking. */
  readonly say: (text: string) => void;
  /** Puts code at the cursor of the first editor and goes there. */
  readonly insert: (code: string) => void;
  /** How dense the text was found to be; see `replyToHole`. */
  readonly density: Density;
}

/** Which entry of `CHARS_PER_TOKEN` fitted last, so that one refusal teaches for the next request. */
export interface Density {
  at: number;
}

/** One of the three ways to work with the model. */
export interface Pane {
  readonly element: HTMLElement;
  /** The prompt of the last reply, or the one that would be sent now. */
  prompt(): Ask | null;
  subject(): Subject | null;
  focus(): void;
}

const CONTEXT_UNKNOWN = 2048;
const CHARS_PER_TOKEN = [3.5, 2.6, 1.8, 1.2, 0.8]; // tried from left to right while a prompt is too long

/**
 * Replies for a hole. Where the file does not fit the context, what is far from the hole is left
 * out; `sent` hears of the prompt and whether that was so.
 */
export async function replyToHole(
  app: App,
  prefix: string,
  suffix: string,
  wish: Wish,
  signal: AbortSignal,
  on: (replies: readonly Reply[]) => void,
  sent: (ask: Ask, isCut: boolean) => void,
): Promise<Reply[]> {
  const model = app.model();
  const room = (model?.context ?? CONTEXT_UNKNOWN) - wish.maxTokens - 8;
  const meter = app.status.begin();
  try {
    for (;;) {
      const chars = CHARS_PER_TOKEN[app.density.at] ?? 1;
      const near = around(prefix, suffix, Math.max(64, Math.floor(room * chars)));
      const ask: Ask = model?.hasInfill === false
        ? { kind: "text", prompt: near.prefix }
        : { kind: "infill", prefix: near.prefix, suffix: near.suffix };
      sent(ask, near.isCut);
      try {
        return await generate(app.api, model?.id ?? "", ask, wish, app.settings.values,
          { replies: on, tokens: meter.tokens, timings: meter.timings, told: (told) => sent(told, near.isCut) }, signal);
      } catch (error) {
        const isTooLong = error instanceof Refused && error.code === "context_length_exceeded";
        if (!isTooLong || app.density.at === CHARS_PER_TOKEN.length - 1) throw error;
        app.density.at += 1;
      }
    }
  } finally {
    meter.end();
  }
}
