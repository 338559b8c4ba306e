// A list of many rows, of which only those on the screen exist.

/** Rows beyond each end of the screen, so that scrolling finds them. */
const OVERSCAN = 6;

export interface Row {
  readonly node: HTMLElement;
}

interface RowKind<R extends Row> {
  make(): R;
  /** Show an item in a row. Rows are used again for other items. */
  show(row: R, id: string): void;
}

function setAttribute(node: Element, name: string, value: number): void {
  const text = String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

/** Rows are children of `content`, which is as high as all of them would be. All have the height of `--row-height`. */
export class VirtualList<R extends Row> {
  readonly #scroller: HTMLElement;
  readonly #content: HTMLElement;
  readonly #kind: RowKind<R>;
  readonly #onVisible: (ids: readonly string[]) => void;
  #ids: readonly string[] = [];
  #rows = new Map<string, R>();
  #free: R[] = [];
  #height = 0;
  #isScheduled = false;
  #visible = "";

  constructor(scroller: HTMLElement, content: HTMLElement, kind: RowKind<R>, onVisible: (ids: readonly string[]) => void) {
    this.#scroller = scroller;
    this.#content = content;
    this.#kind = kind;
    this.#onVisible = onVisible;
    scroller.addEventListener("scroll", () => this.refresh(), { passive: true });
    new ResizeObserver(() => {
      this.#height = 0;
      this.refresh();
    }).observe(scroller);
    content.addEventListener("keydown", (event) => this.#onKey(event));
  }

  show(ids: readonly string[]): void {
    this.#ids = ids;
    this.refresh();
  }

  /** Draw in the next frame. */
  refresh(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    requestAnimationFrame(() => {
      this.#isScheduled = false;
      this.#draw();
    });
  }

  #draw(): void {
    this.#height ||= parseFloat(getComputedStyle(this.#content).getPropertyValue("--row-height")) || 60;
    const height = this.#height;
    const { scrollTop, clientHeight } = this.#scroller;
    const above = Math.max(0, scrollTop - this.#content.offsetTop);
    const first = Math.max(0, Math.floor(above / height) - OVERSCAN);
    const last = Math.min(this.#ids.length, Math.ceil((above + clientHeight) / height) + OVERSCAN);
    const whole = `${this.#ids.length * height}px`;
    if (this.#content.style.height !== whole) this.#content.style.height = whole;
    const ids = this.#ids.slice(first, last);
    const wanted = new Set(ids);
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      this.#rows.delete(id);
      // A row that has the focus is not used for another task.
      if (row.node.contains(document.activeElement)) row.node.remove();
      else this.#free.push(row);
    }
    ids.forEach((id, index) => {
      let row = this.#rows.get(id);
      if (row === undefined) {
        row = this.#free.pop() ?? this.#kind.make();
        this.#rows.set(id, row);
        row.node.hidden = false;
      }
      const place = `translateY(${(first + index) * height}px)`;
      if (row.node.style.transform !== place) row.node.style.transform = place;
      setAttribute(row.node, "aria-posinset", first + index + 1);
      setAttribute(row.node, "aria-setsize", this.#ids.length);
      this.#kind.show(row, id);
    });
    for (const { node } of this.#free) node.hidden = true;
    this.#arrange(ids);
    const visible = ids.join("\n");
    if (visible === this.#visible) return;
    this.#visible = visible;
    this.#onVisible(ids);
  }

  /** Bring the rows into the order in which they are seen, for the Tab key and screen readers. The one with the focus is not moved. */
  #arrange(ids: readonly string[]): void {
    let next = this.#content.firstElementChild;
    for (const id of ids) {
      const { node } = this.#rows.get(id)!;
      if (node !== next && node.contains(document.activeElement)) {
        while (next !== null && next !== node) {
          const passed: Element = next;
          next = next.nextElementSibling;
          this.#content.append(passed);
        }
      }
      if (node === next) next = next.nextElementSibling;
      else this.#content.insertBefore(node, next);
    }
  }

  /** The arrow keys, Home, End and the page keys go from row to row. */
  #onKey(event: KeyboardEvent): void {
    const page = Math.max(1, Math.floor(this.#scroller.clientHeight / (this.#height || 60)) - 1);
    const steps: { [key: string]: number } = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    const current = [...this.#rows].find(([, { node }]) => node.contains(event.target as Node));
    if (step === undefined || current === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const index = Math.min(this.#ids.length - 1, Math.max(0, this.#ids.indexOf(current[0]) + step));
    const top = this.#content.offsetTop + index * this.#height;
    const { scrollTop, clientHeight } = this.#scroller;
    if (top < scrollTop) this.#scroller.scrollTop = top;
    else if (top + this.#height > scrollTop + clientHeight) this.#scroller.scrollTop = top + this.#height - clientHeight;
    this.#draw();
    this.#rows.get(this.#ids[index]!)?.node.querySelector<HTMLElement>("a")?.focus({ preventScroll: true });
  }
}
