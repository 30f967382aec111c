/** Tokens of a reply: where each stands in the text, and how probable it was. */

/** A token that the model could have written. Bytes, because half a character is a token too. */
export interface Alternative {
  readonly id: number;
  readonly text: string;
  readonly bytes: readonly number[];
  /** Natural logarithm of its probability, before temperature. */
  readonly logprob: number;
}

/** A token that was written, and what else was likely there, most probable first. */
export interface Token extends Alternative {
  readonly top: readonly Alternative[];
}

/** UTF-16 offsets in a text. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

export function decode(tokens: readonly Alternative[]): string {
  return new TextDecoder().decode(Uint8Array.from(tokens.flatMap((token) => token.bytes)));
}

/**
 * Where each token stands in `text`. The text may lack the space that the first token begins with,
 * and may have been cut at its end. A token that ends within a character reaches to its end; the
 * rest of that character is then empty.
 */
export function spansOf(text: string, tokens: readonly Token[]): Span[] {
  const decoder = new TextDecoder();
  const whole = decode(tokens);
  let at = whole.startsWith(" ") && !text.startsWith(" ") ? -1 : 0;
  return tokens.map((token) => {
    const from = Math.max(at, 0);
    at += decoder.decode(Uint8Array.from(token.bytes), { stream: true }).length;
    const to = Math.max(at, 0);
    return { from: Math.min(from, text.length), to: Math.min(to, text.length) };
  });
}

/** The text of tokens that follow a reply's beginning, its first space left out as `like` does. */
export function textOf(tokens: readonly Token[], dropsSpace: boolean): string {
  const text = decode(tokens);
  return dropsSpace && text.startsWith(" ") ? text.slice(1) : text;
}

/** A piece of text that belongs to one token, or to none. */
export interface Piece {
  readonly text: string;
  readonly token: number | null;
}

/** The part [from, to) of a text, cut where tokens begin and end. */
export function pieces(text: string, spans: readonly Span[], from: number, to: number): Piece[] {
  const found: Piece[] = [];
  let at = from;
  spans.forEach((span, token) => {
    if (span.to <= at || span.from >= to || span.to <= span.from) return;
    if (span.from > at) found.push({ text: text.slice(at, span.from), token: null });
    const begin = Math.max(at, span.from);
    const end = Math.min(to, span.to);
    found.push({ text: text.slice(begin, end), token });
    at = end;
  });
  if (at < to) found.push({ text: text.slice(at, to), token: null });
  return found;
}

/** The alternatives at a token's place, the token itself among them, most probable first. */
export function choices(token: Token): Alternative[] {
  const others = token.top.filter((other) => other.id !== token.id);
  return [...others, token].sort((a, b) => b.logprob - a.logprob);
}

export function percent(logprob: number): string {
  const share = 100 * Math.exp(logprob);
  if (share >= 99.95) return "100 %";
  if (share >= 10) return `${share.toFixed(0)} %`;
  if (share >= 0.1) return `${share.toFixed(1)} %`;
  return "< 0.1 %";
}

/** Five steps from certain (0) to improbable (4), for colours. */
export function heat(logprob: number): number {
  const share = Math.exp(logprob);
  return [0.9, 0.6, 0.3, 0.1].filter((bound) => share < bound).length;
}

/** The geometric mean of the probabilities, as a logarithm; null for none. */
export function meanLogprob(tokens: readonly Token[]): number | null {
  if (tokens.length === 0) return null;
  return tokens.reduce((sum, token) => sum + token.logprob, 0) / tokens.length;
}

/** A token's text with its white space made visible. */
export function visible(text: string): string {
  if (text === "") return "∅";
  return text.replaceAll(" ", "·").replaceAll("\t", "⇥").replaceAll("\n", "⏎").replaceAll("\r", "␍");
}
