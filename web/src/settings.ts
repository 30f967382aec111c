/** What a person may set, what it means, and where it is kept. */

export interface Values {
  temperature: number;
  spread: number;
  topP: number;
  topK: number;
  minP: number;
  repetitionPenalty: number;
  maxTokens: number;
  chatTokens: number;
  seed: number | null;
  alternatives: number;
  candidates: number;
  debounceMs: number;
  lines: "one" | "block";
  auto: boolean;
  heat: boolean;
  order: "auto" | "psm" | "spm";
  system: string;
}

interface Base {
  readonly label: string;
  /** What it does, in a sentence for a person who has not met the word. */
  readonly meaning: string;
}

export type Field =
  | (Base & { readonly kind: "number"; readonly min: number; readonly max: number; readonly step: number; readonly optional?: boolean })
  | (Base & { readonly kind: "choice"; readonly options: Readonly<Record<string, string>> })
  | (Base & { readonly kind: "switch" })
  | (Base & { readonly kind: "text" });

export const DEFAULTS: Readonly<Values> = {
  temperature: 0.2,
  spread: 0.7,
  topP: 0.95,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  maxTokens: 64,
  chatTokens: 384,
  seed: null,
  alternatives: 5,
  candidates: 3,
  debounceMs: 180,
  lines: "block",
  auto: true,
  heat: false,
  order: "auto",
  system: "",
};

export const FIELDS: Readonly<Record<keyof Values, Field>> = {
  temperature: {
    kind: "number", min: 0, max: 2, step: 0.05, label: "Temperature",
    meaning: "How daring the draw is. At 0 the most probable token is always taken.",
  },
  spread: {
    kind: "number", min: 0, max: 2, step: 0.05, label: "Temperature of candidates",
    meaning: "Used where several candidates are asked for, so that they differ.",
  },
  topP: {
    kind: "number", min: 0.01, max: 1, step: 0.01, label: "Top-p",
    meaning: "Draws among the likeliest tokens that together have this probability.",
  },
  topK: {
    kind: "number", min: 0, max: 200, step: 1, label: "Top-k",
    meaning: "Draws among this many of the likeliest tokens; 0 sets no limit.",
  },
  minP: {
    kind: "number", min: 0, max: 1, step: 0.01, label: "Min-p",
    meaning: "Leaves out tokens less probable than this share of the likeliest one.",
  },
  repetitionPenalty: {
    kind: "number", min: 0.8, max: 2, step: 0.05, label: "Repetition penalty",
    meaning: "Above 1, tokens that were already there become less likely.",
  },
  maxTokens: {
    kind: "number", min: 1, max: 1024, step: 1, label: "Tokens of a suggestion",
    meaning: "The most that a suggestion or a fill may have.",
  },
  chatTokens: {
    kind: "number", min: 1, max: 4096, step: 1, label: "Tokens of an answer",
    meaning: "The most that an answer in chat may have.",
  },
  seed: {
    kind: "number", min: 0, max: 2147483647, step: 1, optional: true, label: "Seed",
    meaning: "The same seed draws the same reply again. Empty: a new one each time.",
  },
  alternatives: {
    kind: "number", min: 1, max: 20, step: 1, label: "Alternatives shown",
    meaning: "How many tokens are listed that could have stood in a token's place.",
  },
  candidates: {
    kind: "number", min: 1, max: 8, step: 1, label: "Candidates",
    meaning: "How many fills are made side by side, and suggestions to choose among.",
  },
  debounceMs: {
    kind: "number", min: 0, max: 2000, step: 10, label: "Pause before a suggestion (ms)",
    meaning: "How long typing must rest before the model is asked.",
  },
  lines: {
    kind: "choice", options: { one: "One line", block: "Several lines" }, label: "Length of suggestions",
    meaning: "Whether a suggestion ends with its line.",
  },
  auto: {
    kind: "switch", label: "Suggest while typing",
    meaning: "Off, a suggestion is made only when asked for with Alt-\\.",
  },
  heat: {
    kind: "switch", label: "Heat map",
    meaning: "Colours tokens by how improbable they were.",
  },
  order: {
    kind: "choice", options: { auto: "Automatic", psm: "Text before first", spm: "Text behind first" }, label: "Order of a hole",
    meaning: "Which side of the hole the model reads first. Text before first is the reference's; the other re-reads less of a file while you type; automatic takes what the cache makes cheaper.",
  },
  system: {
    kind: "text", label: "System message",
    meaning: "Comes before the conversation and tells the model how to answer.",
  },
};

export const NAMES = Object.keys(FIELDS) as (keyof Values)[];

/** A value as a field allows it; null where it is nothing the field can hold. */
export function checked(name: keyof Values, value: unknown): Values[keyof Values] | null {
  const field = FIELDS[name];
  switch (field.kind) {
    case "number": {
      if (field.optional && (value === null || value === "")) return null;
      const number = typeof value === "string" && value.trim() === "" ? NaN : Number(value);
      if (!Number.isFinite(number)) return DEFAULTS[name];
      const rounded = field.step >= 1 ? Math.round(number) : number;
      return Math.min(field.max, Math.max(field.min, rounded));
    }
    case "choice":
      return typeof value === "string" && value in field.options ? (value as Values["lines" | "order"]) : DEFAULTS[name];
    case "switch":
      return typeof value === "boolean" ? value : DEFAULTS[name];
    case "text":
      return typeof value === "string" ? value.slice(0, 20_000) : DEFAULTS[name];
  }
}

type Listener = (name: keyof Values) => void;

/** The settings, kept in the browser between visits where it allows that. */
export class Settings {
  #values: Values = { ...DEFAULTS };
  #listeners: Listener[] = [];

  constructor(readonly storage: Pick<Storage, "getItem" | "setItem"> | null) {
    let stored: unknown = null;
    try {
      stored = JSON.parse(storage?.getItem("settings") ?? "null");
    } catch {
      // What cannot be read is as if it were not there: the defaults hold.
    }
    if (typeof stored === "object" && stored !== null) {
      for (const name of NAMES) {
        if (name in stored) this.#assign(name, (stored as Record<string, unknown>)[name]);
      }
    }
  }

  get values(): Readonly<Values> {
    return this.#values;
  }

  set(name: keyof Values, value: unknown): void {
    this.#assign(name, value);
    this.#changed(name);
  }

  reset(): void {
    this.#values = { ...DEFAULTS };
    for (const name of NAMES) this.#changed(name);
  }

  onChange(listener: Listener): void {
    this.#listeners.push(listener);
  }

  #assign(name: keyof Values, value: unknown): void {
    this.#values = { ...this.#values, [name]: checked(name, value) };
  }

  #changed(name: keyof Values): void {
    try {
      this.storage?.setItem("settings", JSON.stringify(this.#values));
    } catch {
      // A full or closed storage loses the settings at the end of the visit, nothing else.
    }
    for (const listener of this.#listeners) listener(name);
  }
}
