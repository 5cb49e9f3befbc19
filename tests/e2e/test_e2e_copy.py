"""cp and sync as users run them: what arrives, what is told, and what is left where something goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from e2e_cli import Cli, Guest, Outcome, Remote

from host.client import RPCError, VirtioRPCClient
from vsrpc.filesystem import umask

pytestmark = pytest.mark.one_format_on_vm

MIB = 1024 * 1024
ODD = os.fsdecode(b"n\xffw\nline")


def make_tree(root: Path) -> None:
    """Some of everything that a copy must keep."""
    (root / "d" / "empty").mkdir(parents=True)
    for name, content in (("a", b"one"), ("d/b", b"two"), (f"d/{ODD}", b"odd"), ("none", b"")):
        (root / name).write_bytes(content)
    (root / "large").write_bytes(os.urandom(3 * MIB + 1))
    with open(root / "sparse", "wb") as sparse:
        sparse.seek(20 * MIB)
        sparse.write(b"end")
    (root / "d" / "b").chmod(0o640)
    (root / "d").chmod(0o750)
    os.symlink("d/b", root / "link")
    os.symlink("circle", root / "circle")
    os.link(root / "a", root / "d" / "hard")
    for name in ("a", "d/b", "large", "d"):
        os.utime(root / name, ns=(10**18, 10**18 + 123456789))


def described(root: Path) -> dict[str, tuple[Any, ...]]:
    """What is there, in all that a copy with -p keeps."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        what: Any = None
        if path.is_symlink():
            what = os.readlink(path)
        elif path.is_file():
            what = path.read_bytes()
        times = status.st_mtime_ns if not path.is_symlink() else 0
        found[str(path.relative_to(root))] = (stat.S_IFMT(status.st_mode), status.st_mode & 0o777, times, what)
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    make_tree(tmp_path / "tree")
    return tmp_path / "tree"


def done(outcome: Outcome) -> Outcome:
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    return outcome


def test_a_tree_goes_there_and_back(any_cli: Cli, tree: Path, tmp_path: Path, remote: Remote) -> None:
    assert done(any_cli("cp", "-rp", str(tree), f"guest:{remote('t')}")).out == b""
    done(any_cli("cp", "-rp", f"guest:{remote('t')}", str(tmp_path / "back")))
    assert described(tmp_path / "back") == described(tree)
    assert os.path.samefile(tmp_path / "back" / "a", tmp_path / "back" / "d" / "hard")
    sparse = (tree / "sparse").stat().st_blocks
    assert (tmp_path / "back" / "sparse").stat().st_blocks <= sparse + 16


def test_modes_and_times_without_p(cli: Cli, tmp_path: Path, remote: Remote, guest: Guest) -> None:
    (tmp_path / "f").write_bytes(b"new")
    (tmp_path / "f").chmod(0o751)
    os.utime(tmp_path / "f", (1234, 1234))
    guest.run(["sh", "-c", f"echo old > {remote('old')}; chmod 0604 {remote('old')}"])
    for name, mode in (("new", f"{0o751 & ~umask():o}"), ("old", "604")):
        done(cli("cp", str(tmp_path / "f"), f"guest:{remote(name)}"))
        told = guest.run(["stat", "-c", "%a %Y %s", remote(name)]).split()
        assert (told[0], told[2]) == (mode, "3")  # as cp(1): what is there keeps its mode
        assert int(told[1]) > 1234


def test_several_sources_and_targets(cli: Cli, tmp_path: Path, remote: Remote, guest: Guest) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    guest.run(["mkdir", remote("d")])
    done(cli("cp", str(tmp_path / "a"), str(tmp_path / "b"), f"guest:{remote('d')}"))
    done(cli("cp", f"guest:{remote('d')}/a", f"guest:{remote('d')}/b", str(tmp_path)))
    (tmp_path / "into").mkdir()
    done(cli("cp", "-r", f"guest:{remote('d')}/.", str(tmp_path / "into")))
    assert sorted(os.listdir(tmp_path / "into")) == ["a", "b"]
    assert cli("cp", f"guest:{remote('d')}/a", f"guest:{remote('d')}/b", "-").out == b"ab"


def test_standard_input_and_output(cli: Cli, tmp_path: Path, remote: Remote) -> None:
    content = os.urandom(5 * MIB + 7)
    with cli.start("cp", "-", f"guest:{remote('f')}", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _, err = process.communicate(content, timeout=100)
    assert (process.returncode, err) == (0, b"")
    assert done(cli("cp", f"guest:{remote('f')}", "-")).out == content


def test_special_files_are_left_out_with_a_word(cli: Cli, tmp_path: Path, remote: Remote, guest: Guest) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "f").write_bytes(b"x")
    os.mkfifo(tmp_path / "t" / "pipe")
    there = cli("cp", "-r", str(tmp_path / "t"), f"guest:{remote('t')}")
    guest.run(["mkfifo", f"{remote('t')}/other"])
    back = cli("cp", "-r", f"guest:{remote('t')}", str(tmp_path / "back"))
    assert (there.code, back.code) == (0, 0)
    assert there.err == f"vsrpc-host: warning: {tmp_path}/t/pipe is a fifo: left out\n"
    assert back.err == f"vsrpc-host: warning: guest:{remote('t')}/other is a fifo: left out\n"
    assert os.listdir(tmp_path / "back") == ["f"]


def test_what_fails_in_the_middle_is_told_at_the_end(cli: Cli, tmp_path: Path, remote: Remote, guest: Guest) -> None:
    (tmp_path / "t").mkdir()
    for name in ("a", "z"):
        (tmp_path / "t" / name).write_bytes(b"x")
    os.symlink("/etc/shadow", tmp_path / "t" / "secret")
    (tmp_path / "t" / ".bashrc").write_bytes(b"x")
    there = cli("cp", "-r", str(tmp_path / "t"), f"guest:{remote('t')}")
    assert there.code == 5
    lines = there.err.splitlines()
    assert len(lines) == 3
    assert any("/etc/shadow" in line and f"{remote('t')}/secret, a symbolic link: " in line for line in lines)
    assert any(".bashrc" in line for line in lines)
    assert lines[2] == "vsrpc-host: error: 2 files or directories were not copied; 3 were"
    assert guest.run(["ls", "-A", remote("t")]).split() == ["a", "z"]
    guest.run(["sh", "-c", f"mkdir {remote('t')}/.ssh; echo key > {remote('t')}/.ssh/id_rsa"])
    back = cli("cp", "-r", f"guest:{remote('t')}", str(tmp_path / "back"))
    assert (back.code, len(back.err.splitlines())) == (5, 2)
    assert "id_rsa" in back.err
    assert sorted(os.listdir(tmp_path / "back")) == [".ssh", "a", "z"]


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_file_that_vanishes_meanwhile(
    client: VirtioRPCClient, tmp_path: Path, remote: Remote, guest: Guest, size: int
) -> None:
    """After it was listed, before it is read: the others are copied."""
    for name in ("a", "b", "c"):
        (tmp_path / "t" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "t" / name).write_bytes(os.urandom(size))
    done: list[int] = []

    def remove_here(progress: object) -> None:
        (tmp_path / "t" / "b").unlink(missing_ok=True)

    with pytest.raises(RPCError) as caught:
        client.copy(str(tmp_path / "t"), f"guest:{remote('t')}", recursive=True, progress=remove_here)
    assert caught.value.reason == "INCOMPLETE"
    assert [each["path"] for each in caught.value.data["failures"]] == [f"{tmp_path}/t/b"]
    assert guest.run(["ls", remote("t")]).split() == ["a", "c"]

    def remove_there(progress: object) -> None:
        if not done:
            done.append(1)
            guest.run(["rm", f"{remote('t')}/a"])

    with pytest.raises(RPCError) as caught:
        client.copy(f"guest:{remote('t')}", str(tmp_path / "back"), recursive=True, progress=remove_there)
    assert caught.value.data["failures"][0]["reason"] == "FILE_NOT_FOUND"
    assert os.listdir(tmp_path / "back") == ["c"]


BadInput = Callable[[Path, Remote], "tuple[list[str], int, str]"]

BAD: dict[str, BadInput] = {
    "missing source": lambda here, there: ([f"{here}/no", f"guest:{there('x')}"], 2, "No such file or directory"),
    "missing source there": lambda here, there: ([f"guest:{there('no')}", f"{here}/x"], 5, "No such file"),
    "target exists": lambda here, there: (["-n", f"{here}/f", f"guest:{there('f')}"], 5, "is not to be overwritten"),
    "target exists here": lambda here, there: (["-n", f"guest:{there('f')}", f"{here}/f"], 2, "/f: already exists"),
    "target is a directory": lambda here, there: (["-r", f"{here}/f", f"guest:{there('e')}"], 5, "is a directory"),
    "directory without -r": lambda here, there: ([f"{here}/d", f"guest:{there('x')}"], 5, "(-r)"),
    "several to a file": lambda here, there: (
        [f"{here}/f", f"{here}/d/g", f"guest:{there('f')}"],
        5,
        "is no directory; make it first",
    ),
    "no directory for it": lambda here, there: ([f"{here}/f", f"guest:{there('no')}/x"], 5, "No such"),
    "no directory here": lambda here, there: ([f"guest:{there('f')}", f"{here}/no/x"], 2, "No such file"),
    "name too long": lambda here, there: ([f"{here}/f", f"guest:{there('x' * 300)}"], 2, "longer than"),
    "path too long": lambda here, there: ([f"{here}/f", f"guest:/tmp/{'x/' * 3000}y"], 2, "longer than"),
    "links in a circle": lambda here, there: ([f"{here}/circle", f"guest:{there('x')}"], 2, "symbolic links"),
    "links in a circle there": lambda here, there: ([f"guest:{there('circle')}", f"{here}/x"], 5, "in a circle"),
    "refused": lambda here, there: ([f"{here}/f", "guest:/etc/x"], 4, "security.allowed_paths"),
    "refused source": lambda here, there: (["guest:/etc/shadow", f"{here}/x"], 4, "password hashes"),
    "both here": lambda here, there: ([f"{here}/f", f"{here}/x"], 2, "both on this machine"),
    "both there": lambda here, there: ([f"guest:{there('f')}", f"guest:{there('x')}"], 2, "both on the guest"),
    "relative path there": lambda here, there: ([f"{here}/f", "guest:x"], 2, "write guest:/x"),
    "two of one name": lambda here, there: (
        [f"{here}/d/g", f"{here}/e/g", f"guest:{there('d')}"],
        5,
        "would take the place of the copy of",
    ),
    "dash and others": lambda here, there: (["-", f"{here}/f", f"guest:{there('x')}"], 2, "name no other source"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(in_process: Callable[..., Outcome], tmp_path: Path, remote: Remote, guest: Guest, case: str) -> None:
    for name in ("f", "d/g", "e/g"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"here")
    os.symlink("circle", tmp_path / "circle")
    circle = remote("circle")
    guest.run(
        ["sh", "-c", f"echo there > {remote('f')}; mkdir -p {remote('d')} {remote('e')}/f; ln -s {circle} {circle}"]
    )
    argv, code, message = BAD[case](tmp_path, remote)
    before = guest.files(remote(""))
    outcome = in_process("cp", *argv)
    assert (outcome.code, outcome.out) == (code, b""), outcome.err
    assert message in outcome.err
    assert "defect" not in outcome.err
    assert (guest.run(["cat", remote("f")]), (tmp_path / "f").read_bytes()) == ("there\n", b"here")
    assert guest.files(remote("")) == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".vsrpc")]


@pytest.fixture
def full(guest: Guest, remote: Remote) -> Iterator[str]:
    """A directory of the guest on a file system with room for 2 MiB."""
    path = remote("full")
    guest.run(["sh", "-c", f"mkdir {path} && mount -t tmpfs -o size=2m,mode=755 tmpfs {path}"])
    try:
        yield path
    finally:
        guest.run(["umount", path])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk(cli: Cli, tmp_path: Path, full: str, guest: Guest) -> None:
    (tmp_path / "t").mkdir()
    for number in range(5):
        (tmp_path / "t" / f"f{number}").write_bytes(os.urandom(700_000))
    refused = cli("cp", "-r", str(tmp_path / "t"), f"guest:{full}/new")
    assert (refused.code, "No space left in the guest for 3500" in refused.err) == (5, True), refused.err
    assert guest.run(["ls", "-A", full]) == ""
    guest.run(["mkdir", f"{full}/t"])
    some = cli("cp", "-r", str(tmp_path / "t"), f"guest:{full}")  # what is there may be replaced: it is tried
    assert some.code == 5
    assert "No space left" in some.err
    left = guest.run(["ls", "-A", f"{full}/t"]).split()
    assert 0 < len(left) < 5
    assert not [name for name in left if name.startswith(".")]
    assert cli("cp", str(tmp_path / "t" / "f0"), f"guest:{full}/x").code == 5


def test_progress_for_people_and_programs(cli: Cli, tmp_path: Path, remote: Remote) -> None:
    (tmp_path / "f").write_bytes(os.urandom(5 * MIB))
    told = cli("cp", "--progress=json", str(tmp_path / "f"), f"guest:{remote('f')}")
    lines = [json.loads(line) for line in told.err.splitlines()]
    assert told.code == 0
    last = lines[-1]
    assert (last["files"], last["files_total"], last["bytes"], last["bytes_total"]) == (1, 1, 5 * MIB, 5 * MIB)
    assert {"rate", "seconds_left", "name"} < set(last)
    shown = cli.on_terminal("cp", f"guest:{remote('f')}", str(tmp_path / "g"))
    assert b"100%  5.2 MB/5.2 MB" in shown
    assert shown.endswith(b"\r\n")


# -- sync


def test_sync_mirrors_both_ways(cli: Cli, tree: Path, tmp_path: Path, remote: Remote, guest: Guest) -> None:
    (tree / "circle").unlink()
    here, there = str(tree), f"guest:{remote('m')}"
    done(cli("sync", here, there))
    again = json.loads(cli("--raw", "sync", here, there).out)["data"]
    assert (again["files"], again["sent"], again["unchanged"]) == (0, 0, 8)
    (tree / "a").write_bytes(b"changed")
    shutil.rmtree(tree / "d" / "empty")
    (tree / "none").unlink()
    planned = done(cli("sync", "--delete", "--dry-run", here, there)).out.decode().splitlines()
    assert sorted(planned) == ["copy a (7 bytes)", "copy d/hard (7 bytes)", "delete d/empty", "delete none"]
    assert guest.run(["cat", f"{remote('m')}/a"]) == "one"
    done(cli("sync", "--delete", here, there))
    assert guest.run(["sh", "-c", f"cd {remote('m')}; cat a; ls -d none d/empty 2>&1 | wc -l"]).split() == ["changed2"]
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "extra").write_bytes(b"x")
    done(cli("sync", "--delete", there, str(tmp_path / "back")))
    assert described(tmp_path / "back") == described(tree)


def test_sync_compares_content_if_asked_to(cli: Cli, tmp_path: Path, remote: Remote, guest: Guest) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "f").write_bytes(b"good")
    here, there = str(tmp_path / "t"), f"guest:{remote('m')}"
    done(cli("sync", here, there))
    path = f"{remote('m')}/f"
    guest.run(["sh", "-c", f"cp -p {path} {path}.was; printf evil > {path}; touch -r {path}.was {path}; rm {path}.was"])
    done(cli("sync", here, there))
    assert guest.run(["cat", path]) == "evil"  # of the same size and time
    done(cli("sync", "--checksum", here, there))
    assert guest.run(["cat", path]) == "good"


def test_sync_of_what_is_in_the_way(cli: Cli, tmp_path: Path, remote: Remote, guest: Guest) -> None:
    (tmp_path / "t" / "d").mkdir(parents=True)
    (tmp_path / "t" / "f").write_bytes(b"x")
    guest.run(["sh", "-c", f"mkdir -p {remote('m')}/f/below; echo x > {remote('m')}/d"])
    here, there = str(tmp_path / "t"), f"guest:{remote('m')}"
    assert cli("sync", here, there).code == 5
    done(cli("sync", "--delete", here, there))
    assert guest.run(["sh", "-c", f"cd {remote('m')}; stat -c %F d f"]).splitlines() == ["directory", "regular file"]
