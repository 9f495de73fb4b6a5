// The report flow, a watch that is resumed, and a failover, against a running cluster.
//
// Each request is reserved, logged and marked in one batch; its completion is another. In the middle the leader's
// process is killed, if `--pids` says where its number is, and the watch is moved to another node. At the end every
// request must have taken effect once, and the watch must have told every change once, in order.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";

import { CALL_MS, Cluster, PAUSE_MS, Session, disposition, once } from "./client.mjs";

const { values: args } = parseArgs({
  options: {
    endpoint: { type: "string", multiple: true },
    cert: { type: "string" },
    key: { type: "string" },
    ca: { type: "string" },
    name: { type: "string", default: "node" },
    requests: { type: "string", default: "200" },
    pids: { type: "string" },
  },
});
const requests = Number(args.requests);
const keyOf = (number) => `${args.name}-${String(number).padStart(4, "0")}`;
const bodyOf = (number) => `${args.name} ${number}`;
const fingerprintOf = (number) => createHash("sha256").update(bodyOf(number)).digest();
const [log, map, store] = ["log", "status", "requests"].map((name) => ({
  name: `reports/${name}`,
  schema: "report.v1",
  epoch: 1,
}));

/** Reserved, logged and accepted at one offset. */
async function submit(session, number) {
  const done = await session.commit(
    { reserve: { store, key: keyOf(number), fingerprint: fingerprintOf(number), ownerEpoch: 1 } },
    { append: { log, values: [Buffer.from(bodyOf(number))] } },
    { put: { map, key: Buffer.from(keyOf(number)), value: Buffer.from("accepted") } },
  );
  return done.receipt;
}

async function complete(session, number) {
  const done = await session.commit(
    { complete: { store, key: keyOf(number), ownerEpoch: 1, result: Buffer.from(`result ${number}`) } },
    { put: { map, key: Buffer.from(keyOf(number)), value: Buffer.from("done") } },
  );
  return done.receipt;
}

/** A repeated request is told what became of the first. */
async function again(cluster, number) {
  const key = keyOf(number);
  const asked = { store, key, fingerprint: fingerprintOf(number), ownerEpoch: 1 };
  const { receipt } = await cluster.call("idempotency", "Reserve", asked);
  const options = { atLeast: receipt.freshness };
  const { completed } = await cluster.call("idempotency", "GetStatus", { store, key, options });
  return receipt.duplicate && completed?.result.toString() === `result ${number}`;
}

/** Everything that the log holds of these requests. */
async function logged(cluster) {
  const found = [];
  let from = {};
  while (from) {
    const page = await cluster.call("log", "Scan", { log, from, direction: "DIRECTION_FORWARD", limit: 100 });
    found.push(...page.entries.map((entry) => entry.value.data.toString()));
    from = page.next;
  }
  return found.filter((body) => body.startsWith(`${args.name} `));
}

/** Every change of the status, over as many streams as it takes. */
async function watch(cluster, count) {
  const events = [];
  let [position, streams] = ["0", 0];
  const stream = async () => {
    const enough = Math.min(count, events.length + 100);
    const asked = { map, from: position, prefix: Buffer.from(`${args.name}-`), progressMs: 200 };
    const call = cluster.node().map.Watch(asked);
    for await (const { changes, offset, position: at } of call) {
      events.push(...changes.map(({ key, now }) => [offset, key.toString(), now.value.data.toString()]));
      position = at;
      // On with another node, now and then.
      if (enough <= events.length) break;
    }
    call.cancel();
  };
  while (events.length < count) {
    streams += 1;
    try {
      await stream();
    } catch (error) {
      if (!["Retry", "Indeterminate"].includes(disposition(error))) throw error;
      await sleep(PAUSE_MS);
    }
    cluster.next();
  }
  return { events, streams };
}

/** Which node says that it leads the group. */
async function leader(cluster, group) {
  const until = Date.now() + CALL_MS;
  while (Date.now() < until) {
    for (const node of cluster.nodes) {
      const status = await once(node.cluster, "GetStatus", {}).catch(() => undefined);
      if (status?.groups.some((of) => of.group === group && of.role === "ROLE_LEADER")) return status.node;
    }
    await sleep(PAUSE_MS);
  }
  throw new Error("nobody leads");
}

function check(holds, what) {
  if (!holds) throw new Error(`FAILED: ${what}`);
  console.log(`ok: ${what}`);
}

const connect = () => new Cluster(args.endpoint, args);
const [cluster, watching] = [connect(), connect()];
const { described } = await cluster.call("directory", "Describe", { name: log.name });
const session = await Session.register(cluster, described.group);
const watched = watch(watching, 2 * requests);
// It is waited for below; until then, what it meets is no unheard failure.
watched.catch(() => {});
const receipts = [];
for (let number = 0; number < requests; number += 1) {
  if (args.pids && number === requests >> 1) {
    const killed = await leader(cluster, described.group);
    process.kill(Number.parseInt(readFileSync(join(args.pids, `node-${killed}.pid`), "utf8"), 10), "SIGKILL");
    console.log(`ok: node ${killed}, the leader, is killed`);
  }
  receipts.push(await submit(session, number), await complete(session, number));
}
const numbers = Array.from({ length: requests }, (_, number) => number);
const offsets = receipts.map((receipt) => receipt.offset);
const rise = offsets.every((offset, at) => at === 0 || BigInt(offsets[at - 1]) < BigInt(offset));
check(rise, "every receipt has an offset of its own, in order");
check(isDeepStrictEqual(await logged(cluster), numbers.map(bodyOf)), `${requests} requests are in the log once, in order`);
for (const number of [0, requests >> 1, requests - 1]) {
  check(await again(cluster, number), `request ${number} again is told its result, and has no effect`);
}
const late = sleep(CALL_MS, undefined, { ref: false }).then(() => Promise.reject(new Error("FAILED: the watch lags")));
const { events, streams } = await Promise.race([watched, late]);
const steps = numbers.flatMap((number) => ["accepted", "done"].map((step) => [keyOf(number), step]));
const told = events.map(([, key, step]) => [key, step]);
check(isDeepStrictEqual(told, steps), `the watch told ${steps.length} changes once each, in order, over ${streams} streams`);
check(isDeepStrictEqual(events.map(([offset]) => offset), offsets), "each change was told with the offset of its receipt");
cluster.close();
watching.close();
