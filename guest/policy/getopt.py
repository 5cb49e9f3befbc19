"""Reads a program's arguments as getopt_long(3) does, by an allow list of its options.

Knows the syntax only; which options a program has, and what their values mean, stands in arguments.py. Two things are
stricter than getopt_long: an option that is not listed is refused, and so is an abbreviated long option (what it stands
for depends on the program's version).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Mapping, Sequence

_NUMBER = re.compile(r"-[0-9]+\Z")


class ArgumentRefused(Exception):
    """An argument that the policy does not allow: `argument` as given, `why` as a clause."""

    def __init__(self, argument: str, why: str) -> None:
        super().__init__(argument, why)
        self.argument = argument
        self.why = why


@dataclass(frozen=True)
class Options:
    """The options that a program may be given; short ones as letters, long ones as names separated by blanks."""

    flags: str = ""
    """Short options without a value."""
    values: str = ""
    """Short options with a value, in the same argument or the next one."""
    optional: str = ""
    """Short options whose value, if any, is in the same argument."""
    long_flags: str = ""
    long_values: str = ""
    long_optional: str = ""
    """Long options whose value, if any, follows "="."""
    numbers: bool = False
    """Whether an argument such as -20 is taken too."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Options that people try, with the reason to give; all others that are not listed are refused without one."""

    def refusal(self, dashes: str, name: str) -> ArgumentRefused:
        """The error for an option that is not listed."""
        why = "the option is not one that is known to be safe" + (" (write it in full)" if dashes == "--" else "")
        return ArgumentRefused(dashes + name, self.refused.get(name, why))


@dataclass(frozen=True)
class Arguments:
    """What was read: options in order, each with its value or None; operands in order."""

    options: tuple[tuple[str, str | None], ...]
    operands: tuple[str, ...]

    def has(self, *names: str) -> bool:
        """Whether one of these options was given."""
        return any(name in names for name, _ in self.options)


def read(arguments: Sequence[str], known: Options) -> Arguments:
    """Sort arguments into options and operands; raises ArgumentRefused for an option that is not in `known`."""
    options: list[tuple[str, str | None]] = []
    operands: list[str] = []
    pending = list(reversed(arguments))
    while pending:
        argument = pending.pop()
        if argument == "--":
            operands += reversed(pending)
            break
        if argument.startswith("--"):
            options.append(_long(argument, known, pending))
        elif not argument.startswith("-") or argument == "-":
            operands.append(argument)
        elif known.numbers and _NUMBER.match(argument):
            options.append((argument[1:], None))
        else:
            options += _cluster(argument, known, pending)
    return Arguments(tuple(options), tuple(operands))


def _long(argument: str, known: Options, pending: list[str]) -> tuple[str, str | None]:
    name, equals, value = argument[2:].partition("=")
    if name in known.long_flags.split():
        if equals:
            raise ArgumentRefused(argument, f"--{name} takes no value")
        return name, None
    if name in known.long_optional.split():
        return name, value if equals else None
    if name in known.long_values.split():
        if equals:
            return name, value
        return name, pending.pop() if pending else None
    raise known.refusal("--", name)


def _cluster(argument: str, known: Options, pending: list[str]) -> list[tuple[str, str | None]]:
    options: list[tuple[str, str | None]] = []
    for index, letter in enumerate(argument[1:], 2):
        rest = argument[index:]
        if letter in known.flags:
            options.append((letter, None))
        elif letter in known.values:
            return [*options, (letter, rest or (pending.pop() if pending else None))]
        elif letter in known.optional:
            return [*options, (letter, rest or None)]
        else:
            raise known.refusal("-", letter)
    return options
