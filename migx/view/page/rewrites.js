// Each rewrite of a pass: its rule, what it matched and what stands for that now.

class RewritesView {
  constructor(app) {
    this.app = app;
    this.head = el("div", { class: "said" });
    this.list = new List({
      id: "rewrites",
      label: "Rewrites in order",
      draw: ([, rewrite]) => this.row(rewrite),
      choose: (item) => this.show(item),
    });
    this.shown = el("div", { class: "shown", tabindex: 0, "aria-label": "The chosen rewrite" });
    this.root = el("section", { class: "two" }, this.head, this.list.root, this.shown);
  }

  row(rewrite) {
    const { model } = this.app;
    const { rules, lines } = model.report;
    const operations = (numbers) =>
      numbers.map((line) => lines[line].operation).join(" ") || "nothing";
    return el(
      "div",
      { class: "rewrite" },
      el("b", {}, rules[rewrite.rule].name),
      el("span", {}, `${operations(rewrite.before)} → ${operations(rewrite.after)}`),
      el("small", {}, model.origins(rewrite.origins).join(", ")),
    );
  }

  show([step, rewrite]) {
    this.shown.replaceChildren(...rewriteParts(this.app, step, rewrite));
  }

  /** The rewrites of the chosen pass, or of all, by the chosen rule where there is one. */
  items() {
    const { step, rule, model } = this.app;
    const wanted = (rewrite) => rule === null || rewrite.rule === rule;
    if (step < 0) return model.rewrites(wanted);
    return model.report.steps[step].rewrites.filter(wanted).map((rewrite) => [step, rewrite]);
  }

  fill() {
    const { step, rule, model } = this.app;
    const items = this.items();
    const here = model.report.steps[step];
    const whose = rule === null ? "" : ` by ${model.report.rules[rule].name}`;
    const where = here ? ` in ${here.text}` : " in all passes";
    const untold = here && here.before !== here.after && !here.rewrites.length;
    const parts = [
      el("h2", {}, `${count(items.length, "rewrite")}${whose}${where}`),
      whose && el("a", { href: this.app.link({ rule: null }) }, "those of all rules"),
      untold && el("p", {}, "This pass has no rules: what it changed stands under Changes."),
    ];
    this.head.replaceChildren(...parts.filter(Boolean));
    this.list.show(items);
    this.shown.replaceChildren();
    if (items.length) {
      this.list.activate(0);
      this.show(items[0]);
    }
  }

  update(changed) {
    if (changed.step || changed.rule || changed.tab) this.fill();
  }
}

/** One rewrite in full: lines out, lines in, the rule's source. */
function rewriteParts(app, step, rewrite) {
  const { rules, steps } = app.model.report;
  const rule = rules[rewrite.rule];
  const [before, after] = [steps[step].before, steps[step].after].map(
    (n) => app.model.state(n).lineOf,
  );
  const label = (text) => el("span", { class: "label" }, text);
  const origins = app.model.origins(rewrite.origins).map((node) => nodeLink(app, node));
  return [
    el("h3", {}, rule.name, " in ", stepLink(app, step, { tab: "changes" })),
    el("p", {}, label("matched")),
    ...rewrite.before.map((line) => signedLine(app, line, "−", after)),
    el("p", {}, label("became")),
    ...rewrite.after.map((line) => signedLine(app, line, "+", before)),
    origins.length > 0 && el("p", {}, label("from ONNX "), ...several(origins)),
    el("p", {}, label("key "), el("code", {}, rewrite.key), label(" for --skip and --only")),
    el("p", {}, label(rule.place)),
    rule.code && el("pre", { class: "source" }, rule.code),
  ].filter(Boolean);
}

/** A line that went or came, with its sign; without one where it is on the other side too. */
function signedLine(app, number, sign, other) {
  const line = app.model.report.lines[number];
  const stays = other.has(line.value);
  const kind = stays ? "same" : sign === "+" ? "added" : "removed";
  const mark = el("span", { class: "sign" }, stays ? " " : sign);
  return el("div", { class: `code ${kind}` }, mark, ...lineParts(app, line, { tabindex: 0 }));
}
