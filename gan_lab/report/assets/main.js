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

/** Offers every config key, those that differ first; `chosen` is told the key, or nothing for the first option. */
function offerKeys(select, first, chosen) {
  const keys = [...facts.keys.values()];
  const options = (some) => some.map(({ key, name }) => element("option", { value: key, textContent: name }));
  select.replaceChildren(
    element("option", { value: "", textContent: first }),
    element("optgroup", { label: "differ" }, ...options(keys.filter(({ differs }) => differs))),
    element("optgroup", { label: "the same in all runs" }, ...options(keys.filter(({ differs }) => !differs))),
  );
  select.onchange = () => chosen(select.value);
}

function showFilters() {
  const fieldsets = [...state.filters].map(([key, excluded]) => {
    const { name, values } = facts.keys.get(key);
    const chips = values.map((value) => {
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
    const heading = element("span", { textContent: name });
    return element("div", { className: "filter", role: "group", ariaLabel: key }, heading, ...chips, remove);
  });
  byId("filters").replaceChildren(...fieldsets);
}

function setUpControls() {
  offerKeys(byId("by"), facts.default.name, (key) => {
    state.by = key;
    state.hidden.clear();
    refresh();
  });
  offerKeys(byId("colour"), "group", (key) => {
    state.colour = key;
    refresh();
  });
  offerKeys(byId("filter"), "choose a key…", (key) => {
    if (key && !state.filters.has(key)) state.filters.set(key, new Set());
    byId("filter").selectedIndex = 0;
    showFilters();
  });
  byId("show").onchange = () => {
    state.show = byId("show").value;
    refresh();
  };
  byId("by").value = state.by = facts.by;
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

async function open() {
  if (typeof DecompressionStream === "undefined" || !Array.prototype.toReversed) {
    throw new Error("this browser is too old for it, a newer one opens it");
  }
  const [data, plotly] = await Promise.all([inflate("data"), inflate("plotly")]);
  unpack(data);
  document.head.append(element("script", { textContent: new TextDecoder().decode(plotly) }));
  byId("about").textContent = facts.about;
  byId("foot").textContent = facts.foot;
  setUpTheme();
  setUpControls();
  for (const described of facts.sections) DRAW[described.id](described);
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
  window.compare = { facts, mean, seriesOf }; // for the tests, and for whoever wants the numbers
  document.documentElement.dataset.ready = "true";
}

open().catch((error) => {
  byId("about").textContent = `This page cannot be shown: ${error.message}`;
  throw error;
});
