import { get } from "./api.js";
import { count, h, pill, section, short, table } from "./dom.js";
import { plot } from "./plot.js";

function card(title, value, unit, under) {
  return h(
    "div",
    { class: "card" },
    h("h2", {}, title),
    h("div", { class: "value" }, value, unit ? h("span", { class: "unit" }, unit) : null),
    h("div", { class: "under" }, under),
  );
}

const WORDS = {
  starting: "waits for its disk, or for a leader",
  catching_up: "lacks what others have",
  ready: "a write went through every group",
  degraded: "a group takes no writes now",
  halted: "a group has stopped here: see Groups",
  stopping: "was told to stop",
};

function answers(member, own) {
  if (member.answers !== null) return pill(member.answers ? "yes" : "no");
  return member.node === own ? pill("yes") : "the leader knows";
}

export function overview() {
  const root = h("div", {});
  async function refresh() {
    const [cluster, { points }] = await Promise.all([get("cluster"), get("metrics")]);
    const { readiness } = cluster;
    const unready = readiness.groups.filter((group) => group.state !== "ready");
    const why = unready.length > 0 ? `group ${unready[0].group}: ${unready[0].reason}` : WORDS[readiness.state];
    const last = points[points.length - 1];
    const rate = last ? short(last.applied / last.seconds) : "–";
    const faults = Object.entries(cluster.peer_faults);
    root.replaceChildren(
      h(
        "div",
        { class: "cards" },
        card("This node", readiness.state.replaceAll("_", " "), null, why),
        card("Groups that take writes", `${readiness.groups.length - unready.length}`, `of ${readiness.groups.length}`, "tried with a write of this node's own"),
        card("Records applied here", count(cluster.applied), null, `${rate} a second`),
        card("Behind", count(cluster.records_behind), "records", "committed, and not applied here yet"),
        card("Disk of the log", count(cluster.sync_ms), "ms", "the write that is under way"),
        card("Calls under way", count(cluster.calls_under_way), null, "over gRPC"),
      ),
      section(
        "Members",
        null,
        table(
          "Members",
          [
            ["node", (of) => h("b", {}, of.node === cluster.node ? `${of.node} (this one)` : `${of.node}`)],
            ["domain", (of) => of.domain || null, "mono"],
            ["address", (of) => of.address, "mono"],
            ["role", (of) => of.roles.join(", ")],
            ["leads groups", (of) => of.leads.join(", ") || "–"],
            ["answers", (of) => answers(of, cluster.node)],
            ["entries behind", (of) => count(of.entries_behind), "number"],
          ],
          cluster.members,
          "the node knows of no members yet",
        ),
      ),
      h(
        "div",
        { class: "plots" },
        plot("Records applied a second", points, [{ name: "records", of: (of) => of.applied / of.seconds }], short),
        plot("Records behind", points, [{ name: "records", of: (of) => of.records_behind }], short),
      ),
    );
    if (cluster.conditions.length > 0) {
      root.append(
        section(
          "Resources that operate under a failure",
          "as their contracts declare",
          table("Conditions", [
            ["resource", (of) => of.resource, "mono"],
            ["mode", (of) => of.mode],
            ["why", (of) => of.reason],
          ], cluster.conditions),
        ),
      );
    }
    if (faults.length > 0) {
      root.append(
        section(
          "Refused from peers",
          "since the node was opened",
          table("Peer faults", [
            ["cause", ([cause]) => cause.replaceAll("_", " ")],
            ["times", ([, times]) => count(times), "number"],
          ], faults),
        ),
      );
    }
  }
  return { root, refresh };
}
