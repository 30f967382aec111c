/** Elements made from plain values. Text only ever becomes text: nothing here parses markup. */

type Child = Node | string | null | undefined | false;

export interface Props {
  readonly class?: string;
  readonly on?: { readonly [K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void };
  /** Attributes; true is an empty one, and false, null and undefined are none. */
  readonly [attribute: string]: unknown;
}

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on" || value === false || value === null || value === undefined) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const [name, listener] of Object.entries(props.on ?? {})) {
    element.addEventListener(name, listener as EventListener);
  }
  element.append(...children.filter((child): child is Node | string => child instanceof Node || typeof child === "string"));
  return element;
}

export function fill(parent: Element, ...children: Child[]): void {
  parent.replaceChildren(...children.filter((child): child is Node | string => child instanceof Node || typeof child === "string"));
}

const SVG = "http://www.w3.org/2000/svg";

/** An icon of strokes in a square of 24; it is decoration, the control's name says what it does. */
export function icon(...paths: string[]): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  for (const d of paths) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

/** A share of 1 as a bar; decoration, for a number that stands beside it. */
export function bar(share: number): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "bar");
  svg.setAttribute("aria-hidden", "true");
  for (const width of [1, share]) {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("width", `${(100 * width).toFixed(1)}%`);
    rect.setAttribute("height", "100%");
    svg.append(rect);
  }
  return svg;
}

export function key(name: string): HTMLElement {
  return h("kbd", {}, name);
}

let ids = 0;

/** A name for an element that others refer to. */
export function uniqueId(prefix: string): string {
  ids += 1;
  return `${prefix}-${ids}`;
}
