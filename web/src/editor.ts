/** CodeMirror as both editors use it. */

import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { javascript } from "@codemirror/lang-javascript";
import { python } from "@codemirror/lang-python";
import { bracketMatching, HighlightStyle, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { Compartment, EditorState, type Extension } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { h } from "./dom";

export const LANGUAGES = { python: "Python", javascript: "JavaScript", plain: "Plain text" } as const;
export type Language = keyof typeof LANGUAGES;

const look = EditorView.theme({
  "&": { height: "100%", backgroundColor: "var(--surface)", color: "var(--text)", fontSize: "var(--code-size)" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--code)", fontVariantLigatures: "none", lineHeight: "1.65" },
  ".cm-content": { caretColor: "var(--accent)", padding: "14px 0" },
  ".cm-line": { padding: "0 16px 0 8px" },
  ".cm-gutters": { backgroundColor: "var(--surface)", color: "var(--faint)", border: "none" },
  ".cm-lineNumbers .cm-gutterElement": { padding: "0 8px 0 14px", minWidth: "2.4em" },
  ".cm-activeLine": { backgroundColor: "var(--active-line)" },
  ".cm-cursor": { borderLeftColor: "var(--accent)", borderLeftWidth: "2px" },
  "& .cm-selectionBackground, &.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground": {
    backgroundColor: "var(--selection)",
  },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: "var(--selection)", outline: "none" },
  ".ghost": { color: "var(--ghost)", fontStyle: "italic" },
  ".ghost .token": { borderRadius: "3px" },
  ".token:hover": { boxShadow: "0 0 0 1px var(--accent)" },
  ".heat-1": { backgroundColor: "var(--heat-1)" },
  ".heat-2": { backgroundColor: "var(--heat-2)" },
  ".heat-3": { backgroundColor: "var(--heat-3)" },
  ".heat-4": { backgroundColor: "var(--heat-4)" },
  ".hole": { backgroundColor: "var(--hole)", borderRadius: "3px" },
  ".hole-mark": { display: "inline-block", padding: "0 6px", borderRadius: "4px", fontSize: "0.8em",
    backgroundColor: "var(--hole)", color: "var(--text)", fontFamily: "var(--sans)" },
});

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier], color: "var(--code-keyword)" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--code-string)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--code-number)" },
  { tag: [tags.comment, tags.meta], color: "var(--code-comment)" },
  { tag: [tags.function(tags.definition(tags.variableName)), tags.definition(tags.className)], color: "var(--code-name)" },
]);

const languages: Record<Language, () => Extension> = {
  python: () => [python(), indentUnit.of("    ")],
  javascript: () => javascript({ typescript: true }),
  plain: () => [],
};

export interface Split {
  readonly prefix: string;
  readonly selected: string;
  readonly suffix: string;
}

/**
 * An editor in a shadow root of its own: there its styles are constructed sheets, which the page's
 * policy lets through without allowing inline styles.
 */
export class Editor {
  readonly element: HTMLElement;
  readonly view: EditorView;
  readonly root: ShadowRoot;
  #language = new Compartment();

  constructor(name: string, text: string, extensions: Extension) {
    this.element = h("div", { class: "editor" });
    this.root = this.element.attachShadow({ mode: "open" });
    const state = EditorState.create({
      doc: text,
      extensions: [
        extensions,
        lineNumbers(),
        history(),
        drawSelection(),
        bracketMatching(),
        indentOnInput(),
        highlightActiveLine(),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ "aria-label": name, spellcheck: "false" }),
        keymap.of([...defaultKeymap, ...historyKeymap, indentWithTab]),
        this.#language.of(languages.python()),
        syntaxHighlighting(colours),
        look,
      ],
    });
    this.view = new EditorView({ state, parent: this.root, root: this.root });
  }

  get text(): string {
    return this.view.state.doc.toString();
  }

  set language(language: Language) {
    this.view.dispatch({ effects: this.#language.reconfigure(languages[language]()) });
  }

  /** The text before, in and after the selection. */
  get split(): Split {
    const { doc, selection } = this.view.state;
    const { from, to } = selection.main;
    return { prefix: doc.sliceString(0, from), selected: doc.sliceString(from, to), suffix: doc.sliceString(to) };
  }

  /** Replaces [from, to) and leaves the cursor behind the new text. */
  replace(from: number, to: number, text: string): void {
    this.view.dispatch({
      changes: { from, to, insert: text },
      selection: { anchor: from + text.length },
      scrollIntoView: true,
      userEvent: "input.complete",
    });
  }
}
