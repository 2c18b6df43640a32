"""kosoku: the Autobahn cases for WebSocket servers (RFC 6455), through the gateway to PyPI's `websockets`.

The same cases run against that server directly: what fails only through the gateway is the gateway's.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from processes import Address, Weir, free_address, gateway_config, python_module, url

from .report import Report

# Performance and compression: their frames pass through a gateway like any other, and they take minutes.
EXCLUDED = ["9.*", "12.*", "13.*"]
# A sample of large, fragmented and compressed messages all the same.
SAMPLE = ["9.1.3", "9.2.3", "9.3.3", "9.5.3", "12.1.5", "13.1.5"]
CASES, PASSED_LEAST = 247, 246
QUICK = ["1.*", "2.*", "5.*", "7.1.*", *SAMPLE]


@dataclass
class Outcome:
    """How many cases ran, and why some did not pass."""

    cases: int
    failures: dict[str, str]


async def drive(address: Address, cases: list[str] | None, excluded: list[str] | None) -> Outcome:
    """Runs the selected cases against the server at `address`."""
    from kosoku import FailureError, run_fuzzingclient

    try:
        results = await run_fuzzingclient(url(address, "ws"), cases, excluded, concurrency=4)
    except FailureError as error:
        results = error.results
    failed = [case for case in results if not case.passed]
    reasons = {case.case_id: f"{case.behavior.value}, {case.result} {case.result_close}" for case in failed}
    return Outcome(len(results), reasons)


def run(report: Report, *, quick: bool) -> None:
    address = free_address()
    with python_module("conformance.websocket", str(address[1]), name="websockets") as server:
        server.await_listening(address)
        with Weir(gateway_config(address)) as weir:
            if not quick:
                through = compare(report, "of RFC 6455", (address, weir.address), None, EXCLUDED)
                passed = through.cases - len(through.failures)
                enough = through.cases == CASES and passed >= PASSED_LEAST
                report.check(f"at least {PASSED_LEAST} of {CASES} pass", enough, f"{passed} of {through.cases}")
            compare(report, "of a sample", (address, weir.address), QUICK if quick else SAMPLE, None)


def compare(
    report: Report,
    name: str,
    addresses: tuple[Address, Address],
    cases: list[str] | None,
    excluded: list[str] | None,
) -> Outcome:
    """Runs a selection directly and through the gateway. The outcome of the latter."""
    direct, through = (asyncio.run(drive(address, cases, excluded)) for address in addresses)
    own = {case: why for case, why in through.failures.items() if case not in direct.failures}
    detail = "; ".join(f"{case}: {why}" for case, why in own.items()) or f"{through.cases} cases"
    report.check(f"the cases {name} end as they do without the gateway", not own and through.cases > 0, detail)
    return through


async def serve(port: int) -> None:
    """The server under the gateway: echoes messages as they come."""
    from websockets.asyncio.server import ServerConnection
    from websockets.asyncio.server import serve as listen

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with listen(echo, "127.0.0.1", port, max_size=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
