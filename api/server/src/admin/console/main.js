// The frame: tabs, what stands above all of them, and a look at the node every two seconds.

import { get } from "./api.js";
import { h, time, tone } from "./dom.js";
import { audit } from "./audit.js";
import { fences } from "./fences.js";
import { groups } from "./groups.js";
import { latency } from "./latency.js";
import { log } from "./log.js";
import { overview } from "./overview.js";
import { projections } from "./projections.js";

const EVERY_MS = 2000;
const VIEWS = [
  ["overview", "Overview", overview],
  ["groups", "Groups", groups],
  ["log", "Log", log],
  ["projections", "Projections", projections],
  ["latency", "Latency", latency],
  ["fences", "Fences", fences],
  ["audit", "Audit", audit],
];

const panel = document.getElementById("panel");
const alert = document.getElementById("alert");
const state = document.getElementById("state");
const tabs = new Map();
const views = new Map();
let current;
let timer;

function failed(error) {
  alert.replaceChildren(...(error ? [h("p", { class: "error", role: "alert" }, error.message)] : []));
}

function identify(cluster) {
  const known = {
    node: cluster.node,
    domain: cluster.domain,
    cluster: cluster.cluster.replace(/^0+(?=.{8})/, "…"),
    release: cluster.version,
  };
  const list = Object.entries(known).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))));
  document.getElementById("identity").replaceChildren(...list);
  const word = cluster.readiness.state;
  state.textContent = word.replaceAll("_", " ");
  state.className = `pill ${tone(word)}`;
  document.title = `node ${cluster.node} · Palisade`;
}

async function refresh() {
  clearTimeout(timer);
  const name = current;
  try {
    // What a view is refused says nothing of how the node is.
    const shown = views.get(name).refresh().then(() => null, (error) => error);
    const cluster = await get("cluster");
    identify(cluster);
    failed(await shown);
    document.getElementById("refreshed").textContent = `as of ${time(Date.now())}, node ${cluster.node}`;
    document.body.dataset.shown = name;
  } catch (error) {
    failed(error);
    state.textContent = "no answer";
    state.className = "pill bad";
  }
  if (name === current) {
    clearTimeout(timer);
    timer = setTimeout(refresh, document.hidden ? 5 * EVERY_MS : EVERY_MS);
  }
}

function show(name) {
  current = tabs.has(name) ? name : VIEWS[0][0];
  delete document.body.dataset.shown;
  for (const [of, tab] of tabs) {
    tab.setAttribute("aria-selected", String(of === current));
    tab.tabIndex = of === current ? 0 : -1;
  }
  if (!views.has(current)) {
    const [, , make] = VIEWS.find(([of]) => of === current);
    views.set(current, make(refresh));
  }
  panel.setAttribute("aria-labelledby", `tab-${current}`);
  panel.replaceChildren(views.get(current).root);
  refresh();
}

function step(event) {
  const names = VIEWS.map(([name]) => name);
  const to = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const next = names[(names.indexOf(current) + to + names.length) % names.length];
  location.hash = next;
  tabs.get(next).focus();
}

for (const [name, title] of VIEWS) {
  const tab = h(
    "button",
    { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel", onclick: () => (location.hash = name), onkeydown: step },
    title,
  );
  tabs.set(name, tab);
}
document.getElementById("tabs").append(...tabs.values());
addEventListener("hashchange", () => show(location.hash.slice(1)));
show(location.hash.slice(1));
