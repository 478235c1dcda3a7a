// Elements, and lists of which only what is in sight is drawn.

/** An element. Names that begin with "on" are listeners; null and false are left out. */
function el(name, given = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.className = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
  return made;
}

let lists = 0;

/**
 * A list of rows of one height. `draw(item)` gives the element of a row, `choose(item)` is called
 * when it is chosen by mouse or Enter, and `open(item)` when it is to be opened or shut (← →).
 */
class List {
  constructor({ label, height = 22, draw, choose, open, id }) {
    Object.assign(this, { height, draw, choose, open });
    this.items = [];
    this.active = -1;
    this.prefix = `row${lists++}-`;
    this.space = el("div", { class: "space" });
    this.root = el(
      "div",
      {
        id,
        class: "list",
        role: "listbox",
        tabindex: 0,
        "aria-label": label,
        onscroll: () => this.paint(),
        onkeydown: (event) => this.key(event),
        onclick: (event) => this.click(event),
      },
      this.space,
    );
    new ResizeObserver(() => this.paint()).observe(this.root);
  }

  /** Shows other items; keeps the place where they are much the same. */
  show(items, { keep = false } = {}) {
    this.items = items;
    this.space.style.height = `${items.length * this.height}px`;
    if (!keep) {
      this.active = -1;
      this.root.scrollTop = 0;
    }
    this.repaint();
  }

  repaint() {
    this.space.replaceChildren();
    this.drawn = new Map();
    this.paint();
  }

  paint() {
    const first = Math.max(0, Math.floor(this.root.scrollTop / this.height) - 10);
    const last = Math.min(
      this.items.length,
      Math.ceil((this.root.scrollTop + this.root.clientHeight) / this.height) + 10,
    );
    for (const [i, row] of this.drawn ?? []) {
      if (i < first || i >= last) {
        row.remove();
        this.drawn.delete(i);
      }
    }
    for (let i = first; i < last; i++) {
      if (this.drawn.has(i)) continue;
      const row = this.draw(this.items[i]);
      row.id = this.prefix + i;
      row.setAttribute("role", "option");
      row.setAttribute("aria-setsize", this.items.length);
      row.setAttribute("aria-posinset", i + 1);
      row.classList.add("row");
      row.style.transform = `translateY(${i * this.height}px)`;
      this.mark(row, i === this.active);
      this.drawn.set(i, row);
      this.space.append(row);
    }
  }

  mark(row, active) {
    row?.setAttribute("aria-selected", active);
  }

  /** Makes a row the active one, and brings it into sight. */
  activate(i, { centre = false } = {}) {
    if (i < 0 || i >= this.items.length) return;
    this.mark(this.drawn?.get(this.active), false);
    this.active = i;
    const [top, size, room] = [i * this.height, this.height, this.root.clientHeight];
    if (
      centre &&
      (top < this.root.scrollTop + 2 * size || top > this.root.scrollTop + room - 3 * size)
    ) {
      this.root.scrollTop = top - room / 2;
    } else if (top < this.root.scrollTop) {
      this.root.scrollTop = top;
    } else if (top + size > this.root.scrollTop + room) {
      this.root.scrollTop = top + size - room;
    }
    this.paint();
    this.mark(this.drawn.get(i), true);
    this.root.setAttribute("aria-activedescendant", this.prefix + i);
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.root.clientHeight / this.height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    const ends = { Home: 0, End: this.items.length - 1 };
    const item = this.items[this.active];
    if (event.key in steps) {
      this.activate(Math.min(this.items.length - 1, Math.max(0, this.active + steps[event.key])));
    } else if (event.key in ends) {
      this.activate(ends[event.key]);
    } else if (event.key === "Enter" && item) {
      this.choose?.(item, this.active);
    } else if (
      (event.key === "ArrowRight" || event.key === "ArrowLeft" || event.key === " ") &&
      item &&
      this.open
    ) {
      this.open(item, event.key === "ArrowRight" ? true : event.key === "ArrowLeft" ? false : null);
    } else {
      return;
    }
    event.preventDefault();
  }

  click(event) {
    const row = event.target.closest(".row");
    if (!row || event.target.closest("[data-value], a, button")) return;
    const i = Number(row.id.slice(this.prefix.length));
    this.activate(i);
    this.choose?.(this.items[i], i);
  }
}
