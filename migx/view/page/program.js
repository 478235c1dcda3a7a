// The program after a pass, as text; modules of instructions open in place.

const FOLDED = 6;

class ProgramView {
  constructor(app) {
    this.app = app;
    this.model = app.model;
    this.lines = app.model.report.lines;
    this.opened = new Set();
    this.found = new Set();
    this.longest = Math.max(...[...this.model.costs.values()].map((cost) => cost.seconds), 1e-12);
    this.wanted = el("input", {
      type: "search",
      placeholder: "find an operation, a name, a shape, an ONNX node…  /",
      "aria-label": "Find",
      oninput: () => this.search(),
      onkeydown: (event) => event.key === "Enter" && this.next(event.shiftKey ? -1 : 1),
    });
    this.only = el("input", { type: "checkbox", onchange: () => this.fill() });
    this.said = el("span", { class: "label", role: "status" });
    this.title = el("b", {});
    this.list = new List({
      id: "program",
      label: "The program",
      draw: (item) => this.draw(item),
      choose: (item) =>
        item.folded ? this.turn(item) : item.line && app.go({ value: item.line.value }),
      open: (item, how) => this.turn(item, how),
    });
    const only = el("label", {}, this.only, " only these");
    const head = el("div", { class: "bar-above" }, this.title, this.wanted, only, this.said);
    this.root = el("section", {}, head, this.list.root);
  }

  get state() {
    return this.model.state(this.model.after(this.app.step));
  }

  /** A run is of the program at the end: before, an instruction may have been another. */
  get hasCosts() {
    return this.model.costs.size > 0 && this.state.number === this.model.last;
  }

  draw(item) {
    const indent = `padding-left:${item.depth * 2 + 1}ch`;
    if (item.module !== undefined) {
      const said = item.end ? "}" : ["module ", el("b", {}, item.module), " {"];
      return el("div", { class: "module", style: indent }, said);
    }
    if (item.folded) return el("div", { class: "fold" }, `⋯ ${count(item.folded, "literal")}`);
    const { line } = item;
    const kind =
      (this.found.has(line.value) ? " found" : "") +
      (line.value === this.app.value ? " chosen" : "");
    const text = el(
      "span",
      { class: "line", style: indent },
      this.toggle(item),
      ...lineParts(this.app, line),
    );
    return el("div", { class: `code${kind}` }, this.hasCosts && this.cost(line), text);
  }

  cost(line) {
    const cost = this.model.costs.get(line.value);
    const parts = cost
      ? [bar(cost.seconds / this.longest, costText(this.app, cost)), seconds(cost.seconds)]
      : [];
    return el("span", { class: "cost" }, ...parts);
  }

  /** What opens and shuts the modules of an instruction. */
  toggle(item) {
    if (!item.line.modules.length) return null;
    const open = this.opened.has(item.path);
    const given = {
      class: "toggle",
      tabindex: -1,
      "aria-label": open ? "shut" : "open",
      onclick: () => this.turn(item),
    };
    return el("button", given, open ? "▾" : "▸");
  }

  /** Opens what is shut, and the other way round; or does the one that is said. */
  turn({ line, folded, path }, how = null) {
    if (!(folded || line?.modules.length) || how === this.opened.has(path)) return;
    if (!this.opened.delete(path)) this.opened.add(path);
    this.fill();
  }

  /** The rows of a module, and of those open within; many literals together are one row. */
  items(module, depth, path) {
    const body = this.state.modules.get(module).map((index) => this.lines[index]);
    const made = [{ module, depth }];
    for (let i = 0; i < body.length; i++) {
      const [line, literals] = [body[i], literalsFrom(body, i)];
      const fold = `${path}/literals ${line.value}`;
      if (literals >= FOLDED && !this.opened.has(fold)) {
        made.push({ folded: literals, path: fold });
        i += literals - 1;
        continue;
      }
      const here = `${path}/${line.value}`;
      made.push({ line, depth: depth + 1, path: here });
      if (!this.opened.has(here)) continue;
      for (const inner of line.modules)
        made.push(...this.items(inner, depth + 2, `${here}/${inner}`));
    }
    return [...made, { module, depth, end: true }];
  }

  matching() {
    const all = [...this.state.lineOf.values()].map((index) => this.lines[index]);
    const letters = (line) =>
      `${this.model.text(line)} ${this.model.origins(line.origins).join(" ")}`;
    return onlyMatching(all, this.wanted.value, letters);
  }

  search() {
    const asked = this.wanted.value.trim();
    this.found = new Set(asked ? this.matching().map((line) => line.value) : []);
    this.said.textContent = asked ? count(this.found.size, "instruction") : "";
    this.fill();
    if (this.found.size && !this.only.checked) this.reveal([...this.found][0]);
  }

  /** Goes to another of those found. */
  next(by) {
    const found = [...this.found];
    if (!found.length) return;
    const at = found.indexOf(this.list.items[this.list.active]?.line?.value);
    this.reveal(found[(at + by + found.length) % found.length]);
  }

  /** Opens what is around a value, and brings its line into sight. */
  reveal(value) {
    const { state } = this;
    if (!state.lineOf.has(value)) return;
    const chain = [...state.around(value), value];
    let path = state.moduleOf.get(chain[0]);
    chain.slice(0, -1).forEach((holder, i) => {
      this.opened.add(`${path}/${holder}`);
      path = `${path}/${holder}/${state.moduleOf.get(chain[i + 1])}`;
    });
    const body = state.modules.get(state.moduleOf.get(value)).map((index) => this.lines[index]);
    let first = body.findIndex((line) => line.value === value);
    while (body[first - 1]?.operation === "@literal") first--;
    this.opened.add(`${path}/literals ${body[first].value}`);
    this.fill();
    this.list.activate(this.placeOf(value), { centre: true });
  }

  placeOf(value) {
    return this.list.items.findIndex((item) => item.line?.value === value);
  }

  fill() {
    const step = this.model.report.steps[this.app.step];
    this.title.textContent = step ? `after ${step.text}` : "as given";
    const active = this.list.items[this.list.active]?.line?.value;
    const flat = this.only.checked && this.wanted.value.trim();
    const items = flat
      ? this.matching().map((line) => ({ line, depth: 0, path: "" }))
      : this.state.roots.flatMap((module) => this.items(module, 0, module));
    this.list.show(items, { keep: true });
    this.list.active = active === undefined ? -1 : this.placeOf(active);
    this.list.repaint();
  }

  update(changed) {
    if (changed.step) this.search();
    else this.fill();
    if (this.app.value !== null && (changed.value || changed.tab || changed.step))
      this.reveal(this.app.value);
  }

  find() {
    this.wanted.focus();
  }
}

/** How many literals stand together in a body from one on, of which that is the first. */
function literalsFrom(body, start) {
  const isLiteral = (i) => body[i]?.operation === "@literal";
  if (isLiteral(start - 1)) return 0;
  let end = start;
  while (isLiteral(end)) end++;
  return end - start;
}
