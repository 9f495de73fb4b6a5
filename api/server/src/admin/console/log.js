import { get } from "./api.js";
import { bytes, changed, count, h, moment, section, table, value } from "./dom.js";

export function entries(title, found, nothing) {
  return table(
    title,
    [
      ["offset", (of) => (of.index === 0 ? count(of.offset) : `${count(of.offset)}.${of.index}`), "number"],
      ["log time", (of) => moment(of.log_time_ms)],
      ["bytes", (of) => count(of.bytes), "number"],
      ["as", (of) => of.as],
      ["value", value],
    ],
    found,
    nothing,
  );
}

export function log(again) {
  const select = h("select", { name: "resource", onchange: again });
  const from = h("input", { name: "from", type: "number", min: 1, placeholder: "the newest" });
  const limit = h("input", { name: "limit", type: "number", min: 1, max: 200, value: 50 });
  const form = h(
    "form",
    { class: "controls", onsubmit: (event) => (event.preventDefault(), again()) },
    h("label", {}, "log", select),
    h("label", {}, "from offset", from),
    h("label", {}, "entries", limit),
    h("button", { class: "act", type: "submit" }, "Show"),
  );
  const shown = h("div", {});
  const root = h("div", {}, form, shown);

  async function refresh() {
    const { resources } = await get("resources");
    const logs = resources.filter((found) => found.kind === "log" && found.state === "active");
    const names = logs.map((found) => found.name);
    if (names.join() !== [...select.options].map((option) => option.value).join()) {
      // What the node keeps for itself comes last.
      const own = (name) => Number(name.startsWith("palisade."));
      const sorted = names.toSorted((a, b) => own(a) - own(b));
      const chosen = names.includes(select.value) ? select.value : sorted[0];
      select.replaceChildren(...sorted.map((name) => h("option", { value: name, selected: name === chosen }, name)));
    }
    if (names.length === 0) {
      if (changed(shown, [])) shown.replaceChildren(section("No logs", "This cluster has no resource of the kind log yet."));
      return;
    }
    const query = { resource: select.value, from: from.value, limit: limit.value };
    const found = await get("log", query);
    if (!changed(shown, [query, found])) return;
    const newest = found.entries.toReversed();
    const about = `${found.schema} in group ${found.group}: ${count(found.count)} entries of ${bytes(found.bytes)}`;
    shown.replaceChildren(section(found.resource, about, entries("Entries", from.value ? found.entries : newest, "the log is empty")));
  }
  return { root, refresh };
}
