// The page as a whole: what is chosen, which the address keeps, and the keys.

const TABS = {
  changes: ["Changes", ChangesView],
  rewrites: ["Rewrites", RewritesView],
  program: ["Program", ProgramView],
  nodes: ["ONNX nodes", NodesView],
  run: ["Run", RunView],
};
const NUMBERS = ["step", "value", "node", "rule"];
const KEYS = [
  ["[ ]", "pass before, after"],
  ["/", "find"],
  ["↑ ↓", "move"],
  ["← →", "shut, open"],
  ["Enter", "choose"],
  ["Esc", "close"],
];

class App {
  constructor(report) {
    this.model = new Model(report);
    const part = (id) => document.getElementById(id);
    this.parts = {
      top: part("top"),
      pipeline: part("pipeline"),
      main: part("main"),
      details: part("details"),
      keys: part("keys"),
    };
    this.views = {};
    this.tabs = Object.keys(TABS).filter(
      (tab) => (tab !== "run" || report.run) && (tab !== "nodes" || report.nodes.length),
    );
    this.read();
    this.head();
    this.pipeline = new PipelineView(this);
    this.details = new DetailsView(this);
    window.addEventListener("hashchange", () => this.changed());
    document.addEventListener("click", (event) => this.clicked(event));
    document.addEventListener("keydown", (event) => this.key(event));
    this.update({ step: true, tab: true, value: true, node: true, rule: true });
  }

  /** Takes what is chosen from the address. */
  read() {
    const given = new URLSearchParams(location.hash.slice(1));
    const { report } = this.model;
    const limits = {
      step: report.steps.length,
      value: report.names.length,
      node: report.nodes.length,
      rule: report.rules.length,
    };
    for (const name of NUMBERS) {
      const number = given.get(name) === null ? NaN : Number(given.get(name));
      this[name] = Number.isInteger(number) && number >= 0 && number < limits[name] ? number : null;
    }
    this.step ??= -1;
    const tab = given.get("tab");
    this.tab = this.tabs.includes(tab) ? tab : this.step < 0 ? "program" : "changes";
  }

  /** The address that differs from this one by something. */
  link(given) {
    const wanted = {
      tab: this.tab,
      step: this.step,
      value: this.value,
      node: this.node,
      rule: this.rule,
      ...given,
    };
    if (wanted.step < 0) wanted.step = null;
    const pairs = Object.entries(wanted).filter(([, value]) => value !== null);
    return `#${new URLSearchParams(pairs)}`;
  }

  go(given) {
    location.hash = this.link(given);
  }

  changed() {
    const before = { ...this };
    this.read();
    const changed = {};
    for (const name of ["tab", ...NUMBERS]) changed[name] = before[name] !== this[name];
    this.update(changed);
  }

  update(changed) {
    if (changed.tab || !this.view) {
      this.views[this.tab] ??= new TABS[this.tab][1](this);
      this.view = this.views[this.tab];
      this.parts.main.replaceChildren(this.view.root);
      for (const [name, button] of Object.entries(this.buttons))
        button.setAttribute("aria-current", name === this.tab ? "page" : "false");
      // A view that was not in sight does not know what happened meanwhile.
      changed = { step: true, value: true, node: true, rule: true, tab: true };
    }
    this.view.update(changed);
    if (changed.step) this.pipeline.update();
    this.details.update();
  }

  head() {
    const { report } = this.model;
    this.buttons = Object.fromEntries(
      this.tabs.map((tab) => [
        tab,
        el("button", { onclick: () => this.go({ tab, rule: null }) }, TABS[tab][0]),
      ]),
    );
    const sizes = [0, this.model.last].map((state) => this.model.state(state).size);
    const total = report.steps.reduce((sum, step) => sum + step.seconds, 0);
    const rewrites = report.steps.reduce((sum, step) => sum + step.rewrites.length, 0);
    const facts = [
      report.target && `target ${report.target}`,
      `${sizes[0]} → ${sizes[1]} instructions`,
      `${count(report.steps.length, "pass", "passes")}, ${seconds(total)}`,
      count(rewrites, "rewrite"),
    ]
      .filter(Boolean)
      .join(" · ");
    const views = [`1 – ${this.tabs.length}`, "views"];
    this.parts.top.append(
      el(
        "div",
        { class: "what" },
        el("h1", {}, report.title),
        el("small", { title: report.pipeline }, facts),
      ),
      el("div", { class: "tabs" }, ...Object.values(this.buttons)),
    );
    this.parts.keys.append(
      ...[views, ...KEYS].flatMap(([key, said]) => [el("kbd", {}, key), ` ${said} `]),
      el("span", { class: "version" }, `migx ${report.version}`),
    );
  }

  /** Goes where a link to a value leads without leaving the list. */
  clicked(event) {
    const link = event.target.closest?.("a[data-value]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.go({ value: Number(link.dataset.value) });
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const typing = event.target.matches?.("input[type=search]");
    if (event.key === "Escape") {
      if (typing) this.view.list.root.focus();
      else this.go({ value: null });
    } else if (typing) {
      return;
    } else if (event.key === "[" || event.key === "]") {
      this.pass(event.key === "]" ? 1 : -1);
    } else if (event.key === "/" && this.view.find) {
      this.view.find();
    } else if (this.tabs[Number(event.key) - 1]) {
      this.go({ tab: this.tabs[Number(event.key) - 1], rule: null });
      this.view.list.root.focus();
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Goes to the next pass that changed something, or the one before. */
  pass(by) {
    const { steps } = this.model.report;
    let step = this.step + by;
    while (step >= 0 && step < steps.length && steps[step].before === steps[step].after) step += by;
    if (step < steps.length) this.go({ step: Math.max(-1, step), rule: null });
  }
}

new App(JSON.parse(document.getElementById("report").textContent));
