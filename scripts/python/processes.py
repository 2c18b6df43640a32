"""Processes under test: started on free loopback ports, awaited, measured, and ended by their own pid."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

Address = tuple[str, int]
T = TypeVar("T")

LOOPBACK = "127.0.0.1"
START_SECONDS = 20.0
STOP_SECONDS = 15.0
# Linux hands out ports from 32768 on to those who ask for any: below that nobody takes one by chance.
FIRST_PORT, LAST_PORT = 12_000, 27_000
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# More than any run sends: a limit that is decided on every request and denies none.
NEVER_DENIES = "1000000000/minute"

_next_port = FIRST_PORT + os.getpid() % (LAST_PORT - FIRST_PORT)


def root() -> Path:
    """The top of the source tree."""
    return Path(__file__).resolve().parents[2]


def weir_binary() -> Path:
    """The binary under test, as `WEIR_BIN` names it."""
    return Path(os.environ["WEIR_BIN"]).resolve()


def free_address() -> Address:
    """A loopback address that nobody listens on, for servers that cannot choose one themselves."""
    global _next_port
    for _ in range(LAST_PORT - FIRST_PORT):
        _next_port += 1
        if _next_port >= LAST_PORT:
            _next_port = FIRST_PORT
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, _next_port))
            except OSError:
                continue
        return LOOPBACK, _next_port
    raise RuntimeError("no free port")


def wait_until(what: str, condition: Callable[[], T | None], seconds: float = START_SECONDS) -> T:
    """Asks `condition` until it answers something, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def accepts(address: Address) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class CpuTime:
    """Processor time in seconds."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system

    def __sub__(self, earlier: CpuTime) -> CpuTime:
        return CpuTime(self.user - earlier.user, self.system - earlier.system)


class Process:
    """A child process, its children included where it is measured."""

    def __init__(
        self, name: str, argv: Sequence[str | Path], *, cpu: int | None = None, env: dict[str, str] | None = None
    ):
        self.name = name
        self.log = log_file(f"{name}.", ".log")
        pin = ["taskset", "--cpu-list", str(cpu)] if cpu is not None else []
        with self.log.open("w") as log:
            self._child = subprocess.Popen(
                [*pin, *map(str, argv)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def is_running(self) -> bool:
        return self._child.poll() is None

    def await_output(self, pattern: str) -> re.Match[str]:
        """The first match in what the process has said, once it has."""

        def look() -> re.Match[str] | None:
            self._check_running()
            return re.search(pattern, self.log.read_text(errors="replace"))

        return wait_until(f"{self.name} says `{pattern}`", look)

    def await_listening(self, address: Address) -> None:
        def look() -> bool:
            self._check_running()
            return accepts(address)

        wait_until(f"{self.name} listens on {address[1]}", look)

    def _check_running(self) -> None:
        if not self.is_running():
            raise RuntimeError(f"{self.name} ended by itself:\n{self.log.read_text(errors='replace')[-4000:]}")

    def pids(self) -> list[int]:
        """The process and its children, such as the workers of nginx."""
        found = [self.pid]
        for pid in found:
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            except OSError:
                continue
            found.extend(int(child) for child in children.split())
        return found

    def cpu_time(self) -> CpuTime:
        """What the process and its living children have used (proc(5): stat, fields 14 and 15)."""
        user = system = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            user, system = user + int(fields[11]), system + int(fields[12])
        return CpuTime(user / CLOCK_TICKS, system / CLOCK_TICKS)

    def resident_bytes(self) -> int:
        """The memory that the process and its children have in RAM."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES for pid in self.pids())

    def stop(self) -> int:
        """Ends the process, politely first. Its exit code."""
        self._child.terminate()
        try:
            return self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def log_directory() -> Path:
    """Where processes log, kept until the next `cargo clean`."""
    directory = root() / "target" / "conformance" / "logs"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def log_file(prefix: str, suffix: str) -> Path:
    """A new file among the logs."""
    descriptor, path = tempfile.mkstemp(suffix, prefix, log_directory())
    os.close(descriptor)
    return Path(path)


class Weir(Process):
    """A running gateway."""

    def __init__(self, config: dict[str, Any], *, cpu: int | None = None):
        # JSON is YAML.
        file = log_file("weir.", ".yaml")
        file.write_text(json.dumps({"node_id": "conformance", "listen": f"{LOOPBACK}:0", **config}, indent=1))
        # Nobody looks at readiness while it stops.
        argv: list[str | Path] = [weir_binary(), "run", "--config", file, "--drain-delay", "0s"]
        super().__init__("weir", [*argv, "--admin", f"{LOOPBACK}:0", "--gossip", f"{LOOPBACK}:0"], cpu=cpu)
        try:
            line = self.await_output(r"weir: node .*").group()
            self.addresses = [_address(text) for text in re.findall(r"//([\d.]+:\d+)", line.partition(", admin")[0])]
            self.admin = _address(re.search(r"admin http://([\d.:]+)", line).group(1))  # type: ignore[union-attr]
            wait_until("weir is ready", lambda: http_status(self.admin, "/readyz") == 200)
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> Address:
        """The first of its listeners."""
        return self.addresses[0]

    @property
    def url(self) -> str:
        return url(self.address)

    def metric(self, name: str) -> float:
        """The sum of all samples of a metric."""
        with urllib.request.urlopen(f"{url(self.admin)}/metrics", timeout=10) as response:
            text = response.read().decode()
        samples = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)", text, re.MULTILINE)
        return sum(map(float, samples))


def gateway_config(upstream: Address, **sections: Any) -> dict[str, Any]:
    """A configuration with one upstream, a route to it, and a limit that is counted and never reached."""
    upstream_options = sections.pop("upstream_options", {})
    return {
        "rules": [{"name": "per-client", "by": "ip", "windows": [NEVER_DENIES]}],
        "upstreams": [{"name": "app", "targets": [url(upstream)], **upstream_options}],
        "routes": [{"name": "app", "path_prefix": "/", "upstream": "app"}],
        **sections,
    }


def weir_echo(delay: str | None = None) -> tuple[Process, Address]:
    """An upstream that counts what reaches it (`/_echo/count`)."""
    argv: list[str | Path] = [
        weir_binary(),
        "echo",
        "--listen",
        f"{LOOPBACK}:0",
        *(["--delay", delay] if delay else []),
    ]
    echo = Process("echo", argv)
    return echo, _address(echo.await_output(r"listening on \S*?([\d.]+:\d+)").group(1))


def python_module(module: str, *args: str, name: str) -> Process:
    """A Python program of this directory or of the virtual environment."""
    here = str(Path(__file__).resolve().parent)
    return Process(name, [sys.executable, "-m", module, *args], env={"PYTHONPATH": here, "PYTHONUNBUFFERED": "1"})


def url(address: Address, scheme: str = "http") -> str:
    return f"{scheme}://{address[0]}:{address[1]}"


def http_status(address: Address, path: str) -> int | None:
    try:
        with urllib.request.urlopen(url(address) + path, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


@contextmanager
def stopped_after(*processes: Process) -> Iterator[None]:
    """Ends `processes` in the reverse order."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.stop()


def has_hung_up(stream: socket.socket) -> bool:
    """Whether the peer has closed, without reading."""
    poll = select.poll()
    poll.register(stream, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))
