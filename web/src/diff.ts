/** The difference of two texts, line by line. */

export interface DiffLine {
  readonly kind: "same" | "removed" | "added";
  readonly text: string;
  /** Offset of the line's first character in the text it stands in: the new one, or the old one. */
  readonly at: number;
}

/** The fewest lines to remove and add (longest common subsequence); removed before added. */
export function diffLines(before: string, after: string): DiffLine[] {
  const a = lines(before);
  const b = lines(after);
  // common[i][j]: common lines of a from i and b from j
  const common = Array.from({ length: a.length + 1 }, () => new Array<number>(b.length + 1).fill(0));
  const at = (i: number, j: number): number => common[i]?.[j] ?? 0;
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const row = common[i];
      if (row) row[j] = a[i]?.text === b[j]?.text ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const found: DiffLine[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    const old = a[i];
    const now = b[j];
    if (old && now && old.text === now.text) {
      found.push({ kind: "same", ...now });
      i++;
      j++;
    } else if (old && (!now || at(i + 1, j) >= at(i, j + 1))) {
      found.push({ kind: "removed", ...old });
      i++;
    } else if (now) {
      found.push({ kind: "added", ...now });
      j++;
    }
  }
  return found;
}

function lines(text: string): { text: string; at: number }[] {
  let at = 0;
  return text.split("\n").map((line) => {
    const found = { text: line, at };
    at += line.length + 1;
    return found;
  });
}

/** `n` lines at the end of a text, and at its beginning: the surroundings of a change. */
export function lastLines(text: string, n: number): string {
  return text.split("\n").slice(-n - 1).join("\n");
}

export function firstLines(text: string, n: number): string {
  return text.split("\n").slice(0, n + 1).join("\n");
}
