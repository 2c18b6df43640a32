"""One exchange by curl, as a client of any version of HTTP would have it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Set for one connection, anew by each sender, or by the gateway (RFC 9110 §7.6.1, §6.6.1, §7.6.3).
NOT_END_TO_END = {"connection", "keep-alive", "transfer-encoding", "date", "via", "x-request-id"}
ADDED = ("x-weir-", "x-ratelimit-", "ratelimit-")


@dataclass(frozen=True)
class Way:
    """How to reach a server."""

    name: str
    base: str
    """The URL without its path."""
    options: tuple[str, ...]
    version: str
    """What the version of the response begins with."""


def http10(base: str) -> Way:
    # A server may answer in the version of its own (RFC 9110 §6.2).
    return Way("HTTP/1.0", base, ("--http1.0",), "HTTP/1.")


def http1(base: str) -> Way:
    return Way("HTTP/1.1", base, ("--http1.1",), "HTTP/1.1")


def http2(base: str) -> Way:
    return Way("h2", base, ("--http2-prior-knowledge",), "HTTP/2")


def http2_over_tls(base: str, authority: Path) -> Way:
    return Way("h2 over TLS", base, ("--http2", "--cacert", str(authority)), "HTTP/2")


@dataclass
class Response:
    """What curl received."""

    version: str
    status: int
    fields: list[tuple[str, str]]
    body: bytes
    """As it came: codings are not undone."""

    def values(self, name: str) -> list[str]:
        return [value for field, value in self.fields if field == name.lower()]

    def value(self, name: str) -> str | None:
        values = self.values(name)
        return values[0] if len(values) == 1 else None

    def end_to_end(self) -> list[tuple[str, str]]:
        """The fields that a gateway has to pass on as they are."""
        return sorted(
            (name, value) for name, value in self.fields if name not in NOT_END_TO_END and not name.startswith(ADDED)
        )


def fetch(way: Way, path: str, args: Sequence[str] = (), stdin: bytes | None = None) -> Response:
    """Sends a request. Of several responses (100, redirects that are followed) the last counts."""
    with tempfile.TemporaryDirectory(prefix="curl.") as directory:
        head, body = Path(directory, "head"), Path(directory, "body")
        options = ["--silent", "--show-error", "--max-time", "60", "--path-as-is", "--noproxy", "*"]
        outcome = subprocess.run(
            ["curl", *options, *way.options, "--dump-header", head, "--output", body, *args, way.base + path],
            input=stdin,
            capture_output=True,
            timeout=90,
        )
        if outcome.returncode != 0:
            raise RuntimeError(f"curl {' '.join(args)} {way.base}{path}: {outcome.stderr.decode().strip()}")
        content = body.read_bytes() if body.exists() else b""
        if "--head" in args:
            # Then curl puts the head there, too.
            content = content.removeprefix(head.read_bytes())
        blocks = head.read_bytes().decode("latin-1").split("\r\n\r\n")
        last = [block for block in blocks if block.startswith("HTTP/")][-1]
        lines = last.split("\r\n")
        fields = [line.partition(":") for line in lines[1:] if ":" in line]
        return Response(
            version=lines[0].split()[0],
            status=int(lines[0].split()[1]),
            fields=[(name.lower(), value.strip()) for name, _, value in fields],
            body=content,
        )
