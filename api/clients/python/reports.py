"""The report flow, a watch that is resumed, and a failover, against a running cluster.

Each request is reserved, logged and marked in one batch; its completion is another. In the middle the leader's
process is killed, if `--pids` says where its number is, and the watch is moved to another node. At the end every
request must have taken effect once, and the watch must have told every change once, in order.
"""

import argparse
import hashlib
import os
import pathlib
import signal
import sys
import threading
import time

import grpc

import client as p


class Reports:
    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        resource = lambda name: p.common_pb2.Resource(  # noqa: E731
            name=f"reports/{name}", schema="report.v1", epoch=1
        )
        self.log, self.map, self.store = map(resource, ("log", "status", "requests"))
        describe = p.directory_pb2.DescribeRequest(name=self.log.name)
        directory = p.directory_pb2_grpc.DirectoryStub
        self.group = cluster.call(directory, "Describe", describe).described.group
        self.session = p.Session(cluster, self.group)

    def key(self, number):
        return f"{self.name}-{number:04}"

    def body(self, number):
        return f"{self.name} {number}".encode()

    def _put(self, key, value):
        return p.batch_pb2.Operation(put=p.batch_pb2.Put(map=self.map, key=key, value=value))

    def submit(self, number):
        """Reserved, logged and accepted at one offset."""
        key, body = self.key(number), self.body(number)
        reserve = p.batch_pb2.Reserve(
            store=self.store, key=key, fingerprint=hashlib.sha256(body).digest(), owner_epoch=1
        )
        append = p.batch_pb2.Append(log=self.log, values=[body])
        return self.session.commit(
            p.batch_pb2.Operation(reserve=reserve),
            p.batch_pb2.Operation(append=append),
            self._put(key.encode(), b"accepted"),
        ).receipt

    def complete(self, number):
        key = self.key(number)
        complete = p.batch_pb2.Complete(
            store=self.store, key=key, owner_epoch=1, result=f"result {number}".encode()
        )
        return self.session.commit(
            p.batch_pb2.Operation(complete=complete), self._put(key.encode(), b"done")
        ).receipt

    def again(self, number):
        """A repeated request is told what became of the first."""
        request = p.idempotency_pb2.ReserveRequest(
            store=self.store,
            key=self.key(number),
            fingerprint=hashlib.sha256(self.body(number)).digest(),
            owner_epoch=1,
        )
        stub = p.idempotency_pb2_grpc.IdempotencyStub
        receipt = self.cluster.call(stub, "Reserve", request).receipt
        options = p.common_pb2.ReadOptions(at_least=receipt.freshness)
        ask = p.idempotency_pb2.GetStatusRequest(
            store=self.store, key=request.key, options=options
        )
        return receipt, self.cluster.call(stub, "GetStatus", ask).completed

    def logged(self):
        """Everything that the log holds of these requests."""
        found, start = [], p.common_pb2.Position()
        while True:
            request = p.log_pb2.ScanRequest(
                log=self.log,
                direction=p.log_pb2.DIRECTION_FORWARD,
                limit=100,
                **{"from": start},
            )
            page = self.cluster.call(p.log_pb2_grpc.LogStub, "Scan", request)
            found.extend(entry.value.data for entry in page.entries)
            if not page.HasField("next"):
                return [body for body in found if body.startswith(f"{self.name} ".encode())]
            start = page.next


class Watch(threading.Thread):
    """Every change of the status, over as many streams as it takes."""

    def __init__(self, cluster, reports, count):
        super().__init__(daemon=True)
        self.cluster, self.reports, self.count = cluster, reports, count
        self.position, self.events, self.streams, self.fault = 0, [], 0, None

    def run(self):
        try:
            while len(self.events) < self.count:
                self.streams += 1
                try:
                    self.stream()
                except grpc.RpcError as error:
                    if p.disposition(error) not in ("Retry", "Indeterminate"):
                        raise
                    time.sleep(p.PAUSE_S)
                self.cluster.next()
        except Exception as fault:  # told by whoever waits for it
            self.fault = fault

    def stream(self):
        request = p.map_pb2.WatchRequest(
            map=self.reports.map,
            prefix=f"{self.reports.name}-".encode(),
            progress_ms=200,
            **{"from": self.position},
        )
        stream = p.map_pb2_grpc.MapStub(self.cluster.channel()).Watch(request)
        begun = len(self.events)
        for message in stream:
            if message.changes:
                for change in message.changes:
                    self.events.append((message.offset, change.key, change.now.value.data))
            self.position = message.position
            # On with another node, now and then.
            if len(self.events) >= min(self.count, begun + 100):
                stream.cancel()
                return


def check(holds, what):
    if not holds:
        sys.exit(f"FAILED: {what}")
    print(f"ok: {what}")


def leader(cluster, group):
    """Which node says that it leads the group."""
    until = time.monotonic() + p.CALL_S
    while time.monotonic() < until:
        for channel in cluster.channels:
            try:
                stub = p.cluster_pb2_grpc.ClusterStub(channel)
                status = stub.GetStatus(p.cluster_pb2.GetStatusRequest(), timeout=p.ATTEMPT_S)
            except grpc.RpcError:
                continue
            leads = lambda of: of.group == group and of.role == p.cluster_pb2.ROLE_LEADER  # noqa: E731
            if any(map(leads, status.groups)):
                return status.node
        time.sleep(p.PAUSE_S)
    sys.exit("FAILED: nobody leads")


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--endpoint", action="append", required=True, metavar="HOST:PORT")
    args.add_argument("--cert")
    args.add_argument("--key")
    args.add_argument("--ca")
    args.add_argument("--name", default="python", help="of this run: its requests begin with it")
    args.add_argument("--requests", type=int, default=200)
    args.add_argument("--pids", help="a directory with node-N.pid, to kill the leader")
    args = args.parse_args()

    connect = lambda: p.Cluster(args.endpoint, args.cert, args.key, args.ca)  # noqa: E731
    reports = Reports(connect(), args.name)
    watch = Watch(connect(), reports, 2 * args.requests)
    watch.start()
    receipts = []
    for number in range(args.requests):
        if args.pids and number == args.requests // 2:
            killed = leader(reports.cluster, reports.group)
            pid = int(pathlib.Path(args.pids, f"node-{killed}.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
            print(f"ok: node {killed}, the leader, is killed")
        receipts.append(reports.submit(number))
        receipts.append(reports.complete(number))

    offsets = [receipt.offset for receipt in receipts]
    check(offsets == sorted(set(offsets)), "every receipt has an offset of its own, in order")
    logged = reports.logged()
    wanted = [reports.body(number) for number in range(args.requests)]
    check(logged == wanted, f"{len(wanted)} requests are in the log once, in order")
    for number in (0, args.requests // 2, args.requests - 1):
        receipt, completed = reports.again(number)
        same = receipt.duplicate and completed.result == f"result {number}".encode()
        check(same, f"request {number} again is told its result, and has no effect")
    watch.join(timeout=p.CALL_S)
    if watch.fault:
        raise watch.fault
    steps = [(reports.key(number).encode(), step) for number in range(args.requests)
             for step in (b"accepted", b"done")]
    check([(key, value) for _, key, value in watch.events] == steps,
          f"the watch told {len(steps)} changes once each, in order, over {watch.streams} streams")
    check([offset for offset, _, _ in watch.events] == offsets,
          "each change was told with the offset of its receipt")


if __name__ == "__main__":
    main()
