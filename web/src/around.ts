/** The text near a cursor, where the whole does not fit the model's context. */

export interface Around {
  readonly prefix: string;
  readonly suffix: string;
  /** Whether something far away was left out. */
  readonly isCut: boolean;
}

/**
 * At most `budget` characters around a place: three quarters before it and the rest behind, and what
 * either does not use the other gets. Cuts are made at line starts where there is one. The place of
 * the first cut moves in steps while text is typed, so that the server finds what it has read.
 */
export function around(prefix: string, suffix: string, budget: number): Around {
  if (prefix.length + suffix.length <= budget) return { prefix, suffix, isCut: false };
  const behind = Math.min(suffix.length, Math.max(Math.floor(budget / 4), budget - prefix.length));
  const before = Math.min(prefix.length, budget - behind);
  const step = Math.max(1, Math.floor(budget / 4));
  const start = Math.min(Math.ceil((prefix.length - before) / step) * step, prefix.length);
  return { prefix: tail(prefix, prefix.length - start), suffix: head(suffix, behind), isCut: true };
}

function tail(text: string, n: number): string {
  if (n >= text.length) return text;
  const reach = text.slice(text.length - n);
  if (text[text.length - n - 1] === "\n") return reach;
  const line = reach.indexOf("\n");
  return line < 0 || line + 1 === reach.length ? reach : reach.slice(line + 1);
}

function head(text: string, n: number): string {
  if (n >= text.length) return text;
  const reach = text.slice(0, n);
  const line = reach.lastIndexOf("\n");
  return line <= 0 ? reach : reach.slice(0, line + 1);
}
