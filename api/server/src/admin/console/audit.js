import { get } from "./api.js";
import { changed, count, h, section } from "./dom.js";
import { entries } from "./log.js";

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
        entries("Audit", found.entries.toReversed(), "nothing was refused or changed that is audited"),
      ),
    );
  }
  return { root, refresh };
}
