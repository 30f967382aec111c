/** A suggestion shown at the cursor, in grey and not part of the text. */

import { StateEffect, StateField, type Extension } from "@codemirror/state";
import { Decoration, EditorView, WidgetType } from "@codemirror/view";
import { tokenSpans } from "./token-view";
import type { Span, Token } from "./tokens";

export interface Ghost {
  readonly at: number;
  /** The whole suggestion; what stands before `from` has been typed. */
  readonly text: string;
  readonly tokens: readonly Token[];
  readonly spans: readonly Span[];
  readonly from: number;
}

export const setGhost = StateEffect.define<Ghost | null>();

class GhostText extends WidgetType {
  constructor(readonly ghost: Ghost) {
    super();
  }

  override eq(other: GhostText): boolean {
    return other.ghost === this.ghost;
  }

  toDOM(): HTMLElement {
    const { text, tokens, spans, from } = this.ghost;
    const element = document.createElement("span");
    element.className = "ghost";
    element.setAttribute("aria-hidden", "true"); // what it says is announced apart
    element.append(...tokenSpans(text, spans, tokens, from, text.length));
    return element;
  }

  override ignoreEvent(): boolean {
    return true;
  }
}

const field = StateField.define<Ghost | null>({
  create: () => null,
  update(ghost, transaction) {
    for (const effect of transaction.effects) if (effect.is(setGhost)) return effect.value;
    return transaction.docChanged || transaction.selection ? null : ghost;
  },
  provide: (self) =>
    EditorView.decorations.from(self, (ghost) =>
      ghost === null
        ? Decoration.none
        : Decoration.set(Decoration.widget({ widget: new GhostText(ghost), side: 1 }).range(ghost.at)),
    ),
});

export const ghostText: Extension = field;

export function ghostOf(view: EditorView): Ghost | null {
  return view.state.field(field);
}
