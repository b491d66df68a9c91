"use strict";
// Draws the page from what gan_lab/report/page.py packed. Everything that comes from a run reaches the document
// as text (textContent) or, in Plotly, through `safe`: none of it is ever markup.
(async () => {
const $ = (id) => document.getElementById(id);
const inflate = async (id) => {
  const bytes = Uint8Array.from(atob($(id).textContent.trim()), (c) => c.charCodeAt(0));
  $(id).remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};
if (typeof DecompressionStream === "undefined") {
  $("about").textContent = "This browser is too old for this page (it lacks DecompressionStream): a newer one opens it.";
  return;
}
const [packed, plotly] = await Promise.all([inflate("data"), inflate("plotly")]);
const script = document.createElement("script");
script.textContent = new TextDecoder().decode(plotly);
document.head.append(script);

// ---- What was packed: JSON, low and high bytes of numbers, images (gan_lab/report/packing.py).
const length = new DataView(packed.buffer).getUint32(0, true);
const facts = JSON.parse(new TextDecoder().decode(packed.subarray(4, 4 + length)));
const low = packed.subarray(4 + length), high = low.subarray(facts.numbers), images = high.subarray(facts.numbers);
let offset = 0;
for (const run of facts.runs) {
  run.series = new Map(Object.entries(run.series).map(([name, [place, points, whole, scale, least, step]]) => {
    const start = offset;
    offset += points * (whole ? 1 : 3);
    return [name, { place, points, whole, scale, least, step, start }];
  }));
  run.targets = new Map(Object.entries(run.targets));
}
const unpacked = new Map();
/** A run's series `{x, least, mean, most}`, or null where it has none of that name. */
function series(run, name) {
  const packedSeries = run.series.get(name);
  if (!packedSeries) return null;
  if (!unpacked.has(packedSeries)) {
    const { place, points, whole, scale, least, step, start } = packedSeries;
    const take = (from) => Array.from({ length: points }, (_, i) =>
      scale * Math.sinh(least + step * (low[from + i] + 256 * high[from + i])));
    const [first, second, third] = whole ? [take(start)] : [take(start), take(start + points), take(start + 2 * points)];
    unpacked.set(packedSeries, { x: facts.iterations[place], least: first, mean: second || first, most: third || first });
  }
  return unpacked.get(packedSeries);
}

// ---- Statistics, as gan_lab/report/statistics.py has them.
const ALPHA = 0.05;
function mean(values) {
  if (!values.length) return null;
  const n = values.length, average = values.reduce((a, b) => a + b, 0) / n;
  const variance = values.reduce((sum, v) => sum + (v - average) ** 2, 0) / (n - 1);
  return { n, mean: average, error: n > 1 ? Math.sqrt(variance / n) : null };
}
function logGamma(z) { // Lanczos' approximation, g = 7, nine terms
  const c = [0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
    12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7];
  const sum = c.slice(1).reduce((s, term, i) => s + term / (z + i), c[0]);
  return 0.5 * Math.log(2 * Math.PI) + (z - 0.5) * Math.log(z + 6.5) - (z + 6.5) + Math.log(sum);
}
/** The regularized incomplete beta function by its continued fraction (Lentz's method). */
function incompleteBeta(x, a, b) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const tiny = 1e-300, guard = (v) => (Math.abs(v) < tiny ? tiny : v);
  let c = 1, d = 1 / guard(1 - (a + b) * x / (a + 1)), fraction = d;
  for (let m = 1; m < 500; m++) {
    for (const term of [m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
      -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))]) {
      d = 1 / guard(1 + term * d);
      c = guard(1 + term / c);
      fraction *= c * d;
    }
    if (Math.abs(c * d - 1) < 1e-15) break;
  }
  const front = logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(1 - x);
  return Math.exp(front) * fraction / a;
}
/** Two-sided p of Welch's t-test; null where it says nothing. */
function welch(first, second) {
  const [a, b] = [mean(first), mean(second)];
  if (!a || !b || a.error === null || b.error === null) return null;
  const va = a.error ** 2, vb = b.error ** 2;
  if (va + vb === 0) return null;
  const t2 = (a.mean - b.mean) ** 2 / (va + vb);
  const df = (va + vb) ** 2 / (va ** 2 / (a.n - 1) + vb ** 2 / (b.n - 1));
  return incompleteBeta(df / (df + t2), df / 2, 0.5);
}

// ---- Words and numbers.
const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const four = (value) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
};
function number({ mean: value, error }) {
  if (!error) return four(value) + (error === 0 ? " ± 0" : "");
  const digits = Math.min(4, Math.max(0, 1 - Math.floor(Math.log10(error))));
  return `${value.toFixed(digits)} ± ${error.toFixed(digits)}`;
}
const duration = (h) => (h < 0.025 ? `${(3600 * h).toFixed(1)} s` : h < 1.5 ? `${(60 * h).toFixed(1)} min` : `${h.toFixed(1)} h`);
const thousands = (n) => n.toLocaleString("en");
const natural = new Intl.Collator("en", { numeric: true }).compare;
function byValue(a, b) {
  const [x, y] = [Number(a), Number(b)];
  return Number.isFinite(x) && Number.isFinite(y) && a !== "" && b !== "" ? x - y : natural(a, b);
}
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && name !== "list") node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// ---- Config keys, settings and groups, as gan_lab/report/runs.py has them.
const AXES = ["dataset", "arch", "norm", "init", "loss", "penalty", "optimizer", "metrics"].map((axis) => `${axis}.name`);
const keys = new Map(facts.keys.map(([key, distinct, indices]) => [key, { distinct, indices }]));
facts.runs.forEach((run, index) => { run.index = index; });
function valueOf(run, key) {
  if (key === "state" && !keys.has(key)) return run.state;
  const { distinct, indices } = keys.get(key);
  return distinct[indices ? indices[run.index] : 0];
}
const valuesOf = (run, some) => JSON.stringify(some.map((key) => valueOf(run, key)));
const distinctValues = (runs, key) => [...new Set(runs.map((run) => valueOf(run, key)))].sort(byValue);
/** The fewest keys that tell the settings of these runs apart. */
function settings(runs, candidates = facts.settings) {
  const chosen = [];
  let parts = 1;
  for (const key of candidates) {
    const finer = new Set(runs.map((run) => valuesOf(run, [...chosen, key]))).size;
    if (finer > parts) { chosen.push(key); parts = finer; }
  }
  return chosen;
}
const keyName = (key) => (AXES.includes(key) ? key.replace(".name", "") : key);
const labelOf = (run, some) => some.map((key) =>
  (AXES.includes(key) ? "" : `${key.split(".").pop()}=`) + valueOf(run, key)).join(" · ") || "all runs";

const state = { by: null, colour: "", filters: new Map(), hidden: new Set(), show: "mean", dark: false };
if (facts.by) state.by = JSON.stringify(facts.by);
let groups = [];

// Okabe and Ito's colours; what would not stand out from the ground is exchanged.
const COLOURS = { light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333"],
  dark: ["#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#F0E442", "#DDDDDD"] };
const DASHES = ["solid", "dash", "dot", "dashdot"];
const CIVIDIS = ["#00224E", "#123570", "#3B496C", "#575D6D", "#707173", "#8A8678", "#A59C74", "#C3B369", "#E1CC55", "#FEE838"];
function onRamp(share) {
  const usable = state.dark ? CIVIDIS.slice(3) : CIVIDIS.slice(0, 9);
  const place = share * (usable.length - 1), from = Math.min(usable.length - 2, Math.floor(place));
  const [a, b] = [usable[from], usable[from + 1]].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return `#${a.map((v, i) => Math.round(v + (place - from) * (b[i] - v)).toString(16).padStart(2, "0")).join("")}`;
}
function colours(names) {
  const palette = COLOURS[state.dark ? "dark" : "light"], isScale = names.length > 7 && names.every((name) => Number.isFinite(Number(name)));
  return new Map(names.map((name, i) => [name, isScale
    ? { colour: onRamp(i / (names.length - 1)), dash: "solid" }
    : { colour: palette[i % palette.length], dash: DASHES[Math.floor(i / palette.length) % DASHES.length] }]));
}
const faint = (colour, share) => `rgba(${[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)).join(",")},${share})`;

const isKept = (run) => [...state.filters].every(([key, left]) => !left.has(valueOf(run, key)));
function regroup() {
  const by = state.by ? JSON.parse(state.by) : settings(facts.runs);
  const found = new Map();
  for (const run of facts.runs) {
    const key = valuesOf(run, by);
    if (!found.has(key)) found.set(key, { label: labelOf(run, by), values: by.map((k) => valueOf(run, k)), all: [] });
    found.get(key).all.push(run);
  }
  groups = [...found.values()].sort((a, b) => {
    const place = a.values.findIndex((value, i) => value !== b.values[i]);
    return place < 0 ? 0 : byValue(a.values[place], b.values[place]);
  });
  const own = colours(groups.map((_, i) => String.fromCharCode(97 + i % 26) + i));
  const styles = [...own.values()];
  const chosen = state.colour ? colours(distinctValues(facts.runs, state.colour)) : null;
  groups.forEach((group, i) => {
    for (const run of group.all) run.style = chosen ? chosen.get(valueOf(run, state.colour)) : styles[i];
    const same = group.all.every((run) => run.style === group.all[0].style);
    group.style = same ? group.all[0].style : { colour: "#888888", dash: DASHES[i % DASHES.length] };
    group.runs = group.all.filter(isKept);
    group.averages = new Map();
  });
  groups = groups.filter((group) => group.runs.length);
}
const shownGroups = () => groups.filter((group) => !state.hidden.has(group.label));
const shownRuns = () => shownGroups().flatMap((group) => group.runs);

// ---- A group's series: the mean over its runs, its standard error, and the least and most of any.
function at(one, x, from) {
  const { x: xs } = one;
  if (x < xs[0] || x > xs[xs.length - 1]) return null;
  let i = from.i;
  while (i < xs.length - 1 && xs[i + 1] <= x) i++;
  from.i = i;
  if (xs[i] === x || i === xs.length - 1) return [one.least[i], one.mean[i], one.most[i]];
  const share = (x - xs[i]) / (xs[i + 1] - xs[i]);
  return ["least", "mean", "most"].map((part) => one[part][i] + share * (one[part][i + 1] - one[part][i]));
}
function average(group, name) {
  if (!group.averages.has(name)) {
    const all = group.runs.map((run) => series(run, name)).filter(Boolean);
    const cursors = all.map(() => ({ i: 0 }));
    const x = all.length ? all.reduce((a, b) => (b.x[b.x.length - 1] > a.x[a.x.length - 1] ? b : a)).x : [];
    const rows = x.map((place) => {
      const there = all.map((one, i) => at(one, place, cursors[i])).filter(Boolean);
      const { mean: middle, error } = mean(there.map((row) => row[1]));
      return { middle, error: error || 0, least: Math.min(...there.map((row) => row[0])), most: Math.max(...there.map((row) => row[2])) };
    });
    group.averages.set(name, all.length ? { x, mean: rows.map((r) => r.middle), error: rows.map((r) => r.error),
      least: rows.map((r) => r.least), most: rows.map((r) => r.most) } : null);
  }
  return group.averages.get(name);
}

// ---- Plotly.
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  displayModeBar: window.matchMedia("(hover: hover)").matches ? "hover" : false };
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const axis = (extra = {}) => ({ gridcolor: ink("line"), linecolor: ink("line"), zeroline: false, automargin: true,
  tickfont: { size: 11 }, exponentformat: "power", ...extra });
function layout(extra = {}) {
  return {
    margin: { l: 48, r: 10, t: 8, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: "system-ui, sans-serif", size: 12, color: ink("quiet") }, hovermode: shownGroups().length > 8 ? "closest" : "x unified",
    hoverlabel: { bgcolor: ink("card"), bordercolor: ink("line"), font: { color: ink("ink"), size: 12 }, namelength: 40 },
    dragmode: window.matchMedia("(hover: hover)").matches ? "zoom" : false, ...extra,
  };
}
const line = (x, y, name, style, extra = {}) => ({ type: "scatter", mode: x.length > 60 ? "lines" : "lines+markers", x, y,
  name: safe(name), marker: { size: x.length > 1 ? 4 : 8, color: style.colour }, line: { color: style.colour, width: 2, dash: style.dash },
  hovertemplate: "%{y:.4~g}<extra>%{fullData.name}</extra>", ...extra });
function band(x, low_, high_, style, extra = {}) {
  const some = x.map((_, i) => i).filter((i) => Number.isFinite(low_[i]) && Number.isFinite(high_[i]));
  return { type: "scatter", mode: "lines", x: [...some.map((i) => x[i]), ...some.map((i) => x[i]).reverse()],
    y: [...some.map((i) => high_[i]), ...some.map((i) => low_[i]).reverse()], fill: "toself", fillcolor: faint(style.colour, 0.16),
    line: { width: 0, color: style.colour }, hoverinfo: "skip", ...extra };
}
/** The traces of one series: group by group with a band, or run by run. `ends` names the band's own series. */
function traces(name, { spread = "range", ends = null, extra = {} } = {}) {
  if (state.show === "runs") {
    return shownRuns().flatMap((run) => {
      const one = series(run, name);
      if (!one) return [];
      const [x, y] = one.least === one.most ? [one.x, one.mean]
        : [one.x.flatMap((v) => [v, v, v]), one.x.flatMap((_, i) => [one.least[i], one.most[i], one.mean[i]])];
      return [line(x, y, run.name, run.style, { line: { color: run.style.colour, width: 1.2, dash: run.style.dash }, opacity: 0.8, ...extra })];
    });
  }
  const some = shownGroups().map((group) => [group, average(group, name)]).filter(([, one]) => one);
  const bands = some.length > 10 ? [] : some.flatMap(([group, one]) => {
    if (spread === "error") {
      if (!one.error.some(Boolean)) return [];
      const floor = Math.min(...one.mean.filter((v) => v > 0)) / 10;
      const bottom = one.mean.map((v, i) => (v > 0 ? Math.max(v - one.error[i], Math.min(v, floor)) : v - one.error[i]));
      return [band(one.x, bottom, one.mean.map((v, i) => v + one.error[i]), group.style, extra)];
    }
    const [bottom, top] = ends ? ends.map((end) => average(group, end)) : [one, one];
    return bottom && top ? [band(bottom.x, bottom.least, top.most, group.style, extra)] : [];
  });
  return [...bands, ...some.map(([group, one]) => line(one.x, one.mean, group.label, group.style, extra))];
}

const charts = [];
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.find(({ card }) => card === entry.target);
    chart.near = entry.isIntersecting;
    if (chart.near && chart.stale) draw(chart);
  }
}, { rootMargin: "300px" });
/** A card with a chart that is drawn when it comes near the screen. `build(isLog, width)` gives Plotly's figure. */
function addChart(parent, { title, exists, build, log = null, wide = false }) {
  const node = element("div", { className: "chart", role: "img", ariaLabel: title });
  const chart = { node, build, exists, isLog: log === true, near: false, stale: true };
  const toggle = log === null ? null : element("button", { type: "button", textContent: "log", title: "Logarithmic scale",
    ariaPressed: String(chart.isLog), onclick: () => {
      chart.isLog = !chart.isLog;
      toggle.ariaPressed = String(chart.isLog);
      draw(chart);
    } });
  chart.card = element("div", { className: wide ? "card wide" : "card" }, element("header", {}, element("h3", { textContent: title }), toggle), node);
  parent.append(chart.card);
  charts.push(chart);
  observer.observe(chart.card);
}
function draw(chart) {
  const figure = chart.build(chart.isLog, chart.node.clientWidth);
  chart.node.style.height = figure.layout.height ? `${figure.layout.height}px` : "";
  chart.stale = false;
  chart.node.dataset.drawn = figure.data.length;
  return Plotly.react(chart.node, figure.data, figure.layout, CONFIG);
}
const anyHas = (name) => shownRuns().some((run) => run.series.has(name));
const overIterations = (name, options = {}) => (isLog) => ({ data: traces(name, options),
  layout: layout({ xaxis: axis({ title: { text: "iteration", font: { size: 11 } }, nticks: 6 }), yaxis: axis({ type: isLog ? "log" : "linear" }) }) });

// ---- Sections.
const refreshers = [];
function section(id, title, words) {
  const body = element("div");
  const node = element("section", { id, ariaLabel: title }, element("h2", { textContent: title }), words ? element("p", { className: "quiet", textContent: words }) : null, body);
  $("results").append(node);
  const link = element("a", { href: `#${id}`, textContent: title });
  $("nav").append(link);
  return { body, show(is) { node.hidden = !is; link.hidden = !is; } };
}
function cards(part) {
  const node = element("div", { className: "cards" });
  part.body.append(node);
  return node;
}
function swatch({ colour, dash }) {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg"), stroke = document.createElementNS(ns, "line");
  for (const [k, v] of Object.entries({ width: 22, height: 8, "aria-hidden": "true", class: "swatch" })) svg.setAttribute(k, v);
  const pattern = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" }[dash];
  for (const [k, v] of Object.entries({ x1: 0, x2: 22, y1: 4, y2: 4, stroke: colour, "stroke-width": 3, "stroke-dasharray": pattern })) stroke.setAttribute(k, v);
  svg.append(stroke);
  return svg;
}

function summaryTable(protocol) {
  const inside = groups.map((group) => ({ group, runs: group.runs.filter((run) => run.protocol === protocol) })).filter(({ runs }) => runs.length);
  if (!inside.length) return null;
  const known = facts.metrics.filter(([name]) => inside.some(({ runs }) => runs.some((run) => name in run.final)));
  const columns = known.flatMap(([name, title, isLow]) => ["final", "best"].map((which) => ({ name, title, isLow, which })));
  for (const column of columns) {
    column.cells = inside.map(({ runs }) => {
      const values = runs.filter((run) => run.finished && column.name in run[column.which]).map((run) => run[column.which][column.name]);
      return { values, mean: mean(values) };
    });
    const there = column.cells.filter((cell) => cell.mean);
    column.best = there.length > 1 ? there.reduce((a, b) => ((b.mean.mean < a.mean.mean) === column.isLow && b.mean.mean !== a.mean.mean ? b : a)) : null;
  }
  const count = (runs, test) => runs.filter(test).length;
  const heads = ["group", "seeds", "finished", "diverged", "failed", "other",
    ...columns.map(({ title, which, isLow }) => `${title} ${which} ${isLow ? "↓" : "↑"}`), "time"];
  const rows = inside.map(({ group, runs }, i) => {
    const done = runs.filter((run) => run.finished), times = done.map((run) => run.hours).filter((h) => h !== null);
    const counts = [new Set(done.map((run) => run.seed)).size, done.length, count(runs, (run) => run.diverged), count(runs, (run) => run.state === "failed"),
      count(runs, (run) => !run.finished && !run.diverged && run.state !== "failed")];
    const figures = columns.map(({ cells, best }) => {
      const cell = cells[i];
      if (!cell.mean) return element("td", { textContent: "–" });
      if (cell === best) return element("td", { className: "best" }, element("strong", { textContent: number(cell.mean) }));
      const p = best ? welch(cell.values, best.values) : null;
      const words = !best ? null : p === null ? "no test" : p >= ALPHA ? `≈ p = ${p.toFixed(2)}` : `p ${p < 0.001 ? "< 0.001" : `= ${p.toFixed(3)}`}`;
      return element("td", {}, number(cell.mean), words ? element("small", { textContent: words }) : null);
    });
    return element("tr", {}, element("td", { title: group.label }, swatch(group.style), ` ${group.label}`), ...counts.map((n) => element("td", { textContent: n })),
      ...figures, element("td", { textContent: times.length ? duration(mean(times).mean) : "–" }));
  });
  return element("div", { className: "scroll", tabIndex: 0 }, element("table", {},
    facts.protocols[protocol] ? element("caption", { textContent: facts.protocols[protocol] }) : null,
    element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col", textContent: text })))), element("tbody", {}, ...rows)));
}
{
  const part = section("table", "Summary", "Mean ± standard error over the seeds of the runs that finished. Bold is the best of its column; ≈ is inside its "
    + `noise: Welch's t-test against the best gives p ≥ ${ALPHA} (two-sided, not corrected for several tests). Final is the last evaluation, best the best one of a run; `
    + "time is training alone, without metrics and samples.");
  refreshers.push(() => {
    const mixed = groups.map((group) => [group.label, settings(group.runs)]).filter(([, differ]) => differ.length);
    const notice = mixed.length ? element("div", { className: "notice" }, "Groups that mix settings, so that their spread is not that of seeds alone:",
      element("ul", {}, ...mixed.map(([label, differ]) => element("li", { textContent: `${label}: ${differ.map(keyName).join(", ")}` })))) : null;
    part.body.replaceChildren(...[...facts.protocols.keys()].map(summaryTable).filter(Boolean), ...(notice ? [notice] : []));
  });
}
if (facts.metrics.length) {
  const part = section("metrics", "FID and IS over training", "Lines are means over seeds, bands their standard error.");
  const place = cards(part);
  for (const [name, title, isLow] of facts.metrics) {
    addChart(place, { title: `${title} ${isLow ? "↓" : "↑"}`, log: isLow ? false : null, exists: () => anyHas(name), build: overIterations(name, { spread: "error" }) });
  }
  refreshers.push(() => part.show(facts.metrics.some(([name]) => anyHas(name))));
}
{
  // Keys that a chosen one decides say nothing beside it; axes are told apart all the same.
  const isNumeric = (key) => { const values = distinctValues(facts.runs, key).filter((v) => v !== "–"); return values.length > 1 && values.every((v) => v !== "" && Number.isFinite(Number(v))); };
  const decided = (runs, by, key) => settings(runs, [by, key]).length < 2;
  const linesBeside = (runs, x) => settings(runs, facts.settings.filter((key) => key !== x && (AXES.includes(key) || !decided(runs, x, key))));
  const bundles = (runs, x) => {
    const by = linesBeside(runs, x), found = new Map();
    for (const run of runs.filter((run) => Number.isFinite(Number(valueOf(run, x))))) {
      const key = valuesOf(run, by);
      if (!found.has(key)) found.set(key, { label: labelOf(run, by), runs: [] });
      found.get(key).runs.push(run);
    }
    return [...found.values()].sort((a, b) => natural(a.label, b.label)).filter(({ runs: some }) => distinctValues(some, x).length > 1);
  };
  const candidates = facts.settings.filter((key) => isNumeric(key) && bundles(facts.runs, key).length);
  const twins = candidates.filter((key, i) => !candidates.slice(0, i).some((other) => facts.runs.every((run) => valueOf(run, key) === valueOf(run, other))));
  if (twins.length && facts.metrics.length) {
    const first = twins.includes("norm.scale") ? "norm.scale" : twins[0];
    const part = section("scale", `Metric against ${first === "norm.scale" ? "scale" : "a setting"}`, "A point is the mean over the seeds that finished, its bar the standard error.");
    const x = element("select", {}, ...twins.map((key) => element("option", { value: key, textContent: key, selected: key === first })));
    const which = element("select", {}, ...["final", "best"].map((word) => element("option", { value: word, textContent: word })));
    x.onchange = which.onchange = () => refresh();
    part.body.append(element("div", { className: "tools" }, element("label", {}, "Against ", x), element("label", {}, "Value ", which)));
    const place = cards(part);
    const points = (some, metric) => distinctValues(some, x.value).map((value) => [Number(value),
      mean(some.filter((run) => valueOf(run, x.value) === value && run.finished && metric in run[which.value]).map((run) => run[which.value][metric]))]).filter(([, m]) => m);
    for (const [metric, title, isLow] of facts.metrics) {
      addChart(place, { title: `${title} ${isLow ? "↓" : "↑"} against the setting`, log: isLow ? false : null,
        exists: () => shownRuns().some((run) => metric in run.final), build: (isLog) => {
          const some = bundles(shownRuns(), x.value), styles = colours(some.map(({ label }) => `:${label}`));
          const data = some.map(({ label, runs }) => {
            const got = points(runs, metric), style = styles.get(`:${label}`);
            return line(got.map(([v]) => v), got.map(([, m]) => m.mean), label, style, { mode: "lines+markers", marker: { size: 7, color: style.colour },
              error_y: { type: "data", array: got.map(([, m]) => m.error || 0), color: style.colour, thickness: 1.4, width: 3 } });
          });
          const xs = data.flatMap((trace) => trace.x), isWide = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 20;
          return { data, layout: layout({ showlegend: true, legend: { orientation: "h", y: 1.12, font: { color: ink("ink") } },
            xaxis: axis({ title: { text: safe(x.value), font: { size: 11 } }, type: isWide ? "log" : "linear" }), yaxis: axis({ type: isLog ? "log" : "linear" }) }) };
        } });
    }
    refreshers.push(() => part.show(shownRuns().length > 0));
  }
}
if (facts.runs.some((run) => run.grids && run.grids.length)) {
  const part = section("samples", "Samples", "The first images of each run's grid, from the same latents throughout; all that the size of this page has room for.");
  const slider = element("input", { type: "range", min: 0, id: "slider", ariaLabel: "Iteration of the samples" });
  const shown = element("output"), who = element("select", {}, element("option", { value: "one", textContent: "one run of each group" }), element("option", { value: "all", textContent: "every run" }));
  const grid = element("div", { className: "grids" });
  part.body.append(element("div", { className: "tools" }, element("label", {}, "Show ", who), element("label", { htmlFor: "slider", textContent: "iteration" }), slider, shown), grid);
  const urls = new Map();
  const url = ([, start, size]) => {
    if (!urls.has(start)) urls.set(start, URL.createObjectURL(new Blob([images.subarray(start, start + size)], { type: "image/webp" })));
    return urls.get(start);
  };
  let steps = [], figures = [];
  const turn = () => {
    const iteration = steps[slider.value] ?? 0;
    shown.textContent = slider.ariaValueText = thousands(iteration);
    for (const { run, image, when } of figures) {
      const chosen = run.grids.filter(([k]) => k <= iteration).pop() || run.grids[0];
      image.src = url(chosen);
      when.textContent = thousands(chosen[0]);
    }
  };
  slider.oninput = turn;
  const fill = () => {
    const some = shownGroups().flatMap((group) => {
      const having = group.runs.filter((run) => run.grids && run.grids.length);
      return (who.value === "one" ? having.slice(0, 1) : having).map((run) => ({ group, run }));
    });
    const before = steps[slider.value] ?? Infinity;
    steps = [...new Set(some.flatMap(({ run }) => run.grids.map(([iteration]) => iteration)))].sort((a, b) => a - b);
    slider.max = Math.max(0, steps.length - 1);
    slider.value = Math.max(0, steps.filter((iteration) => iteration <= before).length - 1);
    figures = some.map(({ group, run }) => ({ group, run, image: element("img", { alt: `Samples of ${run.name}`, decoding: "async" }), when: element("small") }));
    grid.replaceChildren(...figures.map(({ group, run, image, when }) => element("figure", { title: run.name }, image,
      element("figcaption", {}, swatch(run.style), `${group.label} · seed ${run.seed}`, when))));
    turn();
    part.show(some.length > 0);
  };
  who.onchange = fill;
  refreshers.push(fill);
}
{
  const part = section("training", "Losses, slopes and gradients", "Long records are cut into stretches: lines are means over a stretch and over seeds, bands reach from the least "
    + "to the most of any iteration and seed, so that every spike shows. Slopes are ‖∇ₓD(x)‖ over a batch.");
  const place = cards(part);
  const plain = [["loss/d", "Discriminator's loss"], ["loss/g", "Generator's loss"], ["loss/penalty", "Penalty"], ["score/real", "Score of real images"], ["score/fake", "Score of generated images"]];
  for (const [name, title] of plain) addChart(place, { title, log: false, exists: () => anyHas(name), build: overIterations(name) });
  for (const [name, title] of [["grad_norm/d", "Gradient norm of the discriminator"], ["grad_norm/g", "Gradient norm of the generator"]]) {
    addChart(place, { title, log: true, exists: () => anyHas(name), build: overIterations(name) });
  }
  for (const [kind, title] of [["real", "Slopes at real images"], ["fake", "Slopes at generated images"]]) {
    addChart(place, { title, log: true, exists: () => anyHas(`slope/${kind}_mean`), build: overIterations(`slope/${kind}_mean`, { ends: [`slope/${kind}_min`, `slope/${kind}_max`] }) });
  }
  addChart(place, { title: "Lipschitz bound of the discriminator", log: true, exists: () => anyHas("lipschitz/d"), build: overIterations("lipschitz/d") });
}
{
  const PREFIXES = ["weight_var/", "sigma/", "grad_norm/d/", "gamma/"], MANY = 12;
  const allLayers = [...new Set(facts.runs.flatMap((run) => [...run.series.keys()].flatMap((name) => PREFIXES.filter((p) => name.startsWith(p)).map((p) => name.slice(p.length)))))];
  if (allLayers.length) {
    const part = section("layers", "Layer by layer", "The paper's argument: a norm bounds every layer's gradient (dotted: the theory's bound, where it was logged) and holds its weight "
      + "variance near an initialization's target (grey: dashed LeCun 1/fan_in, dotted Xavier 2/(fan_in + fan_out), dash-dotted Kaiming 2/fan_in).");
    const choice = element("select", {}, element("option", { value: "", textContent: allLayers.length > MANY ? `${MANY} of ${allLayers.length} layers` : "all layers" }),
      ...allLayers.map((layer) => element("option", { value: layer, textContent: layer })));
    choice.onchange = () => refresh();
    part.body.append(element("div", { className: "tools" }, element("label", {}, "Layers ", choice)));
    const place = cards(part);
    const layersOf = (prefix) => {
      const there = allLayers.filter((layer) => (choice.value ? layer === choice.value : true) && anyHas(prefix + layer));
      if (there.length <= MANY) return there;
      return Array.from({ length: MANY }, (_, i) => there[Math.round(i * (there.length - 1) / (MANY - 1))]);
    };
    const target = (layer, i) => {
      const known = [...new Set(shownRuns().map((run) => (run.targets.get(layer) || [])[i]).filter(Number.isFinite))];
      return known.length === 1 ? known[0] : null;
    };
    /** Small charts, one a layer, in one figure. */
    const small = (prefix, more) => (isLog, width) => {
      const there = layersOf(prefix), columns = Math.max(1, Math.min(there.length, Math.floor(width / (width < 500 ? 160 : 250)))), rows = Math.ceil(there.length / columns);
      const figure = { data: [], layout: layout({ hovermode: "closest", grid: { rows, columns, pattern: "independent", xgap: 0.16, ygap: 0.34 }, annotations: [],
        height: rows * (there.length === 1 ? 340 : 165) + 30, margin: { l: 40, r: 8, t: 24, b: 24 } }) };
      there.forEach((layer, i) => {
        const n = i ? i + 1 : "", extra = { xaxis: `x${n}`, yaxis: `y${n}` };
        figure.data.push(...more(layer, extra), ...traces(prefix + layer, { extra: { ...extra, mode: "lines" } }));
        figure.layout[`xaxis${n}`] = axis({ nticks: 4, tickfont: { size: 10 } });
        figure.layout[`yaxis${n}`] = axis({ nticks: 4, tickfont: { size: 10 }, type: isLog ? "log" : "linear" });
        figure.layout.annotations.push({ text: safe(layer), xref: `x${n} domain`, yref: `y${n} domain`, x: 0, y: 1, yanchor: "bottom", xanchor: "left", showarrow: false, font: { size: 12, color: ink("ink") } });
      });
      return figure;
    };
    const nothing = () => [];
    const bounds = (layer, extra) => shownGroups().flatMap((group) => {
      const one = average(group, `grad_bound/d/${layer}`);
      return one ? [line(one.x, one.mean, `${group.label}, bound`, { colour: group.style.colour, dash: "dot" }, { ...extra, mode: one.x.length > 1 ? "lines" : "markers", line: { color: group.style.colour, width: 1.3, dash: "dot" } })] : [];
    });
    const targets = (layer, extra) => ["LeCun", "Xavier", "Kaiming"].flatMap((rule, i) => {
      const aim = target(layer, i);
      if (aim === null) return [];
      const ends = shownRuns().map((run) => series(run, `weight_var/${layer}`)).filter(Boolean).map(({ x }) => x);
      const [from, to] = [Math.min(...ends.map((x) => x[0])), Math.max(...ends.map((x) => x[x.length - 1]))];
      return [line([from, to], [aim, aim], rule, { colour: "#888888", dash: ["dash", "dot", "dashdot"][i] }, { ...extra, mode: "lines", line: { color: ink("quiet"), width: 1.2, dash: ["dash", "dot", "dashdot"][i] } })];
    });
    for (const [prefix, title, more, log] of [["grad_norm/d/", "Gradient norms and their bounds", bounds, true], ["sigma/", "Sigmas", nothing, false],
      ["weight_var/", "Weight variances and the initializations' targets", targets, true], ["gamma/", "Learned scales", nothing, false]]) {
      addChart(place, { title, wide: true, log, exists: () => layersOf(prefix).length > 0, build: small(prefix, more) });
    }
    refreshers.push(() => part.show(PREFIXES.some((prefix) => layersOf(prefix).length)));
  }
}
{
  const part = section("config", "What differs", "The config keys that are not the same in all these runs, and nothing else.");
  refreshers.push(() => {
    const ordered = shownGroups().flatMap((group) => group.runs);
    const columns = new Map(); // keys of which one is a copy of another share a column
    for (const key of facts.differing.filter((k) => distinctValues(ordered, k).length > 1)) {
      const content = JSON.stringify(ordered.map((run) => valueOf(run, key)));
      columns.set(content, [...(columns.get(content) || []), key]);
    }
    const rows = ordered.map((run) => element("tr", {}, element("td", { title: run.reason || run.name }, swatch(run.style), ` ${run.name}`,
      run.state === "finished" && !run.diverged ? null : element("span", { className: "state", textContent: run.diverged ? "diverged" : run.state })),
      ...[...columns.values()].map(([key]) => element("td", { textContent: valueOf(run, key) }))));
    const heads = ["run", ...[...columns.values()].map((some) => some.join(" = "))];
    part.body.replaceChildren(element("div", { className: "scroll words", tabIndex: 0 }, element("table", {},
      element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col", textContent: text })))), element("tbody", {}, ...rows))));
  });
}
if (facts.damaged.length) {
  const part = section("damaged", "Damaged", "What could not be read was left out; the rest is complete.");
  part.body.append(element("div", { className: "notice" }, element("ul", {}, ...facts.damaged.map(([name, reason]) => element("li", { textContent: `${name}: ${reason}` })))));
}

// ---- Controls.
function refresh() {
  regroup();
  const legend = groups.map((group) => element("button", { type: "button", className: "chip", ariaPressed: String(!state.hidden.has(group.label)), title: group.label, onclick: () => {
    if (!state.hidden.delete(group.label)) state.hidden.add(group.label);
    const place = [...$("legend").children].findIndex((chip) => chip.title === group.label);
    refresh();
    $("legend").children[place]?.focus({ preventScroll: true });
  } }, swatch(group.style), group.label, element("small", { textContent: group.runs.length })));
  $("legend").replaceChildren(...(legend.length ? legend : [element("span", { className: "quiet", textContent: "The filter leaves no run." })]));
  for (const again of refreshers) again();
  for (const chart of charts) {
    chart.card.hidden = !chart.exists();
    chart.stale = true;
    if (!chart.card.hidden && chart.near) draw(chart);
  }
}
function keyOptions(select, first, after) {
  const option = (key) => element("option", { value: JSON.stringify([key]), textContent: keyName(key) });
  const same = [...keys.keys()].filter((key) => !facts.differing.includes(key));
  const states = keys.has("state") ? [] : ["state"];
  select.replaceChildren(element("option", { value: "", textContent: first }), element("optgroup", { label: "differ" }, ...[...facts.differing, ...states].map(option)),
    element("optgroup", { label: "the same in all runs" }, ...same.map(option)));
  select.onchange = () => after(select.value);
}
function showFilters() {
  $("filters").replaceChildren(...[...state.filters].map(([key, left]) => element("div", { className: "filter" }, element("span", { textContent: keyName(key) }),
    ...distinctValues(facts.runs, key).map((value) => {
      const chip = element("button", { type: "button", className: "chip", textContent: value, ariaPressed: String(!left.has(value)), onclick: () => {
        if (!left.delete(value)) left.add(value);
        chip.ariaPressed = String(!left.has(value));
        refresh();
      } });
      return chip;
    }),
    element("button", { type: "button", className: "chip", textContent: "remove", ariaLabel: `Remove the filter by ${key}`, onclick: () => {
      state.filters.delete(key);
      showFilters();
      refresh();
      $("filter").focus();
    } }))));
}
keyOptions($("by"), "every setting that differs", (value) => { state.by = value || null; state.hidden.clear(); refresh(); });
keyOptions($("colour"), "group", (value) => { state.colour = value ? JSON.parse(value)[0] : ""; refresh(); });
keyOptions($("filter"), "choose a key…", (value) => {
  if (value && !state.filters.has(JSON.parse(value)[0])) state.filters.set(JSON.parse(value)[0], new Set());
  $("filter").value = "";
  showFilters();
});
if (state.by) {
  if (facts.by.length > 1) $("by").append(element("option", { value: state.by, textContent: facts.by.map(keyName).join(", ") }));
  $("by").value = state.by;
}
$("show").onchange = () => { state.show = $("show").value; refresh(); };
function setTheme(dark) {
  state.dark = dark;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").textContent = dark ? "Light" : "Dark";
}
const preferred = window.matchMedia("(prefers-color-scheme: dark)");
preferred.onchange = () => { setTheme(preferred.matches); refresh(); };
$("theme").onclick = () => { setTheme(!state.dark); refresh(); };
window.addEventListener("beforeprint", () => charts.filter(({ card, stale }) => stale && !card.hidden).forEach(draw));
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return; // a phone's address bar changes the height alone
  width = window.innerWidth;
  for (const chart of charts) { chart.stale = true; if (chart.near && !chart.card.hidden) draw(chart); }
});

const states = new Map();
for (const run of facts.runs) states.set(run.diverged ? "diverged" : run.state, (states.get(run.diverged ? "diverged" : run.state) || 0) + 1);
$("about").textContent = `${facts.runs.length} run${facts.runs.length === 1 ? "" : "s"} in ${facts.root}: ${[...states].map(([name, n]) => `${n} ${name}`).join(", ")} · ${facts.written}`;
$("foot").textContent = `Written by gan-lab ${facts.version} from the run directories alone. This page is one file and loads nothing from anywhere.`;
setTheme(preferred.matches);
refresh();
window.compare = { facts, welch, mean, series }; // for the tests, and for whoever wants the numbers in the console
document.documentElement.dataset.ready = "true";
})().catch((error) => {
  document.getElementById("about").textContent = `This page could not be drawn: ${error.message}`;
  throw error;
});
