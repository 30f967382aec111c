/** The little of Markdown that replies use: fenced code and everything else. */

export interface Block {
  readonly kind: "text" | "code";
  /** The language named at the fence, if any. */
  readonly language: string;
  /** What is shown: offsets in the whole text, without the fences. */
  readonly from: number;
  readonly to: number;
}

/** The blocks of a reply. A fence that is not closed yet reaches to the end. */
export function blocks(text: string): Block[] {
  const found: Block[] = [];
  const fence = /^[ \t]*(```+|~~~+)[ \t]*([^\n`]*)(?:\n|$)/gm;
  let at = 0;
  for (let open = fence.exec(text); open !== null; open = fence.exec(text)) {
    pushText(found, text, at, open.index);
    const from = fence.lastIndex;
    const mark = open[1] ?? "```";
    const close = new RegExp(`^[ \\t]*${mark[0]}{${mark.length},}[ \\t]*(?:\\n|$)`, "gm");
    close.lastIndex = from;
    const end = from < text.length ? close.exec(text) : null;
    const to = end === null ? text.length : Math.max(from, end.index - 1);
    found.push({ kind: "code", language: (open[2] ?? "").trim(), from, to });
    at = end === null ? text.length : close.lastIndex;
    fence.lastIndex = at;
    if (at >= text.length) break;
  }
  pushText(found, text, at, text.length);
  return found;
}

function pushText(found: Block[], text: string, from: number, to: number): void {
  while (from < to && text[from] === "\n") from++;
  while (to > from && /\s/.test(text[to - 1] ?? "")) to--;
  if (from < to) found.push({ kind: "text", language: "", from, to });
}
