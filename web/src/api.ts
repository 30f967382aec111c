/** The server's answers, and the ways in which there may be none. */

import { promptCall, type Ask, type Call, type Order } from "./ask";
import { EventParser } from "./sse";
import type { Alternative, Token } from "./tokens";

/** The server said no, in a sentence. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfterS: number | null,
  ) {
    super(message);
  }
}

/** Nobody answered. */
export class Unreachable extends Error {}

export interface ModelEntry {
  readonly id: string;
  readonly context: number;
  readonly parameters: number;
  /** Whether it was trained to fill holes. */
  readonly hasInfill: boolean;
}

export interface PromptIds {
  readonly tokens: readonly { readonly id: number; readonly text: string; readonly isControl: boolean }[];
  readonly stopIds: readonly number[];
  /** Text in front of the cursor that is no part of the ids: the reply is made to begin with it. */
  readonly begun: string;
  readonly context: number;
}

/** Times of a reply as the server measured them, and what of the prompt it had in its cache. */
export interface Timings {
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly completionTokens: number;
  readonly queueMs: number;
  readonly promptMs: number;
  readonly perSecond: number;
}

export type Event =
  | { readonly kind: "order"; readonly order: Order }
  | { readonly kind: "piece"; readonly index: number; readonly text: string; readonly tokens: readonly Token[]; readonly finish: string | null }
  | { readonly kind: "timings"; readonly timings: Timings };

type Json = { readonly [name: string]: unknown };

export class Api {
  /** Kept for this visit only. */
  key: string | null = null;
  /** Called with every outcome of a request: null after an answer, or what kept it from coming. */
  onOutcome: (failure: Refused | Unreachable | null) => void = () => undefined;

  async models(): Promise<ModelEntry[]> {
    const found = await this.#json("/v1/models", null);
    return list(found["data"]).map((entry) => ({
      id: text(entry["id"]),
      context: number(entry["max_model_len"]),
      parameters: number(object(entry["meta"])["n_params"]),
      hasInfill: object(entry["meta"])["infill"] === true,
    }));
  }

  async promptIds(model: string, ask: Ask, signal?: AbortSignal): Promise<PromptIds> {
    const call = promptCall(model, ask);
    const found = await this.#json(call.path, call.body, signal);
    return {
      tokens: list(found["tokens"]).map((token) => ({
        id: number(token["id"]),
        text: text(token["text"]),
        isControl: token["is_control"] === true,
      })),
      stopIds: Array.isArray(found["stop_token_ids"]) ? found["stop_token_ids"].map(number) : [],
      begun: text(found["begun"]),
      context: number(found["max_model_len"]),
    };
  }

  /** Whether the server is there and well; never throws. */
  async isHealthy(): Promise<boolean> {
    try {
      return (await fetch("/health", { cache: "no-store" })).ok;
    } catch {
      return false;
    }
  }

  /** A reply's events. Ends early, and tells the server so, when `signal` says. */
  async *stream(call: Call, signal: AbortSignal): AsyncGenerator<Event> {
    const response = await this.#send(call.path, call.body, signal);
    const order = response.headers.get("x-codellama-order");
    if (order === "psm" || order === "spm") yield { kind: "order", order };
    const reader = response.body?.getReader();
    if (!reader) throw new Unreachable("the answer has no body");
    const parser = new EventParser();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        for (const data of parser.push(value)) {
          if (data === "[DONE]") return;
          yield* eventsOf(object(JSON.parse(data)));
        }
      }
    } catch (error) {
      if (signal.aborted || error instanceof Refused) throw error;
      throw this.#failed(new Unreachable("the connection broke while the answer came"));
    } finally {
      void reader.cancel().catch(() => undefined);
    }
  }

  async #json(path: string, body: unknown, signal?: AbortSignal): Promise<Json> {
    return object(await (await this.#send(path, body, signal)).json());
  }

  async #send(path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(path, {
        method: body === null ? "GET" : "POST",
        headers: {
          ...(body === null ? {} : { "content-type": "application/json" }),
          ...(this.key === null ? {} : { authorization: `Bearer ${this.key}` }),
        },
        ...(body === null ? {} : { body: JSON.stringify(body) }),
        ...(signal ? { signal } : {}),
        cache: "no-store",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw this.#failed(new Unreachable("the server does not answer"));
    }
    if (!response.ok) throw this.#failed(await refusalOf(response));
    this.onOutcome(null);
    return response;
  }

  #failed<E extends Refused | Unreachable>(error: E): E {
    this.onOutcome(error);
    return error;
  }
}

async function refusalOf(response: Response): Promise<Refused> {
  const found = object(await response.json().catch(() => null));
  const error = object(found["error"]);
  const message = text(error["message"]) || `the server answered ${response.status}`;
  const after = Number(response.headers.get("retry-after"));
  return new Refused(response.status, text(error["code"]), message, after > 0 ? after : null);
}

/** What one event of the server says: pieces of replies, times, or that it failed. */
export function* eventsOf(event: Json): Generator<Event> {
  if ("error" in event) {
    const error = object(event["error"]);
    throw new Refused(500, text(error["code"]), text(error["message"]), null);
  }
  for (const choice of list(event["choices"])) {
    const delta = object(choice["delta"]);
    const finish = choice["finish_reason"];
    yield {
      kind: "piece",
      index: number(choice["index"]),
      text: text(choice["text"]) || text(delta["content"]),
      tokens: list(object(choice["logprobs"])["content"]).map(tokenOf),
      finish: typeof finish === "string" ? finish : null,
    };
  }
  if ("timings" in event) {
    const times = object(event["timings"]);
    const usage = object(event["usage"]);
    yield {
      kind: "timings",
      timings: {
        promptTokens: number(usage["prompt_tokens"]),
        cachedTokens: number(object(usage["prompt_tokens_details"])["cached_tokens"]),
        completionTokens: number(usage["completion_tokens"]),
        queueMs: number(times["queue_ms"]),
        promptMs: number(times["prompt_ms"]),
        perSecond: number(times["predicted_per_second"]),
      },
    };
  }
}

function tokenOf(entry: Json): Token {
  return { ...alternativeOf(entry), top: list(entry["top_logprobs"]).map(alternativeOf) };
}

function alternativeOf(entry: Json): Alternative {
  return {
    id: number(entry["id"]),
    text: text(entry["token"]),
    bytes: Array.isArray(entry["bytes"]) ? entry["bytes"].map(number) : [],
    logprob: number(entry["logprob"]),
  };
}

function object(value: unknown): Json {
  return typeof value === "object" && value !== null ? (value as Json) : {};
}

function list(value: unknown): Json[] {
  return Array.isArray(value) ? value.map(object) : [];
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function number(value: unknown): number {
  return typeof value === "number" ? value : 0;
}
