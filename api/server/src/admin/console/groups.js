import { get } from "./api.js";
import { count, h, pill, section, table } from "./dom.js";

function state(group) {
  return h("span", {}, pill(group.state ?? "starting"), group.reason || group.error ? h("span", { class: "reason" }, group.reason ?? group.error) : null);
}

export function groups() {
  const root = h("div", {});
  async function refresh() {
    const { groups: found } = await get("groups");
    const voters = found.flatMap((group) => (group.voters ?? []).map((voter) => ({ ...voter, group: group.group })));
    root.replaceChildren(
      section(
        "Groups",
        "Each is one log with an order of its own. Group 0 is the system group; the others hold resources.",
        table(
          "Groups",
          [
            ["group", (of) => h("b", {}, String(of.group))],
            ["state", state],
            ["role here", (of) => of.role],
            ["leader", (of) => of.leader, "number"],
            ["term", (of) => count(of.term), "number"],
            ["committed", (of) => count(of.committed), "number"],
            ["applied", (of) => count(of.applied), "number"],
            ["elections begun", (of) => count(of.elections), "number"],
            ["log entries", (of) => `${count(of.first_index)} – ${count(of.last_index)}`, "number"],
            ["waiting here", (of) => count(of.proposals), "number"],
            ["disk", (of) => (of.disk_full ? pill("no room") : `${count(of.sync_ms)} ms`), "number"],
          ],
          found,
        ),
      ),
      section(
        "Voters, as this node sees them",
        "A leader knows who answers; of groups that another node leads, that node tells.",
        table(
          "Voters",
          [
            ["group", (of) => of.group],
            ["node", (of) => h("b", {}, String(of.node))],
            ["answers", (of) => pill(of.answers ? "yes" : "no")],
            ["entries behind", (of) => count(of.entries_behind), "number"],
          ],
          voters,
          "this node leads no group",
        ),
      ),
    );
  }
  return { root, refresh };
}
