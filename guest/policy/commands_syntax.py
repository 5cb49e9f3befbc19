"""The tree of a command line: what the parser makes and the runner runs.

Only values and limits live here. The grammar (the parts of the POSIX shell's, XCU 2.10.2, that need no shell):

    line     = pipeline *( ( "&&" / "||" / ";" / newline ) pipeline ) [ ";" ]
    pipeline = simple *( "|" simple )
    simple   = 1*( word / redirection )          ; at least one word, the first of which names a program
    word     = 1*( text / 'text' / "text" / $NAME / ${NAME} )

A Word is kept in parts, because variables and globs are only known when it runs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Union

MAX_COMMANDS = 64
"""Simple commands in one line. Each is a process; a longer list is a script and belongs in a file."""

MAX_WORDS = 4096
"""Words in one line, before globs are expanded. POSIX asks 4096 bytes of arguments at least (_POSIX_ARG_MAX)."""

GLOB_CHARACTERS = frozenset("*?[")


class CommandSyntaxError(ValueError):
    """The line is wrong in any shell, for example an unclosed quote; the text says where and what to do."""


class CommandRefused(CommandSyntaxError):
    """The line may be right for a shell, but needs one: it uses what is not run while an allow list is in force."""

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(f"{what}: {way_out}")
        self.what = what
        self.way_out = way_out


@dataclass(frozen=True)
class Text:
    """Characters. Unquoted ones may be a glob; quoted ones are themselves."""

    text: str
    quoted: bool = False


@dataclass(frozen=True)
class Variable:
    """`$NAME`. Its value is taken as it is, quoted or not: never split into words, never a glob."""

    name: str
    quoted: bool = False


Part = Union[Text, Variable]


@dataclass(frozen=True)
class Word:
    """One word; `column` counts characters of the line from 1."""

    parts: tuple[Part, ...]
    column: int

    @property
    def has_glob(self) -> bool:
        """Whether an unquoted `*`, `?` or `[` is in it."""
        return any(
            isinstance(part, Text) and not part.quoted and not GLOB_CHARACTERS.isdisjoint(part.text)
            for part in self.parts
        )


class Mode(enum.Enum):
    """What a redirection does with its file."""

    READ = "<"
    WRITE = ">"
    APPEND = ">>"


@dataclass(frozen=True)
class FileRedirection:
    """`fd<word`, `fd>word` or `fd>>word`."""

    fd: int
    mode: Mode
    target: Word


@dataclass(frozen=True)
class Duplication:
    """`fd>&source`, for example `2>&1`."""

    fd: int
    source: int


Redirection = Union[FileRedirection, Duplication]


@dataclass(frozen=True)
class SimpleCommand:
    """A program with its arguments; redirections apply from left to right."""

    words: tuple[Word, ...]
    redirections: tuple[Redirection, ...] = ()


@dataclass(frozen=True)
class Pipeline:
    """Commands that run at the same time, each one's output being the next one's input."""

    commands: tuple[SimpleCommand, ...]


class Condition(enum.Enum):
    """When a pipeline of a list runs, by the exit code of what ran last."""

    ALWAYS = ";"
    IF_SUCCESS = "&&"
    IF_FAILURE = "||"


@dataclass(frozen=True)
class Step:
    """A pipeline and when it runs."""

    condition: Condition
    pipeline: Pipeline


@dataclass(frozen=True)
class CommandLine:
    """The whole line. `&&` and `||` have the same precedence and associate to the left, so a flat list is enough."""

    steps: tuple[Step, ...]

    @property
    def commands(self) -> tuple[SimpleCommand, ...]:
        """Every simple command, in order."""
        return tuple(command for step in self.steps for command in step.pipeline.commands)
