"""New files: put in place whole, with nothing left beside them; holes; what interrupted transfers leave."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from vsrpc import partial
from vsrpc.filesystem import data_ranges, punch_hole, rename_new, umask
from vsrpc.newfile import KEEP, Attributes, WrongKindError, put_file, replace_link, write_file
from vsrpc.partial import KeptFile, partial_name, remove_old

MIB = 1024 * 1024


@pytest.fixture
def dirfd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_and_its_attributes(tmp_path: Path, dirfd: int, way: str) -> None:
    write_file(dirfd, "f", b"content", Attributes(0o4751, mtime_ns=10**18 + 7))
    status = (tmp_path / "f").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o4751, 10**18 + 7)
    write_file(dirfd, "g", b"", Attributes(0o666))
    assert (mode_of(tmp_path / "g"), (tmp_path / "g").read_bytes()) == (0o666, b"")
    assert sorted(os.listdir(tmp_path)) == ["f", "g"]


@pytest.mark.parametrize(("keep", "mode"), [(True, 0o1640), (False, 0o600)])
def test_a_file_in_place_of_another(tmp_path: Path, dirfd: int, way: str, keep: bool, mode: int) -> None:
    """Set-ID bits were for the other one's content."""
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "f").chmod(0o7640)
    with open(tmp_path / "f", "rb") as reader:
        write_file(dirfd, "f", b"new and longer", Attributes(0o600, keep=keep))
        assert reader.read() == b"old"
    assert ((tmp_path / "f").read_bytes(), mode_of(tmp_path / "f")) == (b"new and longer", mode)
    assert os.listdir(tmp_path) == ["f"]


def test_without_overwriting(tmp_path: Path, dirfd: int, way: str) -> None:
    write_file(dirfd, "f", b"same", Attributes(0o600), overwrite=False)
    write_file(dirfd, "f", b"same", Attributes(0o600), overwrite=False)  # a call that is repeated
    with pytest.raises(FileExistsError):
        write_file(dirfd, "f", b"else", Attributes(0o600), overwrite=False)
    assert ((tmp_path / "f").read_bytes(), os.listdir(tmp_path)) == (b"same", ["f"])


def test_what_cannot_be_replaced_stays(tmp_path: Path, dirfd: int, way: str) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "p")
    for name in ("d", "p"):
        with pytest.raises(WrongKindError):
            write_file(dirfd, name, b"x", Attributes(0o600, keep=True))
    (tmp_path / "target").write_bytes(b"kept")
    os.symlink("target", tmp_path / "l")
    write_file(dirfd, "l", b"new", Attributes(0o600, keep=True))
    assert not (tmp_path / "l").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"kept"
    assert sorted(os.listdir(tmp_path)) == ["d", "l", "p", "target"]


def test_a_failure_leaves_nothing(tmp_path: Path, dirfd: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    notes: list[str] = []
    with pytest.raises(OSError):
        write_file(dirfd, "f", b"x", Attributes(0o600), note=lambda name, durable: notes.append(name))
    assert os.listdir(tmp_path) == []
    assert notes == [] or notes[-1] == ""  # what was noted is forgotten


@pytest.mark.parametrize("overwrite", [True, False])
def test_links(tmp_path: Path, dirfd: int, overwrite: bool) -> None:
    (tmp_path / "f").write_bytes(b"x")

    def make(target: str) -> None:
        replace_link(
            dirfd,
            "l",
            lambda name: os.symlink(target, name, dir_fd=dirfd),
            lambda: os.readlink("l", dir_fd=dirfd) == target,
            overwrite,
            ".tmp-",
        )

    make("one")
    make("one")
    if overwrite:
        make("two")
    else:
        with pytest.raises(FileExistsError):
            make("two")
    assert os.readlink(tmp_path / "l") == ("two" if overwrite else "one")
    assert sorted(os.listdir(tmp_path)) == ["f", "l"]


def test_rename_new_never_replaces(tmp_path: Path, dirfd: int) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        rename_new(dirfd, "a", "b")
    rename_new(dirfd, "a", "c")
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def test_umask_is_told_without_being_changed() -> None:
    before = os.umask(0o027)
    try:
        assert umask() == 0o027
    finally:
        os.umask(before)


def test_holes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * (3 * MIB))
    fd = os.open(path, os.O_RDWR)
    try:
        punch_hole(fd, MIB, MIB)
        punch_hole(fd, 3 * MIB, 10 * MIB)  # beyond the end: nothing
        assert os.fstat(fd).st_size == 3 * MIB
        assert os.pread(fd, MIB, MIB) == bytes(MIB)
        found = list(data_ranges(fd, 0, 3 * MIB))
        covered = sum(length for _, length in found)
        assert covered in (2 * MIB, 3 * MIB)  # a file system without holes has data everywhere
        assert all(os.pread(fd, 1, offset) for offset, _ in found)
    finally:
        os.close(fd)


def test_zeros_where_no_hole_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vsrpc import filesystem

    monkeypatch.setattr(filesystem, "_libc", lambda: None)
    (tmp_path / "f").write_bytes(b"x" * (3 * MIB))
    fd = os.open(tmp_path / "f", os.O_RDWR)
    try:
        punch_hole(fd, 5, 2 * MIB)
    finally:
        os.close(fd)
    assert (tmp_path / "f").read_bytes() == b"x" * 5 + bytes(2 * MIB) + b"x" * (MIB - 5)


# -- what is left of transfers

KEY = "k" * 32


def leave(dirfd: int, content: bytes, key: str = KEY) -> str:
    """What an interrupted transfer leaves: its name."""
    made = KeptFile(dirfd, key, "target")
    os.pwrite(made.fd, content, 0)
    made.discard()
    os.close(made.fd)
    return partial_name(key, "target")


def test_what_is_left_is_gone_on_with_and_put_in_place(tmp_path: Path, dirfd: int) -> None:
    assert leave(dirfd, b"half") in os.listdir(tmp_path)
    made = KeptFile(dirfd, KEY, "target")
    assert (made.left, os.pread(made.fd, 10, 0)) == (4, b"half")
    os.pwrite(made.fd, b"whole", 0)
    put_file(made, dirfd, "target", Attributes(0o640), True)
    made.keep = False
    made.discard()
    os.close(made.fd)
    assert (os.listdir(tmp_path), (tmp_path / "target").read_bytes()) == (["target"], b"whole")


@pytest.mark.parametrize("planted", ["a link", "a FIFO", "another's", "hard link", "readable"])
def test_what_somebody_else_may_have_put_there_is_not_used(tmp_path: Path, dirfd: int, planted: str) -> None:
    victim, place = tmp_path / "victim", tmp_path / partial_name(KEY, "target")
    victim.write_bytes(b"victim")
    if planted == "a link":
        place.symlink_to(victim)
    elif planted == "a FIFO":
        os.mkfifo(place)
    elif planted == "hard link":
        os.link(victim, place)
    else:
        place.write_bytes(b"planted")
        place.chmod(0o644 if planted == "readable" else 0o600)
        if planted == "another's":
            if os.geteuid():
                pytest.skip("only root can give files away")
            os.chown(place, 65534, 65534)
    made = KeptFile(dirfd, KEY, "target")
    made.keep = False
    assert made.left == 0
    os.pwrite(made.fd, b"ours", 0)
    made.discard()
    os.close(made.fd)
    assert victim.read_bytes() == b"victim"
    assert os.listdir(tmp_path) == ["victim"]


def test_who_writes_it_is_alone(tmp_path: Path, dirfd: int) -> None:
    made = KeptFile(dirfd, KEY, "target")
    try:
        with pytest.raises(BlockingIOError):
            KeptFile(dirfd, KEY, "target")
        remove_old(dirfd, "target")  # for which it is another source's
        assert os.listdir(tmp_path) == [partial_name(KEY, "target")]
    finally:
        made.keep = False
        made.discard()
        os.close(made.fd)


def test_it_goes_after_a_day_or_with_another_source(tmp_path: Path, dirfd: int) -> None:
    old, other = leave(dirfd, b"x", "o" * 32), leave(dirfd, b"x", "t" * 32)
    assert old not in os.listdir(tmp_path)  # the second is of another source, for the same target
    (tmp_path / f"{partial.PREFIX}no-part").symlink_to("nowhere")
    remove_old(dirfd)
    assert other in os.listdir(tmp_path)
    then = time.time() - partial.KEPT_SECONDS - 60
    os.utime(tmp_path / other, (then, then))
    remove_old(dirfd)
    assert os.listdir(tmp_path) == [f"{partial.PREFIX}no-part"]


def test_names_of_what_is_left_fit(dirfd: int) -> None:
    name = partial_name(KEY, "ä" * 127)
    assert len(os.fsencode(name)) == 255
    assert name.startswith(f"{partial.PREFIX}{KEY}-ä")
    assert KEEP == -1
