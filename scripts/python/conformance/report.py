"""What the suites found."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Check:
    """One thing that had to hold."""

    name: str
    passed: bool
    detail: str


@dataclass
class Report:
    """The checks of one suite."""

    suite: str
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    _began: float = field(default_factory=time.monotonic, repr=False)

    def check(self, name: str, passed: bool, detail: str = "") -> bool:
        """Records whether `name` holds, with the figures that say so."""
        self.checks.append(Check(name, bool(passed), detail))
        mark = "ok  " if passed else "FAIL"
        print(f"  {mark} {name}{f': {detail}' if detail else ''}", flush=True)
        return bool(passed)

    def equal(self, name: str, found: object, wanted: object) -> bool:
        """Records whether two values are equal, and both where they are not."""
        equal = found == wanted
        return self.check(name, equal, "" if equal else f"{_short(found)}, not {_short(wanted)}")

    def end(self) -> None:
        self.seconds = round(time.monotonic() - self._began, 1)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


def write(reports: list[Report], path: Path) -> None:
    """Leaves the reports as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suites = [{key: value for key, value in asdict(report).items() if not key.startswith("_")} for report in reports]
    path.write_text(json.dumps(suites, indent=1) + "\n")


def summary(reports: list[Report]) -> str:
    """A table of the suites, and the line that continuous integration counts by."""
    lines = ["", "| suite | passed | failed | seconds |", "|---|---|---|---|"]
    for report in reports:
        failed = len(report.failed)
        lines.append(f"| {report.suite} | {len(report.checks) - failed} | {failed} | {report.seconds:g} |")
    failed = sum(len(report.failed) for report in reports)
    total = sum(len(report.checks) for report in reports)
    return "\n".join([*lines, "", f"conformance: {total - failed} passed, {failed} failed"])
