/** A reply as it comes, and one that goes on from another token. */

import type { Api, Event, Timings } from "./api";
import { replyCall, type Ask, type Wish } from "./ask";
import { Paced } from "./paced";
import type { Values } from "./settings";
import { choices, decode, spansOf, textOf, type Alternative, type Span, type Token } from "./tokens";

export interface Reply {
  readonly text: string;
  readonly tokens: readonly Token[];
  readonly spans: readonly Span[];
  /** Why it ended; null while it is being written. */
  readonly finish: string | null;
}

export const NOTHING: Reply = { text: "", tokens: [], spans: [], finish: null };

/** Collects one reply's pieces behind what it begins with. */
export class Growing {
  #text: string;
  #tokens: Token[];
  #finish: string | null = null;

  constructor(readonly beginning: Reply = NOTHING) {
    this.#text = beginning.text;
    this.#tokens = [...beginning.tokens];
  }

  push(event: Event & { kind: "piece" }): void {
    this.#text += event.text;
    this.#tokens.push(...event.tokens);
    this.#finish = event.finish ?? this.#finish;
  }

  end(reason: string): void {
    this.#finish ??= reason;
  }

  get reply(): Reply {
    return {
      text: this.#text,
      tokens: this.#tokens.slice(),
      spans: spansOf(this.#text, this.#tokens),
      finish: this.#finish,
    };
  }
}

/** The reply up to token `at`, which becomes `other`: what a continuation begins with. */
export function branch(reply: Reply, at: number, other: Alternative): Reply {
  const old = reply.tokens[at];
  const tokens: Token[] = [...reply.tokens.slice(0, at), { ...other, top: old ? choices(old) : [] }];
  const dropsSpace = decode(reply.tokens).startsWith(" ") && !reply.text.startsWith(" ");
  const text = textOf(tokens, dropsSpace);
  return { text, tokens, spans: spansOf(text, tokens), finish: null };
}

export interface Watcher {
  /** The replies so far, as often as there is time to show them, and at their end. */
  replies(replies: readonly Reply[]): void;
  /** Tokens that have come since the last call, of all replies together. */
  tokens(n: number): void;
  timings(timings: Timings): void;
  /** The prompt as it was told, once the server has said in which order. */
  told?(ask: Ask): void;
}

/**
 * Streams the replies to `ask` until they end; those that `signal` ends have the finish "stopped".
 *
 * Throws `Refused` and `Unreachable`.
 */
export async function generate(
  api: Api,
  model: string,
  ask: Ask,
  wish: Wish,
  values: Readonly<Values>,
  watcher: Watcher,
  signal: AbortSignal,
  beginning: Reply = NOTHING,
): Promise<Reply[]> {
  const growing = Array.from({ length: wish.n }, () => new Growing(beginning));
  const found = (): Reply[] => growing.map((one) => one.reply);
  const drawing = new Paced(() => watcher.replies(found()));
  try {
    for await (const event of api.stream(replyCall(model, ask, wish, values), signal)) {
      if (event.kind === "order") {
        if (ask.kind === "infill") watcher.told?.({ ...ask, order: event.order });
        continue;
      }
      if (event.kind === "timings") {
        watcher.timings(event.timings);
        continue;
      }
      growing[event.index]?.push(event);
      watcher.tokens(event.tokens.length);
      drawing.ask();
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    drawing.stop();
  }
  for (const one of growing) one.end("stopped");
  const replies = found();
  watcher.replies(replies);
  return replies;
}

/** Goes on from token `at` of a reply as if the model had written `other` there. */
export async function continueFrom(
  api: Api,
  model: string,
  ask: Ask,
  reply: Reply,
  at: number,
  other: Alternative,
  wish: Wish,
  values: Readonly<Values>,
  watcher: Watcher,
  signal: AbortSignal,
): Promise<{ ask: Ask; reply: Reply }> {
  const prompt = await api.promptIds(model, ask, signal);
  if (other.bytes.length === 0 || prompt.stopIds.includes(other.id) || (wish.stop !== null && other.text.includes(wish.stop))) {
    const kept = reply.tokens.slice(0, at);
    const text = reply.text.slice(0, reply.spans[at]?.from ?? 0);
    const ended = { text, tokens: kept, spans: spansOf(text, kept), finish: "stop" };
    watcher.replies([ended]);
    return { ask, reply: ended };
  }
  const beginning = branch(reply, at, other);
  if (ask.kind === "infill" && prompt.begun !== "") {
    // The reply's first tokens repeat what was typed and are not told apart: go on from the text.
    const longer: Ask = { ...ask, prefix: ask.prefix + beginning.text };
    watcher.replies([beginning]);
    const [found] = await generate(api, model, longer, wish, values, watcher, signal, beginning);
    return { ask: longer, reply: found ?? beginning };
  }
  const ids = [...prompt.tokens.map((token) => token.id), ...beginning.tokens.map((token) => token.id)];
  const next: Ask = { kind: "ids", ids, stopIds: prompt.stopIds };
  watcher.replies([beginning]);
  const [found] = await generate(api, model, next, wish, values, watcher, signal, beginning);
  return { ask: next, reply: found ?? beginning };
}
