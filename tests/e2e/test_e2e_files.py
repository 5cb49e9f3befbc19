"""The commands for files of the guest as users run them: what they print, and their exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Callable

import pytest
from e2e_cli import Cli, Guest, Outcome, Remote

pytestmark = pytest.mark.one_format_on_vm

ODD = os.fsdecode(b"n\xffw\nline")


def done(outcome: Outcome) -> str:
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    return outcome.out.decode("utf-8", "backslashreplace")


def test_a_day_with_files(any_cli: Cli, remote: Remote, guest: Guest) -> None:
    """Each command once, on what the ones before have made."""
    top = remote("d")
    assert done(any_cli("mkdir", "-p", f"{top}/a/b", "-m", "0750")) == ""
    done(any_cli("touch", f"guest:{top}/a/f", f"{top}/a/{ODD}"))
    done(any_cli("chmod", "u=rw,go=", f"{top}/a/f"))
    done(any_cli("ln", "-s", "f", f"{top}/a/link"))
    done(any_cli("ln", f"{top}/a/f", f"{top}/a/hard"))
    assert done(any_cli("ls", f"{top}/a")) == "b\nf\nhard\nlink\nn\\xffw\\nline\n"
    assert done(any_cli("ls", "-R", top)).splitlines()[:3] == ["a", "a/b", "a/f"]
    lines = done(any_cli("ls", "-l", f"{top}/a")).splitlines()
    assert re.match(r"drwxr-x---  \d  \S+  \S+ +\d+  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  b\Z", lines[0])
    assert lines[1].startswith("-rw-------  2  ")
    assert lines[3].endswith("  link -> f")
    assert done(any_cli("ls", "-d", top)) == f"{top}\n"
    listed = json.loads(done(any_cli("ls", f"{top}/a", "--json")))
    assert [each["name"] for each in listed] == ["b", "f", "hard", "link", "n\ufffdw\nline"]
    assert (listed[3]["link_target"], listed[4]["name_base64"]) == ("f", "bv93CmxpbmU=")
    assert json.loads(done(any_cli("-r", "ls", top)))["data"]["entries"][0]["type"] == "directory"

    done(any_cli("mv", f"{top}/a/f", f"{top}/a/hard", f"{top}/a/b"))
    assert guest.run(["ls", f"{top}/a/b"]).split() == ["f", "hard"]
    assert "Type: file, 0 bytes" in done(any_cli("stat", f"{top}/a/b/f"))
    assert json.loads(done(any_cli("stat", f"{top}/a/b/f", "--json")))[0]["links"] == 2
    done(any_cli("chmod", "-R", "a+rX", top))
    done(any_cli("chown", "-R", "0:0", top))
    assert json.loads(done(any_cli("-r", "rm", "-r", top)))["data"]["removed"] == 7
    assert done(any_cli("rm", "-f", top)) == ""


def test_digests_space_and_ends(any_cli: Cli, remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"one\ntwo\nthree\n")
    assert any_cli("cp", str(tmp_path / "f"), f"guest:{remote('f')}").code == 0
    sha256 = hashlib.sha256(b"one\ntwo\nthree\n").hexdigest()
    assert done(any_cli("checksum", remote("f"))) == f"{sha256}  {remote('f')}\n"
    told = json.loads(done(any_cli("checksum", "-a", "md5", remote("f"), "--json")))
    assert told == [{"path": remote("f"), "size": 14, "md5": hashlib.md5(b"one\ntwo\nthree\n").hexdigest()}]
    assert done(any_cli("tail", "-n", "2", remote("f"))) == "two\nthree\n"
    lines = done(any_cli("df", "/tmp")).splitlines()
    assert lines[0].split()[0] == "FILESYSTEM"
    assert len(lines) == 2
    assert json.loads(done(any_cli("df", "--json")))[0]["mountpoint"] == "/"


def test_a_file_that_is_followed(cli: Cli, remote: Remote, guest: Guest) -> None:
    path = remote("log")
    guest.run(["sh", "-c", f"echo one > {path}"])
    with cli.start("tail", "-f", path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        guest.run(["sh", "-c", f"echo two >> {path}"])
        assert process.stdout.readline() == b"two\n"
        guest.run(["sh", "-c", f"echo three > {path}.new; mv {path}.new {path}"])
        assert process.stdout.readline() == b"three\n"
        process.terminate()
        assert process.wait() == 143
        assert process.stderr is not None
        assert b"was cut or replaced" in process.stderr.read()


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["ls", "{}/missing"], 5, "No such file or directory"),
        (["ls", "relative"], 2, "path is not absolute"),
        (["ls", "/root"], 4, "security.allowed_paths"),
        (["stat", "{}/missing"], 5, "No such file"),
        (["mkdir", "{}/missing/x"], 5, "No such directory"),
        (["mkdir", "/etc/x"], 4, "security.allowed_paths"),
        (["rm", "{}/missing"], 5, "No such directory"),
        (["rm", "/tmp"], 5, "Is a directory"),
        (["rm", "-r", "/etc/hosts"], 4, "security.allowed_paths"),
        (["mv", "{}-missing", "{}"], 5, "No such file"),
        (["mv", "{}/missing", "{}/other", "{}/x"], 2, "is no directory"),
        (["mv", "{}-dir", "{}-dir/below"], 2, "cannot be moved into itself"),
        (["chmod", "u+q", "{}"], 2, "neither octal"),
        (["chmod", "0600", "/etc/hosts"], 4, "security.allowed_paths"),
        (["chown", "no-such-user", "/tmp"], 2, "No such owner"),
        (["ln", "-s", "/etc/shadow", "{}"], 4, "password hashes"),
        (["touch", "/etc/x"], 4, "security.allowed_paths"),
        (["checksum", "/etc/shadow"], 4, "password hashes"),
        (["tail", "{}/missing"], 5, "No such file"),
        (["tail", "-f", "{}/missing"], 5, "No such file"),
        (["tail", "-n", "x", "{}"], 2, "not a number of lines"),
        (["df", "{}/missing"], 5, "No such file"),
        (["cp", "x"], 2, "required: DEST"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done(
    in_process: Callable[..., Outcome], guest: Guest, remote: Remote, argv: list[str], code: int, message: str
) -> None:
    guest.run(["mkdir", "-p", f"{remote('x')}-dir"])
    outcome = in_process(*(each.replace("{}", remote("x")) for each in argv))
    assert (outcome.code, outcome.out) == (code, b""), outcome.err
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_paths_after_one_that_fails(in_process: Callable[..., Outcome], remote: Remote) -> None:
    outcome = in_process("touch", remote("a"), "/etc/x", remote("b"))
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    outcome = in_process("rm", remote("a"), "/etc/x", remote("missing"), remote("b"))
    assert (outcome.code, outcome.err.count("\n")) == (5, 2)
    assert in_process("rm", "-f", remote("a"), remote("b")).code == 0
