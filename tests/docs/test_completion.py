"""The completions, in the shells that they are for."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Callable, ContextManager, Iterator

import pytest
from peer_tools import tool

from scripts import cli_docs

Complete = Callable[[Path, str], "set[str]"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("completion")
    assert cli_docs.main([str(place)]) == 0
    files = place / "files"
    files.mkdir()
    (files / "disk image.iso").touch()
    (files / "notes.txt").touch()
    (files / "folder").mkdir()
    return place


def with_bash(made: Path, line: str) -> set[str]:
    # As bash splits a line: at blanks, and around "=".
    words = re.sub("=", " = ", line).split(" ")
    script = made / "completion/bash" / words[0]
    program = (
        f"set -u; source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
        f"_{words[0].replace('-', '_')} {words[0]} {shlex.quote(words[-1])}; "
        "[[ ${#COMPREPLY[@]} = 0 ]] || printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program], cwd=made / "files", capture_output=True, text=True, timeout=60
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return set(done.stdout.splitlines())


def with_fish(made: Path, line: str) -> set[str]:
    name = line.split(" ")[0]
    source = made / "completion/fish" / f"{name}.fish"
    program = f"source {shlex.quote(str(source))}; complete -C {shlex.quote(line)}"
    environment = {**os.environ, "HOME": str(made), "XDG_CONFIG_HOME": str(made / "config"), "TERM": "dumb"}
    done = subprocess.run(
        [tool("fish"), "--no-config", "-c", program],
        cwd=made / "files",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = [each.split("\t")[0].rstrip("/") for each in done.stdout.splitlines()]
    return {each.partition("=")[2] for each in found} if "=" in line else set(found)


class Terminal:
    """A program in a terminal."""

    def __init__(self, argv: list[str], directory: Path) -> None:
        self.said = b""
        self._end, inner = pty.openpty()
        environment = {"TERM": "dumb", "PATH": os.environ["PATH"], "HOME": str(directory), "PS1": ""}
        self._process = subprocess.Popen(
            argv, stdin=inner, stdout=inner, stderr=inner, env=environment, cwd=directory, start_new_session=True
        )
        os.close(inner)

    def type(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def wait_until(self, reached: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not reached():
            assert time.monotonic() < until, self.said
            if select.select([self._end], [], [], 0.02)[0]:
                self.said += os.read(self._end, 65536)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._end)
        self._process.kill()
        self._process.wait()


# Writes what would be offered to a file, and when ^X comes after it, that this was all; that clears the line, too.
_ZSH = """\
PS1=; KEYTIMEOUT=1; fpath=({completion} $fpath); cd {files}
autoload -Uz compinit; compinit -u -D
compadd() {{
    if [[ "${{argv[1,(i)(-|--)]}}" == *-[OAD]* ]]; then builtin compadd "$@"; return; fi
    local -a hits; builtin compadd -A hits "$@"; (( $#hits )) && print -rl -- $hits >>{out}
    builtin compadd "$@"
}}
finish() {{ BUFFER=; print -r -- END >>{out} }}; zle -N finish; bindkey '^X' finish; bindkey '^I' list-choices
print READY >>{out}
"""


class WithZsh:
    """One zsh for all lines: starting it takes longest."""

    def __init__(self, made: Path) -> None:
        self._out = made / "zsh.out"
        setup = made / "setup.zsh"
        setup.write_text(_ZSH.format(completion=made / "completion/zsh", files=made / "files", out=self._out))
        self.terminal = Terminal([tool("zsh"), "-f", "-i"], made)
        self.terminal.type(f"source {setup}\n")
        self.terminal.wait_until(lambda: self._says("READY"))

    def __call__(self, made: Path, line: str) -> set[str]:
        self._out.unlink()
        self.terminal.type(f"{line}\t\x18")
        self.terminal.wait_until(lambda: self._says("END"))
        return set(self._out.read_text().replace("\\ ", " ").splitlines()) - {"END"}

    def _says(self, mark: str) -> bool:
        return self._out.exists() and mark in self._out.read_text().splitlines()


@contextmanager
def zsh(made: Path) -> Iterator[Complete]:
    with_zsh = WithZsh(made)
    with with_zsh.terminal:
        yield with_zsh


# The line up to the cursor; what is offered, and what is not.
CASES = [
    ("vsrpc-host ", {"ping", "exec", "upload", "service"}, {"notes.txt"}),
    ("vsrpc-host up", {"upload"}, {"ping"}),
    ("vsrpc-host -d up", {"upload"}, {"ping"}),
    ("vsrpc-host -s notes.txt up", {"upload"}, {"ping"}),
    ("vsrpc-host -s ", {"notes.txt", "folder"}, {"ping"}),
    ("vsrpc-host --ver", {"--version"}, {"ping"}),
    ("vsrpc-host upload ", {"notes.txt", "disk image.iso"}, {"ping"}),
    ("vsrpc-host upload no", {"notes.txt"}, {"folder"}),
    ("vsrpc-host upload notes.txt ", set(), {"notes.txt", "ping"}),
    ("vsrpc-host upload --no", {"--no-overwrite"}, {"--timeout", "notes.txt"}),
    ("vsrpc-host upload --checksum ", {"md5", "crc32"}, {"notes.txt"}),
    ("vsrpc-host upload --checksum=c", {"crc32"}, {"md5"}),
    ("vsrpc-host download ", set(), {"notes.txt", "ping"}),
    ("vsrpc-host download /x ", {"notes.txt"}, {"ping"}),
    ("vsrpc-host file-info ", set(), {"notes.txt", "ping"}),
    ("vsrpc-host service nginx re", {"restart"}, {"start", "status", "notes.txt"}),
    ("vsrpc-host service ", set(), {"start", "notes.txt"}),
    ("vsrpc-host exec -w ", set(), {"folder"}),
    ("vsrpc-host service nginx -t 9 re", {"restart"}, {"start", "status"}),
    ("vsrpc-host -t 9 service nginx re", {"restart"}, {"start", "status"}),
    ("vsrpc-host exec --t", {"--tty", "--timeout"}, {"--socket"}),
    ("vsrpc-host top --sort ", {"cpu", "memory"}, {"notes.txt"}),
    ("vsrpc-host attach -n ", set(), {"notes.txt"}),
    ("vsrpc-host ping --so", {"--socket"}, {"--version"}),
    ("vsrpc-guest --config ", {"notes.txt", "folder"}, set()),
    ("vsrpc-guest --li", {"--listen"}, {"--device"}),
]


@pytest.mark.parametrize(
    "shell",
    [
        pytest.param(lambda made: nullcontext(with_bash), id="bash"),
        pytest.param(lambda made: nullcontext(with_fish), id="fish", marks=pytest.mark.peers),
        pytest.param(zsh, id="zsh", marks=pytest.mark.peers),
    ],
)
def test_completion(made: Path, shell: Callable[[Path], ContextManager[Complete]]) -> None:
    with shell(made) as complete:
        for line, offered, others in CASES:
            found = complete(made, line)
            assert offered <= found, (line, found)
            assert not others & found, (line, found)
            if not offered:
                assert found == set(), line


def test_bash_completes_in_a_terminal(made: Path) -> None:
    """As users have it: by a key, file names quoted."""
    with Terminal(["bash", "--norc", "-i"], made / "files") as terminal:
        script = made / "completion/bash/vsrpc-host"
        terminal.type(f"vsrpc-host() {{ printf '<%s>' \"$@\"; }}; source {script}\n")
        terminal.type("vsrpc-host upl\tdis\t\n")
        terminal.wait_until(lambda: b"<upload><disk image.iso>" in terminal.said)
