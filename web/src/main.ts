/** The page: three panes over one model, and what they share. */

import { Api, Refused, Unreachable, type ModelEntry } from "./api";
import type { App, Pane } from "./app";
import { ChatPane } from "./chat";
import { keyDialog, shortcutsButton } from "./dialogs";
import { fill, h, icon } from "./dom";
import { FillPane } from "./fill";
import { Inspector } from "./inspector";
import { explain } from "./notice";
import { Settings } from "./settings";
import { Status } from "./status";
import { tabs } from "./tabs";
import { themeButton } from "./theme";
import { Popover } from "./token-view";
import { WritePane } from "./write";

const LOOK_AGAIN_MS = 2000;

/** A browser may refuse to keep anything; then nothing is kept. */
function storageOf(find: () => Storage): Storage | null {
  try {
    return find();
  } catch {
    return null;
  }
}

const local = storageOf(() => localStorage);
const session = storageOf(() => sessionStorage);
const api = new Api();
api.key = session?.getItem("key") ?? null;
const settings = new Settings(local);
const status = new Status();
const popover = new Popover();
let models: readonly ModelEntry[] = [];
const chosen = h("select", { "aria-label": "Model", on: { change: () => showModel() } });
const model = (): ModelEntry | null => models.find((one) => one.id === chosen.value) ?? models[0] ?? null;
const inspector = new Inspector(api, () => model()?.id ?? "", settings);
const announcer = h("div", { class: "unseen", "aria-live": "polite" });
const banner = h("div", { class: "banner", role: "alert", hidden: true });
const facts = h("span", { class: "facts muted" });

const app: App = {
  density: { at: 0 },
  api, settings, status, popover, inspector, model,
  say: (text) => (announcer.textContent = text),
  insert: (code) => {
    sheets.select("write");
    write.insert(code);
    app.say("Inserted in the editor");
  },
};
const write = new WritePane(app, session?.getItem("write") ?? null);
const filling = new FillPane(app, session?.getItem("fill") ?? null);
const chat = new ChatPane(app);
const panes: Readonly<Record<string, Pane>> = { write, fill: filling, chat };
let active: Pane = write;

const sheets = tabs("Ways to work", [
  { name: "write", label: "Write", content: write.element },
  { name: "fill", label: "Fill", content: filling.element },
  { name: "chat", label: "Chat", content: chat.element },
], (name) => {
  active = panes[name] ?? write;
  popover.hide();
  inspector.show(active.subject());
  inspector.refreshPrompt();
});
inspector.prompt = () => active.prompt();

const keys = keyDialog(session, (value) => {
  api.key = value;
  void loadModels();
});
const heat = h("button", { type: "button", class: "button", "aria-pressed": "false", title: "Colour tokens by how improbable they were",
  on: { click: () => settings.set("heat", !settings.values.heat) } }, icon("M12 3c1 4 5 6 5 11a5 5 0 0 1-10 0c0-2 1-3 2-4c0 2 1 3 2 3c1-3-1-6 1-10"), "Heat map");
function showHeat(): void {
  document.documentElement.classList.toggle("show-heat", settings.values.heat);
  heat.setAttribute("aria-pressed", String(settings.values.heat));
}
settings.onChange((name) => name === "heat" && showHeat());
showHeat();

const root = document.getElementById("app") ?? document.body;
fill(root,
  h("a", { class: "skip", href: "#work" }, "Skip to the work"),
  h("header", { class: "top" },
    h("h1", { class: "brand" }, h("span", { class: "logo", "aria-hidden": "true" }, "‹|›"), "codellama"),
    sheets.list,
    h("div", { class: "model" }, chosen, facts),
    h("div", { class: "actions" }, heat, keys.button, shortcutsButton(), themeButton(local))),
  banner,
  h("div", { class: "columns" }, h("main", { id: "work", tabindex: "-1" }, ...sheets.panels), inspector.element),
  status.element, popover.element, announcer);

addEventListener("pagehide", () => {
  try {
    session?.setItem("write", write.editor.text);
    session?.setItem("fill", filling.editor.text);
  } catch {
    // A text too large to keep is lost with the page, as it is without storage.
  }
});

function showModel(): void {
  const one = model();
  facts.textContent = one === null ? "" : `${millions(one.parameters)} · ${one.context} tokens of context${one.hasInfill ? "" : " · cannot fill"}`;
}

function millions(n: number): string {
  return n >= 1e9 ? `${(n / 1e9).toFixed(1)} B parameters` : `${(n / 1e6).toFixed(1)} M parameters`;
}

let isLooking = false;

/** Names the models; while that fails the page says why and looks again. */
async function loadModels(): Promise<void> {
  try {
    models = await api.models();
    fill(chosen, ...models.map((one) => h("option", { value: one.id }, one.id)));
    showModel();
  } catch {
    // The outcome was shown when it was known; see `onOutcome`.
  }
}

api.onOutcome = (failure) => {
  const isGone = failure instanceof Unreachable || (failure instanceof Refused && failure.code === "loading");
  status.isDown = isGone;
  if (failure instanceof Refused && failure.status === 401) keys.open();
  banner.hidden = !isGone;
  if (!isGone) return;
  const { title, hint } = explain(failure);
  fill(banner, h("strong", {}, title), " ", hint);
  void lookAgain();
};

async function lookAgain(): Promise<void> {
  if (isLooking) return;
  isLooking = true;
  do await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
  while (!(await api.isHealthy()));
  isLooking = false;
  banner.hidden = true;
  status.isDown = false;
  if (models.length === 0) await loadModels();
}

void loadModels();
