/** Every setting as a control, with a sentence on what it does. */

import { h, uniqueId } from "./dom";
import { FIELDS, NAMES, type Field, type Settings, type Values } from "./settings";

export function settingsForm(settings: Settings): HTMLElement {
  const rows = NAMES.map((name) => row(settings, name));
  const reset = h("button", { type: "button", class: "button", on: { click: () => settings.reset() } }, "Back to the defaults");
  return h("div", { class: "settings" }, ...rows, reset);
}

function row(settings: Settings, name: keyof Values): HTMLElement {
  const field = FIELDS[name];
  const id = uniqueId("setting");
  const meaning = h("p", { class: "meaning", id: `${id}-meaning` }, field.meaning);
  const control = controlOf(settings, name, field, { id, "aria-describedby": `${id}-meaning`, "data-setting": name });
  return h("div", { class: `setting is-${field.kind}` }, h("label", { for: id }, field.label), control, meaning);
}

function controlOf(settings: Settings, name: keyof Values, field: Field, props: Record<string, string>): HTMLElement {
  const take = (read: () => unknown) => ({ change: () => settings.set(name, read()) });
  const follow = (show: () => void): void => {
    show();
    settings.onChange((changed) => changed === name && show());
  };
  switch (field.kind) {
    case "number": {
      const input: HTMLInputElement = h("input", {
        ...props, type: "number", min: field.min, max: field.max, step: field.step, inputmode: "decimal",
        placeholder: field.optional ? "random" : null, on: take(() => input.value),
      });
      follow(() => (input.value = String(settings.values[name] ?? "")));
      return input;
    }
    case "choice": {
      const select: HTMLSelectElement = h("select", { ...props, on: take(() => select.value) },
        ...Object.entries(field.options).map(([value, label]) => h("option", { value }, label)));
      follow(() => (select.value = String(settings.values[name])));
      return select;
    }
    case "switch": {
      const input: HTMLInputElement = h("input", { ...props, type: "checkbox", role: "switch", on: take(() => input.checked) });
      follow(() => (input.checked = settings.values[name] === true));
      return input;
    }
    case "text": {
      const area: HTMLTextAreaElement = h("textarea", { ...props, rows: 3, on: take(() => area.value) });
      follow(() => (area.value = String(settings.values[name])));
      return area;
    }
  }
}
