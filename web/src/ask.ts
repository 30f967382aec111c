/** What is asked of the model, as a person means it and as the server takes it. */

import type { Values } from "./settings";

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** Which side of a hole is read first: the one before it, or the one behind it. */
export type Order = "psm" | "spm";

export type Ask =
  | { readonly kind: "infill"; readonly prefix: string; readonly suffix: string; readonly order?: Order }
  | { readonly kind: "text"; readonly prompt: string }
  | { readonly kind: "chat"; readonly messages: readonly Message[] }
  | { readonly kind: "ids"; readonly ids: readonly number[]; readonly stopIds: readonly number[] };

export interface Wish {
  readonly n: number;
  readonly maxTokens: number;
  readonly temperature: number;
  /** A text that ends the reply, and is no part of it. */
  readonly stop: string | null;
  /** Added to the seed that is set, so that further candidates are others. */
  readonly seedOffset?: number;
}

export interface Call {
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
}

/** The request that streams replies. */
export function replyCall(model: string, ask: Ask, wish: Wish, values: Readonly<Values>): Call {
  const drawing = {
    model,
    n: wish.n,
    temperature: wish.temperature,
    top_p: values.topP,
    ...(values.topK > 0 ? { top_k: values.topK } : {}),
    ...(values.minP > 0 ? { min_p: values.minP } : {}),
    ...(values.repetitionPenalty !== 1 ? { repetition_penalty: values.repetitionPenalty } : {}),
    ...(values.seed !== null ? { seed: values.seed + (wish.seedOffset ?? 0) } : {}),
    ...(wish.stop !== null ? { stop: [wish.stop] } : {}),
    stream: true,
    stream_options: { include_usage: true },
    max_tokens: wish.maxTokens,
  };
  if (ask.kind === "chat") {
    return {
      path: "/v1/chat/completions",
      body: { ...drawing, messages: ask.messages, logprobs: true, top_logprobs: values.alternatives },
    };
  }
  return {
    path: "/v1/completions",
    body: { ...drawing, ...prompt(ask), ...orderOf(ask, values), logprobs: values.alternatives, return_token_ids: true },
  };
}

/** The request that says which ids the model reads. */
export function promptCall(model: string, ask: Ask): Call {
  const body = ask.kind === "chat" ? { messages: ask.messages } : { ...prompt(ask), ...(ask.kind === "infill" && ask.order ? { order: ask.order } : {}) };
  return { path: "/v1/prompt_ids", body: { model, ...body } };
}

function orderOf(ask: Ask, values: Readonly<Values>): { readonly order?: string } {
  return ask.kind === "infill" ? { order: ask.order ?? values.order } : {};
}

function prompt(ask: Exclude<Ask, { kind: "chat" }>): Record<string, unknown> {
  switch (ask.kind) {
    case "infill":
      return { prompt: ask.prefix, suffix: ask.suffix };
    case "text":
      return { prompt: ask.prompt };
    case "ids":
      return { prompt: ask.ids, stop_token_ids: ask.stopIds };
  }
}
