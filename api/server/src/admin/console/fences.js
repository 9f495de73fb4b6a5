import { change, get } from "./api.js";
import { changed, count, h, moment, section, table } from "./dom.js";

export function fences(again) {
  const shown = h("div", {});
  const reason = h("input", { name: "reason", required: true, maxlength: 256, "aria-label": "reason" });
  const said = h("p", { class: "note" });
  let group;
  const dialog = h(
    "dialog",
    { "aria-labelledby": "clear-title" },
    h("h2", { id: "clear-title" }, "Make the replica anew"),
    said,
    h(
      "form",
      { onsubmit: clear },
      h("label", {}, "reason, for the record", reason),
      h(
        "div",
        { class: "row" },
        h("button", { class: "act", type: "button", onclick: () => dialog.close() }, "Leave it"),
        h("button", { class: "act danger", type: "submit" }, "Give up its state and log"),
      ),
    ),
  );
  const root = h("div", {}, shown, dialog);

  function ask(of) {
    group = of.group;
    said.textContent = `Group ${of.group} has halted on this node: ${of.cause}. Its state and its log are given up here, and come again from the leader.`;
    dialog.showModal();
  }

  async function clear(event) {
    event.preventDefault();
    try {
      await change("fences/clear", { group, reason: reason.value });
      dialog.close();
      reason.value = "";
      again();
    } catch (error) {
      said.textContent = error.message;
    }
  }

  async function refresh() {
    const found = await get("fences");
    if (!changed(shown, found)) return;
    shown.replaceChildren(
      section(
        "Replicas that have halted here",
        "Their state is wrong, or could not be read. Nothing of them is served until they are made anew.",
        table(
          "Halted replicas",
          [
            ["group", (of) => of.group],
            ["cause", (of) => of.cause],
            ["", (of) => h("button", { class: "act danger", type: "button", onclick: () => ask(of) }, "Clear…")],
          ],
          found.halted,
          "none",
        ),
      ),
      section(
        "Divergences",
        "Replicas whose states were found to differ, the newest first.",
        table(
          "Divergences",
          [
            ["group", (of) => of.group],
            ["node", (of) => of.node],
            ["when", (of) => moment(of.log_time_ms)],
            ["compared up to", (of) => count(of.compared), "number"],
            ["projection", (of) => of.projection],
            ["resource", (of) => of.resource, "mono"],
          ],
          found.divergences,
          "none",
        ),
      ),
      section(
        "Writers",
        "A writer below the epoch of its resource is fenced. An epoch only ever rises: a writer takes over by opening the resource with a higher one.",
        table(
          "Writers",
          [
            ["resource", (of) => of.resource, "mono"],
            ["kind", (of) => h("span", { class: "chip" }, of.kind)],
            ["group", (of) => of.group],
            ["epoch", (of) => count(of.epoch), "number"],
          ],
          found.writers,
          "this cluster has no resources yet",
        ),
      ),
    );
  }
  return { root, refresh };
}
