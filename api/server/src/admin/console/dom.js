// Elements out of data. Text is always text: nothing that was stored is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A table: columns are [title, row => content, class]. */
export function table(caption, columns, rows, nothing) {
  const head = columns.map(([title, , kind]) => h("th", { scope: "col", class: kind }, title));
  const body = rows.map((row) =>
    h("tr", {}, columns.map(([, of, kind]) => h("td", { class: kind }, of(row) ?? "–"))),
  );
  const empty = h("tr", { class: "empty" }, h("td", { colspan: columns.length }, nothing ?? "nothing"));
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, head)),
      h("tbody", {}, body.length > 0 ? body : empty),
    ),
  );
}

export function section(title, note, ...children) {
  return h("section", { class: "section" }, h("h2", {}, title), note ? h("p", { class: "note" }, note) : null, children);
}

const TONES = {
  ready: "good",
  active: "good",
  yes: "good",
  starting: "warn",
  catching_up: "warn",
  degraded: "warn",
  halted: "bad",
  no: "bad",
};

export function pill(word) {
  return h("span", { class: `pill ${TONES[word] ?? ""}` }, String(word).replaceAll("_", " "));
}

export const tone = (word) => TONES[word] ?? "";

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (value) => (value === null || value === undefined ? "–" : GROUPED.format(value));
export const short = (value) => SHORT.format(value);

/** Microseconds, in the unit that suits them. */
export function duration(us) {
  if (us >= 1e6) return `${SHORT.format(us / 1e6)} s`;
  if (us >= 1e3) return `${SHORT.format(us / 1e3)} ms`;
  return `${SHORT.format(us)} µs`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; value >= 1024 && at < units.length - 1; at += 1) value /= 1024;
  return `${SHORT.format(value)} ${units[at]}`;
}

export function time(ms) {
  const at = new Date(ms);
  const two = (number, digits = 2) => String(number).padStart(digits, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function moment(ms) {
  const at = new Date(ms);
  const day = [at.getFullYear(), at.getMonth() + 1, at.getDate()].map((part) => String(part).padStart(2, "0"));
  return h("time", { datetime: at.toISOString(), title: at.toISOString() }, `${day.join("-")} ${time(ms)}`);
}

const drawn = new WeakMap();

/** Whether what is to be drawn is another than what was: who reads and selects is not disturbed by the same. */
export function changed(root, data) {
  const text = JSON.stringify(data);
  if (drawn.get(root) === text) return false;
  drawn.set(root, text);
  return true;
}

const TOKENS = /("(?:\\.|[^"\\])*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(true|false|null)/g;

/** A value of a log, as the node says that it is to be shown. */
export function value(entry) {
  const rest = entry.cut ? ` … of ${bytes(entry.bytes)}` : "";
  if (entry.as !== "json") {
    const text = entry.as === "hex" ? entry.text.replace(/(..)/g, "$1 ") : entry.text;
    return h("pre", { class: `value ${entry.as}` }, text, rest);
  }
  const parts = [];
  let end = 0;
  for (const found of entry.text.matchAll(TOKENS)) {
    parts.push(entry.text.slice(end, found.index));
    const [whole, string, colon, number] = found;
    if (string && colon) parts.push(h("span", { class: "t-key" }, string), colon);
    else parts.push(h("span", { class: string ? "t-string" : number ? "t-number" : "t-word" }, whole));
    end = found.index + whole.length;
  }
  return h("pre", { class: "value" }, parts, entry.text.slice(end), rest);
}
