import { get } from "./api.js";
import { count, duration, h, section, short, table, time } from "./dom.js";
import { plot } from "./plot.js";

const quantiles = (of) => [
  { name: "p50", of: (point) => (point[of].count > 0 ? point[of].p50_us : null) },
  { name: "p95", of: (point) => (point[of].count > 0 ? point[of].p95_us : null) },
  { name: "p99", of: (point) => (point[of].count > 0 ? point[of].p99_us : null) },
];

export function latency() {
  const root = h("div", {});
  async function refresh() {
    const { points } = await get("metrics");
    const last = points.toReversed().slice(0, 12);
    root.replaceChildren(
      h("p", { class: "note" }, "Calls of gRPC and of the report service at this node, a point every five seconds."),
      h(
        "div",
        { class: "plots" },
        plot("Writes, until they are committed and applied", points, quantiles("writes"), duration),
        plot("Reads", points, quantiles("reads"), duration),
        plot(
          "Calls a second",
          points,
          [
            { name: "writes", of: (of) => of.writes.count / of.seconds },
            { name: "reads", of: (of) => of.reads.count / of.seconds },
            { name: "refused", of: (of) => of.refused / of.seconds },
          ],
          short,
        ),
        plot("Disk of the log, the write under way", points, [{ name: "ms", of: (of) => of.sync_ms }], (ms) => `${short(ms)} ms`),
      ),
      section(
        "The last minute",
        null,
        table(
          "The last minute",
          [
            ["at", (of) => time(of.at_ms)],
            ["writes", (of) => count(of.writes.count), "number"],
            ["p50", (of) => (of.writes.count > 0 ? duration(of.writes.p50_us) : null), "number"],
            ["p99", (of) => (of.writes.count > 0 ? duration(of.writes.p99_us) : null), "number"],
            ["longest", (of) => (of.writes.count > 0 ? duration(of.writes.max_us) : null), "number"],
            ["reads", (of) => count(of.reads.count), "number"],
            ["p50", (of) => (of.reads.count > 0 ? duration(of.reads.p50_us) : null), "number"],
            ["p99", (of) => (of.reads.count > 0 ? duration(of.reads.p99_us) : null), "number"],
            ["longest", (of) => (of.reads.count > 0 ? duration(of.reads.max_us) : null), "number"],
            ["refused", (of) => count(of.refused), "number"],
          ],
          last,
          "the first point comes within five seconds",
        ),
      ),
    );
  }
  return { root, refresh };
}
