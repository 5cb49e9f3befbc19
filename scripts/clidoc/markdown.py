"""docs/cli.md, in English or, through a table of translations, in another language."""

from __future__ import annotations

import re
from typing import Callable, Sequence

from scripts.clidoc.about import Program
from scripts.clidoc.model import Command

Translate = Callable[[str], str]

TITLE = "Command line"
INTRO = (
    "Every option of every command. This page is made from the parsers by `make docs`; so are the manual pages and the "
    "completions for bash, zsh and fish."
)
_HEAD = ("option or argument", "meaning")


def page(programs: Sequence[tuple[Program, Command]], tr: Translate) -> str:
    """The whole page; `tr` translates each of its texts."""
    parts = [f"# {tr(TITLE)}", tr(INTRO), "\n".join(f"- [{c.name}](#{c.name})" for _, c in programs)]
    for program, command in programs:
        parts += _program(program, command, tr)
    return "\n\n".join(part for part in parts if part) + "\n"


def _program(program: Program, command: Command, tr: Translate) -> list[str]:
    options = _options(command, tr)
    heading = "Options of every command" if any(c.inherited for c in command.walk()) else "Options"
    parts = [f"## {command.name}", _code(command.synopsis), *map(tr, program.description)]
    parts += [f"### {tr(heading)}", _table(_HEAD, options, tr)]
    for below in list(command.walk())[1:]:
        parts += _command(below, tr)
    parts += [f"### {tr('Exit codes of {}').format(command.name)}", *_ends(command, tr)]
    for title, head, pairs in (
        ("Environment of {}", "variable", program.environment),
        ("Files of {}", "file", program.files),
        ("Examples of {}", "command", program.examples),
    ):
        if pairs:
            rows = [(f"`{_cell(name)}`", _cell(tr(text))) for name, text in pairs]
            parts += [f"### {tr(title).format(command.name)}", _table((head, "meaning"), rows, tr)]
    return parts


def _command(command: Command, tr: Translate) -> list[str]:
    text = tr(command.help)
    rows = [(f"`{_cell(each.value.metavar)}`", _cell(tr(each.help))) for each in command.arguments]
    rows += _options(command, tr)
    parts = [f"### {' '.join(command.path)}", _code(command.synopsis), text[:1].upper() + text[1:] + tr(".")]
    return [*parts, _table(_HEAD, rows, tr) if rows else "", *_ends(command, tr)]


def _ends(command: Command, tr: Translate) -> list[str]:
    """How it may end."""
    rows = [(code, _cell(tr(meaning))) for code, meaning in command.codes]
    parts = [_table(("exit code", "meaning"), rows, tr)] if rows else []
    return [*parts, tr(command.notes)] if command.notes else parts


def _options(command: Command, tr: Translate) -> list[tuple[str, str]]:
    rows = []
    for option in command.options:
        if "--help" in option.names and len(command.path) > 1:
            continue
        value = f" {option.value.metavar}" if option.value else ""
        names = [f"`{name}`" for name in option.names]
        names[-1] = f"`{_cell(option.names[-1] + value)}`"
        rows.append((", ".join(names), _cell(tr(option.help))))
    return rows


def _code(line: str) -> str:
    return f"    {line}"


def _table(head: Sequence[str], rows: Sequence[tuple[str, str]], tr: Translate) -> str:
    lines = [[f" {cell} ".replace("  ", " ") for cell in row] for row in (tuple(map(tr, head)), *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"|{'|'.join(line)}|" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"([|])", r"\\\1", text)
