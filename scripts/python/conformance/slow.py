"""slowhttptest: clients that send or read as slowly as they can, to hold on to what a gateway has few of."""

from __future__ import annotations

import csv
import re
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Self

from processes import Weir, free_address, gateway_config, has_hung_up, python_module

from .bystander import Bystander
from .frames import INITIAL_WINDOW_SIZE, PREFACE, Attacker, Head, headers, settings
from .report import Report

MIB = 1 << 20
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
# How long the gateway is told to wait, in seconds, and by when it has to have given up: its own clock is coarse.
PATIENCE, GIVEN_UP = 2, 10
# Sockets of the bystander, and of slowhttptest's own probe of whether the service is available.
OTHERS_MOST = 5
SETTINGS = {
    "header_read_timeout": f"{PATIENCE}s",
    "body_timeout": f"{PATIENCE}s",
    "send_timeout": f"{PATIENCE}s",
    "connections_max": 1000,
}


@dataclass(frozen=True)
class Mode:
    """A way to be slow, as slowhttptest has it."""

    name: str
    args: list[str] = field(default_factory=list)
    path: str = "/bytes/10"
    notices: bool = True
    """It notices when it is hung up on. Who reads slowly sees a reset only behind what its kernel has already taken."""


def modes(connections: int) -> list[Mode]:
    often = ["-i", "1"]
    return [
        Mode("slow heads (Slowloris)", ["-H", *often]),
        Mode("slow bodies (R.U.D.Y.)", ["-B", "-s", "8192", *often]),
        # Each asks for more than the buffers of both kernels hold.
        Mode(
            "slow reading",
            ["-X", "-w", "1", "-y", "512", "-n", "1", "-z", "8", "-k", "1"],
            f"/bytes/{16 * MIB}",
            notices=False,
        ),
    ]


@dataclass
class Course:
    """What slowhttptest wrote down, second by second."""

    connected: list[int]
    """Open connections at each second."""
    available: list[bool]
    status: str


def run(report: Report, *, quick: bool) -> None:
    connections = 100 if quick else 500
    address = free_address()
    with python_module("conformance.upstream", str(address[1]), name="upstream") as server:
        server.await_listening(address)
        for mode in modes(connections):
            with Weir(gateway_config(address, proxy=SETTINGS)) as weir:
                slow(report, mode, weir, connections)
        with Weir(gateway_config(address, proxy=SETTINGS)) as weir:
            silent(report, weir, connections)
        with Weir(gateway_config(address, proxy=SETTINGS)) as weir:
            unread(report, weir)


def slow(report: Report, mode: Mode, weir: Weir, connections: int) -> None:
    """Many slow connections at once: the gateway has closed them all by the end, and has served others."""
    with Bystander(weir, "/bytes/10") as bystander, Sockets(weir) as sockets:
        course = slowhttptest(weir.url + mode.path, mode.args, connections)
    if mode.notices:
        most = max(course.connected, default=0)
        detail = f"{course.status}; {most} of {connections} at once, {course.connected[-1]} in the last second"
        # It ends by itself once none of its connections is open.
        is_closed = course.status == "No open connections left" and most > connections // 2
    else:
        most, detail = sockets.most, f"{sockets.most} sockets at once, {sockets.last} in the last second"
        is_closed = sockets.last <= OTHERS_MOST and most > connections // 2
    report.check(f"{mode.name}: all are closed in time", is_closed, detail)
    bystander.judge(report, mode.name, connections)
    report.check(f"{mode.name}: the service stays available", all(course.available), "as slowhttptest probes it")


class Sockets:
    """How many sockets the kernel keeps for a gateway's clients, whatever the clients know of it."""

    LISTEN, TIME_WAIT = "0A", "06"

    def __init__(self, weir: Weir):
        self._local = f":{weir.address[1]:04X}"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most = self.last = 0

    def _run(self) -> None:
        while not self._done.wait(0.2):
            rows = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            states = [state for local, _, state in rows if local.endswith(self._local)]
            self.last = sum(state not in (self.LISTEN, self.TIME_WAIT) for state in states)
            self.most = max(self.most, self.last)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def slowhttptest(target: str, args: list[str], connections: int) -> Course:
    """Runs it until nothing is open any more, or its time is over."""
    with tempfile.TemporaryDirectory(prefix="slowhttptest.") as directory:
        prefix = Path(directory, "course")
        rate = ["-c", str(connections), "-r", str(connections), "-l", str(GIVEN_UP + 5), "-p", "5"]
        outcome = subprocess.run(
            ["slowhttptest", *args, *rate, "-u", target, "-g", "-o", prefix, "-v", "1"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIVEN_UP + 60,
        )
        rows = list(csv.DictReader(prefix.with_suffix(".csv").open()))
    status = outcome.stdout.rpartition("Exit status:")[2].strip().splitlines()

    def number(row: dict[str, str], name: str) -> int:
        return int(row[name] or 0)

    return Course(
        connected=[number(row, "Connected") + number(row, "Pending") for row in rows],
        available=[number(row, "Service Available") > 0 for row in rows],
        status=ESCAPES.sub("", status[0]).strip() if status else "no status",
    )


def silent(report: Report, weir: Weir, connections: int) -> None:
    """Connections that say nothing at all, and others that stop within a request or the preface of HTTP/2."""
    starts = {
        "nothing": b"",
        "half a request line": b"GET /byt",
        "half a head": b"GET /bytes/10 HTTP/1.1\r\nHost: app.example\r\nX-A: ",
        "a request whose response it does not read": f"GET /bytes/{16 * MIB} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        "half a body": b"POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 100\r\n\r\nabc",
        "half a chunk": b"POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc",
        "half a preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
        "the preface of HTTP/2 alone": PREFACE,
        "half a frame": PREFACE + b"\0\0\x06\x04\0\0\0\0\0\0",
        "HEADERS that do not end": PREFACE + settings() + headers(1, b"\x82", end_headers=False),
    }
    with Bystander(weir, "/bytes/10") as bystander:
        held = {name: [open_and_send(weir, start) for _ in range(connections // 20)] for name, start in starts.items()}
        deadline = time.monotonic() + GIVEN_UP
        while time.monotonic() < deadline and not all(map(has_hung_up, chain(*held.values()))):
            time.sleep(0.1)
        for name, streams in held.items():
            closed = sum(map(has_hung_up, streams))
            report.check(f"after {name}: closed in time", closed == len(streams), f"{closed} of {len(streams)}")
            for stream in streams:
                stream.close()
    bystander.judge(report, "silence", connections // 20 * len(starts))


def open_and_send(weir: Weir, start: bytes) -> socket.socket:
    """A client whose kernel takes little that it does not read."""
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream.connect(weir.address)
    stream.sendall(start)
    return stream


def unread(report: Report, weir: Weir) -> None:
    """CVE-2019-9511, -9517: an HTTP/2 client asks for much and opens no window. No body is gathered for it."""
    block = Head("GET", f"/bytes/{2 * MIB}").block
    requests = [headers(stream, block) for stream in range(1, 200, 2)]
    with (
        Bystander(weir, "/bytes/10") as bystander,
        Attacker(weir.address, settings({INITIAL_WINDOW_SIZE: 1})) as client,
    ):
        outcome = client.flood(requests, 4.0, linger=GIVEN_UP)
    report.check("100 streams of HTTP/2 that nobody reads: closed in time", outcome.closed, str(outcome))
    bystander.judge(report, "100 streams of HTTP/2 that nobody reads")
