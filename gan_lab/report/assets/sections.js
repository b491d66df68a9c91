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

function section(id, title, words) {
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

function summarySection() {
  const part = section(
    "table",
    "Summary",
    "Mean ± standard error over the seeds of the runs that finished. Bold is the best of its column; ≈ is inside " +
      `its noise: Welch's t-test against the best gives p ≥ ${ALPHA} (two-sided, not corrected for several tests). ` +
      "Final is the last evaluation, best the best one of a run; time is training alone, without metrics and samples.",
  );
  refreshers.push(() => {
    const tables = facts.protocols.map((title, protocol) => summaryTable(title, protocol)).filter(Boolean);
    part.body.replaceChildren(...tables, ...mixedNotice());
  });
}

function mixedNotice() {
  const mixed = groups.map(({ label, runs }) => ({ label, keys: settings(runs) })).filter(({ keys }) => keys.length);
  if (!mixed.length) return [];
  const item = ({ label, keys }) => element("li", { textContent: `${label}: ${keys.map(keyName).join(", ")}` });
  const words = "Groups that mix settings, so that their spread is not that of seeds alone:";
  return [element("div", { className: "notice" }, words, element("ul", {}, ...mixed.map(item)))];
}

/** The groups' runs on one data set and judged in one way; null where there are none. */
function summaryTable(title, protocol) {
  const rows = groups
    .map((group) => ({ group, runs: group.runs.filter((run) => run.protocol === protocol) }))
    .filter(({ runs }) => runs.length);
  if (!rows.length) return null;
  const [seeds, ...states] = countColumns(rows);
  const columns = [seeds, ...metricColumns(rows), ...states, timeColumn(rows)];
  const body = rows.map(({ group }, i) => {
    const name = element("td", { title: group.label }, swatch(group.style), ` ${group.label}`);
    return element("tr", {}, name, ...columns.map(({ cells }) => cells[i]));
  });
  return tableOf(["group", ...columns.map(({ head }) => head)], body, title);
}

const textCell = (text) => element("td", { textContent: text });

/** Seeds, states: those of which there is nothing to say are left out. */
function countColumns(rows) {
  const isOther = (run) => !run.finished && !run.diverged && run.state !== "failed";
  const count = (test) => rows.map(({ runs }) => runs.filter(test).length);
  const seeds = rows.map(({ runs }) => new Set(runs.filter((run) => run.finished).map((run) => run.seed)).size);
  const finished = count((run) => run.finished);
  const others = count(isOther);
  const columns = [
    ["seeds", seeds, true],
    ["finished", finished, finished.some((n, i) => n !== seeds[i])],
    ["diverged", count((run) => run.diverged), true],
    ["failed", count((run) => run.state === "failed"), true],
    ["others", others, others.some(Boolean)],
  ];
  return columns.filter(([, , isShown]) => isShown).map(([head, counts]) => ({ head, cells: counts.map(textCell) }));
}

function metricColumns(rows) {
  const isThere = (name) => rows.some(({ runs }) => runs.some((run) => name in run.final));
  return facts.metrics
    .filter(([name]) => isThere(name))
    .flatMap((metric) => ["final", "best"].map((which) => metricColumn(rows, metric, which)));
}

function metricColumn(rows, [name, title, isLow], which) {
  const reached = rows.map(({ runs }) => {
    const values = runs.filter((run) => run.finished && name in run[which]).map((run) => run[which][name]);
    return { values, average: mean(values) };
  });
  const there = reached.filter(({ average }) => average);
  const isBetter = (a, b) => (isLow ? a.average.mean < b.average.mean : a.average.mean > b.average.mean);
  const best = there.length > 1 ? there.reduce((a, b) => (isBetter(b, a) ? b : a)) : null;
  const cells = reached.map((entry) => {
    if (!entry.average) return textCell("–");
    if (entry === best) return element("td", {}, element("strong", { textContent: figure(entry.average) }));
    const verdict = best ? element("small", { textContent: verdictOf(welch(entry.values, best.values)) }) : null;
    return element("td", {}, figure(entry.average), verdict);
  });
  return { head: `${title} ${which} ${isLow ? "↓" : "↑"}`, cells };
}

function verdictOf(p) {
  if (p === null) return "no test";
  if (p >= ALPHA) return `≈ p = ${p.toFixed(2)}`;
  return p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(3)}`;
}

function timeColumn(rows) {
  const cells = rows.map(({ runs }) => {
    const time = mean(runs.filter((run) => run.finished && run.hours !== null).map((run) => run.hours));
    return textCell(time ? duration(time.mean) : "–");
  });
  return { head: "time", cells };
}

// ---- FID and IS

const arrowed = ([, title, isLow]) => `${title} ${isLow ? "↓" : "↑"}`;

function metricsSection() {
  const words = "Lines are means over seeds, bands their standard error.";
  const part = section("metrics", "FID and IS over training", words);
  const cards = cardsIn(part.body);
  for (const metric of facts.metrics) {
    const [name, , isLow] = metric;
    const build = overIterations(name, { isError: true });
    addChart(cards, { title: arrowed(metric), isLog: isLow ? false : null, exists: () => anyHas(name), build });
  }
  refreshers.push(() => part.show(facts.metrics.some(([name]) => anyHas(name))));
}

// ---- A metric against a setting

const isCopy = (runs, key, other) => runs.every((run) => valueOf(run, key) === valueOf(run, other));

/** What tells apart the lines of a chart over `key`: the other settings, but for those that only follow it. */
function settingsBeside(runs, key) {
  const axis = (one) => one.split(".")[0];
  const isDecided = (other) => axis(other) === axis(key) && settings(runs, [key, other]).length < 2;
  const follows = (other) => isCopy(runs, key, other) || (!AXIS_KEYS.includes(other) && isDecided(other));
  return settings(runs, facts.settings.filter((other) => other !== key && !follows(other)));
}

/** Runs that differ in a numeric `key` and the seed alone, as `{label, runs}`. */
function linesOver(runs, key) {
  const keys = settingsBeside(runs, key);
  const found = new Map();
  for (const run of runs.filter((one) => isNumber(valueOf(one, key)))) {
    const id = valuesOf(run, keys);
    if (!found.has(id)) found.set(id, { label: labelOf(run, keys), runs: [] });
    found.get(id).runs.push(run);
  }
  const lines = [...found.values()].filter((entry) => distinctValues(entry.runs, key).length > 1);
  return lines.sort((a, b) => naturalOrder(a.label, b.label));
}

function sweptKeys() {
  const isNumeric = (key) => distinctValues(facts.runs, key).every((value) => isNumber(value) || value === "–");
  const swept = facts.settings.filter((key) => isNumeric(key) && linesOver(facts.runs, key).length);
  return swept.filter((key, i) => !swept.slice(0, i).some((other) => isCopy(facts.runs, key, other)));
}

function scaleSection() {
  const swept = sweptKeys();
  if (!swept.length || !facts.metrics.length) return;
  const isScale = swept.includes("norm.scale");
  const words = "A point is the mean over the seeds that finished, its bar the standard error.";
  const part = section("scale", isScale ? "Metric against scale" : "Metric against a setting", words);
  const against = element("select", {}, ...options(swept));
  against.value = isScale ? "norm.scale" : swept[0];
  const which = element("select", {}, ...options(["final", "best"]));
  against.onchange = which.onchange = redrawCharts;
  part.body.append(tools(element("label", {}, "Against ", against), element("label", {}, "Value ", which)));
  const cards = cardsIn(part.body);
  for (const metric of facts.metrics) {
    const [name, , isLow] = metric;
    const exists = () => shownRuns().some((run) => name in run.final);
    const build = (isLog) => againstSetting(name, against.value, which.value, isLog);
    addChart(cards, { title: `${arrowed(metric)} against the setting`, isLog: isLow ? false : null, exists, build });
  }
  refreshers.push(() => part.show(shownRuns().length > 0));
}

function againstSetting(metric, key, which, isLog) {
  const lines = linesOver(shownRuns(), key);
  const styles = stylesFor(lines.map(({ label }) => label));
  const data = lines.map(({ label, runs }) => {
    const style = styles.get(label);
    const points = distinctValues(runs, key)
      .map((value) => ({ value, runs: runs.filter((run) => valueOf(run, key) === value && run.finished) }))
      .map(({ value, runs: done }) => ({
        value: Number(value),
        average: mean(done.filter((run) => metric in run[which]).map((run) => run[which][metric])),
      }))
      .filter(({ average }) => average);
    const errors = points.map(({ average }) => average.error ?? 0);
    const [x, y] = [points.map(({ value }) => value), points.map(({ average }) => average.mean)];
    return line(x, y, label, style, {
      mode: "lines+markers",
      marker: { size: 7, color: style.colour },
      error_y: { type: "data", array: errors, color: style.colour, thickness: 1.4, width: 3 },
    });
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

function samplesSection() {
  const hasGrids = (run) => (run.grids ?? []).length > 0;
  if (!facts.runs.some(hasGrids)) return;
  const part = section(
    "samples",
    "Samples",
    "The first images of each run's grid, from the same latents throughout; as many as this page has room for.",
  );
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

// ---- Training as a whole

function trainingSection() {
  const part = section(
    "training",
    "Losses, slopes and gradients",
    "Long records are cut into stretches: lines are means over a stretch and over seeds, bands reach from the least " +
      "to the most of any iteration and seed, so that every spike shows. Slopes are ‖∇ₓD(x)‖ over a batch.",
  );
  const slopes = (kind) => ({ ends: [`slope/${kind}_min`, `slope/${kind}_max`] });
  const shown = [
    ["loss/d", "Discriminator's loss", false],
    ["loss/g", "Generator's loss", false],
    ["loss/penalty", "Penalty", false],
    ["score/real", "Score of real images", null],
    ["score/fake", "Score of generated images", null],
    ["grad_norm/d", "Gradient norm of the discriminator", true],
    ["grad_norm/g", "Gradient norm of the generator", true],
    ["slope/real_mean", "Slopes at real images", true, slopes("real")],
    ["slope/fake_mean", "Slopes at generated images", true, slopes("fake")],
    ["lipschitz/d", "Lipschitz bound of the discriminator", true],
  ];
  const cards = cardsIn(part.body);
  for (const [name, title, isLog, how] of shown) {
    addChart(cards, { title, isLog, exists: () => anyHas(name), build: overIterations(name, how) });
  }
  refreshers.push(() => part.show(shown.some(([name]) => anyHas(name))));
}

// ---- Layer by layer

const LAYERED = ["weight_var/", "sigma/", "grad_norm/d/", "gamma/"];
const MANY_LAYERS = 12;

function layersSection() {
  const names = new Set(facts.runs.flatMap((run) => [...run.series.keys()]));
  const layers = new Set();
  for (const name of names) {
    const prefix = LAYERED.find((one) => name.startsWith(one));
    if (prefix) layers.add(name.slice(prefix.length));
  }
  if (!layers.size) return;
  const part = section(
    "layers",
    "Layer by layer",
    "The paper's argument: a norm bounds every layer's gradient (dotted: the theory's bound, where it was logged) " +
      "and holds its weight variance near an initialization's target (grey: dashed LeCun 1/fan_in, dotted Xavier " +
      "2/(fan_in + fan_out), dash-dotted Kaiming 2/fan_in).",
  );
  const every = layers.size > MANY_LAYERS ? `${MANY_LAYERS} of ${layers.size} layers` : "all layers";
  const choice = element("select", {}, element("option", { value: "", textContent: every }), ...options([...layers]));
  choice.onchange = redrawCharts;
  part.body.append(tools(element("label", {}, "Layers ", choice)));
  const cards = cardsIn(part.body);
  const shownLayers = (prefix) => {
    const isChosen = (layer) => !choice.value || layer === choice.value;
    const there = [...layers].filter((layer) => isChosen(layer) && anyHas(prefix + layer));
    if (there.length <= MANY_LAYERS) return there;
    const step = (there.length - 1) / (MANY_LAYERS - 1);
    return Array.from({ length: MANY_LAYERS }, (_, i) => there[Math.round(i * step)]);
  };
  const add = (prefix, title, isLog, besides) => {
    const build = (log, width) => layerByLayer(prefix, shownLayers(prefix), besides, log, width);
    addChart(cards, { title, isLog, isWide: true, exists: () => shownLayers(prefix).length > 0, build });
  };
  add("grad_norm/d/", "Gradient norms and their bounds", true, boundLines);
  add("sigma/", "Sigmas", false, () => []);
  add("weight_var/", "Weight variances and the initializations' targets", true, targetLines);
  add("gamma/", "Learned scales", false, () => []);
  refreshers.push(() => part.show(LAYERED.some((prefix) => shownLayers(prefix).length)));
}

/** Small charts, one a layer, in one figure; `besides` gives more traces of a layer. */
function layerByLayer(prefix, layers, besides, isLog, width) {
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
    const data = [...besides(layer, more), ...traces(prefix + layer, isLog, { more: { ...more, mode: "lines" } })];
    figure.data.push(...data);
    figure.layout[`xaxis${n}`] = iterationAxis(small);
    figure.layout[`yaxis${n}`] = valueAxis(isLog, data, small);
    const corner = { xref: `x${n} domain`, yref: `y${n} domain`, x: 0, y: 1, xanchor: "left", yanchor: "bottom" };
    const name = { text: safe(layer), showarrow: false, font: { size: 12, color: ink("ink") } };
    figure.layout.annotations.push({ ...name, ...corner });
  });
  return figure;
}

function boundLines(layer, more) {
  return shownGroups().flatMap((group) => {
    const average = averageOf(group, `grad_bound/d/${layer}`);
    if (!average) return [];
    const dotted = { color: group.style.colour, width: 1.3, dash: "dot" };
    const mode = average.x.length > 1 ? "lines" : "markers";
    return [line(average.x, average.mean, `${group.label}, bound`, group.style, { ...more, mode, line: dotted })];
  });
}

/** The targets of the initializations, where the runs shown agree on them. */
function targetLines(layer, more) {
  const places = shownRuns().map((run) => seriesOf(run, `weight_var/${layer}`)?.x ?? []).filter((x) => x.length);
  const span = [Math.min(...places.map((x) => x[0])), Math.max(...places.map((x) => x.at(-1)))];
  return ["LeCun", "Xavier", "Kaiming"].flatMap((rule, i) => {
    const known = new Set(shownRuns().map((run) => run.targets.get(layer)?.[i]).filter(Number.isFinite));
    if (known.size !== 1) return [];
    const [target] = known;
    const grey = { color: ink("quiet"), width: 1.2, dash: ["dash", "dot", "dashdot"][i] };
    const style = { colour: grey.color, dash: grey.dash };
    return [line(span, [target, target], rule, style, { ...more, mode: "lines", line: grey })];
  });
}

// ---- What differs, what is damaged

function differencesSection() {
  const words = "The config keys that are not the same in all these runs, and nothing else.";
  const part = section("config", "What differs", words);
  refreshers.push(() => {
    const runs = shownRuns();
    const columns = new Map(); // keys of which one is a copy of another share a column
    for (const key of facts.differing.filter((one) => distinctValues(runs, one).length > 1)) {
      const content = JSON.stringify(runs.map((run) => valueOf(run, key)));
      columns.set(content, [...(columns.get(content) ?? []), key]);
    }
    const keys = [...columns.values()];
    const rows = runs.map((run) => {
      const word = run.diverged ? "diverged" : run.state;
      const badge = run.finished ? null : element("span", { className: "state", textContent: word });
      const title = run.reason ? `${run.name}: ${run.reason}` : run.name;
      const name = element("td", { title }, swatch(run.style), ` ${run.shortName}`, badge);
      return element("tr", {}, name, ...keys.map(([key]) => textCell(valueOf(run, key))));
    });
    part.body.replaceChildren(tableOf(["run", ...keys.map((same) => same.join(" = "))], rows, "", true));
  });
}

function damagedSection() {
  if (!facts.damaged.length) return;
  const part = section("damaged", "Damaged", "What could not be read was left out; the rest is complete.");
  const items = facts.damaged.map(([name, reason]) => element("li", { textContent: `${name}: ${reason}` }));
  part.body.append(element("div", { className: "notice" }, element("ul", {}, ...items)));
}
