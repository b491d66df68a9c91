// The sections of the page; each registers what has to be done when groups, filters or colours change.
const refreshers = [];

/** An element; what comes from a run may only be given as text. */
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) node[name] = value;
  node.append(...children.filter((child) => child !== null));
  return node;
}

const options = (values, name = (value) => value) =>
  values.map((value) => element("option", { value, textContent: name(value) }));

function section({ id, title, words }) {
  const body = element("div");
  const intro = element("p", { className: "quiet", textContent: words });
  const node = element("section", { id, ariaLabel: title }, element("h2", { textContent: title }), intro, body);
  const link = element("a", { href: `#${id}`, textContent: title });
  document.getElementById("results").append(node);
  document.getElementById("nav").append(link);
  const show = (is) => {
    node.hidden = !is;
    link.hidden = !is;
  };
  return { body, show };
}

function cardsIn(body) {
  const cards = element("div", { className: "cards" });
  body.append(cards);
  return cards;
}

function tools(...children) {
  return element("div", { className: "tools" }, ...children);
}

function swatch({ colour, dash }) {
  const namespace = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(namespace, "svg");
  const stroke = document.createElementNS(namespace, "line");
  const pattern = { solid: "none", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" }[dash];
  const set = (node, attributes) => {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  };
  set(picture, { width: 22, height: 8, "aria-hidden": "true", class: "swatch" });
  set(stroke, { x1: 0, x2: 22, y1: 4, y2: 4, stroke: colour, "stroke-width": 3, "stroke-dasharray": pattern });
  picture.append(stroke);
  return picture;
}

function tableOf(heads, rows, caption = "", isWords = false) {
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col", textContent: text })));
  const title = caption ? element("caption", { textContent: caption }) : null;
  const table = element("table", {}, title, element("thead", {}, head), element("tbody", {}, ...rows));
  return element("div", { className: isWords ? "scroll words" : "scroll", tabIndex: 0 }, table);
}

// ---- The summary

function tableSection(described) {
  const part = section(described);
  refreshers.push(() => {
    const tables = facts.partitions[grouping().partition].tables.map(summaryTable).filter(Boolean);
    const copies = facts.copies ? [element("div", { className: "notice", textContent: facts.copies })] : [];
    part.body.replaceChildren(...tables, ...notices(), ...copies);
  });
}

function notices() {
  const isWhole = ({ all, runs }) => all.length === runs.length;
  const mixed = groups.filter((group) => isWhole(group) && group.mixes);
  const parts = groups.filter((group) => !isWhole(group));
  const item = (textContent) => element("li", { textContent });
  const counted = ({ label, all, runs }) => `${label}: ${runs.length} of ${all.length} runs`;
  return [
    [facts.words.mixed, mixed.map(({ label, mixes }) => `${label}: ${mixes}`)],
    [facts.words.part, parts.map(counted)],
  ]
    .filter(([, lines]) => lines.length)
    .map(([words, lines]) => element("div", { className: "notice" }, words, element("ul", {}, ...lines.map(item))));
}

const textCell = (text) => element("td", { textContent: text });
const isKept = (i) => facts.runs[i].isKept;

/** The rows that the filter leaves; null without any. Where it splits a group, nothing is tested or called the best. */
function summaryTable({ title, head, columns, rows }) {
  const left = rows
    .filter(([, members]) => members.some(isKept))
    .map(([id, , counted, cells]) => ({ group: groups.find((one) => one.id === id), counted, cells }));
  if (!left.length) return null;
  const areWhole = left.every(({ counted }) => counted.every(isKept));
  // What is left of each column's ranking: a group has a verdict against each of those before it.
  const best = columns.map((_, i) => {
    const ranks = left.map(({ cells }) => cells[i + 1][1]?.length ?? Infinity);
    return areWhole && ranks.filter(Number.isFinite).length > 1 ? Math.min(...ranks) : null;
  });
  const body = left.map(({ group, counted, cells }) => {
    const name = element("td", { title: group.label }, swatch(group.style), ` ${group.label}`);
    const shown = counted.every(isKept)
      ? cells.map((cell, i) => (typeof cell === "string" ? textCell(cell) : figureCell(cell, best[i - 1])))
      : cells.map((_, i) => textCell(columns[i - 1] ? partOf(counted.filter(isKept), columns[i - 1]) : "–"));
    return element("tr", {}, name, ...shown);
  });
  return tableOf(head, body, title);
}

/** What is left of a figure by a filter that no table was made for. */
function partOf(runs, [metric, which]) {
  const scores = runs.map((i) => facts.runs[i].scores[which][metric]).filter((score) => score !== undefined);
  if (!scores.length) return "–";
  const { mean: average, error } = mean(scores);
  return average.toPrecision(4) + (error === null ? "" : ` ± ${error.toPrecision(2)}`);
}

function figureCell([text, verdicts], best) {
  if (!verdicts || best === null) return textCell(text);
  if (verdicts.length === best) return element("td", {}, element("strong", { textContent: text }));
  return element("td", {}, text, element("small", { textContent: verdicts[best] }));
}

// ---- Charts over the iterations

function curvesSection(described) {
  const part = section(described);
  const cards = cardsIn(part.body);
  for (const chart of described.charts) {
    addChart(cards, chart, () => anyHas(chart.metric), overIterations(chart));
  }
  refreshers.push(() => part.show(described.charts.some(({ metric }) => anyHas(metric))));
}

// ---- A metric against a setting

function scaleSection(described) {
  const part = section(described);
  const swept = new Map(facts.swept);
  const against = element("select", {}, ...options([...swept.keys()]));
  const which = element("select", {}, ...options(Object.keys(facts.runs[0].scores)));
  against.onchange = which.onchange = redrawCharts;
  part.body.append(tools(element("label", {}, "Against ", against), element("label", {}, "Value ", which)));
  const cards = cardsIn(part.body);
  for (const chart of described.charts) {
    const scoreOf = (run) => run.scores[which.value][chart.metric];
    const exists = () => shownRuns().some((run) => scoreOf(run) !== undefined);
    const build = (isLog) => againstSetting(scoreOf, against.value, swept.get(against.value), isLog);
    addChart(cards, chart, exists, build);
  }
  refreshers.push(() => part.show(shownRuns().length > 0));
}

function againstSetting(scoreOf, key, lines, isLog) {
  const shown = new Set(shownRuns());
  const styles = stylesFor(lines.map(([label]) => label));
  const data = lines.flatMap(([label, places]) => {
    const style = styles.get(label);
    const points = places.flatMap(([value, members]) => {
      const runs = members.map((i) => facts.runs[i]).filter((run) => shown.has(run));
      const scores = runs.map(scoreOf).filter((score) => score !== undefined);
      return scores.length ? [{ value, average: mean(scores) }] : [];
    });
    if (!points.length) return [];
    const errors = points.map(({ average }) => average.error ?? 0);
    const [x, y] = [points.map(({ value }) => value), points.map(({ average }) => average.mean)];
    const bars = { type: "data", array: errors, color: style.colour, thickness: 1.4, width: 3 };
    return [line(x, y, label, style, { mode: "lines+markers", marker: { size: 7, color: style.colour }, error_y: bars })];
  });
  const places = data.flatMap(({ x }) => x);
  const isWide = Math.min(...places) > 0 && Math.max(...places) / Math.min(...places) > 20;
  const legend = { orientation: "h", y: 1.02, yanchor: "bottom", font: { color: ink("ink") } };
  const title = { text: safe(key), font: { size: 11 } };
  const xaxis = axis({ title, type: isWide ? "log" : "linear" });
  const margin = { l: 48, r: 10, t: 34, b: 34 };
  return { data, layout: layout({ showlegend: true, legend, margin, xaxis, yaxis: valueAxis(isLog, data) }) };
}

// ---- Samples

const thousands = (count) => count.toLocaleString("en");

function samplesSection(described) {
  const hasGrids = (run) => (run.grids ?? []).length > 0;
  const part = section(described);
  const slider = element("input", { type: "range", min: 0, id: "slider", ariaLabel: "Iteration of the samples" });
  const shown = element("output");
  const who = element("select", { id: "who" }, ...options(["one run of each group", "every run"]));
  const grid = element("div", { className: "grids" });
  const name = element("label", { htmlFor: "slider", textContent: "iteration" });
  part.body.append(tools(element("label", {}, "Show ", who), name, slider, shown), grid);
  let steps = [];
  let figures = [];

  const turn = () => {
    const iteration = steps[slider.value] ?? 0;
    shown.textContent = slider.ariaValueText = thousands(iteration);
    for (const { run, image, when } of figures) {
      const [at, start, size] = run.grids.findLast(([place]) => place <= iteration) ?? run.grids[0];
      image.src = imageUrl(start, size);
      when.textContent = `seed ${run.seed}, iteration ${thousands(at)}`;
    }
  };
  const fill = () => {
    const chosen = shownGroups().flatMap((group) => {
      const runs = group.runs.filter(hasGrids);
      return (who.value === "every run" ? runs : runs.slice(0, 1)).map((run) => ({ group, run }));
    });
    const before = steps[slider.value] ?? Infinity;
    const iterations = chosen.flatMap(({ run }) => run.grids.map(([iteration]) => iteration));
    steps = [...new Set(iterations)].sort((a, b) => a - b);
    slider.max = Math.max(0, steps.length - 1);
    slider.value = steps.filter((iteration) => iteration <= before).length - 1;
    figures = chosen.map(({ group, run }) => {
      const image = element("img", { alt: `Samples of ${run.name}`, decoding: "async" });
      const when = element("small");
      const caption = element("figcaption", {}, swatch(run.style), ` ${group.label}`, when);
      return { run, image, when, figure: element("figure", { title: run.name }, image, caption) };
    });
    grid.replaceChildren(...figures.map((entry) => entry.figure));
    turn();
    part.show(chosen.length > 0);
  };
  slider.oninput = turn;
  who.onchange = fill;
  refreshers.push(fill);
}

// ---- Layer by layer

const MANY_LAYERS = 12;

function layersSection(described) {
  const { layers } = facts;
  const part = section(described);
  const every = layers.length > MANY_LAYERS ? `${MANY_LAYERS} of ${layers.length} layers` : "all layers";
  const choice = element("select", {}, element("option", { value: "", textContent: every }), ...options(layers));
  choice.onchange = redrawCharts;
  part.body.append(tools(element("label", {}, "Layers ", choice)));
  const cards = cardsIn(part.body);
  const shownLayers = (prefix) => {
    const isChosen = (layer) => !choice.value || layer === choice.value;
    const there = layers.filter((layer) => isChosen(layer) && anyHas(prefix + layer));
    if (there.length <= MANY_LAYERS) return there;
    const step = (there.length - 1) / (MANY_LAYERS - 1);
    return Array.from({ length: MANY_LAYERS }, (_, i) => there[Math.round(i * step)]);
  };
  for (const chart of described.charts) {
    const build = (isLog, width) => layerByLayer(chart, shownLayers(chart.metric), isLog, width);
    addChart(cards, chart, () => shownLayers(chart.metric).length > 0, build, true);
  }
  refreshers.push(() => part.show(described.charts.some(({ metric }) => shownLayers(metric).length)));
}

/** Small charts, one a layer, in one figure. */
function layerByLayer(chart, layers, isLog, width) {
  const isNarrow = width < 500;
  const columns = Math.max(1, Math.min(layers.length, Math.floor(width / (isNarrow ? 160 : 250))));
  const rows = Math.ceil(layers.length / columns);
  const figure = {
    data: [],
    layout: layout({
      hovermode: "closest",
      grid: { rows, columns, pattern: "independent", xgap: isNarrow ? 0.3 : 0.17, ygap: 0.36 },
      annotations: [],
      height: rows * (layers.length === 1 ? 340 : 165) + 30,
      margin: { l: 40, r: 8, t: 24, b: 24 },
    }),
  };
  const small = { nticks: 4, tickfont: { size: 10 }, automargin: false };
  layers.forEach((layer, i) => {
    const n = i ? i + 1 : "";
    const more = { xaxis: `x${n}`, yaxis: `y${n}` };
    const data = [
      ...(chart.bound ? boundLines(chart.bound + layer, more) : []),
      ...(chart.targets ? targetLines(chart.metric, layer, more) : []),
      ...traces(chart.metric + layer, isLog, chart, { ...more, mode: "lines" }),
    ];
    figure.data.push(...data);
    figure.layout[`xaxis${n}`] = iterationAxis(small);
    figure.layout[`yaxis${n}`] = valueAxis(isLog, data, small);
    const corner = { xref: `x${n} domain`, yref: `y${n} domain`, x: 0, y: 1, xanchor: "left", yanchor: "bottom" };
    const name = { text: safe(layer), showarrow: false, font: { size: 12, color: ink("ink") } };
    figure.layout.annotations.push({ ...name, ...corner });
  });
  return figure;
}

function boundLines(name, more) {
  return shownGroups().flatMap((group) => {
    const average = averageOf(group, name);
    if (!average) return [];
    const dotted = { color: group.style.colour, width: 1.3, dash: "dot" };
    const mode = average.x.length > 1 ? "lines" : "markers";
    return [line(average.x, average.mean, `${group.label}, bound`, group.style, { ...more, mode, line: dotted })];
  });
}

/** The targets of the initializations, where the runs shown agree on them. */
function targetLines(prefix, layer, more) {
  const places = shownRuns().map((run) => seriesOf(run, prefix + layer)?.x ?? []).filter((x) => x.length);
  const span = [Math.min(...places.map((x) => x[0])), Math.max(...places.map((x) => x.at(-1)))];
  return facts.targets.flatMap((rule, i) => {
    const known = new Set(shownRuns().map((run) => run.targets.get(layer)?.[i]).filter(Number.isFinite));
    if (known.size !== 1) return [];
    const [target] = known;
    const grey = { color: ink("quiet"), width: 1.2, dash: ["dash", "dot", "dashdot"][i] };
    const style = { colour: grey.color, dash: grey.dash };
    return [line(span, [target, target], rule, style, { ...more, mode: "lines", line: grey })];
  });
}

// ---- What differs, what is damaged

function configSection(described) {
  const part = section(described);
  refreshers.push(() => {
    const runs = shownRuns();
    const differs = ([, key]) => new Set(runs.map((run) => valueOf(run, key))).size > 1;
    const columns = facts.columns.filter(differs);
    const rows = runs.map((run) => {
      const badge = run.badge ? element("span", { className: "state", textContent: run.badge }) : null;
      const name = element("td", { title: run.title }, swatch(run.style), ` ${run.short}`, badge);
      return element("tr", {}, name, ...columns.map(([, key]) => textCell(valueOf(run, key))));
    });
    part.body.replaceChildren(tableOf(["run", ...columns.map(([head]) => head)], rows, "", true));
  });
}

/** Of the grouping at first, whatever is grouped or filtered later. */
function differencesSection(described) {
  const part = section(described);
  const tables = facts.differences.map(([title, head, rows]) => {
    const lines = rows.map(([name, ...cells]) => {
      const first = element("th", { scope: "row", textContent: name });
      return element("tr", {}, first, ...cells.map(textCell));
    });
    return tableOf(head, lines, title);
  });
  part.body.append(...tables);
}

function damagedSection(described) {
  const part = section(described);
  const items = facts.damaged.map(([name, reason]) => element("li", { textContent: `${name}: ${reason}` }));
  part.body.append(element("div", { className: "notice" }, element("ul", {}, ...items)));
}

// How each section is drawn, by its id.
const DRAW = {
  table: tableSection,
  metrics: curvesSection,
  scale: scaleSection,
  samples: samplesSection,
  training: curvesSection,
  layers: layersSection,
  config: configSection,
  differences: differencesSection,
  damaged: damagedSection,
};
