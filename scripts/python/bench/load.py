"""The load of each case, and what it cost the proxy."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from processes import CLOCK_TICKS, CpuTime, Process, url

from .contestants import HOST, LARGE_BYTES, PATH, Contestant


@dataclass(frozen=True)
class Case:
    """What is asked for, by how many connections."""

    name: str
    title: str
    connections: int
    streams: int
    """Concurrent requests of each connection; 0 for HTTP/1.1."""
    path: str
    megabytes: float
    """Of the body, if the cost is told per megabyte; otherwise 0."""

    @property
    def unit(self) -> str:
        return "µs/MB" if self.megabytes else "µs/request"


CASES = [
    Case("h1", "HTTP/1.1, 64 connections, 128 bytes", 64, 0, f"{PATH}/small", 0),
    Case("h2", "h2 over TLS 1.3, 16 connections of 8 streams, 128 bytes", 16, 8, f"{PATH}/small", 0),
    Case("large", "HTTP/1.1, 16 connections, 1 MiB", 16, 0, f"{PATH}/large", LARGE_BYTES / 1e6),
]


@dataclass(frozen=True)
class Sample:
    """One round of one contestant."""

    requests: int
    seconds: float
    cpu: CpuTime
    """Of the proxy, over all requests."""
    resident_mib: float
    others: float
    """Processors' time that neither the proxy nor the load, but other programs took, as a share of one processor."""

    def cost(self, case: Case) -> float:
        """Microseconds per request, or per megabyte."""
        return self.cpu.total * 1e6 / self.requests / (case.megabytes or 1)

    def user_cost(self, case: Case) -> float:
        return self.cpu.user * 1e6 / self.requests / (case.megabytes or 1)


class LoadError(Exception):
    """A round that measures nothing, since requests failed."""


def measure(case: Case, contestant: Contestant, upstream: Process, seconds: float, cpu: int) -> Sample:
    """One round."""
    busy, own = machine_busy(), upstream.cpu_time().total
    before = contestant.process.cpu_time()
    outcome = run_h2load(case, contestant, seconds, cpu) if case.streams else run_wrk(case, contestant, seconds, cpu)
    requests, taken, generator = outcome
    used = contestant.process.cpu_time() - before
    own = upstream.cpu_time().total - own + used.total + generator
    others = max(0.0, machine_busy() - busy - own) / taken
    return Sample(requests, taken, used, contestant.process.resident_bytes() / 2**20, others)


def run_wrk(case: Case, contestant: Contestant, seconds: float, cpu: int) -> tuple[int, float, float]:
    """Requests, seconds, and processor time of the load generator."""
    options = ["--threads", "1", "--connections", str(case.connections), "--duration", f"{seconds:g}s"]
    target = url(contestant.plain) + case.path
    output, generator = pinned(["wrk", *options, "--header", f"Host: {HOST}", "--timeout", "30s", target], cpu)
    if "Non-2xx" in output or "Socket errors" in output:
        raise LoadError(f"{contestant.name}: {output}")
    total = re.search(r"(\d+) requests in ([\d.]+)(m?s)", output)
    if not total:
        raise LoadError(f"{contestant.name}: {output}")
    return int(total[1]), float(total[2]) / (1000 if total[3] == "ms" else 1), generator


def run_h2load(case: Case, contestant: Contestant, seconds: float, cpu: int) -> tuple[int, float, float]:
    assert contestant.tls is not None
    host, port = contestant.tls
    options = ["--threads=1", f"--clients={case.connections}", f"--max-concurrent-streams={case.streams}"]
    # The name in the URL is what SNI and :authority say; the address is where to connect.
    target = [f"--connect-to={host}:{port}", f"https://{HOST}{case.path}"]
    output, generator = pinned(["h2load", *options, f"--duration={seconds:g}", *target], cpu)
    counts = re.search(r"requests: (\d+) total, .* (\d+) succeeded, (\d+) failed, (\d+) errored", output)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    taken = re.search(r"finished in ([\d.]+)(m?s)", output)
    if not (counts and codes and taken) or any(int(code) for code in codes.groups()[1:]) or int(counts[4]):
        raise LoadError(f"{contestant.name}: {output}")
    return int(codes[1]), float(taken[1]) / (1000 if taken[2] == "ms" else 1), generator


def pinned(argv: list[str], cpu: int) -> tuple[str, float]:
    """Runs a load generator on one processor. What it printed, and its processor time in seconds."""
    child = subprocess.Popen(
        ["taskset", "--cpu-list", str(cpu), *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert child.stdout is not None
    output = child.stdout.read()
    used = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    if child.wait() != 0:
        raise LoadError(f"{argv[0]}: {output}")
    return output, (int(used[11]) + int(used[12])) / CLOCK_TICKS


def machine_busy() -> float:
    """Seconds that all processors were not idle (proc(5): stat)."""
    user, nice, system, _idle, _iowait, irq, soft, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + soft + steal) / CLOCK_TICKS
