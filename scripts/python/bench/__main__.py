"""Compares Weir with nginx (limit_req) and HAProxy (stick table): processor time per request.

The proxy has one processor to itself, the load generator and the upstream share another. Rounds alternate between the
contestants, all of which are up all the time. Differences below 10 % need ten rounds or more; the minimum is steadier
than the median.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from processes import Process, root, stopped_after

from .contestants import STARTERS, Contestant, start_upstream
from .load import CASES, Case, measure
from .report import Figures, tables

WARM_UP_SECONDS = 1.0


def names(known: list[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"`{name}` is none of {', '.join(known)}")
        return chosen

    return parse


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = [case.name for case in CASES]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--cases", type=names(cases), default=cases, help=f"of {','.join(cases)}")
    parser.add_argument("--contestants", type=names(list(STARTERS)), default=list(STARTERS))
    args = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        parser.error("needs two processors: one for the proxy, one for its load")
    server, load = processors[:2]
    print(f"proxy on processor {server}, load and upstream on {load}, {len(processors)} in all; load {load_average()}")
    upstream, address = start_upstream(load)
    with stopped_after(upstream):
        contestants: list[Contestant] = []
        try:
            for name in args.contestants:
                contestants.append(STARTERS[name](address, server))
                print(f"{contestants[-1].name}: {contestants[-1].version}")
            chosen = [case for case in CASES if case.name in args.cases]
            figures = [figure for case in chosen for figure in run(case, contestants, upstream, args, load)]
        finally:
            for contestant in contestants:
                contestant.process.stop()
    print(tables(figures))
    found = {
        "load_average": load_average(),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "versions": {contestant.name: contestant.version for contestant in contestants},
        "figures": [figure.as_json() for figure in figures],
    }
    path = root() / "target" / "bench.json"
    path.write_text(json.dumps(found, ensure_ascii=False) + "\n")
    print(f"\n{json.dumps(found, ensure_ascii=False)}")
    return 0


def run(
    case: Case, contestants: list[Contestant], upstream: Process, args: argparse.Namespace, cpu: int
) -> list[Figures]:
    """All rounds of a case. Each round begins with another contestant."""
    print(f"{case.title}:", flush=True)
    figures = [Figures(case, contestant.name) for contestant in contestants]
    for contestant in contestants:
        measure(case, contestant, upstream, WARM_UP_SECONDS, cpu)
    for number in range(args.rounds):
        for turn in range(len(contestants)):
            index = (turn + number) % len(contestants)
            sample = measure(case, contestants[index], upstream, args.seconds, cpu)
            figures[index].samples.append(sample)
            print(
                f"  round {number + 1}, {contestants[index].name}: {sample.cost(case):.1f} {case.unit},"
                f" {sample.requests} requests, other programs {sample.others:.2f}",
                flush=True,
            )
            # Sockets of the round before are gone.
            time.sleep(0.2)
    return figures


def load_average() -> str:
    return " ".join(Path("/proc/loadavg").read_text().split()[:3])


sys.exit(main())
