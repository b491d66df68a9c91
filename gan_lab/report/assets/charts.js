// Plotly's side: traces of groups and runs, and cards that draw their chart when they come near the screen.
const CAN_HOVER = window.matchMedia("(hover: hover)").matches;
const CONFIG = {
  displaylogo: false,
  responsive: true,
  displayModeBar: CAN_HOVER ? "hover" : false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};

/** Plotly takes text for markup: what comes from a run must not be any. */
const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function axis(more = {}) {
  const common = { gridcolor: ink("line"), linecolor: ink("line"), zeroline: false, tickfont: { size: 11 } };
  return { ...common, automargin: true, ...more };
}

const iterationAxis = (more = {}) => axis({ nticks: 6, tickformat: "~s", ...more });

const MOST_BANDS = 8; // more of them cover each other and the lines

const leastPositive = (values) => values.reduce((a, b) => (b > 0 && b < a ? b : a), Infinity);

/** The axis of values; a logarithmic one has ticks at the decades, or at 1, 2, 5 where there are few. */
function valueAxis(isLog, traces, more = {}) {
  if (!isLog) return axis(more);
  const values = traces.flatMap(({ y }) => y);
  const decades = Math.log10(values.reduce((a, b) => Math.max(a, b), 0) / leastPositive(values));
  const dtick = decades > 1.7 ? Math.ceil(decades / 5) : "D2";
  return axis({ type: "log", dtick, tickformat: "~g", ...more, nticks: undefined });
}

function layout(more = {}) {
  return {
    margin: { l: 48, r: 10, t: 8, b: 34 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    showlegend: false,
    font: { family: "system-ui, sans-serif", size: 12, color: ink("quiet") },
    hovermode: state.show === "runs" || shownGroups().length > MOST_BANDS ? "closest" : "x unified",
    hoverlabel: { bgcolor: ink("card"), bordercolor: ink("line"), font: { color: ink("ink") }, namelength: 40 },
    dragmode: CAN_HOVER ? "zoom" : false,
    ...more,
  };
}

function line(x, y, name, style, more = {}) {
  return {
    type: "scatter",
    mode: x.length > 30 ? "lines" : "lines+markers",
    x,
    y,
    name: safe(name),
    marker: { size: x.length > 1 ? 4 : 8, color: style.colour },
    line: { color: style.colour, width: 2, dash: style.dash },
    hovertemplate: "%{y:.4~g}<extra>%{fullData.name}</extra>",
    ...more,
  };
}

function band(x, bottom, top, style, more = {}) {
  const count = shownGroups().length;
  const share = [[3, 0.16], [10, 0.1], [Infinity, 0.05]].find(([most]) => count <= most)[1];
  return {
    type: "scatter",
    mode: "lines",
    x: [...x, ...x.toReversed()],
    y: [...top, ...bottom.toReversed()],
    fill: "toself",
    fillcolor: faint(style.colour, share),
    line: { width: 0, color: style.colour },
    hoverinfo: "skip",
    ...more,
  };
}

/** A run's own line, which goes through the least and the most of each stretch. */
function runLine(run, name, more) {
  const series = seriesOf(run, name);
  if (!series) return [];
  const isWhole = series.least === series.most;
  const x = isWhole ? series.x : series.x.flatMap((place) => [place, place, place]);
  const y = isWhole ? series.mean : series.x.flatMap((_, i) => [series.least[i], series.most[i], series.mean[i]]);
  const thin = { color: run.style.colour, width: 1.2, dash: run.style.dash };
  return [line(x, y, run.short, run.style, { line: thin, opacity: 0.8, ...more })];
}

/** From a standard error below the mean to one above it. */
function errorBand({ x, mean: middle, error }) {
  const [least, most] = [middle.map((value, i) => value - error[i]), middle.map((value, i) => value + error[i])];
  return error.some(Boolean) ? { x, least, most } : null;
}

/**
 * The traces of a metric: group by group with a band, or run by run.
 *
 * The chart's band is the standard error, or reaches from the least to the most, where `ends` may name others for these.
 * On a logarithmic axis, which has no zero, a band ends a little below the lowest line. Many groups have no bands.
 */
function traces(name, isLog, { error, ends }, more = {}) {
  if (state.show === "runs") return shownRuns().flatMap((run) => runLine(run, name, more));
  const averages = shownGroups()
    .map((group) => ({ group, average: averageOf(group, name) }))
    .filter(({ average }) => average);
  const lowest = isLog ? leastPositive(averages.flatMap(({ average }) => average.mean)) / 3 : -Infinity;
  const banded = averages.length > MOST_BANDS ? [] : averages;
  const bands = banded.flatMap(({ group, average }) => {
    const [least, most] = ends.length ? ends : [name, name];
    const [bottom, top] = error ? Array(2).fill(errorBand(average)) : [averageOf(group, least), averageOf(group, most)];
    if (!bottom || !top) return [];
    const floor = bottom.least.map((value) => Math.max(value, lowest));
    return [band(bottom.x, floor, top.most, group.style, more)];
  });
  const lines = averages.map(({ group, average }) => line(average.x, average.mean, group.label, group.style, more));
  return [...bands, ...lines];
}

/** Builds the figure of a chart over the iterations. */
const overIterations = (chart) => (isLog) => {
  const data = traces(chart.metric, isLog, chart);
  const title = { text: "iteration", font: { size: 11 } };
  return { data, layout: layout({ xaxis: iterationAxis({ title }), yaxis: valueAxis(isLog, data) }) };
};

const charts = [];
const nearness = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const chart = charts.find(({ card }) => card === entry.target);
      chart.isNear = entry.isIntersecting;
      if (chart.isNear && chart.isStale) draw(chart);
    }
  },
  { rootMargin: "300px" },
);

/** Adds a card with a chart. `exists()` says whether there is anything to show, `build(isLog, width)` gives the figure. */
function addChart(parent, { title, log }, exists, build, isWide = false) {
  const node = element("div", { className: "chart", role: "img", ariaLabel: title });
  const chart = { node, build, exists, isLog: log === true, isNear: false, isStale: true };
  const toggle = element("button", { type: "button", textContent: "log", title: "Logarithmic scale" });
  toggle.ariaPressed = String(chart.isLog);
  toggle.onclick = () => {
    chart.isLog = !chart.isLog;
    toggle.ariaPressed = String(chart.isLog);
    draw(chart);
  };
  const head = element("header", {}, element("h3", { textContent: title }), log === null ? null : toggle);
  chart.card = element("div", { className: isWide ? "card wide" : "card" }, head, node);
  parent.append(chart.card);
  charts.push(chart);
  nearness.observe(chart.card);
}

function draw(chart) {
  const built = chart.build(chart.isLog, chart.node.clientWidth);
  chart.node.style.height = built.layout.height ? `${built.layout.height}px` : "";
  chart.isStale = false;
  chart.node.dataset.drawn = built.data.length;
  Plotly.react(chart.node, built.data, built.layout, CONFIG);
}

function redrawCharts() {
  for (const chart of charts) {
    chart.card.hidden = !chart.exists();
    chart.isStale = true;
    if (!chart.card.hidden && chart.isNear) draw(chart);
  }
}
