// The passes on the left: what each took, what it left, how many rewrites it made.

class PipelineView {
  constructor(app) {
    this.app = app;
    this.steps = app.model.report.steps;
    this.longest = Math.max(...this.steps.map((step) => step.seconds), 1e-9);
    const changing = this.steps.filter((step) => step.before !== step.after).length;
    this.filter = el("input", {
      type: "checkbox",
      checked: changing > 0,
      onchange: () => this.fill(),
    });
    this.list = new List({
      id: "passes",
      label: "Passes in the order they ran",
      height: 42,
      draw: (item) => (item.heading ? this.heading(item) : this.row(item.step)),
      choose: (item) => app.go({ step: item.step }),
    });
    const said = `only the ${changing} of ${this.steps.length} with changes`;
    app.parts.pipeline.append(
      el("label", { class: "bar-above" }, this.filter, said),
      this.list.root,
    );
    this.fill();
  }

  /** Where several passes stand for one name of the pipeline, that name stands above them. */
  heading({ heading, number }) {
    const size = el("small", {}, count(number, "pass", "passes"));
    return el("div", { class: "element", title: heading }, heading, size);
  }

  row(step) {
    const { model } = this.app;
    if (step < 0) {
      const size = count(model.state(0).size, "instruction");
      return el("div", { class: "pass" }, el("b", {}, "as given"), el("small", {}, size));
    }
    const it = this.steps[step];
    const [before, after] = [it.before, it.after].map((state) => model.state(state).size);
    const facts = [
      it.place !== "" && seconds(it.seconds),
      before !== after ? `${before} → ${after}` : `${after}`,
      it.rewrites.length > 0 && count(it.rewrites.length, "rewrite"),
    ];
    const quiet = it.before === it.after ? " quiet" : "";
    const inner = groupOf(it) ? " inner" : "";
    return el(
      "div",
      { class: `pass${quiet}${inner}`, title: it.text },
      el("b", {}, it.text),
      el("small", {}, facts.filter(Boolean).join(" · ")),
      bar(it.seconds / this.longest, seconds(it.seconds)),
    );
  }

  fill() {
    const items = [{ step: -1 }];
    let around = null;
    this.steps.forEach((it, step) => {
      if (this.filter.checked && it.before === it.after && step !== this.app.step) return;
      const group = groupOf(it);
      if (group && group !== around) {
        const number = this.steps.filter((other) => groupOf(other) === group).length;
        items.push({ heading: it.element, number, step });
      }
      around = group;
      items.push({ step });
    });
    this.list.show(items, { keep: true });
    this.list.activate(items.findIndex((item) => item.step === this.app.step && !item.heading));
  }

  update() {
    this.fill();
  }
}

/** The element of the pipeline that a pass is one of several of; null where it stands by itself. */
function groupOf({ text, element, place }) {
  return element && text !== element ? `${place.split(".")[0]} ${element}` : null;
}
