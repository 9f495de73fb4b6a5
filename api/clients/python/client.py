"""A small client of Palisade: calls any of several nodes, and repeats what may be repeated.

Every write bears a number of its client, so a repetition takes effect once, whatever became of the attempt
before it. What a failure says is told by its `google.rpc.ErrorInfo`; the page of the gRPC face lists them.
"""

import pathlib
import sys
import tempfile
import time

import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto" / "proto"
MESSAGE_BYTES_MAX = 8 << 20
CALL_S = 30.0
ATTEMPT_S = 5.0
PAUSE_S = 0.05


def _generate():
    """The messages and stubs, made from the files that the server is built from."""
    out = tempfile.mkdtemp(prefix="palisade-stubs-")
    sources = sorted(str(path) for path in PROTO.rglob("*.proto"))
    args = ["protoc", f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}", *sources]
    if protoc.main(args) != 0:
        sys.exit("the .proto files could not be compiled")
    sys.path.insert(0, out)


_generate()

from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from palisade.batch.v1 import batch_pb2, batch_pb2_grpc  # noqa: E402
from palisade.cluster.v1 import cluster_pb2, cluster_pb2_grpc  # noqa: E402
from palisade.common.v1 import common_pb2  # noqa: E402
from palisade.directory.v1 import directory_pb2, directory_pb2_grpc  # noqa: E402
from palisade.idempotency.v1 import idempotency_pb2, idempotency_pb2_grpc  # noqa: E402
from palisade.log.v1 import log_pb2, log_pb2_grpc  # noqa: E402
from palisade.map.v1 import map_pb2, map_pb2_grpc  # noqa: E402
from palisade.session.v1 import session_pb2, session_pb2_grpc  # noqa: E402


def error_info(error):
    """What a node says of a failure; nothing if it was not a node that said it."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == "palisade":
                    return info
    return None


def disposition(error):
    """`Retry`: it had no effect. `Indeterminate`: nobody knows. Anything else is the answer."""
    info = error_info(error)
    return info.metadata["disposition"] if info else "Indeterminate"


class Cluster:
    """Nodes of one cluster. Calls go round them until one answers."""

    def __init__(self, endpoints, cert=None, key=None, ca=None):
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        self.endpoints = endpoints
        if ca:
            read = lambda path: pathlib.Path(path).read_bytes()  # noqa: E731
            credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(cert))
            self.channels = [grpc.secure_channel(at, credentials, options) for at in endpoints]
        else:
            self.channels = [grpc.insecure_channel(at, options) for at in endpoints]
        self.at = 0

    def channel(self):
        return self.channels[self.at % len(self.channels)]

    def next(self):
        self.at += 1

    def call(self, stub, method, request):
        """Repeats what had no effect, or may have: every write that comes here takes effect once."""
        until = time.monotonic() + CALL_S
        while True:
            left = until - time.monotonic()
            try:
                call = getattr(stub(self.channel()), method)
                return call(request, timeout=max(0.001, min(ATTEMPT_S, left)))
            except grpc.RpcError as error:
                if disposition(error) not in ("Retry", "Indeterminate") or left < PAUSE_S:
                    raise
            self.next()
            time.sleep(PAUSE_S)


class Session:
    """A client that numbers its commands, one after the other."""

    def __init__(self, cluster, group):
        self.cluster, self.seq = cluster, 0
        request = session_pb2.RegisterRequest(group=group, ttl_ms=3_600_000)
        answer = cluster.call(session_pb2_grpc.SessionStub, "Register", request)
        self.client = answer.client

    def commit(self, *operations):
        self.seq += 1
        number = common_pb2.CommandNumber(
            client=self.client, seq=self.seq, acked_up_to=self.seq - 1
        )
        request = batch_pb2.CommitRequest(then=operations, number=number)
        return self.cluster.call(batch_pb2_grpc.BatchStub, "Commit", request)
