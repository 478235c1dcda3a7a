// All about the chosen instruction: its inputs and users, where it came from, what became of it.

class DetailsView {
  constructor(app) {
    this.app = app;
    this.root = app.parts.details;
  }

  update() {
    const open = this.app.value !== null;
    document.body.classList.toggle("chosen", open);
    this.root.replaceChildren(...(open ? this.parts(this.app.value) : []));
  }

  parts(value) {
    const { app } = this;
    const { model } = app;
    const step = model.where(value, app.step);
    const state = model.state(model.after(step ?? app.step));
    const line = model.line(value, step);
    const cost = model.costs.get(value);
    const nodes = model.origins(line.origins).map((node) => el("li", {}, nodeLink(app, node)));
    return [
      this.head(value, step),
      el("h2", {}, `${model.name(value)} `, el("b", {}, line.operation)),
      step !== app.step && el("p", { class: "warn" }, elsewhere(model, step)),
      el("p", { class: "code whole" }, ...lineParts(app, line, { tabindex: 0 })),
      step !== null && this.alias(value, state),
      cost && el("section", {}, el("h3", {}, "Cost"), el("p", {}, costText(app, cost))),
      step !== null && el("section", {}, ...graphView(app, state, value).filter(Boolean)),
      listed("Reads", this.values(state, line.inputs)),
      listed("Read by", this.values(state, state.users(value))),
      listed("Modules", this.modules(state, line)),
      listed("From ONNX", nodes),
      listed("History", this.story(value)),
    ].filter(Boolean);
  }

  head(value, step) {
    const href = this.app.link({ tab: "program", step, value });
    return el(
      "div",
      { class: "close" },
      step !== null && el("a", { href }, "show in the program"),
      el("button", { onclick: () => this.app.go({ value: null }), "aria-label": "close" }, "×"),
    );
  }

  /** The name in the printed text, where that is another. */
  alias(value, state) {
    const { model } = this.app;
    const name = nameInText(model.report, state, value);
    if (name === null || name === model.name(value)) return null;
    const said = `in the text of this program: ${name} of ${state.moduleOf.get(value)}`;
    return el("p", { class: "label" }, said);
  }

  values(state, values) {
    const { model } = this.app;
    return values.map((value) => {
      const index = state.lineOf.get(value);
      const line =
        index === undefined
          ? model.line(value, model.where(value, this.app.step))
          : model.report.lines[index];
      const link = valueLink(this.app, value, { tabindex: 0 });
      return el("li", {}, link, ` ${line.operation} `, el("span", { class: "shape" }, line.shape));
    });
  }

  modules(state, line) {
    const size = (module) => count(state.modules.get(module)?.length ?? 0, "instruction");
    return line.modules.map((module) => el("li", {}, `${module}, ${size(module)}`));
  }

  /** Where a value came from, the rewrites it was in, and where it went. */
  story(value) {
    const { model } = this.app;
    const { began, ended, atStart } = model.life(value);
    const events = model.history(value).map(([step, rewrite]) => this.event(value, step, rewrite));
    const puts = events.filter(({ put }) => put);
    const told = atStart ? [el("li", {}, "there from the start")] : [];
    const step = (number) => stepLink(this.app, number, { tab: "changes" });
    if (began !== null && !puts.length) told.push(el("li", {}, "put there by ", step(began)));
    told.push(...events.map(({ item }) => item));
    if (ended !== null) told.push(el("li", {}, "gone after ", step(ended)));
    return told;
  }

  event(value, step, rewrite) {
    const { lines, rules } = this.app.model.report;
    const put = rewrite.after.some((line) => lines[line].value === value);
    const href = this.app.link({ tab: "rewrites", step, rule: rewrite.rule });
    const others = (put ? rewrite.before : rewrite.after).map((line) =>
      valueLink(this.app, lines[line].value, { tabindex: 0 }),
    );
    const item = el(
      "li",
      {},
      put ? "put there by " : "matched by ",
      el("a", { href }, rules[rewrite.rule].name),
      " in ",
      stepLink(this.app, step, { tab: "changes" }),
      others.length > 0 && (put ? ", for " : ", which put there "),
      ...several(others, 8),
    );
    return { put, item };
  }
}

/** Where a value is that is not where one looks. */
function elsewhere(model, step) {
  if (step === null) return "It came and went within one pass.";
  const when = step < 0 ? "as given" : `after ${model.report.steps[step].text}`;
  return `It is not in the program at this point, but in the program ${when}.`;
}

/** A heading and a list, of which what is long is folded; nothing for nothing. */
function listed(title, items, most = 20) {
  if (!items.length) return null;
  const [first, rest] = [items.slice(0, most), items.slice(most)];
  const more = el("details", {}, el("summary", {}, `${rest.length} more`), el("ul", {}, ...rest));
  return el("section", {}, el("h3", {}, title), el("ul", {}, ...first), rest.length > 0 && more);
}
