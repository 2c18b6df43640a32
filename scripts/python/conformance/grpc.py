"""grpcio's client and server through the gateway: every kind of call, deadlines, metadata, trailers, cancellation.

Messages are plain bytes, so nothing has to be generated. Each check runs with the gateway and, to judge the check
itself, without it.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from certificates import make_certificate
from processes import LOOPBACK, Address, Weir, free_address, gateway_config

from .report import Report

SERVICE = "weir.Probe"
MIB = 1 << 20
# Longest wait for what has to happen; nothing here is measured in time.
PATIENCE = 20.0


@dataclass
class Seen:
    """What the server saw, for the client's thread to read."""

    cancelled: queue.Queue[str] = field(default_factory=queue.Queue)
    remaining: queue.Queue[float | None] = field(default_factory=queue.Queue)
    metadata: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)


class Probe(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The server's methods."""

    def __init__(self, seen: Seen):
        self.seen = seen
        self.handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Down": grpc.unary_stream_rpc_method_handler(self.down),
            "Up": grpc.stream_unary_rpc_method_handler(self.up),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Hang": grpc.unary_stream_rpc_method_handler(self.hang),
            "HangBoth": grpc.stream_stream_rpc_method_handler(self.hang),
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self.handlers.get(details.method.rpartition("/")[2])

    def unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.seen.metadata.put(dict(context.invocation_metadata()))
        self.seen.remaining.put(context.time_remaining())
        context.send_initial_metadata((("x-initial", "first"), ("x-initial-bin", b"\x00\xff")))
        context.set_trailing_metadata((("x-trailing", "last"), ("x-trailing-bin", b"\x01\xfe")))
        return request

    def fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-reason", "because"),))
        raise context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nicht möglich: 100 %")

    def down(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        count, size = map(int, request.split())
        for number in range(count):
            yield b"%d " % number + b"x" * size

    def up(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b"%d" % sum(len(request) for request in requests)

    def both(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield request[::-1]

    def hang(self, _: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        """One message, and nothing more until the client goes away."""
        gone = threading.Event()
        # Not after the yield: a generator whose call has ended is not resumed.
        context.add_callback(gone.set)
        context.add_callback(lambda: self.seen.cancelled.put("gone"))
        yield b"begun"
        gone.wait(2 * PATIENCE)


def method(channel: grpc.Channel, kind: str, name: str) -> Any:
    return getattr(channel, kind)(f"/{SERVICE}/{name}")


def unary(channel: grpc.Channel, seen: Seen) -> None:
    metadata = (("x-client", "a, b"), ("x-client-bin", bytes(range(256))))
    answer, call = method(channel, "unary_unary", "Unary").with_call(b"hello", metadata=metadata, timeout=PATIENCE)
    assert answer == b"hello", answer
    received = seen.metadata.get(timeout=PATIENCE)
    assert received.get("x-client") == "a, b", received
    assert received.get("x-client-bin") == bytes(range(256)), received
    remaining = seen.remaining.get(timeout=PATIENCE)
    assert remaining is not None and remaining <= PATIENCE + 1, f"the deadline reached the server as {remaining}"
    initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert (initial.get("x-initial"), initial.get("x-initial-bin")) == ("first", b"\x00\xff"), initial
    assert (trailing.get("x-trailing"), trailing.get("x-trailing-bin")) == ("last", b"\x01\xfe"), trailing


def large_messages(channel: grpc.Channel, _: Seen) -> None:
    message = bytes(range(256)) * (12 * MIB // 256)
    assert method(channel, "unary_unary", "Unary")(message, timeout=PATIENCE) == message


def compressed(channel: grpc.Channel, _: Seen) -> None:
    call = method(channel, "unary_unary", "Unary")
    assert call(b"a" * MIB, compression=grpc.Compression.Gzip, timeout=PATIENCE) == b"a" * MIB


def server_streaming(channel: grpc.Channel, _: Seen) -> None:
    answers = list(method(channel, "unary_stream", "Down")(b"500 20000", timeout=PATIENCE))
    assert [int(answer.split()[0]) for answer in answers] == list(range(500))
    assert list(method(channel, "unary_stream", "Down")(b"0 0", timeout=PATIENCE)) == []


def client_streaming(channel: grpc.Channel, _: Seen) -> None:
    requests = (b"y" * 20_000 for _ in range(500))
    assert method(channel, "stream_unary", "Up")(requests, timeout=PATIENCE) == b"10000000"
    assert method(channel, "stream_unary", "Up")(iter(()), timeout=PATIENCE) == b"0"


def bidirectional(channel: grpc.Channel, _: Seen) -> None:
    """Each request is sent only once the answer to the one before is here: nothing may be held back."""
    requests: queue.Queue[bytes | None] = queue.Queue()
    answers = method(channel, "stream_stream", "Both")(iter(requests.get, None), timeout=PATIENCE)
    for number in range(100):
        requests.put(b"%03d" % number)
        assert next(answers) == (b"%03d" % number)[::-1]
    requests.put(None)
    assert list(answers) == []


def many_at_once(channel: grpc.Channel, _: Seen) -> None:
    call = method(channel, "unary_unary", "Unary")
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda number: call(b"%d" % number, timeout=PATIENCE), range(1000)))
    assert answers == [b"%d" % number for number in range(1000)]


def error_of(call: Callable[[], Any]) -> grpc.RpcError:
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call succeeded")


def status_and_details(channel: grpc.Channel, _: Seen) -> None:
    error: Any = error_of(lambda: method(channel, "unary_unary", "Fail")(b"", timeout=PATIENCE))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "nicht möglich: 100 %", error.details()
    assert dict(error.trailing_metadata()).get("x-reason") == "because", error


def unknown_method(channel: grpc.Channel, _: Seen) -> None:
    error: Any = error_of(lambda: method(channel, "unary_unary", "Nowhere")(b"", timeout=PATIENCE))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def deadline(channel: grpc.Channel, seen: Seen) -> None:
    error: Any = error_of(lambda: list(method(channel, "unary_stream", "Hang")(b"", timeout=0.5)))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert seen.cancelled.get(timeout=PATIENCE) == "gone"


def cancellation(channel: grpc.Channel, seen: Seen) -> None:
    answers = method(channel, "unary_stream", "Hang")(b"")
    assert next(answers) == b"begun"
    answers.cancel()
    assert seen.cancelled.get(timeout=PATIENCE) == "gone"
    # And while the client's own half is still open.
    ended = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"x"
        ended.wait(PATIENCE)

    answers = method(channel, "stream_stream", "HangBoth")(requests())
    assert next(answers) == b"begun"
    answers.cancel()
    ended.set()
    assert seen.cancelled.get(timeout=PATIENCE) == "gone"


CHECKS = (
    unary, large_messages, compressed, server_streaming, client_streaming, bidirectional, many_at_once,
    status_and_details, unknown_method, deadline, cancellation,
)  # fmt: skip


OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]


@dataclass
class Target:
    """Where a client connects, and by what certificate it trusts the server there."""

    address: Address
    certificate: bytes | None = None

    def channel(self) -> grpc.Channel:
        address = "{}:{}".format(*self.address)
        if self.certificate is None:
            return grpc.insecure_channel(address, OPTIONS)
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(self.certificate), OPTIONS)


def outcome(check: Callable[[grpc.Channel, Seen], None], target: Target, seen: Seen) -> str:
    """What went wrong; nothing if all is well."""
    for events in (seen.cancelled, seen.remaining, seen.metadata):
        while not events.empty():
            events.get_nowait()
    with target.channel() as channel:
        try:
            check(channel, seen)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        except (AssertionError, queue.Empty, StopIteration) as error:
            return str(error) or repr(error)
    return ""


def run(report: Report, *, quick: bool) -> None:
    del quick
    seen = Seen()
    server = grpc.server(ThreadPoolExecutor(64), (Probe(seen),), options=OPTIONS)
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    server.start()
    try:
        with tempfile.TemporaryDirectory(prefix="conformance.") as directory:
            certificate = make_certificate(Path(directory), "localhost")
            listen = [f"{LOOPBACK}:0", certificate.listener()]
            with Weir(config((LOOPBACK, port), listen=listen)) as weir:
                secure = Target(weir.addresses[1], certificate.cert.read_bytes())
                ways = {"h2": Target(weir.address), "h2 over TLS": secure}
                judge_all(report, Target((LOOPBACK, port)), ways, seen)
        denied(report, port)
        unreachable(report)
    finally:
        server.stop(0).wait()


def config(upstream: Address, **sections: Any) -> dict[str, Any]:
    return gateway_config(upstream, upstream_options={"protocol": "h2"}, **sections)


def judge_all(report: Report, direct: Target, ways: dict[str, Target], seen: Seen) -> None:
    """Every check, without the gateway and in every way through it."""
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        if fault := outcome(check, direct, seen):
            report.check(f"{name}, without the gateway", False, fault)
            continue
        for way, target in ways.items():
            fault = outcome(check, target, seen)
            report.check(f"{way}: {name}", not fault, fault)


def denied(report: Report, port: int) -> None:
    """A limit that is used up is RESOURCE_EXHAUSTED to a gRPC client, as Kong has it, and not merely an HTTP 429."""
    limited = config((LOOPBACK, port))
    limited["rules"][0]["windows"] = ["1/year"]
    with Weir(limited) as weir, Target(weir.address).channel() as channel:
        call = method(channel, "unary_unary", "Unary")
        call(b"", timeout=PATIENCE)
        error: Any = error_of(lambda: call(b"", timeout=PATIENCE))
        report.equal("a denied call is RESOURCE_EXHAUSTED", error.code().name, "RESOURCE_EXHAUSTED")


def unreachable(report: Report) -> None:
    """A gateway without its upstream is UNAVAILABLE."""
    with Weir(config(free_address())) as weir, Target(weir.address).channel() as channel:
        error: Any = error_of(lambda: method(channel, "unary_unary", "Unary")(b"", timeout=PATIENCE))
        report.equal("a call without an upstream is UNAVAILABLE", error.code().name, "UNAVAILABLE")
