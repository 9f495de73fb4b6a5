// A plot of lines over time, made by hand of SVG: gridlines, a legend with the last values, a crosshair, and
// the same numbers as a table.

import { h, s, time } from "./dom.js";

const WIDTH = 640;
const HEIGHT = 210;
const LEFT = 64;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 24;
const ROWS_MAX = 30;
/** Plots whose numbers somebody looks at: they stay open when it is drawn anew. */
const opened = new Set();

/** The least of 1, 2 and 5 times a power of ten that is not below. */
function round(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => value <= step * 1.0001);
}

/** The lines of one series; where there is no value, there is none. */
function pieces(points, x, y) {
  const lines = [];
  let line = [];
  for (const [at, value] of points) {
    if (value === null) {
      if (line.length > 0) lines.push(line);
      line = [];
    } else {
      line.push([x(at), y(value)]);
    }
  }
  if (line.length > 0) lines.push(line);
  return lines;
}

const path = (line) => line.map(([x, y], at) => `${at === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** series: [{ name, of: point => number or null }]; points have at_ms; format writes a value. */
export function plot(title, points, series, format) {
  const from = points.length > 0 ? points[0].at_ms : 0;
  const until = points.length > 1 ? points[points.length - 1].at_ms : from + 1;
  const values = series.map(({ of }) => points.map((point) => [point.at_ms, of(point)]));
  const most = Math.max(0, ...values.flat().map(([, value]) => value ?? 0));
  const step = round(most / 4 || 0.25);
  const top = Math.max(step, step * Math.ceil(most / step));
  const x = (at) => LEFT + ((at - from) / (until - from || 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);

  const grid = [];
  for (let value = 0; value <= top * 1.0001; value += step) {
    const at = y(value);
    grid.push(
      s("line", { class: value === 0 ? "axis" : "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at }),
      s("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, format(value)),
    );
  }
  const ticks = points.length > 1 ? [0, 0.25, 0.5, 0.75, 1] : [];
  for (const part of ticks) {
    const anchor = part === 0 ? "start" : part === 1 ? "end" : "middle";
    const at = from + part * (until - from);
    grid.push(s("text", { x: x(at), y: HEIGHT - 6, "text-anchor": anchor }, time(at)));
  }

  const shapes = values.flatMap((of, number) =>
    pieces(of, x, y).flatMap((line) => {
      if (line.length === 1) {
        return [s("circle", { class: `d${number}`, cx: line[0][0], cy: line[0][1], r: 3 })];
      }
      const below = `L${line[line.length - 1][0]} ${y(0)}L${line[0][0]} ${y(0)}Z`;
      const area = number === 0 ? [s("path", { class: "area a0", d: path(line) + below })] : [];
      return [...area, s("path", { class: `line s${number}`, d: path(line) })];
    }),
  );

  const cross = s("g", { visibility: "hidden" });
  const last = points[points.length - 1];
  const shown = series.map(({ of }) => h("b", {}, last ? word(of(last)) : "–"));
  function word(value) {
    return value === null ? "–" : format(value);
  }
  function show(point) {
    series.forEach(({ of }, number) => {
      shown[number].textContent = point ? word(of(point)) : "–";
    });
  }
  function move(event) {
    const box = svg.getBoundingClientRect();
    const at = from + ((((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT)) * (until - from);
    const nearest = points.reduce((best, point) =>
      Math.abs(point.at_ms - at) < Math.abs(best.at_ms - at) ? point : best,
    );
    const dots = series.map(({ of }, number) =>
      of(nearest) === null ? null : s("circle", { class: `d${number}`, cx: x(nearest.at_ms), cy: y(of(nearest)), r: 3.5 }),
    );
    const place = x(nearest.at_ms);
    const label = s("text", { x: place, y: TOP - 2, "text-anchor": place > WIDTH / 2 ? "end" : "start" }, time(nearest.at_ms));
    cross.replaceChildren(
      s("line", { class: "cross", x1: place, x2: place, y1: TOP, y2: HEIGHT - BOTTOM }),
      label,
      ...dots.filter(Boolean),
    );
    cross.setAttribute("visibility", "visible");
    show(nearest);
  }
  function leave() {
    cross.setAttribute("visibility", "hidden");
    show(last);
  }

  const named = `${title}, the last ${Math.max(1, Math.round((until - from) / 60000))} minutes`;
  const svg = s(
    "svg",
    { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": named },
    grid,
    shapes,
    cross,
  );
  if (points.length > 0) {
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerleave", leave);
  }
  const legend = series.map(({ name }, number) =>
    h(
      "span",
      {},
      s("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" }, s("path", { class: `line s${number}`, d: "M1 4H17" })),
      `${name} `,
      shown[number],
    ),
  );
  const rows = points.slice(-ROWS_MAX).reverse();
  const numbers = h(
    "table",
    {},
    h("caption", {}, title),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "time"), series.map(({ name }) => h("th", { scope: "col", class: "number" }, name)))),
    h(
      "tbody",
      {},
      rows.map((point) =>
        h("tr", {}, h("td", {}, time(point.at_ms)), series.map(({ of }) => h("td", { class: "number" }, word(of(point))))),
      ),
    ),
  );
  function toggle(event) {
    if (event.target.open) opened.add(title);
    else opened.delete(title);
  }
  return h(
    "figure",
    {},
    h("figcaption", {}, h("h2", {}, title), h("span", { class: "legend" }, legend)),
    svg,
    h("details", { open: opened.has(title), ontoggle: toggle }, h("summary", {}, "numbers"), h("div", { class: "scroll" }, numbers)),
  );
}
