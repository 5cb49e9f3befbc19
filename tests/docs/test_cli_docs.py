"""Manual pages, completions and docs/cli.md are made from the parsers, and say all that these know."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path
from typing import Iterator

import pytest
from peer_tools import tool

from scripts import cli_docs
from scripts.clidoc import man
from scripts.clidoc.about import PROGRAMS
from scripts.clidoc.model import Command, read

COMMANDS = [command for program in PROGRAMS for command in read(program.parser()).walk()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    assert cli_docs.main([str(place)]) == 0
    return place


def test_committed_pages_are_fresh() -> None:
    for name, content in cli_docs.pages():
        path = cli_docs.ROOT / name
        assert path.exists(), f"{name} is missing: run 'make docs' and commit the result"
        assert path.read_text(encoding="utf-8") == content, f"{name} is stale: run 'make docs' and commit the result"


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


def test_the_model_has_every_option() -> None:
    known = {
        name
        for program in PROGRAMS
        for parser in parsers(program.parser())
        for action in parser._actions
        if action.help is not argparse.SUPPRESS
        for name in action.option_strings
    }
    assert known == {name for command in COMMANDS for option in command.all_options for name in option.names}


def test_everything_has_a_help() -> None:
    for command in COMMANDS:
        assert command.help, command.path
        for each in (*command.options, *command.arguments):
            assert each.help, f"{' '.join(command.path)}: {each}"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.path))
def test_artefacts_name_every_command_and_option(made: Path, command: Command) -> None:
    (page,) = (made / "man").glob(f"{command.path[0]}.*")
    texts = [page, *(path for path in (made / "completion").glob("*/*") if path.stem.lstrip("_") == command.path[0])]
    assert len(texts) == 4
    for path in texts:
        text = path.read_text(encoding="utf-8")
        for word in command.path[1:]:
            assert man.escape(word) in text if path is page else word in text
        for option in command.options:
            for name in option.names:
                shown = {"man": man.escape(name), "fish": f"-l {name[2:]} " if name[:2] == "--" else f"-s {name[1:]} "}
                assert shown.get(path.parent.name, name) in text, (path, name)


SECTIONS = "NAME SYNOPSIS DESCRIPTION OPTIONS EXIT STATUS FILES EXAMPLES SEE ALSO"


@pytest.mark.parametrize("name", ["vsrpc-host.1", "vsrpc-guest.8"])
def test_sections_of_manual_pages(made: Path, name: str) -> None:
    text = (made / "man" / name).read_text(encoding="utf-8")
    sections = re.findall(r"^\.SH (.+)$", text, re.MULTILINE)
    assert " ".join(s for s in sections if s not in ("COMMANDS", "ENVIRONMENT")) == SECTIONS
    assert ("COMMANDS" in sections, "ENVIRONMENT" in sections) >= (name.startswith("vsrpc-host"),) * 2


@pytest.mark.peers
@pytest.mark.parametrize("name", ["vsrpc-host.1", "vsrpc-guest.8"])
def test_manual_pages_are_clean(made: Path, name: str) -> None:
    command = [tool("mandoc"), "-T", "lint", "-W", "style", str(made / "man" / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # That a page is in its section's directory is for those who install it.
    lines = [line for line in done.stdout.splitlines() if "referenced manual not found" not in line]
    assert lines == []


def test_roff_shows_text_as_it_is() -> None:
    assert man.escape(".x -y \\z …") == r"\&.x \-y \ez \[u2026]"


def test_a_missing_translation_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zh.yaml").write_text("success: 成功\nnobody says this: 没人\n", encoding="utf-8")
    monkeypatch.setattr(cli_docs, "ROOT", tmp_path)
    monkeypatch.setattr(cli_docs, "TRANSLATIONS", {"docs/zh/cli.md": tmp_path / "zh.yaml"})
    with pytest.raises(cli_docs.NoTranslationError, match=r"zh.yaml lacks:\n  'Command line'"):
        list(cli_docs.pages())
