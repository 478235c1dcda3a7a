// What the data of a report means: programs, values and their history. Nothing here draws.

class Model {
  constructor(report) {
    this.report = report;
    this.states = new Map();
    this.last = report.steps.length ? report.steps.at(-1).after : 0;
    this.costs = new Map((report.run?.costs ?? []).map((cost) => [cost.value, cost]));
  }

  /** The number of the state after a step; before the first, -1, it is the program as given. */
  after(step) {
    return step < 0 ? 0 : this.report.steps[step].after;
  }

  /** The program in a state: its modules as lists of lines, and where each value stands. */
  state(number) {
    if (!this.states.has(number)) this.states.set(number, new State(this.report, number));
    return this.states.get(number);
  }

  name(value) {
    return this.report.names[value];
  }

  /** The ONNX nodes an instruction or a rewrite came from. */
  origins(set) {
    return this.report.origin_sets[set].map((node) => this.report.nodes[node]);
  }

  /** A line as text, with each value under its own name. */
  text(line) {
    const { operation, inputs, returned } = line;
    const read = inputs.map((value) => this.name(value));
    if (operation === "@return") {
      const named = returned.map((name, i) => `${name}=${read[i]}`);
      return `return ${(named.length ? named : read).join(", ")}`;
    }
    if (operation === "@param") return `${this.name(line.value)} : ${line.shape}`;
    const held = line.modules.length ? ` [${line.modules.join(", ")}]` : "";
    const given = line.attributes ? ` ${line.attributes}` : "";
    const name = this.name(line.value);
    return `${name} = ${operation}(${read.join(", ")})${given}${held} : ${line.shape}`;
  }

  /** Where a value began and ended, each the number of a step, or null. */
  life(value) {
    const { steps } = this.report;
    const there = (number) => this.state(number).lineOf.has(value);
    let [began, ended] = [null, null];
    let was = there(0);
    steps.forEach((step, i) => {
      if (step.before === step.after) return;
      const is = there(step.after);
      if (is && !was) began = i;
      if (was && !is) ended = i;
      was = is;
    });
    return { began, ended, atStart: there(0) };
  }

  /** The rewrites that read, replaced or made something: [step, rewrite] in order. */
  rewrites(test) {
    return this.report.steps.flatMap((step, i) =>
      step.rewrites.filter(test).map((rewrite) => [i, rewrite]),
    );
  }

  /** The rewrites that a value was in. */
  history(value) {
    const about = (lines) => lines.some((line) => this.report.lines[line].value === value);
    return this.rewrites((rewrite) => about(rewrite.before) || about(rewrite.after));
  }

  /** The step after which a value is there: the one given, else the last; null if none is. */
  where(value, step) {
    const there = (each) => this.state(this.after(each)).lineOf.has(value);
    if (there(step)) return step;
    for (let each = this.report.steps.length - 1; each >= -1; each--) if (there(each)) return each;
    return null;
  }

  /** The line of a value after a step, or for null the last it ever had. */
  line(value, step) {
    const { lines } = this.report;
    if (step === null) return lines.findLast((line) => line.value === value);
    return lines[this.state(this.after(step)).lineOf.get(value)];
  }

  /** For each ONNX node, the values that came from it in a state. */
  byNode(number) {
    const { origin_sets, lines } = this.report;
    const found = new Map();
    for (const [value, line] of this.state(number).lineOf) {
      for (const node of origin_sets[lines[line].origins]) {
        if (!found.has(node)) found.set(node, []);
        found.get(node).push(value);
      }
    }
    return found;
  }

  /** The rewrites whose match came from an ONNX node. */
  ofNode(node) {
    return this.rewrites((rewrite) => this.report.origin_sets[rewrite.origins].includes(node));
  }

  /** How often each rule fired in a step: [rule, count], the most frequent first. */
  rules(step) {
    const counts = new Map();
    for (const { rule } of step.rewrites) counts.set(rule, (counts.get(rule) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]).map(([rule, n]) => [this.report.rules[rule], n]);
  }

  /** What share of the best the machine can do a cost reaches: by arithmetic or by bytes. */
  roofline(cost) {
    const { peak_flops, peak_bytes } = this.report.run;
    const least = Math.max(
      peak_flops ? cost.flops / peak_flops : 0,
      peak_bytes ? cost.nbytes / peak_bytes : 0,
    );
    return cost.kernel && cost.seconds && least ? least / cost.seconds : null;
  }
}

const FUSED = new Set(["pointwise", "fused_reduce", "group"]);

class State {
  constructor(report, number) {
    this.number = number;
    this.lines = report.lines;
    this.modules = new Map();
    this.lineOf = new Map();
    this.moduleOf = new Map();
    this.usersOf = new Map();
    this.holders = new Map();
    for (const [name, body] of Object.entries(report.states[number])) {
      this.modules.set(name, report.bodies[body]);
      for (const line of report.bodies[body]) this.add(report.lines[line], line, name);
    }
  }

  add(line, index, module) {
    this.lineOf.set(line.value, index);
    this.moduleOf.set(line.value, module);
    for (const value of new Set(line.inputs)) {
      if (!this.usersOf.has(value)) this.usersOf.set(value, []);
      this.usersOf.get(value).push(line.value);
    }
    for (const inner of line.modules) {
      if (!this.holders.has(inner)) this.holders.set(inner, []);
      this.holders.get(inner).push(line.value);
    }
  }

  users(value) {
    return this.usersOf.get(value) ?? [];
  }

  /** How many instructions do something; those inside a fused one are part of it. */
  get size() {
    this.counted ??= [...this.lineOf].filter(([value, line]) => {
      const holders = this.around(value).map((at) => this.lines[this.lineOf.get(at)].operation);
      return !this.lines[line].operation.startsWith("@") && !holders.some((of) => FUSED.has(of));
    }).length;
    return this.counted;
  }

  /** The modules that no instruction holds: main, weights. */
  get roots() {
    return [...this.modules.keys()].filter((name) => !this.holders.has(name));
  }

  /** The way to a value from a root: the instructions that hold the modules around it. */
  around(value) {
    const found = [];
    let module = this.moduleOf.get(value);
    while (this.holders.has(module)) {
      const [holder] = this.holders.get(module);
      found.unshift(holder);
      module = this.moduleOf.get(holder);
    }
    return found;
  }
}

/** The name a value has in the text of its module, where values are counted from 0. */
function nameInText(report, state, value) {
  let count = 0;
  for (const index of state.modules.get(state.moduleOf.get(value)) ?? []) {
    const line = report.lines[index];
    if (line.value === value) return line.operation.match(/^@(param|return)$/) ? null : `%${count}`;
    if (!line.operation.match(/^@(param|return)$/)) count += 1;
  }
  return null;
}
