// A small client of Palisade: calls any of several nodes, and repeats what may be repeated.
//
// Every write bears a number of its client, so a repetition takes effect once, whatever became of the attempt
// before it. What a failure says is told by its `google.rpc.ErrorInfo`; the page of the gRPC face lists them.

import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const PROTO = fileURLToPath(new URL("../../proto/proto", import.meta.url));
const MESSAGE_BYTES_MAX = 8 << 20;
export const CALL_MS = 30_000;
const ATTEMPT_MS = 5_000;
export const PAUSE_MS = 50;

const sources = readdirSync(PROTO, { recursive: true }).filter((path) => path.endsWith(".proto"));
const described = loader.loadSync(sources, { includeDirs: [PROTO], longs: String, enums: String, defaults: true, oneofs: true });
const { palisade } = grpc.loadPackageDefinition(described);

const details = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
`, { keepCase: true }).root;

/** What a node says of a failure; nothing if it was not a node that said it. */
export function errorInfo(error) {
  const [raw] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!raw) return undefined;
  const found = details.lookupType("Status").decode(raw).details;
  const infos = found.filter((one) => one.type_url.endsWith("/google.rpc.ErrorInfo"));
  return infos.map((one) => details.lookupType("ErrorInfo").decode(one.value)).find((one) => one.domain === "palisade");
}

/** `Retry`: it had no effect. `Indeterminate`: nobody knows. Anything else is the answer. */
export function disposition(error) {
  return errorInfo(error)?.metadata.disposition ?? "Indeterminate";
}

/** Nodes of one cluster. Calls go round them until one answers. */
export class Cluster {
  constructor(endpoints, { cert, key, ca } = {}) {
    const options = {
      "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
      "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
      "grpc.max_reconnect_backoff_ms": 500,
    };
    const credentials = ca
      ? grpc.credentials.createSsl(readFileSync(ca), readFileSync(key), readFileSync(cert))
      : grpc.credentials.createInsecure();
    const stubs = (at) => {
      const stub = (of) => new of(at, credentials, options);
      return {
        batch: stub(palisade.batch.v1.Batch),
        cluster: stub(palisade.cluster.v1.Cluster),
        directory: stub(palisade.directory.v1.Directory),
        idempotency: stub(palisade.idempotency.v1.Idempotency),
        log: stub(palisade.log.v1.Log),
        map: stub(palisade.map.v1.Map),
        session: stub(palisade.session.v1.Session),
      };
    };
    this.nodes = endpoints.map(stubs);
    this.at = 0;
  }

  node() {
    return this.nodes[this.at % this.nodes.length];
  }

  next() {
    this.at += 1;
  }

  close() {
    this.nodes.flatMap((node) => Object.values(node)).forEach((stub) => stub.close());
  }

  /** Repeats what had no effect, or may have: every write that comes here takes effect once. */
  async call(service, method, request) {
    const until = Date.now() + CALL_MS;
    for (;;) {
      try {
        return await once(this.node()[service], method, request, until);
      } catch (error) {
        const repeated = ["Retry", "Indeterminate"].includes(disposition(error));
        if (!repeated || until - Date.now() < PAUSE_MS) throw error;
      }
      this.next();
      await sleep(PAUSE_MS);
    }
  }
}

/** One attempt at one node. */
export function once(stub, method, request, until = Date.now() + ATTEMPT_MS) {
  const deadline = Math.min(until, Date.now() + ATTEMPT_MS);
  return new Promise((resolve, reject) => {
    stub[method](request, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

/** A client that numbers its commands, one after the other. */
export class Session {
  static async register(cluster, group) {
    const session = new Session();
    const { client } = await cluster.call("session", "Register", { group, ttlMs: 3_600_000 });
    return Object.assign(session, { cluster, client, seq: 0 });
  }

  commit(...then) {
    this.seq += 1;
    const number = { client: this.client, seq: this.seq, ackedUpTo: this.seq - 1 };
    return this.cluster.call("batch", "Commit", { then, number });
  }
}
