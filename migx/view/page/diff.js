// What is different between two states, instruction by instruction. Values have identity, so
// nothing is guessed: an instruction that is in both is the same one.

const CONTEXT = 3;

/** What became of each module: its name, "same", "added", "removed" or "changed", and its rows. */
function diffStates(report, before, after) {
  const names = new Set([...before.modules.keys(), ...after.modules.keys()]);
  return [...names].map((name) => {
    const [old, now] = [before.modules.get(name), after.modules.get(name)];
    if (old === now) return { name, kind: "same", rows: [] };
    const kind = !old ? "added" : !now ? "removed" : "changed";
    return { name, kind, rows: diffLines(report, old ?? [], now ?? []) };
  });
}

/**
 * Rows of a left and a right line, either of which may be missing. A row is "same", "changed" where
 * the instruction stayed but reads or is something else, "moved", "removed", "added" or "replaced".
 */
function diffLines(report, old, now) {
  const valueOf = (index) => report.lines[index].value;
  const places = new Map(now.map((index, i) => [valueOf(index), i]));
  const common = old.flatMap((index, i) => {
    const place = places.get(valueOf(index));
    return place === undefined ? [] : [[i, place]];
  });
  const kept = longestRising(common);
  const moved = new Set(common.map(([i]) => valueOf(old[i])));
  for (const [i] of kept) moved.delete(valueOf(old[i]));
  const rows = [];
  let [left, right] = [0, 0];
  for (const [i, j] of [...kept, [old.length, now.length]]) {
    rows.push(...besides(old.slice(left, i), now.slice(right, j), moved, valueOf));
    if (i < old.length) {
      const same = reads(report.lines[old[i]]) === reads(report.lines[now[j]]);
      rows.push({ kind: same ? "same" : "changed", left: old[i], right: now[j] });
    }
    [left, right] = [i + 1, j + 1];
  }
  return rows;
}

/** All that is seen of a line: lines that differ in their origins alone are alike. */
function reads({ origins, ...seen }) {
  return JSON.stringify(seen);
}

/** What was taken out and what was put in between two lines that stayed, row by row. */
function besides(removed, added, moved, valueOf) {
  const rows = [];
  for (let i = 0; i < Math.max(removed.length, added.length); i++) {
    const [left, right] = [removed[i], added[i]];
    const one = left ?? right;
    const single = left === undefined || right === undefined;
    const kind = !single
      ? "replaced"
      : moved.has(valueOf(one))
        ? "moved"
        : right === undefined
          ? "removed"
          : "added";
    rows.push({ kind, left, right });
  }
  return rows;
}

/** The longest run of pairs (rising in the first) that rises in the second too. */
function longestRising(pairs) {
  const tails = [];
  const previous = new Array(pairs.length);
  pairs.forEach(([, place], at) => {
    let [low, high] = [0, tails.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (pairs[tails[middle]][1] < place) low = middle + 1;
      else high = middle;
    }
    previous[at] = low ? tails[low - 1] : -1;
    tails[low] = at;
  });
  const found = [];
  for (let at = tails.length ? tails.at(-1) : -1; at >= 0; at = previous[at])
    found.unshift(pairs[at]);
  return found;
}

/** Rows with long runs of the same folded: {kind: "fold", rows}. */
function folded(rows) {
  const found = [];
  let run = [];
  const flush = (atEnd) => {
    const head = found.length ? CONTEXT : 0;
    const tail = atEnd ? 0 : CONTEXT;
    if (run.length > head + tail + 1) {
      const inner = run.slice(head, run.length - tail);
      found.push(
        ...run.slice(0, head),
        { kind: "fold", rows: inner },
        ...run.slice(run.length - tail),
      );
    } else {
      found.push(...run);
    }
    run = [];
  };
  for (const row of rows) {
    if (row.kind === "same") {
      run.push(row);
    } else {
      flush(false);
      found.push(row);
    }
  }
  flush(true);
  return found;
}
