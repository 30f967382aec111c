/** The key, and the list of shortcuts. */

import { h, icon, key } from "./dom";

const SHORTCUTS: readonly (readonly [readonly string[], string])[] = [
  [["Tab"], "Write: accept the whole suggestion; indent where there is none"],
  [["Alt", "Enter"], "Write: accept its first line"],
  [["Esc"], "Write: dismiss it. Fill and chat: stop"],
  [["Alt", "]"], "Write: the next suggestion"],
  [["Alt", "["], "Write: the previous one"],
  [["Alt", "\\"], "Write: ask for a suggestion now"],
  [["Ctrl", "Enter"], "Fill: make candidates"],
  [["Enter"], "Chat: send"],
  [["Shift", "Enter"], "Chat: a new line"],
  [["Esc", "Tab"], "Leave an editor: Esc, then Tab"],
  [["←", "→"], "Between tabs, and between tokens in the list"],
];

function dialog(title: string, ...content: HTMLElement[]): HTMLDialogElement {
  const heading = h("h2", { id: `${title}-title` }, title);
  const close = h("button", { type: "button", class: "button icon-button", "aria-label": "Close", on: { click: () => element.close() } }, icon("M6 6l12 12M18 6L6 18"));
  const element = h("dialog", { "aria-labelledby": heading.id }, h("div", { class: "row" }, heading, h("span", { class: "grow" }), close), ...content);
  document.body.append(element);
  return element;
}

export function shortcutsButton(): HTMLElement {
  const rows = SHORTCUTS.map(([keys, what]) => h("div", {}, h("dt", {}, ...keys.map(key)), h("dd", {}, what)));
  const made = dialog("Keyboard", h("dl", { class: "shortcuts" }, ...rows));
  return h("button", { type: "button", class: "button icon-button", "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts",
    on: { click: () => made.showModal() } }, icon("M3 7h18v10H3z", "M7 11h.01M11 11h.01M15 11h.01M8 14h8"));
}

export interface KeyDialog {
  readonly button: HTMLElement;
  open(): void;
}

/** Asks for the server's key. It is held in this tab's session and goes with it. */
export function keyDialog(storage: Storage | null, onKey: (key: string | null) => void): KeyDialog {
  const input = h("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: true });
  const form = h("form", { method: "dialog", class: "key-form", on: { submit: (event) => {
    event.preventDefault();
    take(input.value.trim() || null);
    made.close();
  } } },
    h("p", {}, "A server that is open to other machines asks for a key. It is kept in this tab and forgotten when the tab is closed."),
    h("label", { for: "key" }, "Key"), input,
    h("div", { class: "row" }, h("span", { class: "grow" }),
      h("button", { type: "button", class: "button", on: { click: () => { take(null); made.close(); } } }, "Forget"),
      h("button", { type: "submit", class: "button primary" }, "Use this key")));
  const made = dialog("Key", form);

  function take(value: string | null): void {
    input.value = "";
    if (value === null) storage?.removeItem("key");
    else storage?.setItem("key", value);
    onKey(value);
  }

  const open = (): void => {
    if (!made.open) made.showModal();
    input.focus();
  };
  const button = h("button", { type: "button", class: "button icon-button", "aria-label": "Key of this server", title: "Key of this server", on: { click: open } },
    icon("M8 11a4 4 0 1 0 0 8a4 4 0 1 0 0-8", "M11 12.500l8-8M16 7.500l2.500 2.500"));
  return { button, open };
}
