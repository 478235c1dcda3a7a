// Pieces that several views are made of: lines, links to values, passes and ONNX nodes, numbers.

/** A value's name, which chooses it when it is clicked. */
function valueLink(app, value, given = {}) {
  const chosen = value === app.value ? " chosen" : "";
  return el(
    "a",
    {
      class: `value${chosen} ${given.class ?? ""}`,
      href: app.link({ value }),
      "data-value": value,
      tabindex: given.tabindex ?? -1,
      title: given.title ?? "",
    },
    app.model.name(value),
  );
}

/** An instruction as in the text form, its values as links; `open` goes to one of its modules. */
function lineParts(app, line, { shapes = true, tabindex = -1 } = {}) {
  const { operation, inputs, returned, attributes, modules, shape, value } = line;
  const link = (each) => valueLink(app, each, { tabindex });
  const commas = (parts) => parts.flatMap((part, i) => (i ? [", ", part] : [part])).flat();
  if (operation === "@return") {
    const read = inputs.map((each, i) =>
      returned[i] === undefined ? link(each) : [`${returned[i]}=`, link(each)],
    );
    return [
      el(
        "a",
        { class: "value", href: app.link({ value }), "data-value": value, tabindex },
        "return",
      ),
      " ",
      ...commas(read),
    ];
  }
  const kind = shapes ? [" : ", el("span", { class: "shape" }, shape)] : [];
  if (operation === "@param") return [link(value), ...kind];
  return [
    link(value),
    " = ",
    el("b", {}, operation),
    "(",
    ...commas(inputs.map(link)),
    ")",
    attributes && el("span", { class: "attributes" }, ` ${attributes}`),
    modules.length > 0 && el("span", { class: "held" }, ` [${modules.join(", ")}]`),
    ...kind,
  ];
}

function stepLink(app, step, given = {}) {
  return el("a", { href: app.link({ step, ...given }) }, app.model.report.steps[step].text);
}

function nodeLink(app, node) {
  const number = app.model.report.nodes.indexOf(node);
  return el("a", { class: "node", href: app.link({ tab: "nodes", node: number }) }, node);
}

/** A docstring's words, with what stands in double backticks as code. */
function prose(text) {
  return text.split("``").map((part, i) => (i % 2 ? el("code", {}, part) : part));
}

/** Words with commas between, at most so many, and how many there are besides. */
function several(parts, most = 12) {
  const shown = parts.slice(0, most).flatMap((part, i) => (i ? [", ", part] : [part]));
  return parts.length > most ? [...shown, ` and ${parts.length - most} more`] : shown;
}

function seconds(given) {
  if (given >= 1) return `${given.toFixed(2)} s`;
  if (given >= 1e-3) return `${(given * 1e3).toFixed(given >= 0.1 ? 0 : 2)} ms`;
  return `${(given * 1e6).toFixed(1)} µs`;
}

function bytes(given) {
  const [unit, size] =
    given >= 1e9
      ? ["GB", 1e9]
      : given >= 1e6
        ? ["MB", 1e6]
        : given >= 1e3
          ? ["kB", 1e3]
          : ["bytes", 1];
  return `${size === 1 ? given : (given / size).toFixed(1)} ${unit}`;
}

function percent(share) {
  return share === null ? "" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

function count(number, word, words = `${word}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? word : words}`;
}

/** A bar as long as a share of its room. */
function bar(share, said = "") {
  return el(
    "span",
    { class: "bar", title: said },
    el("i", { style: `width:${Math.min(100, 100 * share).toFixed(2)}%` }),
  );
}

/** The items whose text has every word that is looked for. */
function onlyMatching(items, wanted, text) {
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  return words.length
    ? items.filter((item) => {
        const letters = text(item).toLowerCase();
        return words.every((word) => letters.includes(word));
      })
    : items;
}
