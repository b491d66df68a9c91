// Groups of runs as gan_lab/report/groupings.py made them, what is shown of them, and their colours.
const state = { by: "", colour: "", filters: new Map(), hidden: new Set(), show: "mean", dark: false };
let groups = [];

const indexOf = (run, { indices }) => (indices ? indices[run.index] : 0);
const valueOf = (run, key) => facts.keys.get(key).values[indexOf(run, facts.keys.get(key))];
const grouping = () => facts.keys.get(state.by) ?? facts.default;

// Okabe and Ito's colours; those that would not stand out from the ground are exchanged.
const COLOURS = {
  light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333"],
  dark: ["#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#F0E442", "#DDDDDD"],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
// Cividis, for many values of a number.
const RAMP = [
  "#00224E", "#123570", "#3B496C", "#575D6D", "#707173", "#8A8678", "#A59C74", "#C3B369", "#E1CC55", "#FEE838",
];
const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const faint = (hex, share) => `rgba(${channels(hex).join(",")},${share})`;

function onRamp(share) {
  const usable = state.dark ? RAMP.slice(3) : RAMP.slice(0, 9);
  const place = share * (usable.length - 1);
  const from = Math.min(usable.length - 2, Math.floor(place));
  const [a, b] = [channels(usable[from]), channels(usable[from + 1])];
  const mixed = a.map((value, i) => Math.round(value + (place - from) * (b[i] - value)));
  return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

/** A colour and a dash for each name; numbers in order, if they are many, get the colours of a ramp. */
function stylesFor(names, areNumbers = false) {
  const palette = COLOURS[state.dark ? "dark" : "light"];
  const style = (i) =>
    areNumbers && names.length > palette.length
      ? { colour: onRamp(i / (names.length - 1)), dash: "solid" }
      : { colour: palette[i % palette.length], dash: DASHES[Math.floor(i / palette.length) % DASHES.length] };
  return new Map(names.map((name, i) => [name, style(i)]));
}

/** Groups over all runs, so that colours stay when the filter changes; then each without what is filtered. */
function regroup() {
  const { labels, partition } = grouping();
  groups = facts.partitions[partition].groups.map(([members, mixes], id) => ({
    id,
    label: labels[id],
    mixes,
    all: members.map((i) => facts.runs[i]),
    averages: new Map(),
  }));
  colourGroups();
  for (const run of facts.runs) {
    run.isKept = [...state.filters].every(([key, excluded]) => !excluded.has(valueOf(run, key)));
  }
  for (const group of groups) group.runs = group.all.filter((run) => run.isKept);
  groups = groups.filter((group) => group.runs.length);
}

function colourGroups() {
  const own = stylesFor(groups.map(({ id }) => id));
  const { values, numbers } = facts.keys.get(state.colour) ?? { values: [] };
  const chosen = stylesFor(values, numbers);
  groups.forEach((group, i) => {
    for (const run of group.all) {
      run.style = state.colour ? chosen.get(valueOf(run, state.colour)) : own.get(group.id);
    }
    const isOne = group.all.every((run) => run.style === group.all[0].style);
    group.style = isOne ? group.all[0].style : { colour: "#888888", dash: DASHES[i % DASHES.length] };
  });
}

const shownGroups = () => groups.filter((group) => !state.hidden.has(group.id));
const shownRuns = () => shownGroups().flatMap((group) => group.runs);
const anyHas = (name) => shownRuns().some((run) => run.series.has(name));

/** What a series says at `x`, between its points by a straight line; null outside. `cursor` only goes on. */
function valueAt(series, x, cursor) {
  const last = series.x.length - 1;
  if (x < series.x[0] || x > series.x[last]) return null;
  while (cursor.i < last && series.x[cursor.i + 1] <= x) cursor.i++;
  const i = cursor.i;
  const share = i === last ? 0 : (x - series.x[i]) / (series.x[i + 1] - series.x[i]);
  const between = (part) => part[i] + (share ? share * (part[i + 1] - part[i]) : 0);
  return { least: between(series.least), mean: between(series.mean), most: between(series.most) };
}

/** `{mean, error}` of what runs shown have, the error null for fewer than two values. */
function mean(values) {
  const n = values.length;
  const average = values.reduce((sum, value) => sum + value, 0) / n;
  const variance = values.reduce((sum, value) => sum + (value - average) ** 2, 0) / (n - 1);
  return { mean: average, error: n > 1 ? Math.sqrt(variance / n) : null };
}

/** A group's series: the mean over its runs, its standard error, and the least and most of any run. */
function averageOf(group, name) {
  if (group.averages.has(name)) return group.averages.get(name);
  const all = group.runs.map((run) => seriesOf(run, name)).filter(Boolean);
  let result = null;
  if (all.length) {
    const { x } = all.reduce((a, b) => (b.x.at(-1) > a.x.at(-1) ? b : a));
    const cursors = all.map(() => ({ i: 0 }));
    const rows = x.map((place) => {
      const there = all.map((series, i) => valueAt(series, place, cursors[i])).filter(Boolean);
      return {
        ...mean(there.map((row) => row.mean)),
        least: Math.min(...there.map((row) => row.least)),
        most: Math.max(...there.map((row) => row.most)),
      };
    });
    const column = (part) => rows.map((row) => row[part] ?? 0);
    result = { x, mean: column("mean"), error: column("error"), least: column("least"), most: column("most") };
  }
  group.averages.set(name, result);
  return result;
}
