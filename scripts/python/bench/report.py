"""Tables and JSON of what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .load import Case, Sample

# What Weir is to cost at most, as a multiple of another's cost.
AIMS = {"h1": ("HAProxy", 1.3), "h2": ("nginx", 1.0), "large": ("nginx", 1.0)}


@dataclass
class Figures:
    """All rounds of one contestant in one case."""

    case: Case
    contestant: str
    samples: list[Sample] = field(default_factory=list)

    def costs(self) -> list[float]:
        return [sample.cost(self.case) for sample in self.samples]

    @property
    def least(self) -> float:
        return min(self.costs())

    @property
    def middle(self) -> float:
        return median(self.costs())

    @property
    def user(self) -> float:
        return median(sample.user_cost(self.case) for sample in self.samples)

    @property
    def rate(self) -> float:
        """Requests per second, or megabytes."""
        return median(sample.requests * (self.case.megabytes or 1) / sample.seconds for sample in self.samples)

    @property
    def resident_mib(self) -> float:
        return max(sample.resident_mib for sample in self.samples)

    @property
    def others(self) -> float:
        return max(sample.others for sample in self.samples)

    def as_json(self) -> dict[str, Any]:
        return {
            "case": self.case.name,
            "contestant": self.contestant,
            "unit": self.case.unit,
            "median": round(self.middle, 2),
            "minimum": round(self.least, 2),
            "maximum": round(max(self.costs()), 2),
            "user": round(self.user, 2),
            "rate": round(self.rate, 1),
            "resident_mib": round(self.resident_mib, 1),
            "others": round(self.others, 2),
            "rounds": [round(cost, 2) for cost in self.costs()],
        }


def tables(figures: list[Figures]) -> str:
    """One table for each case."""
    lines = []
    for case in dict.fromkeys(figure.case for figure in figures):
        rows = [figure for figure in figures if figure.case == case]
        rate = "MB/s" if case.megabytes else "requests/s"
        lines += ["", f"### {case.title}", ""]
        lines += [f"| proxy | CPU {case.unit}, median (minimum to maximum) | user part | {rate} | RSS MiB | others |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in sorted(rows, key=lambda row: row.least):
            spread = f"{row.middle:.1f} ({row.least:.1f} to {max(row.costs()):.1f})"
            rest = f"{row.user:.1f} | {row.rate:,.0f} | {row.resident_mib:.0f} | {row.others:.2f}"
            lines.append(f"| {row.contestant} | {spread} | {rest} |")
        lines += ["", *verdict(case, rows)]
    return "\n".join(lines)


def verdict(case: Case, rows: list[Figures]) -> list[str]:
    """Weir's cost over that of the one it is measured against."""
    against, most = AIMS[case.name]
    by_name = {row.contestant: row for row in rows}
    if "Weir" not in by_name or against not in by_name:
        return []
    weir, other = by_name["Weir"], by_name[against]
    least, middle = weir.least / other.least, weir.middle / other.middle
    met = "met" if least <= most else "missed"
    return [f"Weir / {against}: {least:.2f} by minima, {middle:.2f} by medians; the aim of {most:g} is {met}."]
