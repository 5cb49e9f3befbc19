"""The command line's parser, of which only what is asked for is made."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from host.cli import parser
from host.cli.commands import COMMANDS
from host.cli.main import _WITHOUT_GUEST
from host.cli.parser import CommandLineError, parse


def commands(made: argparse.ArgumentParser) -> list[str]:
    (choices,) = (action.choices for action in made._actions if isinstance(action, argparse._SubParsersAction))
    return list(choices)


def test_only_what_is_asked_for_is_made() -> None:
    assert commands(parser._build(["-s", "x", "ping"])) == ["ping"]
    assert set(commands(parser._build())) == {*COMMANDS, *_WITHOUT_GUEST}


def test_a_value_that_is_also_a_command() -> None:
    args = parse(["-s", "ping", "info", "-c", "exec"])
    assert (args.socket, args.command, args.config) == ("ping", "info", "exec")


@pytest.mark.parametrize("argv", [[], ["nosuch"], ["-s", "ping", "nosuch"], ["ping", "extra"], ["cp", "a"], ["-s"]])
def test_errors_are_those_of_the_whole_parser(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandLineError) as ours:
        parse(argv)
    build = parser._build
    monkeypatch.setattr(parser, "_build", lambda asked=None: build())
    with pytest.raises(CommandLineError) as whole:
        parse(argv)
    assert (str(ours.value), ours.value.command) == (str(whole.value), whole.value.command)
    if argv[-1:] == ["nosuch"]:
        assert "'thaw'" in str(ours.value) or "thaw" in str(ours.value)


@pytest.mark.parametrize("argv", [["--help"], ["-h", "ping"], ["-rh", "ping"]])
def test_help_names_all_commands(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(argv)
    assert capsys.readouterr().out == parser._build().format_help()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_is_that_of_the_whole_parser(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def help_of(made: Any) -> str:
        with pytest.raises(SystemExit):
            made.parse_args([name, "--help"])
        return capsys.readouterr().out

    assert help_of(parser._build([name])) == help_of(parser._build())


@pytest.mark.parametrize("columns", [None, "", "40", "0", "-1", "x", "200"])
def test_the_width_of_lines_is_shutils(columns: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert parser.line_width() == shutil.get_terminal_size().columns
