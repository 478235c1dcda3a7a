// What one pass changed: the instructions before and after side by side.

const SIGNS = { same: [" ", " "], changed: ["~", "~"], moved: ["↕", "↕"] };

class ChangesView {
  constructor(app) {
    this.app = app;
    this.turned = new Set();
    this.list = new List({
      id: "changes",
      label: "Instructions before and after the pass",
      draw: (item) => this.draw(item),
      choose: (item) => (item.key ? this.turn(item) : this.choose(item)),
      open: (item) => item.key && this.turn(item),
    });
    this.head = el("div", { class: "said" });
    this.root = el("section", {}, this.head, this.list.root);
  }

  /** Opens what is shut, and the other way round. */
  turn({ key }) {
    if (!this.turned.delete(key)) this.turned.add(key);
    this.fill(true);
  }

  choose({ left, right }) {
    this.app.go({ value: this.app.model.report.lines[right ?? left].value });
  }

  draw(item) {
    if (item.kind === "module") {
      const name = el("b", {}, `module ${item.name}`);
      return el(
        "div",
        { class: `module ${item.was}` },
        item.open ? "▾ " : "▸ ",
        name,
        ` ${item.said}`,
      );
    }
    if (item.kind === "fold") {
      const size = count(item.rows.length, "instruction");
      return el("div", { class: "fold" }, `⋯ ${size} as before`);
    }
    const [minus, plus] = SIGNS[item.kind] ?? ["−", "+"];
    const sides = [this.side(item.left, minus), this.side(item.right, plus)];
    return el("div", { class: `pair ${item.kind}` }, ...sides);
  }

  side(index, sign) {
    if (index === undefined) return el("span", { class: "side" });
    const mark = el("span", { class: "sign", "aria-hidden": "true" }, sign);
    return el(
      "span",
      { class: "side" },
      mark,
      lineParts(this.app, this.app.model.report.lines[index]),
    );
  }

  /** The rows of a module: its name, and what is in it where it is open. */
  items({ name, kind, rows }, alone) {
    const key = `${this.app.step} ${name}`;
    const open = this.turned.has(key) !== (kind === "changed" || alone);
    const said =
      kind === "changed" ? counted(rows) : `${kind}, ${count(rows.length, "instruction")}`;
    const head = { kind: "module", was: kind, name, said, key, open };
    if (!open) return [head];
    const shown = (kind === "changed" ? folded(rows) : rows).flatMap((row, i) => {
      if (row.kind !== "fold") return [row];
      const inner = `${key} ${i}`;
      return this.turned.has(inner) ? row.rows : [{ ...row, key: inner }];
    });
    return [head, ...shown];
  }

  fill(keep) {
    const { model } = this.app;
    const step = model.report.steps[this.app.step];
    if (!step) {
      this.head.replaceChildren(
        el("p", {}, "This is the program as it was given. Choose a pass to see what it changed."),
      );
      this.list.show([]);
      return;
    }
    this.head.replaceChildren(...passHead(this.app, step));
    const parts = diffStates(model.report, model.state(step.before), model.state(step.after));
    const differing = parts.filter(({ kind }) => kind !== "same");
    const items = differing.flatMap((part) => this.items(part, differing.length === 1));
    this.list.show(items, { keep });
  }

  update(changed) {
    if (changed.step || changed.tab) this.fill(!changed.step);
    else this.list.repaint();
  }
}

/** How many rows of each kind there are, in words. */
function counted(rows) {
  const number = (...kinds) => rows.filter((row) => kinds.includes(row.kind)).length;
  const moved = rows.filter((row) => row.kind === "moved" && row.left !== undefined).length;
  const parts = [
    [number("removed", "replaced"), "out"],
    [number("added", "replaced"), "in"],
    [number("changed"), "changed in place"],
    [moved, "moved"],
  ];
  return parts
    .filter(([n]) => n)
    .map(([n, word]) => `${n} ${word}`)
    .join(", ");
}

/** What is said of a pass above its changes: what it is, which rules fired. */
function passHead(app, step) {
  const { report } = app.model;
  const chips = app.model.rules(step).map(([rule, n]) => {
    const href = app.link({ tab: "rewrites", rule: report.rules.indexOf(rule) });
    return el("a", { class: "chip", href, title: rule.place }, rule.name, el("b", {}, ` ${n}`));
  });
  const [first, ...rest] = step.says.split("\n\n");
  const more = el("p", { class: "rest" }, ...prose(rest.join("\n\n")));
  return [
    el("h2", {}, step.text),
    el("p", {}, ...prose(first)),
    rest.length > 0 && el("details", {}, el("summary", {}, "more"), more),
    step.before === step.after && el("p", {}, "It changed nothing."),
    chips.length > 0 && el("p", {}, "Rules that fired: ", ...chips.flatMap((chip) => [chip, " "])),
  ].filter(Boolean);
}
