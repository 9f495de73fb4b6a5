import { get } from "./api.js";
import { changed, count, h, moment, section, table } from "./dom.js";

function records(found) {
  return table(
    "Audit",
    [
      ["last", (of) => moment(of.last_ms ?? of.log_time_ms)],
      ["event", (of) => of.event],
      ["times", (of) => count(of.count), "number"],
      ["who", (of) => of.who, "mono"],
      ["from", (of) => of.address, "mono"],
      ["resource", (of) => of.resource, "mono"],
      ["right", (of) => of.right],
      ["why", (of) => of.why],
    ],
    found,
    "nothing was refused or changed that is audited",
  );
}

export function audit() {
  const root = h("div", {});
  async function refresh() {
    const found = await get("audit");
    if (!changed(root, found)) return;
    if (!found.kept) {
      root.replaceChildren(section("Audit", `This cluster keeps no log ${found.resource}: nothing was refused or changed that is audited.`));
      return;
    }
    root.replaceChildren(
      section(
        "Audit",
        `${found.resource}, ${count(found.count)} entries, the newest first.`,
        records(found.entries.toReversed()),
      ),
    );
  }
  return { root, refresh };
}
