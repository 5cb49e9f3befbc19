"""What was measured, as tables for people and as JSON for programs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Sequence

MISSED = "MISSED"


@dataclass(frozen=True)
class Goal:
    """A bound that a figure should keep: `sign` is ">=" or "<="."""

    sign: str
    bound: float

    def met(self, value: float) -> bool:
        """Whether it does."""
        return value >= self.bound if self.sign == ">=" else value <= self.bound


@dataclass(frozen=True)
class Check:
    """A figure that is compared: a ratio to what `of` names, or with `of` empty the row's own median."""

    value: float
    of: str = ""
    goal: Goal | None = None

    @property
    def verdict(self) -> str:
        """ "ok", "MISSED", or "" where there is no goal."""
        if self.goal is None:
            return ""
        return "ok" if self.goal.met(self.value) else MISSED

    def text(self) -> str:
        """For people."""
        parts = [f"{figure(self.value)} x {self.of}"] if self.of else []
        if self.goal is not None:
            parts.append(f"[{self.goal.sign} {self.goal.bound:g}: {self.verdict}]")
        return " ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        goal = f"{self.goal.sign} {self.goal.bound:g}" if self.goal else None
        ok = self.goal.met(self.value) if self.goal else None
        return {"of": self.of or None, "value": self.value, "goal": goal, "ok": ok}


@dataclass
class Row:
    """One contender at one work: a value a round."""

    work: str
    contender: str
    unit: str
    values: Sequence[float]
    checks: list[Check] = field(default_factory=list)

    @property
    def median(self) -> float:
        """What is compared."""
        return statistics.median(self.values)

    def compare(self, other: Row, goal: Goal | None = None) -> None:
        """Add how this one's median relates to another's."""
        if other.median:
            self.checks.append(Check(self.median / other.median, other.contender, goal))

    def judge(self, goal: Goal | None) -> None:
        """Add whether the median itself is good enough."""
        if goal is not None:
            self.checks.append(Check(self.median, goal=goal))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "work": self.work,
            "contender": self.contender,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": list(self.values),
            "checks": [check.as_json() for check in self.checks],
        }


@dataclass
class Table:
    """What one section found; `notes` say what a reader must know to read it right."""

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        cells = [("", "", "median", "min .. max", "", "compared")]
        last = ""
        for row in self.rows:
            span = f"{figure(min(row.values))} .. {figure(max(row.values))}" if len(row.values) > 1 else ""
            checks = ", ".join(text for text in (check.text() for check in row.checks) if text)
            work = row.work if row.work != last else ""
            cells.append((work, row.contender, figure(row.median), span, row.unit, checks))
            last = row.work
        widths = [max(len(line[column]) for line in cells) for column in range(5)]
        lines = [f"== {self.title}"]
        for line in cells:
            work, contender, median, span, unit, checks = line
            left = f"{work:{widths[0]}}  {contender:{widths[1]}}  {median:>{widths[2]}}  {span:>{widths[3]}}"
            lines.append(f"{left}  {unit:{widths[4]}}  {checks}".rstrip())
        return "\n".join([*lines, *(f"   ({note})" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"title": self.title, "notes": self.notes, "rows": [row.as_json() for row in self.rows]}


def figure(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def missed(tables: Sequence[Table]) -> int:
    """How many goals were."""
    return sum(check.verdict == MISSED for table in tables for row in table.rows for check in row.checks)
