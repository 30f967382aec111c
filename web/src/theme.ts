/** Dark and light: as the system has it, or as was chosen. */

import { h, icon } from "./dom";

export type Theme = "system" | "light" | "dark";
const NEXT: Readonly<Record<Theme, Theme>> = { system: "light", light: "dark", dark: "system" };
const ICONS: Readonly<Record<Theme, readonly string[]>> = {
  system: ["M4 5h16v11H4z", "M9 20h6", "M12 16v4"],
  light: ["M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8", "M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M19 5l-1.4 1.4M6.4 17.6L5 19"],
  dark: ["M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.500 10.500z"],
};

export function themeButton(storage: Storage | null): HTMLElement {
  const stored = storage?.getItem("theme");
  let theme: Theme = stored === "light" || stored === "dark" ? stored : "system";
  const button = h("button", { type: "button", class: "button icon-button", on: { click: () => {
    theme = NEXT[theme];
    storage?.setItem("theme", theme);
    show();
  } } });

  function show(): void {
    if (theme === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme;
    const label = `Theme: ${theme}; change to ${NEXT[theme]}`;
    button.setAttribute("aria-label", label);
    button.title = label;
    button.replaceChildren(icon(...ICONS[theme]));
  }
  show();
  return button;
}
