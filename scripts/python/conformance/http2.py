"""httpwg-cli: the rules of RFC 9113, each as a small exchange of frames with the gateway.

`docs/conformance.md` lists the cases that may fail, and why; the suite holds the gateway to that list.
"""

from __future__ import annotations

import os
import re
import subprocess

from processes import Weir, gateway_config, root, stopped_after, weir_echo

from .report import Report

PASSED_LEAST = 95
# The suite waits for a frame this long.
FRAME_MS = 1500
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def allowed_failures() -> tuple[set[str], set[str]]:
    """The cases that the table in `docs/conformance.md` names, as `section :: case`; and those that always fail."""
    page = (root() / "docs" / "conformance.md").read_text()
    section = page.partition("## HTTP/2")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+ :: [^`]+)` \| (.+) \|$", section, re.MULTILINE)
    return {case for case, _ in rows}, {case for case, why in rows if not why.startswith("Sometimes.")}


def run(report: Report, *, quick: bool) -> None:
    del quick  # It takes seconds.
    tool = root() / "target" / "tools" / "bin" / "httpwg"
    echo, upstream = weir_echo()
    with stopped_after(echo), Weir(gateway_config(upstream)) as weir:
        outcome = subprocess.run(
            [tool, "--address", "{}:{}".format(*weir.address), "--frame-timeout", str(FRAME_MS), "--verbose"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            env={**os.environ, "RUST_LOG": "error", "NO_COLOR": "1", "SEQUENTIAL": "1"},
        )
    output = ESCAPES.sub("", outcome.stderr + outcome.stdout)
    cases = set(re.findall(r"Running test: (?:.+?) :: (.+)", output))
    passed = set(re.findall(r"Test passed: (?:.+?) :: (.+)", output))
    reasons = dict(re.findall(r"Test failed: (?:.+?) :: (.+)\n\s*(.+)", output))
    allowed, failing = allowed_failures()
    (root() / "target" / "conformance" / "httpwg.log").write_text(output)
    report.check(
        f"at least {PASSED_LEAST} of the cases pass", len(passed) >= PASSED_LEAST, f"{len(passed)} of {len(cases)}"
    )
    for case in sorted(cases - passed):
        report.check(f"{case} is listed with its reason", case in allowed, reasons.get(case, "panicked"))
    report.equal("every listed case still fails", sorted(failing & passed), [])
