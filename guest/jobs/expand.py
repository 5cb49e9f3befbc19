"""Turns words into arguments: variables, then globs (POSIX XCU 2.13), when the command is about to run.

Globs look only into directories whose metadata the policy lets be read: a directory that the command line names and
that is refused is an error, one that a wildcard meets is passed over. Unlike in sh a match never begins with "-"
("./-x" stands for it), so that a file's name cannot be an option.
"""

from __future__ import annotations

import os
import re
from typing import Mapping, Sequence

from guest.policy.commands_syntax import (
    GLOB_CHARACTERS,
    CommandSyntaxError,
    SimpleCommand,
    Text,
    Variable,
    Word,
)
from guest.policy.judge import PathJudge
from vsrpc.errors import RpcError

MAX_MATCHES = 16_384
"""Arguments that the globs of one command may become: more do not fit into 2 MiB of arguments (execve(2)) anyway."""

MAX_WORD = 128 * 1024
"""Characters of one argument: what Linux takes (MAX_ARG_STRLEN, fs/exec.c)."""

MAX_ARGUMENTS = 2 * 1024 * 1024
"""Characters of all arguments of a command: what execve(2) takes, a quarter of a stack of 8 MiB."""

_MAX_COMPONENT = 1024  # characters of a pattern between two slashes: a file's name has 255 bytes (linux/limits.h)

Characters = Sequence["tuple[str, bool]"]
"""Characters, each with whether it is quoted."""


def too_long(what_has: str, limit: int) -> CommandSyntaxError:
    """The error for what variables and globs, which can be short, have made long."""
    return CommandSyntaxError(f"{what_has} more than {limit} characters once variables and globs are filled in")


class Expander:
    """Expands words for one environment and one working directory."""

    def __init__(self, environment: Mapping[str, str], judge: PathJudge) -> None:
        self._environment = environment
        self._judge = judge

    def arguments(self, command: SimpleCommand) -> list[str]:
        """The argument vector of a command; raises RpcError for a directory that may not be looked into."""
        arguments: list[str] = []
        size = 0
        for word in command.words:
            self._judge.go_on()
            known = len(arguments)
            text = self.text(word)
            if not arguments and word.has_glob:
                raise CommandSyntaxError(f"a glob cannot name the program (column {word.column}): write its name")
            if word.has_glob:
                arguments += self._glob(self._characters(word)) or [text]
            elif text or _is_quoted(word):
                arguments.append(text)
            if len(arguments) > MAX_MATCHES:
                raise CommandSyntaxError(f"the globs of '{arguments[0]}' match more than {MAX_MATCHES} files")
            size += sum(map(len, arguments[known:]))
            if size > MAX_ARGUMENTS:
                raise too_long(f"the arguments of '{arguments[0][:64]}' have", MAX_ARGUMENTS)
        if not arguments:
            raise CommandSyntaxError(
                f"the command is empty (column {command.words[0].column}): its variables are not set"
            )
        return arguments

    def text(self, word: Word) -> str:
        """The word's characters without globbing."""
        return "".join(text for text, _ in self._pieces(word))

    def _characters(self, word: Word) -> list[tuple[str, bool]]:
        return [(character, quoted) for text, quoted in self._pieces(word) for character in text]

    def _pieces(self, word: Word) -> list[tuple[str, bool]]:
        """What the parts stand for, each with whether it is quoted. Names can be short and their values long."""
        pieces: list[tuple[str, bool]] = []
        room = MAX_WORD
        for part in word.parts:
            if isinstance(part, Variable):
                pieces.append((self._environment.get(part.name, ""), True))
            else:
                pieces.append((part.text, part.quoted))
            room -= len(pieces[-1][0])
            if room < 0:
                raise too_long(f"the word at column {word.column} has", MAX_WORD)
        return pieces

    def _glob(self, pattern: Characters) -> list[str]:
        """The paths that match, in the order of their bytes; none when nothing matches."""
        paths = [""]
        named = True  # whether the line itself names the directory
        wild = False
        for number, component in enumerate(_split(pattern)):
            slash = "/" if number else ""
            wild = _is_wild(component)
            if not wild:
                literal = "".join(character for character, _ in component)
                paths = [path + slash + literal for path in paths]
                continue
            matcher = _Matcher(component)
            paths = [path + slash + name for path in paths for name in self._matching(path + slash, matcher, named)]
            named = False
            if len(paths) > MAX_MATCHES:
                raise CommandSyntaxError(f"a glob matches more than {MAX_MATCHES} files: name fewer")
        if not wild:
            paths = [path for path in paths if self._is_there(path)]
        return ["./" + path if path.startswith("-") else path for path in sorted(paths, key=os.fsencode)]

    def _matching(self, directory: str, matcher: _Matcher, named: bool) -> list[str]:
        try:
            names = self._judge.names(directory)
        except RpcError:
            if named:
                raise
            return []
        if matcher.hidden:
            names += [".", ".."]
        return [name for name in names if matcher.matches(name)]

    def _is_there(self, path: str) -> bool:
        try:
            self._judge.metadata(path)
        except RpcError:
            return False
        return os.path.lexists(self._judge.absolute(path))


def _is_quoted(word: Word) -> bool:
    return any(part.quoted or isinstance(part, Text) for part in word.parts)


def _split(pattern: Characters) -> list[list[tuple[str, bool]]]:
    components: list[list[tuple[str, bool]]] = [[]]
    for character, quoted in pattern:
        if character == "/":
            components.append([])
        else:
            components[-1].append((character, quoted))
    return components


def _is_wild(component: Characters) -> bool:
    return any(character in GLOB_CHARACTERS and not quoted for character, quoted in component)


class _Matcher:
    """One component of a pattern. Takes time in proportion to pattern and name, whatever they are."""

    def __init__(self, component: Characters) -> None:
        self.hidden = component[0][0] == "."
        if len(component) > _MAX_COMPONENT:
            raise CommandSyntaxError(
                f"a glob has more than {_MAX_COMPONENT} characters between two slashes: quote it to mean just these"
            )
        # What stands between the asterisks; each piece matches a fixed number of characters.
        pieces: list[list[str]] = [[]]
        at = 0
        brackets = True  # until one is never closed: then none after it is
        while at < len(component):
            character, quoted = component[at]
            at += 1
            if quoted or character not in GLOB_CHARACTERS or (character == "[" and not brackets):
                pieces[-1].append(re.escape(character))
            elif character == "*":
                pieces.append([])
            elif character == "?":
                pieces[-1].append(".")
            else:
                start = at
                text, at = _bracket(component, at)
                brackets = at > start
                pieces[-1].append(text)
        self._pieces = [re.compile("".join(piece), re.DOTALL) for piece in pieces]
        self._tail = len(pieces[-1])

    def matches(self, name: str) -> bool:
        if name.startswith(".") and not self.hidden:
            return False
        if len(self._pieces) == 1:
            return bool(self._pieces[0].fullmatch(name))
        first, *middle, last = self._pieces
        match = first.match(name)
        for piece in middle:
            match = match and piece.search(name, match.end())
        start = len(name) - self._tail
        return bool(match and start >= match.end() and last.fullmatch(name, start))


def _bracket(component: Characters, at: int) -> tuple[str, int]:
    """The bracket expression that begins at `at`, and where it ends; a "[" that is never closed is itself."""
    start = at
    negated = component[at : at + 1] == [("!", False)]
    at += negated
    items: list[str] = []
    first = True
    while at < len(component):
        character, quoted = component[at]
        if character == "]" and not quoted and not first:
            return _set("".join(items), negated), at + 1
        first = False
        is_range = component[at + 1 : at + 2] == [("-", False)] and component[at + 2 : at + 3] not in (
            [],
            [("]", False)],
        )
        if is_range:
            end = component[at + 2][0]
            # A range that runs backwards matches nothing.
            items.append(f"{re.escape(character)}-{re.escape(end)}" if character <= end else "")
            at += 3
        else:
            items.append(re.escape(character))
            at += 1
    return re.escape("["), start


def _set(items: str, negated: bool) -> str:
    if not items:
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{items}]"
