"""A command line as plain values, read from its argparse parser."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Iterator

FILE, DIRECTORY, WORDS, ANYTHING = "file", "directory", "words", "anything"
"""What a value is, for completion: a local file, a local directory, one of some words, or what cannot be listed."""

_FILES = ("FILE", "PATH", "LOCAL", "SOCKET", "BUNDLE")
_DIRECTORIES = ("DIR", "DIRECTORY")
_REMOTE = "in the guest"  # the help of a path that is not on this machine says so

_MANY = (argparse.ONE_OR_MORE, argparse.ZERO_OR_MORE, argparse.REMAINDER)


@dataclass(frozen=True)
class Value:
    """What an option or an argument takes."""

    metavar: str
    kind: str = ANYTHING
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """An option, by all its names; `value` is None for a switch."""

    names: tuple[str, ...]
    help: str
    value: Value | None = None


@dataclass(frozen=True)
class Argument:
    """An argument that is told by its place."""

    value: Value
    help: str
    required: bool = True
    many: bool = False

    @property
    def shown(self) -> str:
        """As a synopsis shows it."""
        text = self.value.metavar + ("..." if self.many else "")
        return text if self.required else f"[{text}]"


@dataclass(frozen=True)
class Command:
    """A program, or a command of it: `path` is ("vsrpc-host", "upload"). `options` are its own, not its parents'."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()
    commands: tuple[Command, ...] = ()
    needs_command: bool = False
    inherited: tuple[Option, ...] = ()
    """Options of the program that this command takes as well."""
    codes: tuple[tuple[str, str], ...] = ()
    """Its exit codes with their meanings, where they are not those of the command above it."""
    notes: str = ""
    """What else its help says at the end."""

    @property
    def name(self) -> str:
        """The last word."""
        return self.path[-1]

    @property
    def synopsis(self) -> str:
        """One line that shows how it is called."""
        words = [*self.path, *(["[OPTIONS]"] if self.options or self.inherited else [])]
        words += [argument.shown for argument in self.arguments]
        if self.commands:
            words.append("COMMAND [ARGS]" if self.needs_command else "[COMMAND [ARGS]]")
        return " ".join(words)

    @property
    def all_options(self) -> tuple[Option, ...]:
        """Its own and the inherited ones."""
        return (*self.options, *self.inherited)

    def walk(self) -> Iterator[Command]:
        """It and all commands below it."""
        yield self
        for command in self.commands:
            yield from command.walk()


def read(parser: argparse.ArgumentParser) -> Command:
    """The model of a program's parser. Options and arguments whose help is suppressed are left out."""
    return _command(parser, (parser.prog,), parser.description or "", (), None)


def _command(
    parser: argparse.ArgumentParser,
    path: tuple[str, ...],
    help: str,
    above: tuple[Option, ...],
    epilog_above: str | None,
) -> Command:
    formatter = parser._get_formatter()
    options: list[Option] = []
    inherited: list[Option] = []
    arguments: list[Argument] = []
    commands: argparse._SubParsersAction[argparse.ArgumentParser] | None = None
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = action
        elif action.help is argparse.SUPPRESS:
            continue
        elif action.option_strings:
            option = _option(action, formatter)
            (inherited if option in above else options).append(option)
        else:
            arguments.append(_argument(action, formatter))
    below = (*above, *options)
    codes, notes = _exit_codes(parser.epilog or "") if parser.epilog != epilog_above else ((), "")
    return Command(
        path,
        help,
        tuple(options),
        tuple(arguments),
        tuple(_children(commands, path, below, parser.epilog)) if commands is not None else (),
        bool(commands is not None and commands.required),
        tuple(inherited),
        codes,
        notes,
    )


def _children(
    action: argparse._SubParsersAction[argparse.ArgumentParser],
    path: tuple[str, ...],
    above: tuple[Option, ...],
    epilog: str | None,
) -> Iterator[Command]:
    helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
    for name, parser in action.choices.items():
        if name in helps and helps[name] is not argparse.SUPPRESS:
            yield _command(parser, (*path, name), helps[name], above, epilog)


def _option(action: argparse.Action, formatter: argparse.HelpFormatter) -> Option:
    help = _help(action, formatter)
    if action.nargs == 0:
        return Option(tuple(action.option_strings), help)
    return Option(tuple(action.option_strings), help, _value(action, help))


def _argument(action: argparse.Action, formatter: argparse.HelpFormatter) -> Argument:
    help = _help(action, formatter)
    optional = action.nargs in (argparse.OPTIONAL, argparse.ZERO_OR_MORE)
    return Argument(_value(action, help), help, not optional, action.nargs in _MANY)


def _help(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    text = formatter._expand_help(action) if action.help else ""
    return re.sub(r"\s+", " ", text).strip()


def _value(action: argparse.Action, help: str) -> Value:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if action.choices is not None:
        words = tuple(map(str, action.choices))
        return Value(metavar or "{" + ",".join(words) + "}", WORDS, words)
    name = metavar or action.dest.upper()
    if _REMOTE in help:
        return Value(name)
    if name in _FILES:
        return Value(name, FILE)
    return Value(name, DIRECTORY if name in _DIRECTORIES else ANYTHING)


def _exit_codes(epilog: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """The exit codes of a parser's epilog with their meanings, and what it says after them."""
    codes = tuple((code, text) for code, text in re.findall(r"^ +(\d+) +(\S.*)$", epilog, re.MULTILINE))
    rest = re.sub(r"^(?: +\d+ +\S.*|exit codes:)$", "", epilog, flags=re.MULTILINE)
    return codes, re.sub(r"\s+", " ", rest).strip()
