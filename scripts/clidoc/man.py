"""Manual pages in the man macros, as groff_man(7) and mandoc take them."""

from __future__ import annotations

import re
import textwrap

from scripts.clidoc.about import Program
from scripts.clidoc.model import Command, Option, Value

_WIDTH = 70  # of a line of source, before what is escaped


def page(program: Program, command: Command, version: str, date: str) -> str:
    """The page of a program; `date` is YYYY-MM-DD."""
    name = command.name
    lines = [
        f".TH {name.upper()} {program.section} {date} {_quoted(f'vsrpc {version}')} {_quoted('vsrpc')}",
        ".SH NAME",
        rf"{escape(name)} \- {escape(program.summary)}",
        ".SH SYNOPSIS",
        *_synopsis(command),
        ".SH DESCRIPTION",
        *_paragraphs(program.description),
        ".SH OPTIONS",
        *_options(command.options),
    ]
    if command.commands:
        lines.append(".SH COMMANDS")
        for below in list(command.walk())[1:]:
            lines += _command(below)
    if command.codes:
        lines += [".SH EXIT STATUS", *_ends(command)]
    lines += _table("ENVIRONMENT", "B", program.environment)
    lines += _table("FILES", "I", program.files)
    if program.examples:
        lines.append(".SH EXAMPLES")
        for line, meaning in program.examples:
            lines += [*_text(meaning), ".PP", ".RS 4", ".nf", escape(line), ".fi", ".RE", ".PP"]
        lines.pop()
    lines.append(".SH SEE ALSO")
    lines += [rf".BR {escape(other)} ({section})" + comma for (other, section), comma in _commas(program.see_also)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text as roff shows it unchanged."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(char if char < "\x7f" else f"\\[u{ord(char):04X}]" for char in text)
    return "\\&" + text if text.startswith((".", "'")) else text


def _quoted(text: str) -> str:
    return '"' + escape(text).replace('"', "\\(dq") + '"'


def _synopsis(command: Command) -> list[str]:
    words = command.synopsis.split()
    bold = len(command.path)
    return [r"\fB" + escape(" ".join(words[:bold])) + r"\fR " + escape(" ".join(words[bold:]))]


def _paragraphs(texts: tuple[str, ...]) -> list[str]:
    lines = _text(texts[0])
    for text in texts[1:]:
        lines += [".PP", *_text(text)]
    return lines


def _text(text: str) -> list[str]:
    """Running text, in lines of which each sentence begins one, as roff wants it."""
    sentences = re.split(r"(?<=[.:]) (?=[A-Z])", text)
    return [escape(line) for sentence in sentences for line in textwrap.wrap(sentence, _WIDTH, break_on_hyphens=False)]


def _command(command: Command) -> list[str]:
    lines = [f".SS {_quoted(' '.join(command.path[1:]))}", *_synopsis(command), ".PP", *_text(_sentence(command.help))]
    for argument in command.arguments:
        lines += _item(rf"\fI{escape(argument.value.metavar)}\fR", argument.help)
    lines += _options(command.options)
    if command.codes or command.notes:
        lines += [".PP", "Exit status:", *_ends(command)]
    return lines


def _ends(command: Command) -> list[str]:
    lines: list[str] = []
    for code, meaning in command.codes:
        lines += _item(rf"\fB{code}\fR", meaning)
    return [*lines, ".PP", *_text(command.notes)] if command.notes else lines


def _options(options: tuple[Option, ...]) -> list[str]:
    lines: list[str] = []
    for option in options:
        head = ", ".join(rf"\fB{escape(name)}\fR" for name in option.names)
        lines += _item(head + _value(option.value), option.help)
    return lines


def _value(value: Value | None) -> str:
    return rf" \fI{escape(value.metavar)}\fR" if value else ""


def _item(head: str, text: str) -> list[str]:
    return [".TP", head, *(_text(_sentence(text)) or [r"\&"])]


def _table(heading: str, font: str, rows: tuple[tuple[str, str], ...]) -> list[str]:
    lines = [f".SH {heading}"] if rows else []
    for name, text in rows:
        lines += _item(rf"\f{font}{escape(name)}\fR", text)
    return lines


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "…")) else ".") if text else ""


def _commas(items: tuple[tuple[str, int], ...]) -> list[tuple[tuple[str, int], str]]:
    return [(item, " ," if item is not items[-1] else "") for item in items]
