"""Frames of HTTP/2 as no honest client would send them, and a connection that floods a gateway with them."""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hpack import Encoder
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from processes import Address

INITIAL_WINDOW_SIZE = 4  # RFC 9113 §6.5.2
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# What is written at once; the rest waits until the gateway has taken it.
WRITE_BYTES = 16 * 1024
# How long a connection that takes no more bytes is watched: it is blocked.
BLOCKED_SECONDS = 2.0


class Head:
    """Header blocks that do not depend on each other: every field is a literal that is not indexed."""

    def __init__(self, method: str = "GET", path: str = "/", *extra: tuple[str, str]):
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "app.example"), *extra]
        encoder = Encoder()
        encoder.header_table_size = 0
        self.block = encoder.encode(fields)


def headers(stream: int, block: bytes, *, end_stream: bool = True, end_headers: bool = True) -> bytes:
    flags = [flag for flag, wanted in (("END_STREAM", end_stream), ("END_HEADERS", end_headers)) if wanted]
    return HeadersFrame(stream, block, flags=flags).serialize()


def continuation(stream: int, block: bytes) -> bytes:
    return ContinuationFrame(stream, block).serialize()


def data(stream: int, payload: bytes = b"", *, end_stream: bool = False) -> bytes:
    return DataFrame(stream, payload, flags=["END_STREAM"] if end_stream else []).serialize()


def reset(stream: int, code: int = 8) -> bytes:
    return RstStreamFrame(stream, code).serialize()


def settings(values: dict[int, int] | None = None) -> bytes:
    return SettingsFrame(0, values or {}).serialize()


def ping(number: int = 0) -> bytes:
    return PingFrame(0, number.to_bytes(8, "big")).serialize()


def window_update(stream: int, increment: int) -> bytes:
    if increment:
        return WindowUpdateFrame(stream, increment).serialize()
    # hyperframe refuses to write the increment that RFC 9113 §6.9 forbids.
    return b"\0\0\x04\x08\0" + stream.to_bytes(4, "big") + bytes(4)


def raw(kind: int, stream: int, payload: bytes, flags: int = 0) -> bytes:
    """A frame of any type."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@dataclass
class Flood:
    """How a gateway took a flood."""

    sent: int = 0
    """Steps that it took before it hung up or stopped reading."""
    closed: bool = False
    blocked: bool = False
    """It stopped reading: what the attacker sends stays with the attacker."""
    goaway: int | None = None
    received: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        how = "closed" if self.closed else "blocked" if self.blocked else "open"
        code = "" if self.goaway is None else f" with GOAWAY {self.goaway}"
        return f"{how}{code} after {self.sent} steps"


class Attacker:
    """A connection that sends steps of bytes as fast as they are taken."""

    def __init__(self, address: Address, initial: bytes | None = None, *, reads: bool = True):
        self.stream = socket.create_connection(address, timeout=10)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream.setblocking(False)
        self.reads = reads
        self.outcome = Flood()
        self._inbox = bytearray()
        self._outbox = bytearray(PREFACE + (initial if initial is not None else settings()))

    def flood(self, steps: Iterable[bytes], seconds: float, *, linger: float = 2.0, paced: bool = False) -> Flood:
        """Sends `steps`, for `seconds` at the most, and waits for `linger` whether the gateway hangs up.

        Paced steps end in a PING each, and wait for the answer to the one before.
        """
        outcome, source = self.outcome, iter(steps)
        deadline, moved, exhausted = time.monotonic() + seconds, time.monotonic(), False
        while not outcome.closed:
            now = time.monotonic()
            while len(self._outbox) < WRITE_BYTES and not exhausted and now < deadline:
                if paced and outcome.received["PingFrame"] < outcome.sent:
                    break
                step = next(source, None)
                exhausted = step is None
                if step is not None:
                    self._outbox += step
                    outcome.sent += 1
            if self._outbox and now - moved > BLOCKED_SECONDS:
                outcome.blocked = True
                break
            if not self._outbox and now - moved > linger:
                break
            if now > deadline + linger:
                break
            if self._turn():
                moved = time.monotonic()
        return outcome

    def _turn(self) -> bool:
        """Waits until something can be done, and does it. Whether bytes were written."""
        poll = select.poll()
        poll.register(
            self.stream,
            (select.POLLOUT if self._outbox else 0) | (select.POLLIN if self.reads else 0) | select.POLLRDHUP,
        )
        written = False
        for _, events in poll.poll(200):
            try:
                if events & select.POLLIN and self.reads:
                    self._read()
                if events & (select.POLLRDHUP | select.POLLHUP | select.POLLERR):
                    self._hung_up()
                elif events & select.POLLOUT:
                    written = True
                    del self._outbox[: self.stream.send(self._outbox[: 4 * WRITE_BYTES])]
            except BlockingIOError:
                pass
            except OSError:
                self.outcome.closed = True
        return written

    def _hung_up(self) -> None:
        """Reads what the gateway had to say at the end."""
        self.outcome.closed = True
        try:
            while self._read():
                pass
        except OSError:
            pass

    def _read(self) -> int:
        arrived = self.stream.recv(256 * 1024)
        if not arrived:
            self.outcome.closed = True
        self._inbox += arrived
        self._parse()
        return len(arrived)

    def _parse(self) -> None:
        while len(self._inbox) >= 9:
            try:
                frame, length = Frame.parse_frame_header(memoryview(bytes(self._inbox[:9])))
                if len(self._inbox) < 9 + length:
                    return
                frame.parse_body(memoryview(bytes(self._inbox[9 : 9 + length])))
            except HyperframeError as error:
                raise AssertionError(f"the gateway sent no valid frame: {error}") from error
            del self._inbox[: 9 + length]
            self.outcome.received[type(frame).__name__] += 1
            if isinstance(frame, GoAwayFrame):
                self.outcome.goaway = frame.error_code

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
