"""What holds for every command line: nothing unlisted runs, and what runs does what sh does."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator, Sequence

import pytest
from exec_helpers import Guest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.jobs.script import Script
from guest.jobs.stage import FailedStage, Stage, Status
from guest.policy.commands import DEFAULT_COMMANDS, CommandPolicy, lookup
from guest.policy.commands_parser import parse
from guest.policy.commands_syntax import CommandSyntaxError
from guest.policy.environment import command_environment
from guest.policy.paths import PathPolicy
from vsrpc.errors import RpcError


class RecordingRunner:
    """Runs nothing; notes what would have been executed."""

    def __init__(self, codes: Sequence[int]) -> None:
        self._codes = list(codes)
        self.executed: list[Stage] = []

    def run(self, stages: Sequence[Stage | FailedStage], strict: bool = False) -> Status:
        for stage in stages:
            stage.close()
            if isinstance(stage, Stage):
                self.executed.append(stage)
        return Status(self._codes.pop() if self._codes else 0)


LISTED = ("ls", "echo", "cat", "find", "env", "true", "/bin/ls", "'l's", "$CMD")
UNLISTED = (
    "rm",
    "sh",
    "/bin/sh",
    "/bin/rm",
    "bash",
    "python3",
    "xargs",
    "$BAD",
    "'r'm",
    "r\\m",
    "../../bin/rm",
    "sudo",
)
META = (" ", "\n", ";", "|", "&", "&&", "||", ">", "<", ">/dev/null", "2>&1", "$(", ")", "`", "'", '"', "\\", "{", "}")
OTHER = ("*", "?", "[", "]", "~", "#", "!", "=", "$", "${", "-exec", "-delete", "x", "if", "--", "X=1")

lines = st.lists(st.sampled_from(LISTED + UNLISTED + META * 3 + OTHER), min_size=1, max_size=12).flatmap(
    lambda tokens: st.sampled_from(["", " "]).map(lambda separator: separator.join(tokens))
)


@pytest.fixture(scope="module")
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        for name in ("a", "b c", "rm", "-exec"):
            Path(path, name).touch()
        yield path


@pytest.fixture(scope="module")
def plain_directory() -> Iterator[str]:
    """No name in it begins with "-": there we differ from sh on purpose."""
    with tempfile.TemporaryDirectory() as path:
        for name in ("a", "b c", "xyz"):
            Path(path, name).touch()
        yield path


@settings(max_examples=600, deadline=None)
@given(line=lines, codes=st.lists(st.integers(0, 1), max_size=8))
def test_nothing_unlisted_is_executed(directory: str, line: str, codes: list[int]) -> None:
    policy = CommandPolicy([], PathPolicy([directory]))
    environment = command_environment({"CMD": "echo", "BAD": "rm", "X": "a;b"}, restricted=True)
    runner = RecordingRunner(codes)
    try:
        Script(policy, environment, directory).run(parse(line), runner)
    except (CommandSyntaxError, RpcError):
        pass
    allowed = {os.path.realpath(path) for path in map(lookup, DEFAULT_COMMANDS) if path}
    for stage in runner.executed:
        assert os.path.realpath(stage.program) in allowed
        assert os.path.basename(stage.argv[0]) in DEFAULT_COMMANDS
        assert policy.check(stage.argv, directory) == stage.program


def both(guest: Guest, line: str) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    """Exit code and standard output, ours and those of sh."""
    variables = {"A": "one", "B": ""}
    reply = guest.exec(line, env=variables)
    shell = subprocess.run(
        ["/bin/sh", "-c", line],
        env=command_environment(variables, restricted=True),
        cwd=guest.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return (reply.exit_code, reply.stdout), (shell.returncode, shell.stdout)


@pytest.mark.parametrize(
    "line",
    [
        "echo a 'b  c' \"d $A\" e\\ f \"\" '' g",
        "echo $A$A ${A}x $B y",
        'echo "$B" | wc -c; echo $B | wc -c; ls $B',
        "true && echo yes || echo no",
        "false && echo yes || echo no",
        "false || false; echo next; false",
        "true || echo a && echo b",
        "false && echo a; echo b && false",
        "echo b; echo a | cat | cat -n",
        "echo a\necho b\n",
        "echo a &&\n echo b |\n cat",
        "echo [ab] * ? .[!.]* *c 'b '* \\* '?' [!a] [a-b] [] [ a] zz*",
        'echo "*" */ */* ./* d/.. //*/x',
        "echo [b-a] [a\\-c] ['*'] x[ [!] *\\**",
        "ls missing 2>/dev/null; ls missing >/dev/null 2>&1 || echo failed",
        "ls missing 2>&1 | head -1",
        "echo x > out; echo y >> out; cat out; wc -l < out",
        "echo x >out 1>&2; cat out",
        "echo a >o1 >o2; cat o1 o2",
        "grep -c one a; head -1 a | tail -1",
        "find . -name a -o -name '*c' | wc -l",
        "cat missing; false | true; cat <missing || echo none",
        "echo ~ ~/x a~ '~' \\~",
        "echo x#y x!y",
        'echo \\\nx "a\\\nb" "\\$A \\` \\" \\\\"',
        "ec\"h\"o x; 'echo' y; e\\cho z",
        "/bin/echo x | /usr/bin/cat",
        "echo a=b c:d @ % ^ + , .",
    ],
)
def test_agrees_with_sh(tmp_path: Path, line: str) -> None:
    guest = Guest(str(tmp_path))
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b c").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").touch()
    (tmp_path / "st*r").touch()
    ours, shells = both(guest, line)
    assert ours == shells


pieces = st.sampled_from(
    [
        "echo",
        "true",
        "false",
        "cat",
        "a",
        "'b  c'",
        '"$A"',
        "$A",
        "\\*",
        "*",
        "?[a-z]",
        "x",
        "''",
        "2>/dev/null",
        "2>&1",
    ]
    + ["&&", "||", ";", "|", "\n"] * 2
)


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(pieces, min_size=1, max_size=10))
def test_agrees_with_sh_on_any_line_that_is_accepted(plain_directory: str, tokens: list[str]) -> None:
    line = " ".join(tokens)
    try:
        ours, shells = both(Guest(plain_directory), line)
    except RpcError:
        return
    assert ours == shells
