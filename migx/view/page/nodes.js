// Where ONNX nodes went: the instructions of each at the start and at the end, and who did it.

class NodesView {
  constructor(app) {
    this.app = app;
    const { model } = app;
    [this.first, this.last] = [model.byNode(0), model.byNode(model.last)];
    this.nodes = model.report.nodes.map((name, node) => ({ name, node }));
    this.wanted = el("input", {
      type: "search",
      placeholder: "find an ONNX node…  /",
      "aria-label": "Find",
      oninput: () => this.fill(),
    });
    this.list = new List({
      id: "nodes",
      label: "ONNX nodes",
      draw: (item) => this.row(item),
      choose: ({ node }) => app.go({ node }),
    });
    this.shown = el("div", { class: "shown", tabindex: 0, "aria-label": "The chosen node" });
    const head = el("div", { class: "bar-above" }, this.wanted);
    this.root = el("section", { class: "beside" }, head, this.list.root, this.shown);
  }

  row({ node, name }) {
    const [before, after] = [this.first, this.last].map((of) => of.get(node)?.length ?? 0);
    const sizes = el(
      "small",
      { title: "instructions at the start and at the end" },
      `${before} → ${after}`,
    );
    return el("div", { class: "rewrite" }, el("b", { class: "node" }, name), sizes);
  }

  lines(values = [], number) {
    const { report } = this.app.model;
    const { lineOf } = this.app.model.state(number);
    return values.map((value) =>
      el(
        "div",
        { class: "code" },
        ...lineParts(this.app, report.lines[lineOf.get(value)], { tabindex: 0 }),
      ),
    );
  }

  /** A rewrite by its rule and pass, which opens to the whole. */
  event(step, rewrite) {
    const { rules, steps } = this.app.model.report;
    const name = el("b", {}, rules[rewrite.rule].name);
    const made = el("details", {}, el("summary", {}, name, ` in ${steps[step].text}`));
    const fill = () => made.append(...rewriteParts(this.app, step, rewrite));
    made.addEventListener("toggle", fill, { once: true });
    return made;
  }

  show(node) {
    const { model } = this.app;
    const label = (text) => el("p", { class: "label" }, text);
    if (node === null) {
      this.shown.replaceChildren(
        label(
          "Choose a node to see what it was read as, who rewrote it, and what it is at the end.",
        ),
      );
      return;
    }
    const events = model.ofNode(node).map(([step, rewrite]) => this.event(step, rewrite));
    const gone = "at the end: nothing; it was folded into constants, or nobody read it";
    this.shown.replaceChildren(
      el("h2", {}, model.report.nodes[node]),
      label("at the start"),
      ...this.lines(this.first.get(node), 0),
      label(events.length ? "rewritten by" : "no rule rewrote it"),
      ...events,
      label(this.last.has(node) ? "at the end" : gone),
      ...this.lines(this.last.get(node), model.last),
    );
  }

  fill() {
    this.list.show(onlyMatching(this.nodes, this.wanted.value, ({ name }) => name));
    const place = this.list.items.findIndex(({ node }) => node === this.app.node);
    this.list.activate(place, { centre: true });
  }

  update(changed) {
    if (!changed.tab && !changed.node) return;
    this.fill();
    this.show(this.app.node);
  }

  find() {
    this.wanted.focus();
  }
}
