import { get } from "./api.js";
import { changed, count, h, pill, section, table } from "./dom.js";

function progress(of) {
  return h("progress", { max: Math.max(1, of.committed ?? 0), value: of.applied ?? 0, "aria-label": `group ${of.group}: applied of committed` });
}

export function projections() {
  const root = h("div", {});
  async function refresh() {
    const [{ groups }, { resources }] = await Promise.all([get("projections"), get("resources")]);
    if (!changed(root, [groups, resources])) return;
    const kinds = groups.flatMap((of) => of.kinds.map((kind) => ({ ...kind, group: of.group })));
    root.replaceChildren(
      section(
        "State of each group",
        "What is computed here from the group's log, against what is committed.",
        table(
          "Projections",
          [
            ["group", (of) => h("b", {}, String(of.group))],
            ["committed", (of) => count(of.committed), "number"],
            ["applied", (of) => count(of.applied), "number"],
            ["behind", (of) => count(of.records_behind), "number"],
            ["applied of committed", (of) => (of.halted ? h("span", {}, pill("halted"), h("span", { class: "reason" }, of.halted)) : progress(of))],
          ],
          groups,
        ),
      ),
      section(
        "Resources",
        null,
        table(
          "Resources",
          [
            ["name", (of) => of.name, "mono"],
            ["kind", (of) => h("span", { class: "chip" }, of.kind)],
            ["group", (of) => of.group],
            ["epoch", (of) => count(of.epoch), "number"],
            ["schemas", (of) => of.schemas.join(", "), "mono"],
            ["made at offset", (of) => count(of.made), "number"],
            ["state", (of) => pill(of.state)],
          ],
          resources,
          "this cluster has no resources yet",
        ),
      ),
    );
    if (kinds.length > 0) {
      root.append(
        section(
          "Newer versions of projections",
          null,
          table("Kinds", [
            ["group", (of) => of.group],
            ["kind", (of) => of.kind],
            ["version that serves", (of) => of.version, "number"],
            ["stage", (of) => of.stage],
          ], kinds),
        ),
      );
    }
  }
  return { root, refresh };
}
