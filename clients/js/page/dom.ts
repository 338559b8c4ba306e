// Elements from data: text is always text, and never markup.

type Attributes = { readonly [name: string]: string | boolean | ((event: any) => void) };

/** An element. Functions are listeners, `true` is an attribute without a value, `false` none. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Set a text only where it changes, so that the browser has nothing to do where it does not. */
export function setText(node: Node, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

/** The element with an id, which index.html has. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const node = document.getElementById(id);
  if (node === null) throw new Error(`no element #${id}`);
  return node as T;
}

/** A text that may be very long, cut for a place that has no room for it. */
export const cut = (text: string, length = 300): string => (text.length > length ? `${text.slice(0, length)}…` : text);
