"""What rows of the argument table are made of: rules, kinds of operands, and the row of a program that uses getopt."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Callable, Mapping, Sequence

from guest.policy.getopt import ArgumentRefused, Options, read
from guest.policy.judge import PathJudge

Rule = Callable[[Sequence[str], PathJudge], None]
"""Takes the arguments after the program's name; raises ArgumentRefused, or RpcError for a path."""

Operand = Callable[[str, PathJudge], None]
"""Takes one operand, or the value of one option; raises likewise."""


def names(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


def anything(arguments: Sequence[str], judge: PathJudge) -> None:
    """The rule of a program that can do no harm."""


def text(operand: str, judge: PathJudge) -> None:
    """Anything."""


def content(operand: str, judge: PathJudge) -> None:
    """A file that is read; "-" is standard input."""
    if operand != "-":
        judge.read(operand)


def metadata(operand: str, judge: PathJudge) -> None:
    """A file or directory that is looked at."""
    judge.metadata(operand)


def metadata_if_absolute(operand: str, judge: PathJudge) -> None:
    """A file that is looked at if it is an absolute path, else text."""
    if operand.startswith("/"):
        judge.metadata(operand)


def program(operand: str, judge: PathJudge) -> None:
    """The name of a program, or the path of one, which is looked at."""
    if "/" in operand:
        judge.metadata(operand)


# parse_datetime of gnulib, in date(1) and find(1): the zone is the name of a file, any file, which is opened.
_ZONE = re.compile(r'\s*TZ="[A-Za-z0-9<][\w+\-,:/<>]*"[^"]*')


def moment(operand: str, judge: PathJudge) -> None:
    """A date and time as date(1) reads it."""
    if "TZ=" in operand and not _ZONE.fullmatch(operand):
        raise ArgumentRefused(
            operand, "the time zone is not a plain name, such as Europe/Paris: a file would be opened"
        )


def matching(pattern: str, why: str) -> Operand:
    """Text of a certain form only; `why` is said of all other."""
    compiled = re.compile(pattern, re.DOTALL)

    def check(operand: str, judge: PathJudge) -> None:
        if not compiled.fullmatch(operand):
            raise ArgumentRefused(operand, why)

    return check


def nothing(why: str) -> Operand:
    """No operand at all; `why` is said of any."""
    return matching(r"(?!)", why)


@dataclass(frozen=True)
class Row:
    """The rule of a program that uses getopt."""

    options: Options = field(default_factory=Options)
    operand: Operand = text
    values: Mapping[str, Operand] = field(default_factory=dict)
    """Options whose values are checked; those of others are any text."""

    def __call__(self, arguments: Sequence[str], judge: PathJudge) -> None:
        given = read(arguments, self.options)
        for name, value in given.options:
            if name in self.values and value is not None:
                self.values[name](value, judge)
        for operand in given.operands:
            self.operand(operand, judge)
