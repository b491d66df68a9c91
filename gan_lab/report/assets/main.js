// The controls, and what happens when the page opens.
const byId = (id) => document.getElementById(id);

function refresh() {
  regroup();
  showLegend();
  for (const again of refreshers) again();
  redrawCharts();
}

function showLegend() {
  const chips = groups.map((group) => {
    const count = element("small", { textContent: group.runs.length });
    const chip = element("button", { type: "button", className: "chip" }, swatch(group.style), group.label, count);
    chip.ariaPressed = String(!state.hidden.has(group.id));
    chip.onclick = () => {
      if (!state.hidden.delete(group.id)) state.hidden.add(group.id);
      const place = groups.indexOf(group);
      refresh();
      byId("legend").children[place].focus({ preventScroll: true });
    };
    return chip;
  });
  const nothing = element("span", { className: "quiet", textContent: "The filter leaves no run." });
  byId("legend").replaceChildren(...(chips.length ? chips : [nothing]));
}

/** Offers every config key, those that differ first; `chosen` is told the key, or null for the first option. */
function offerKeys(select, first, chosen) {
  const same = [...facts.keys.keys()].filter((key) => !facts.differing.includes(key));
  const differ = facts.keys.has("state") ? facts.differing : [...facts.differing, "state"];
  const option = (key) => element("option", { value: key, textContent: keyName(key) });
  select.replaceChildren(
    element("option", { value: "", textContent: first }),
    element("optgroup", { label: "differ" }, ...differ.map(option)),
    element("optgroup", { label: "the same in all runs" }, ...same.map(option)),
  );
  select.onchange = () => chosen(select.selectedIndex ? select.value : null);
}

function showFilters() {
  const fieldsets = [...state.filters].map(([key, excluded]) => {
    const chips = distinctValues(facts.runs, key).map((value) => {
      const chip = element("button", { type: "button", className: "chip", textContent: value });
      chip.ariaPressed = String(!excluded.has(value));
      chip.onclick = () => {
        if (!excluded.delete(value)) excluded.add(value);
        chip.ariaPressed = String(!excluded.has(value));
        refresh();
      };
      return chip;
    });
    const remove = element("button", { type: "button", className: "chip", textContent: "remove" });
    remove.ariaLabel = `Remove the filter by ${key}`;
    remove.onclick = () => {
      state.filters.delete(key);
      showFilters();
      refresh();
      byId("filter").focus();
    };
    const name = element("span", { textContent: keyName(key) });
    return element("div", { className: "filter", role: "group", ariaLabel: key }, name, ...chips, remove);
  });
  byId("filters").replaceChildren(...fieldsets);
}

function setUpControls() {
  offerKeys(byId("by"), "every setting that differs", (key) => {
    state.by = key === null ? null : [key];
    state.hidden.clear();
    refresh();
  });
  offerKeys(byId("colour"), "group", (key) => {
    state.colour = key ?? "";
    refresh();
  });
  offerKeys(byId("filter"), "choose a key…", (key) => {
    if (key !== null && !state.filters.has(key)) state.filters.set(key, new Set());
    byId("filter").selectedIndex = 0;
    showFilters();
  });
  byId("show").onchange = () => {
    state.show = byId("show").value;
    refresh();
  };
  if (facts.by) {
    state.by = facts.by;
    const [key] = facts.by;
    if (facts.by.length === 1) byId("by").value = key;
    else byId("by").options[0].textContent = facts.by.map(keyName).join(", ");
  }
}

function setTheme(isDark) {
  state.dark = isDark;
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  byId("theme").textContent = isDark ? "Light" : "Dark";
}

function setUpTheme() {
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  const change = (isDark) => {
    setTheme(isDark);
    refresh();
  };
  setTheme(preferred.matches);
  preferred.onchange = () => change(preferred.matches);
  byId("theme").onclick = () => change(!state.dark);
}

function describe() {
  const counts = new Map();
  for (const run of facts.runs) {
    const word = run.diverged ? "diverged" : run.state;
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const states = [...counts].map(([word, count]) => `${count} ${word}`).join(", ");
  const runs = `${facts.runs.length} run${facts.runs.length === 1 ? "" : "s"}`;
  byId("about").textContent = `${runs} in ${facts.root}: ${states} · ${facts.written}`;
  byId("foot").textContent =
    `Written by gan-lab ${facts.version} from the run directories alone. This page loads nothing from anywhere.`;
}

async function open() {
  if (typeof DecompressionStream === "undefined" || !Array.prototype.toReversed) {
    throw new Error("this browser is too old for it, a newer one opens it");
  }
  const [data, plotly] = await Promise.all([inflate("data"), inflate("plotly")]);
  unpack(data);
  document.head.append(element("script", { textContent: new TextDecoder().decode(plotly) }));
  describe();
  setUpTheme();
  setUpControls();
  summarySection();
  metricsSection();
  scaleSection();
  samplesSection();
  trainingSection();
  layersSection();
  differencesSection();
  damagedSection();
  refresh();

  window.addEventListener("beforeprint", () => {
    charts.filter(({ card, isStale }) => isStale && !card.hidden).forEach(draw);
  });
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's address bar changes the height alone
    width = window.innerWidth;
    redrawCharts();
  });
  window.compare = { facts, welch, mean, seriesOf }; // for the tests, and for whoever wants the numbers
  document.documentElement.dataset.ready = "true";
}

open().catch((error) => {
  byId("about").textContent = `This page cannot be shown: ${error.message}`;
  throw error;
});
