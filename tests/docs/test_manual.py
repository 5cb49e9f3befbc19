"""The manual: what it quotes is said by the code, what it shows can be typed, and every page has its sections."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Iterator

import manual
import pytest

from guest import __main__ as guest_main
from guest.config import GuestConfig
from host.cli import parser as host_parser
from host.client import RPCError, VirtioRPCClient
from host.local import LocalGuest
from vsrpc.yamlconfig import load_config

PAGES = ["README.md", *sorted(p.relative_to(manual.ROOT).as_posix() for p in (manual.ROOT / "docs").glob("**/*.md"))]


# -- messages


@lru_cache(maxsize=None)
def literals() -> tuple[str, ...]:
    """Every text in the code; of an f-string with the constants that it names, and U+0000 for what else is put in."""
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("vsrpc", "guest", "host")
        for path in (manual.ROOT / folder).glob("**/*.py")
    ]
    imported: dict[str, str] = {}
    found: list[str] = []
    for tree in [*trees, *trees]:  # twice: what is imported is known then
        constants = dict(imported)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Constant, ast.JoinedStr)):
                found.append(_text(node, constants))
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constants[node.targets[0].id] = imported[node.targets[0].id] = _text(node.value, constants)
    return tuple(found)


def _text(node: ast.AST, constants: dict[str, str]) -> str:
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return constants.get(node.value.id, "\0")
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value, constants) for value in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "\0"


def pieces(message: str) -> list[str]:
    """What is fixed in a message: what stands between the places of its variable parts."""
    text = re.sub(r"^(?:vsrpc-host: (?:error|waiting|warning)|vsrpc-guest|install-guest\.sh): ", "", message)
    text = text.rstrip(")")
    return [piece for piece in re.split(r"…|: |; | \(|\) ", text) if len(piece.strip(" ()'")) > 3]


def messages(page: str) -> list[str]:
    return [line for block in manual.fences(manual.page(page), "text") for line in block.splitlines()]


@pytest.mark.parametrize("page", ["docs/troubleshooting.md", "docs/zh/troubleshooting.md"])
def test_messages_are_the_programs(page: str) -> None:
    assert len(messages(page)) > 20
    scripts = (manual.ROOT / "scripts/install-guest.sh").read_text(encoding="utf-8")
    for message in messages(page):
        for piece in pieces(message):
            said = any(piece.strip() in literal for literal in literals())
            assert said or (message.startswith("install") and piece.strip(" (") in scripts), f"{message!r}: {piece!r}"


@pytest.mark.parametrize(
    ("beginning", "call"),
    [
        ("Command not allowed: rm", lambda client: client.exec_command("rm /x")),
        ("Command not allowed: '$('", lambda client: client.exec_command("ls $(id)")),
        ("Path not in allowed list: … (allowed: ", lambda client: client.download_file("/etc/hosts", "x")),
        ("Path not in allowed list: … (password", lambda client: client.download_file("/etc/shadow", "x")),
        ("Command timed out after", lambda client: client.exec_command("sleep 9", timeout=0.1)),
    ],
)
def test_messages_as_they_are_produced(guest: str, beginning: str, call: object) -> None:
    (quoted,) = (m for m in messages("docs/troubleshooting.md") if m.startswith(f"vsrpc-host: error: {beginning}"))
    with VirtioRPCClient(guest) as client, pytest.raises(RPCError) as caught:
        call(client)  # type: ignore[operator]
    pattern = ".+".join(map(re.escape, quoted[len("vsrpc-host: error: ") :].split("…")))
    assert re.fullmatch(pattern, caught.value.message), caught.value.message


@pytest.fixture(scope="module")
def guest() -> Iterator[str]:
    with LocalGuest() as local:
        yield local.target


# -- what is shown to be typed


def shown(page: str) -> Iterator[tuple[str, str]]:
    """Program and command line of each call of ours in a page's shell blocks, and in indented ones."""
    text = manual.page(page)
    indented = "" if page.endswith("cli.md") else "\n".join(re.findall(r"^    (.*)$", text, re.MULTILINE))
    for block in [*manual.fences(text, "sh"), indented]:
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|\| )(vsrpc-host|vsrpc-guest) ((?:[^|#<>\"']|\"[^\"]*\"|'[^']*')*)", line)
            if found:
                yield found.group(1), found.group(2)


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_shown_can_be_typed(page: str) -> None:
    for program, line in shown(page):
        words = shlex.split(line)
        if program == "vsrpc-host":
            host_parser.parse(words)  # raises for a wrong one
        else:
            guest_main._parser().parse_args(words)


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_exist(page: str) -> None:
    """Options of ours are told by a command of ours in the same words: `vsrpc-host exec --timeout`."""
    for words in manual.code_words(manual.page(page)):
        found = re.match(r"(vsrpc-host|vsrpc-guest)((?: [a-z-]+)?)((?: --?[a-z-]+)+)$", words)
        if not found:
            continue
        known = subparser(found.group(1), found.group(2).strip())
        if known is not None:
            for option in found.group(3).split():
                assert option in known._option_string_actions, words


def subparser(program: str, command: str) -> argparse.ArgumentParser | None:
    parser = host_parser._build() if program == "vsrpc-host" else guest_main._parser()
    if not command:
        return parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices.get(command)
    return None


# -- form


KEYS = re.compile(r"(?:device|server|security|limits|audit|connection|retry|logging)\.[a-z_.]+")


@pytest.mark.parametrize("page", PAGES)
def test_keys_in_the_text_are_documented(page: str) -> None:
    documented = {word for word in manual.code_words(manual.page("docs/configuration.md")) if KEYS.fullmatch(word)}
    for word in manual.code_words(manual.page(page)):
        for name in KEYS.findall(word) if KEYS.match(word) else []:
            section = any(key.startswith(f"{name}.") for key in documented)
            assert section or name in documented, f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_pages_say_what_is_in_them(page: str) -> None:
    """A page with a list of its sections has all of them there, in their order."""
    text = manual.page(page)
    titles = re.findall(r"\[([^\]]+)\]\(#[^)]+\)", text.partition("\n## ")[0])
    sections = [title for level, title in manual.headings(text) if level == 2]
    if titles and "troubleshooting" not in page:
        assert [title for title in titles if title in sections] == sections


@pytest.mark.parametrize("page", ["docs/troubleshooting.md", "docs/zh/troubleshooting.md"])
def test_configurations_that_are_shown_are_valid(page: str, tmp_path: Path) -> None:
    for block in manual.fences(manual.page(page), "yaml"):
        (tmp_path / "guest.yaml").write_text(block, encoding="utf-8")
        load_config(str(tmp_path / "guest.yaml"), GuestConfig)
