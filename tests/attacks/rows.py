"""What the tables are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

DIRECTORY = "/tmp/attack"
"""Where an attacker may write, and what guest_setup.py fills; commands run there unless a row says otherwise."""

SECRET = "5ecre7-of-the-guest"
"""Stands in files and environments that callers may not read: no answer may contain it."""

HARMLESS = "~"
"""What a row expects that may be answered in any way, as long as nothing comes of it."""


@dataclass(frozen=True)
class Attack:
    """One request to Exec and what it must come to: a part of the refusal's text, or HARMLESS."""

    fields: Mapping[str, Any] = field(hash=False)
    expected: str

    def __str__(self) -> str:
        return " ".join(f"{name}={str(value)[:90]!r}" for name, value in self.fields.items())


def table(text: str, **fields: Any) -> list[Attack]:
    """Rows of `COMMAND => EXPECTED`, a command line each."""
    rows = []
    for line in filter(None, map(str.strip, text.splitlines())):
        command, arrow, expected = line.rpartition(" => ")
        assert arrow, line
        rows.append(attack(expected.strip(), command=command.strip(), **fields))
    return rows


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def attack(expected: str, **fields: Any) -> Attack:
    """One row. What may run is not waited for; what is refused may take long under emulation."""
    return Attack({"working_dir": DIRECTORY, "timeout": 2.0 if expected == HARMLESS else 60.0, **fields}, expected)
