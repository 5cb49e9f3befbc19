"""Files and directories made, removed, renamed, linked and changed, called on the servicer, under the path policy."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from servicer_helpers import context, refused

from guest.files.changing import parse_mode
from guest.files.sessions import UploadSessions
from guest.policy.paths import PathPolicy
from guest.services.file import FileService
from vsrpc.v1 import file_pb2 as pb

ROOM = 10 * 1024 * 1024


@pytest.fixture
def service(place: Path) -> FileService:
    return FileService(PathPolicy([f"{place}/"]), ROOM, UploadSessions())


def call(service: FileService, rpc: str, path: object, seconds: float = 30.0, **fields: Any) -> Any:
    request = getattr(pb, f"{rpc}Request")(path=str(path), **fields)
    return getattr(service, rpc)(request, context(seconds))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(place: Path) -> list[str]:
    return sorted(str(each.relative_to(place)) for each in place.rglob("*"))


def test_directories(place: Path, service: FileService) -> None:
    assert call(service, "MakeDirectory", place / "a", mode="0700").made
    assert mode(place / "a") == 0o700
    refused("FILE_EXISTS", lambda: call(service, "MakeDirectory", place / "a"))
    refused("FILE_NOT_FOUND", lambda: call(service, "MakeDirectory", place / "b" / "c"))
    assert call(service, "MakeDirectory", place / "b" / "c" / "d", parents=True).made
    assert not call(service, "MakeDirectory", f"{place}/b/c/d/", parents=True).made
    (place / "f").write_bytes(b"")
    refused("FILE_EXISTS", lambda: call(service, "MakeDirectory", place / "f", parents=True))
    refused("WRONG_FILE_TYPE", lambda: call(service, "MakeDirectory", place / "f" / "x"))
    assert names(place) == ["a", "b", "b/c", "b/c/d", "f"]


def test_removal(place: Path, service: FileService) -> None:
    (place / "d" / "e").mkdir(parents=True)
    (place / "d" / "e" / "f").write_bytes(b"")
    os.symlink(place / "d", place / "l")
    refusal = refused("WRONG_FILE_TYPE", lambda: call(service, "Remove", place / "d"))
    assert "with all in it: -r" in refusal.details()
    refused("FILE_NOT_FOUND", lambda: call(service, "Remove", place / "missing", recursive=True))
    refused("INVALID_PARAMS", lambda: call(service, "Remove", f"{place}/d/.", recursive=True))
    assert call(service, "Remove", place / "l", recursive=True).removed == 1  # the link, not what it leads to
    reply = call(service, "Remove", place, names=[b"d/e/f", b"d/missing", b"../x"])
    assert (reply.removed, [each.reason for each in reply.failures]) == (1, ["FILE_NOT_FOUND", "INVALID_PARAMS"])
    assert call(service, "Remove", place / "d", recursive=True).removed == 2
    assert names(place) == []


def test_removal_keeps_what_is_denied(place: Path) -> None:
    (place / "u" / ".ssh").mkdir(parents=True)
    for name in (".ssh/id_rsa", ".bashrc", "f", "kept"):
        (place / "u" / name).write_bytes(b"")
    service = FileService(PathPolicy([f"{place}/"], denied=[f"{place}/u/kept"]), ROOM, UploadSessions())
    reply = call(service, "Remove", place / "u", recursive=True)
    assert {each.name for each in reply.failures} == {b"u/.ssh", b"u/.bashrc", b"u/kept"}
    assert {each.reason for each in reply.failures} == {"PERMISSION_DENIED"}
    assert names(place) == ["u", "u/.bashrc", "u/.ssh", "u/.ssh/id_rsa", "u/kept"]


def test_work_for_which_there_is_no_time_ends(place: Path, service: FileService) -> None:
    (place / "d").mkdir()
    for rpc, fields in (("Remove", {"recursive": True}), ("SetAttributes", {"recursive": True, "mode": "0700"})):
        (place / "d" / "f").write_bytes(b"")
        refused("DEADLINE_EXCEEDED", lambda rpc=rpc, fields=fields: call(service, rpc, place / "d", 0.0, **fields))
    refused("DEADLINE_EXCEEDED", lambda: call(service, "List", place, 0.0))


def test_renaming(place: Path, service: FileService) -> None:
    (place / "f").write_bytes(b"f")
    (place / "g").write_bytes(b"g")
    (place / "d").mkdir()
    call(service, "Rename", place / "f", target=f"{place}/d/f")
    refused("FILE_EXISTS", lambda: call(service, "Rename", place / "g", target=f"{place}/d/f", overwrite=False))
    call(service, "Rename", place / "g", target=f"{place}/d/f")
    assert (place / "d" / "f").read_bytes() == b"g"
    call(service, "Rename", place / "d", target=f"{place}/e", overwrite=False)
    assert names(place) == ["e", "e/f"]
    for path, target, reason in [
        (place / "missing", place / "x", "FILE_NOT_FOUND"),
        (place / "e", place / "e" / "f" / "x", "WRONG_FILE_TYPE"),
        (place / "e", place / "e" / "x", "INVALID_PARAMS"),  # into itself
        (place / "e", Path("/etc/x"), "PERMISSION_DENIED"),
        (Path("/etc/hosts"), place / "hosts", "PERMISSION_DENIED"),
        (place / "e" / "f", place / ".bashrc", "PERMISSION_DENIED"),
    ]:
        refused(reason, lambda path=path, target=target: call(service, "Rename", path, target=str(target)))


def test_renaming_frees_nothing_that_is_denied(place: Path, service: FileService) -> None:
    """What is below a directory must be allowed under its old name and its new one."""
    (place / "u" / ".ssh").mkdir(parents=True)
    (place / "u" / ".ssh" / "id_rsa").write_bytes(b"secret")
    refused("PERMISSION_DENIED", lambda: call(service, "Rename", place / "u", target=f"{place}/v"))
    refused("PERMISSION_DENIED", lambda: call(service, "Rename", place / "u" / ".ssh", target=f"{place}/s"))
    (place / "new" / "systemd").mkdir(parents=True)
    refused("PERMISSION_DENIED", lambda: call(service, "Rename", place / "new", target=f"{place}/u/.config"))
    os.symlink(place / "new", place / "l")
    refused("PERMISSION_DENIED", lambda: call(service, "Rename", place / "l", target=f"{place}/u/.config"))
    assert (place / "u" / ".ssh" / "id_rsa").exists()


def test_links(place: Path, service: FileService) -> None:
    (place / "f").write_bytes(b"f")
    call(service, "Link", place / "s", target="f", symbolic=True)
    call(service, "Link", place / "h", target=f"{place}/f")
    assert os.readlink(place / "s") == "f"
    assert os.path.samefile(place / "h", place / "f")
    for fields, reason in [
        ({"target": "f", "symbolic": True}, "FILE_EXISTS"),
        ({"target": f"{place}/f"}, "FILE_EXISTS"),
        ({}, "MISSING_REQUIRED"),
    ]:
        refused(reason, lambda fields=fields: call(service, "Link", place / "s", **fields))
    call(service, "Link", place / "s", target="h", symbolic=True, overwrite=True)
    assert os.readlink(place / "s") == "h"
    for target, symbolic, reason in [
        ("/etc/shadow", True, "PERMISSION_DENIED"),
        ("../../etc/hosts", True, "PERMISSION_DENIED"),
        ("/etc/hosts", False, "PERMISSION_DENIED"),
        (str(place), False, "WRONG_FILE_TYPE"),
        (f"{place}/missing", False, "FILE_NOT_FOUND"),
    ]:
        fields = {"target": target, "symbolic": symbolic}
        refused(reason, lambda fields=fields: call(service, "Link", place / "x", **fields))
    assert names(place) == ["f", "h", "s"]


@pytest.mark.parametrize(
    ("text", "old", "expected"),
    [
        ("0640", 0o777, 0o640),
        ("u+x,go-w", 0o666, 0o744),
        ("a=r", 0o777, 0o444),
        ("+x", 0o644, 0o755),
        ("go=", 0o777, 0o700),
        ("u=rw,g=r,o=", 0o777, 0o640),
        ("u+s", 0o755, 0o4755),
        ("g-s", 0o2755, 0o755),
        ("+t", 0o755, 0o1755),
        ("a+X", 0o644, 0o644),
        ("a+X", 0o744, 0o755),
        ("ug+rw-x", 0o711, 0o661),
    ],
)
def test_modes_as_chmod_has_them(text: str, old: int, expected: int) -> None:
    assert oct(parse_mode(text)(old, False)) == oct(expected)


def test_modes_of_directories() -> None:
    assert parse_mode("a+X")(0o600, True) == 0o711
    assert parse_mode("u=rwx")(0o2750, True) == 0o2750


def test_attributes(place: Path, service: FileService) -> None:
    (place / "d").mkdir()
    (place / "d" / "f").write_bytes(b"")
    os.symlink("/etc/hosts", place / "d" / "out")
    before = os.stat("/etc/hosts")
    reply = call(service, "SetAttributes", place / "d", mode="u=rwX,go=", recursive=True)
    assert (reply.changed, len(reply.failures)) == (3, 0)
    assert (mode(place / "d"), mode(place / "d" / "f")) == (0o700, 0o600)
    me = str(os.getuid())
    assert call(service, "SetAttributes", place / "d", owner=me, group=str(os.getgid()), recursive=True).changed == 3
    assert os.stat("/etc/hosts") == before
    os.symlink("d/f", place / "l")
    call(service, "SetAttributes", place / "l", mode="0640")  # links on the way are followed
    assert mode(place / "d" / "f") == 0o640
    for path, fields, reason in [
        (place / "d", {}, "MISSING_REQUIRED"),
        (place / "d", {"mode": "u+q"}, "INVALID_PARAMS"),
        (place / "d", {"owner": "no-such-user"}, "INVALID_PARAMS"),
        (place / "missing", {"mode": "0600"}, "FILE_NOT_FOUND"),
        (place / "d" / "f", {"mode": "4755"}, "PERMISSION_DENIED"),
        (place / "d" / "f", {"mode": "g+s"}, "PERMISSION_DENIED"),
        (place / "d" / "out", {"mode": "0666"}, "PERMISSION_DENIED"),
        (Path("/etc/hosts"), {"mode": "0666"}, "PERMISSION_DENIED"),
    ]:
        refused(reason, lambda path=path, fields=fields: call(service, "SetAttributes", path, **fields))


def test_touching(place: Path, service: FileService) -> None:
    assert not call(service, "Touch", place / "f", no_create=True).made
    assert call(service, "Touch", place / "f").made
    os.symlink("f", place / "l")
    assert not call(service, "Touch", place / "l", mtime=1234).made
    assert (place / "f").stat().st_mtime == 1234
    assert not call(service, "Touch", place / "f").made
    assert (place / "f").stat().st_mtime > 1234
    refused("PERMISSION_DENIED", lambda: call(service, "Touch", "/etc/x"))
    refused("FILE_NOT_FOUND", lambda: call(service, "Touch", place / "missing" / "x"))
    assert names(place) == ["f", "l"]


def test_space(place: Path, service: FileService) -> None:
    (found,) = call(service, "FileSystems", place).filesystems
    stats = os.statvfs(place)
    assert (found.total, found.files) == (stats.f_blocks * stats.f_frsize, stats.f_files)
    assert str(place).startswith(found.mountpoint)
    assert any(each.mountpoint == "/" for each in call(service, "FileSystems", "").filesystems)
    refused("PERMISSION_DENIED", lambda: call(service, "FileSystems", "/root/x"))


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        (b"", 10, b""),
        (b"one", 10, b"one"),
        (b"one\ntwo\n", 1, b"two\n"),
        (b"one\ntwo", 1, b"two"),
        (b"one\ntwo\n\n", 2, b"two\n\n"),
        (b"one\ntwo\n", 0, b""),
        (b"one\ntwo\n", 2, b"one\ntwo\n"),
        (b"x" * 70_000 + b"\n" + b"y" * 70_000 + b"\n", 1, b"y" * 70_000 + b"\n"),
        (b"line\n" * 50_000, 20_000, b"line\n" * 20_000),
    ],
    ids=lambda value: str(value)[:16],
)
def test_the_last_lines(place: Path, service: FileService, content: bytes, lines: int, expected: bytes) -> None:
    (place / "f").write_bytes(content)
    reply = call(service, "Tail", place / "f", lines=lines)
    assert reply.content == expected
    assert (reply.offset, reply.next_offset) == (len(content) - len(expected), len(content))


def test_what_a_file_grows_by(place: Path, service: FileService) -> None:
    path = place / "log"
    path.write_bytes(b"one\n")
    reply = call(service, "Tail", path)
    fields = {"offset": reply.next_offset, "file_id": reply.file_id, "wait": 20.0}

    def grow() -> None:
        with open(path, "ab") as file:
            file.write(b"two\n")

    threading.Timer(0.05, grow).start()
    more = call(service, "Tail", path, **fields)
    assert (more.content, more.offset, more.restarted) == (b"two\n", 4, False)
    assert call(service, "Tail", path, offset=8, file_id=reply.file_id).content == b""
    path.write_bytes(b"cut\n")
    assert (cut := call(service, "Tail", path, offset=8, file_id=reply.file_id)).restarted
    assert cut.content == b"cut\n"
    (place / "other").write_bytes(b"another file\n")
    (place / "other").rename(path)
    assert (other := call(service, "Tail", path, offset=4, file_id=reply.file_id)).restarted
    assert other.content == b"another file\n"
    for wrong in ({"lines": -1}, {"offset": -1}, {"wait": float("nan")}):
        refused("INVALID_PARAMS", lambda wrong=wrong: call(service, "Tail", path, **wrong))
    refused("PERMISSION_DENIED", lambda: call(service, "Tail", "/etc/shadow"))
