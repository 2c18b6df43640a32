"""Runs the suites that the command line names, or all of them; fails if any check does."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback

from processes import root

from . import report

SUITES = ("http2", "websocket", "httpbin", "grpc", "slow", "attacks", "services")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"any of {', '.join(SUITES)}; all unless given")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter cases of each suite")
    args = parser.parse_args()
    if unknown := [suite for suite in args.suites if suite not in SUITES]:
        parser.error(f"no suite `{unknown[0]}`: choose from {', '.join(SUITES)}")
    reports = []
    for suite in args.suites or SUITES:
        print(f"{suite}:", flush=True)
        found = report.Report(suite)
        try:
            importlib.import_module(f"conformance.{suite}").run(found, quick=args.quick)
        except Exception as error:
            traceback.print_exc()
            found.check("the suite ran to its end", False, repr(error))
        found.end()
        reports.append(found)
    report.write(reports, root() / "target" / "conformance" / "report.json")
    print(report.summary(reports))
    return 1 if any(found.failed for found in reports) else 0


sys.exit(main())
