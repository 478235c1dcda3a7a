// The neighbourhood of a value, drawn in layers: what it is made of above, what reads it below.

const HOPS = 2;
const WIDEST = 4;

/**
 * The values around one in layers, each above all that reads it, the edges between those that are
 * shown, and how many are not.
 */
function neighbourhood(report, state, value) {
  const inputs = (each) => [...new Set(report.lines[state.lineOf.get(each)].inputs)];
  const users = (each) => state.users(each);
  const above = around(state, value, inputs, new Set([value]));
  const below = around(state, value, users, new Set([value, ...above.values]));
  const shown = new Set([...above.values, value, ...below.values]);
  const level = new Map([[value, 0]]);
  const place = new Map([...state.lineOf.keys()].map((each, i) => [each, i]));
  const inOrder = (values) => values.sort((a, b) => place.get(a) - place.get(b));
  const beyond = (near, sign) =>
    Math.max(...near.map((each) => sign * level.get(each)).filter((n) => n >= 0)) + 1;
  for (const each of inOrder(above.values).reverse())
    level.set(
      each,
      -beyond(
        users(each).filter((user) => level.has(user)),
        -1,
      ),
    );
  for (const each of inOrder(below.values))
    level.set(
      each,
      beyond(
        inputs(each).filter((input) => level.has(input)),
        1,
      ),
    );
  const layers = new Map();
  for (const [each, at] of level) layers.set(at, [...(layers.get(at) ?? []), each]);
  const edges = [...shown].flatMap((to) =>
    inputs(to)
      .filter((from) => shown.has(from))
      .map((from) => [from, to]),
  );
  return { layers: [...layers].sort((a, b) => a[0] - b[0]), edges, left: above.left + below.left };
}

/** The values within a few steps of one, at most so many at each, and how many are left out. */
function around(state, value, near, seen) {
  let [last, values, left] = [[value], [], 0];
  for (let hop = 0; hop < HOPS; hop++) {
    const next = [...new Set(last.flatMap(near))].filter(
      (each) => !seen.has(each) && state.lineOf.has(each),
    );
    last = next.slice(0, WIDEST);
    left += next.length - last.length;
    last.forEach((each) => seen.add(each));
    values = [...values, ...last];
  }
  return { values, left };
}

const BOX = { width: 104, height: 34, gap: 8, rise: 26 };

/** The drawing, as SVG; its boxes choose values. */
function graphView(app, state, value) {
  const { layers, edges, left } = neighbourhood(app.model.report, state, value);
  const widest = Math.max(...layers.map(([, values]) => values.length));
  const width = widest * (BOX.width + BOX.gap) + BOX.gap;
  const place = new Map();
  const middle = (values) =>
    values.reduce((sum, each) => sum + place.get(each).x, 0) / values.length;
  const near = (each) => {
    const placed = edges
      .filter((edge) => edge.includes(each))
      .flat()
      .filter((other) => other !== each && place.has(other));
    return placed.length ? middle(placed) : 0;
  };
  // From the middle outwards, each layer in the order of what it is joined to.
  for (const [level, values] of [...layers].sort((a, b) => Math.abs(a[0]) - Math.abs(b[0]))) {
    const ordered = values.map((each) => [near(each), each]).sort((a, b) => a[0] - b[0]);
    const start = (width - values.length * (BOX.width + BOX.gap) + BOX.gap) / 2;
    const y = (level - layers[0][0]) * (BOX.height + BOX.rise) + 4;
    ordered.forEach(([, each], i) => place.set(each, { x: start + i * (BOX.width + BOX.gap), y }));
  }
  const height = layers.length * (BOX.height + BOX.rise) - BOX.rise + 8;
  const root = svg("svg", {
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": "What the instruction reads, and what reads it",
  });
  for (const [from, to] of edges) {
    const [a, b] = [place.get(from), place.get(to)];
    const [x1, y1, x2, y2] = [a.x + BOX.width / 2, a.y + BOX.height, b.x + BOX.width / 2, b.y];
    const bend = Math.max(12, Math.abs(y2 - y1) / 2);
    root.append(
      svg("path", {
        class: "edge",
        d: `M${x1} ${y1} C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`,
      }),
    );
  }
  for (const [each, { x, y }] of place) root.append(box(app, state, each, x, y, each === value));
  return [
    el("div", { class: "graph" }, root),
    left > 0 && el("p", { class: "label" }, `${left} more are not drawn`),
  ];
}

function box(app, state, value, x, y, chosen) {
  const line = app.model.report.lines[state.lineOf.get(value)];
  const link = svg("a", {
    class: `box${chosen ? " chosen" : ""}`,
    href: app.link({ value }),
    "data-value": value,
    transform: `translate(${x} ${y})`,
  });
  const name = line.operation.length > 14 ? `${line.operation.slice(0, 13)}…` : line.operation;
  const title = svg("title", {});
  title.textContent = app.model.text(line);
  const [above, below] = [
    svg("text", { x: BOX.width / 2, y: 14 }),
    svg("text", { x: BOX.width / 2, y: 28, class: "small" }),
  ];
  above.textContent = name;
  const shape = line.shape.length > 16 ? `${line.shape.slice(0, 15)}…` : line.shape;
  below.textContent = shape;
  link.append(title, svg("rect", { width: BOX.width, height: BOX.height, rx: 4 }), above, below);
  return link;
}

function svg(name, given) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  return made;
}
