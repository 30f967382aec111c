/** Sheets of which one is shown; arrow keys go from tab to tab. */

import { h, uniqueId } from "./dom";

export interface Sheet {
  readonly name: string;
  readonly label: string;
  readonly content: HTMLElement;
}

export interface Tabs {
  readonly list: HTMLElement;
  readonly panels: HTMLElement[];
  select(name: string): void;
}

export function tabs(label: string, sheets: readonly Sheet[], onSelect: (name: string) => void): Tabs {
  const made = sheets.map((sheet) => {
    const id = uniqueId(sheet.name);
    const tab = h("button", {
      type: "button", role: "tab", id: `${id}-tab`, "aria-controls": id, "data-tab": sheet.name,
      on: { click: () => select(sheet.name) },
    }, sheet.label);
    const panel = h("section", { role: "tabpanel", id, "aria-labelledby": `${id}-tab`, class: "sheet", "data-sheet": sheet.name }, sheet.content);
    return { sheet, tab, panel };
  });
  const list = h("div", { role: "tablist", "aria-label": label, class: "tabs" }, ...made.map(({ tab }) => tab));

  function select(name: string): void {
    for (const { sheet, tab, panel } of made) {
      const isOn = sheet.name === name;
      tab.setAttribute("aria-selected", String(isOn));
      tab.tabIndex = isOn ? 0 : -1;
      panel.hidden = !isOn;
    }
    onSelect(name);
  }

  list.addEventListener("keydown", (event) => {
    const at = made.findIndex(({ tab }) => tab === event.target);
    const n = made.length;
    const to = { ArrowRight: (at + 1) % n, ArrowLeft: (at + n - 1) % n, Home: 0, End: n - 1 }[event.key];
    const next = to === undefined ? undefined : made[to];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    select(next.sheet.name);
    next.tab.focus();
  });
  const first = made[0];
  for (const { tab, panel } of made) {
    tab.setAttribute("aria-selected", String(tab === first?.tab));
    tab.tabIndex = tab === first?.tab ? 0 : -1;
    panel.hidden = tab !== first?.tab;
  }
  return { list, panels: made.map(({ panel }) => panel), select };
}
