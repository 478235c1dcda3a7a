// One run: what each kernel took, and how near that is to what the machine can do.

const COLUMNS = ["time", "share", "", "GFLOP/s", "GB/s", "of best", "times", "kernel", "ONNX node"];
const NAMES = COLUMNS.slice(-2);

class RunView {
  constructor(app) {
    this.app = app;
    this.run = app.model.report.run;
    this.whole = total(this.run.costs) || 1e-12;
    this.grouped = el("input", { type: "checkbox", onchange: () => this.fill() });
    this.list = new List({
      id: "run",
      label: "Instructions, the dearest first",
      draw: (cost) => this.row(cost),
      choose: (cost) => cost.value !== undefined && app.go({ value: cost.value }),
    });
    const facts = this.facts().map(([name, said]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, said)),
    );
    const grouped = el("label", {}, this.grouped, " kernels of one name together");
    const titles = COLUMNS.map((title) =>
      el("span", { class: NAMES.includes(title) ? "" : "number" }, title),
    );
    this.root = el(
      "section",
      {},
      el("div", { class: "said" }, el("dl", { class: "facts" }, ...facts), grouped),
      el("div", { class: "costs titles", "aria-hidden": "true" }, ...titles),
      this.list.root,
    );
    this.fill();
  }

  /** What is said of the run as a whole. */
  facts() {
    const { costs, sizes, arena, weights, peak_flops, peak_bytes } = this.run;
    const host = total(costs.filter((cost) => !cost.kernel));
    const facts = [
      ["kernels", seconds(this.whole - host)],
      ["on the host", seconds(host)],
      ["arena", arena && bytes(arena)], // what is not known is 0, and left out
      ["weights", weights && bytes(weights)],
      [
        "at best",
        peak_flops &&
          `${(peak_flops / 1e9).toFixed(0)} GFLOP/s, ${(peak_bytes / 1e9).toFixed(0)} GB/s`,
      ],
      [
        "sizes",
        Object.entries(sizes)
          .map(([name, size]) => `${name} = ${size}`)
          .join(", "),
      ],
    ];
    return facts.filter(([, said]) => said);
  }

  row(cost) {
    const { model } = this.app;
    const number = (text) => el("span", { class: "number" }, text);
    const step =
      cost.value === undefined ? null : model.where(cost.value, model.report.steps.length - 1);
    const line = step === null ? null : model.line(cost.value, step);
    const nodes = line === null ? "" : model.origins(line.origins).join(", ");
    return el(
      "div",
      { class: "costs" },
      number(seconds(cost.seconds)),
      number(percent(cost.seconds / this.whole)),
      bar(cost.seconds / cost.most),
      number(rate(cost.flops, cost)),
      number(rate(cost.nbytes, cost)),
      number(percent(model.roofline(cost))),
      number(cost.times > 1 ? `${cost.times} ×` : ""),
      el("b", { title: cost.kernel }, cost.kernel || "on the host"),
      el("span", { class: "node", title: nodes }, nodes),
      line !== null && el("span", { class: "line" }, ...lineParts(this.app, line)),
    );
  }

  fill() {
    const costs = this.grouped.checked ? together(this.run.costs) : this.run.costs;
    const sorted = [...costs].sort((a, b) => b.seconds - a.seconds);
    const most = sorted[0]?.seconds || 1e-12;
    this.list.show(sorted.map((cost) => ({ ...cost, most })));
  }

  update(changed) {
    if (changed.tab) this.list.repaint();
  }
}

function total(costs) {
  return costs.reduce((sum, cost) => sum + cost.seconds, 0);
}

/** An amount in a second, in thousands of millions. */
function rate(amount, cost) {
  return amount ? (amount / Math.max(cost.seconds, 1e-12) / 1e9).toFixed(1) : "";
}

/** The costs of each kernel in one. */
function together(costs) {
  const found = new Map();
  for (const { value, ...cost } of costs) {
    const was = found.get(cost.kernel);
    const sum = (name) => cost[name] + (was?.[name] ?? 0);
    const sums = Object.fromEntries(
      ["times", "seconds", "flops", "nbytes"].map((name) => [name, sum(name)]),
    );
    found.set(cost.kernel, { kernel: cost.kernel, ...sums });
  }
  return [...found.values()];
}

/** All that is known of a cost, in words. */
function costText(app, cost) {
  const share = app.model.roofline(cost);
  const facts = [
    cost.kernel || "on the host",
    seconds(cost.seconds),
    cost.times > 1 && `${cost.times} times`,
    cost.flops > 0 && `${rate(cost.flops, cost)} GFLOP/s`,
    cost.nbytes > 0 && `${rate(cost.nbytes, cost)} GB/s`,
    share !== null && `${percent(share)} of the best possible`,
  ];
  return facts.filter(Boolean).join(", ");
}
