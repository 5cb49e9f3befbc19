"""Many files in a call: listings, batches that are read and written, digests; each under the path policy."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from servicer_helpers import context, refused

from guest.files.sessions import UploadSessions
from guest.policy.paths import PathPolicy
from guest.services.file import FileService
from vsrpc.v1 import file_pb2 as pb

MIB = 1024 * 1024
ROOM = 10 * MIB


class Tree:
    """A servicer on a directory of its own, with the calls in short form."""

    def __init__(self, place: Path, **policy: Any) -> None:
        self.place = place
        self.service = FileService(PathPolicy([f"{place}/"], **policy), ROOM, UploadSessions())

    def list(self, path: object = "", **fields: Any) -> pb.ListResponse:
        return self.service.List(pb.ListRequest(path=str(path or self.place), **fields), context())

    def names(self, **fields: Any) -> list[bytes]:
        return [entry.name for entry in self.list(recursive=True, **fields).entries]

    def read(self, *names: bytes, **fields: Any) -> tuple[pb.ReadFilesResponse, bytes]:
        call = context()
        reply = self.service.ReadFiles(pb.ReadFilesRequest(path=str(self.place), names=names, **fields), call)
        return reply, bytes(call.reply_content)

    def write(self, *files: pb.NewFile, content: bytes = b"", **fields: Any) -> dict[bytes, str]:
        """Failures: the reasons by name."""
        call = context()
        call.content = content
        path = fields.pop("path", str(self.place))
        reply = self.service.WriteFiles(pb.WriteFilesRequest(path=path, files=files, **fields), call)
        assert reply.written == len(files) - len(reply.failures)
        assert all(each.message for each in reply.failures)
        return {each.name: each.reason for each in reply.failures}


@pytest.fixture
def tree(place: Path) -> Tree:
    return Tree(place)


def new(name: bytes, size: int = 0, **fields: Any) -> pb.NewFile:
    return pb.NewFile(name=name, size=size, **fields)


# -- writing


def test_a_tree_is_made_in_one_call(tree: Tree, place: Path) -> None:
    odd = b"d/\xff new\nline"
    failures = tree.write(
        new(b"d", type="directory", mode="0750"),
        new(b"d/f", 3, mode="0600", mtime=1234, mtime_nanos=5),
        new(odd, 2),
        new(b"l", type="symlink", target=b"d/f"),
        new(b"h", type="hardlink", target=b"d/f"),
        new(b"d", type="attributes", mode="0700", mtime=99),
        content=b"onexx",
        sync=True,
    )
    assert failures == {}
    status = (place / "d" / "f").stat()
    assert ((place / "d" / "f").read_bytes(), status.st_mode & 0o7777, status.st_mtime_ns) == (
        b"one",
        0o600,
        1234 * 10**9 + 5,
    )
    assert Path(os.fsdecode(os.fsencode(place) + b"/" + odd)).read_bytes() == b"xx"
    assert os.readlink(place / "l") == "d/f"
    assert os.path.samefile(place / "h", place / "d" / "f")
    assert ((place / "d").stat().st_mode & 0o7777, (place / "d").stat().st_mtime) == (0o700, 99)
    assert set(tree.names()) == {b"d", b"d/f", odd, b"l", b"h"}


def test_calls_may_be_repeated(tree: Tree, place: Path) -> None:
    files = [
        new(b"d", type="directory"),
        new(b"d/f", 1),
        new(b"l", type="symlink", target=b"d"),
        new(b"h", type="hardlink", target=b"d/f"),
    ]
    for _ in range(2):
        assert tree.write(*files, content=b"x", overwrite=False) == {}
    assert tree.write(files[1], content=b"y", overwrite=False) == {b"d/f": "FILE_EXISTS"}
    assert (place / "d" / "f").read_bytes() == b"x"


@pytest.mark.parametrize(("keep", "mode"), [(True, 0o640), (False, 0o600)])
def test_what_is_replaced(tree: Tree, place: Path, keep: bool, mode: int) -> None:
    (place / "f").write_bytes(b"old")
    (place / "f").chmod(0o640)
    (place / "d").mkdir(mode=0o750)
    fields: dict[str, Any] = {"mode": "0600", "keep_attributes": keep}
    assert tree.write(new(b"f", 3, **fields), new(b"d", type="directory", **fields), content=b"new") == {}
    assert ((place / "f").read_bytes(), (place / "f").stat().st_mode & 0o777) == (b"new", mode)
    assert (place / "d").stat().st_mode & 0o777 == (0o750 if keep else 0o600)


BAD: list[tuple[pb.NewFile, str]] = [
    (new(b""), "INVALID_PARAMS"),
    (new(b"../x"), "INVALID_PARAMS"),
    (new(b"d/../x"), "INVALID_PARAMS"),
    (new(b"/etc/x"), "INVALID_PARAMS"),
    (new(b"a\0b"), "INVALID_PARAMS"),
    (new(b"x" * 256), "INVALID_PARAMS"),
    (new(b"missing/x"), "FILE_NOT_FOUND"),
    (new(b"f/x"), "WRONG_FILE_TYPE"),
    (new(b"out/x"), "WRONG_FILE_TYPE"),  # a symbolic link to a directory
    (new(b"d"), "WRONG_FILE_TYPE"),
    (new(b"fifo"), "WRONG_FILE_TYPE"),
    (new(b"f", type="directory"), "WRONG_FILE_TYPE"),
    (new(b"x", type="pipe"), "INVALID_PARAMS"),
    (new(b"x", mode="9"), "INVALID_PARAMS"),
    (new(b"x", mode="4755"), "PERMISSION_DENIED"),
    (new(b"f", type="attributes", mode="2755"), "PERMISSION_DENIED"),
    (new(b"x", owner="no-such-user"), "INVALID_PARAMS"),
    (new(b"x", mtime=1, mtime_nanos=10**9), "INVALID_PARAMS"),
    (new(b"x", type="attributes", mode="0600"), "FILE_NOT_FOUND"),
    (new(b"l", type="symlink"), "INVALID_PARAMS"),
    (new(b"l", type="symlink", target=b"/etc/shadow"), "PERMISSION_DENIED"),
    (new(b"l", type="symlink", target=b"../../../etc/passwd"), "PERMISSION_DENIED"),
    (new(b"d", type="symlink", target=b"f"), "WRONG_FILE_TYPE"),
    (new(b".config", type="symlink", target=b"d"), "PERMISSION_DENIED"),
    (new(b"h", type="hardlink", target=b"missing"), "FILE_NOT_FOUND"),
    (new(b"h", type="hardlink", target=b"d"), "WRONG_FILE_TYPE"),
    (new(b"h", type="hardlink", target=b"../x"), "INVALID_PARAMS"),
    (new(b".bashrc"), "PERMISSION_DENIED"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD, ids=lambda value: str(value)[:40].replace("\n", " "))
def test_what_cannot_be_made_is_told_and_the_rest_is_made(
    tree: Tree, place: Path, bad: pb.NewFile, reason: str
) -> None:
    (place / "f").write_bytes(b"old")
    (place / "d").mkdir()
    os.mkfifo(place / "fifo")
    os.symlink("/etc", place / "out")
    before = sorted(os.listdir(place))
    failures = tree.write(new(b"first", 1), bad, new(b"last", 1), content=b"12")
    assert failures == {bad.name: reason}
    assert ((place / "first").read_bytes(), (place / "last").read_bytes()) == (b"1", b"2")
    assert sorted(os.listdir(place)) == sorted([*before, "first", "last"])
    assert (place / "f").read_bytes() == b"old"


def test_links_in_a_circle_are_harmless(tree: Tree, place: Path) -> None:
    assert tree.write(new(b"a", type="symlink", target=b"b"), new(b"b", type="symlink", target=b"a")) == {}
    assert tree.write(new(b"a", type="symlink", target=b"b"), new(b"a/x")) == {b"a/x": "WRONG_FILE_TYPE"}
    assert [entry.type for entry in tree.list(recursive=True).entries] == ["symlink", "symlink"]


def test_requests_that_are_wrong_as_a_whole(tree: Tree, place: Path) -> None:
    refused("INVALID_PARAMS", lambda: tree.write(new(b"f", 2), content=b"x"))
    refused("INVALID_PARAMS", lambda: tree.write(new(b"f", -1), new(b"g", 2), content=b"x"))
    refused("CONTENT_MISMATCH", lambda: tree.write(new(b"f", 1), content=b"x", digest="0" * 32))
    refused("FILE_NOT_FOUND", lambda: tree.write(new(b"f"), path=f"{place}/missing"))
    refused(
        "PERMISSION_DENIED", lambda: tree.write(new(b"f"), path="/etc/missing")
    )  # does not tell whether it is there
    assert tree.write(new(b"passwd"), path="/etc") == {b"passwd": "PERMISSION_DENIED"}
    assert os.listdir(place) == []
    for checksum, function in ((pb.CHECKSUM_MD5, hashlib.md5), (pb.CHECKSUM_SHA256, hashlib.sha256)):
        digest = function(b"x").hexdigest()
        assert tree.write(new(b"f", 1), content=b"x", checksum=checksum, digest=digest) == {}


def test_places_below_have_their_own_rules(place: Path) -> None:
    for name in ("own", "ro/rw", "secret"):
        (place / name).mkdir(parents=True)
        (place / name / "f").write_bytes(b"old")
    (place / "ro" / "f").write_bytes(b"old")
    policy: dict[str, Any] = {"own": [f"{place}/own"], "read_only": [f"{place}/ro"], "denied": [f"{place}/secret"]}
    tree = Tree(place, **policy)
    names = [b"own/f", b"ro/f", b"secret/f", b"f"]
    failures = tree.write(*(new(name, 1) for name in names), content=b"1234")
    assert failures == dict.fromkeys(names[:3], "PERMISSION_DENIED")
    reply, content = tree.read(*names)
    assert [each.failure.reason for each in reply.files] == ["PERMISSION_DENIED", "", "PERMISSION_DENIED", ""]
    assert content == b"old4"
    listed = {entry.name: entry for entry in tree.list(recursive=True).entries}
    assert set(listed) == {b"f", b"own", b"ro", b"ro/f", b"ro/rw", b"ro/rw/f", b"secret"}
    assert (listed[b"own"].type, listed[b"own"].failure.reason) == ("", "PERMISSION_DENIED")


# -- reading


def test_files_are_read_in_one_call(tree: Tree, place: Path) -> None:
    (place / "d").mkdir()
    for name, content in ((b"d/a", b"one"), (b"\xff", b""), (b"big", b"x" * 100)):
        Path(os.fsdecode(os.fsencode(place) + b"/" + name)).write_bytes(content)
    os.symlink("d/a", place / "l")
    os.mkfifo(place / "p")
    names = [b"d/a", b"missing", b"\xff", b"l", b"p", b"d", b"big", b"../x"]
    reply, content = tree.read(*names, max_size=50)
    assert content == b"one"
    assert [(each.size, each.failure.reason) for each in reply.files] == [
        (3, ""),
        (0, "FILE_NOT_FOUND"),
        (0, ""),
        (0, "WRONG_FILE_TYPE"),
        (0, "WRONG_FILE_TYPE"),
        (0, "WRONG_FILE_TYPE"),
        (0, "TOO_LARGE"),
        (0, "INVALID_PARAMS"),
    ]
    assert reply.digest == hashlib.md5(b"one").hexdigest()
    assert tree.read(b"d/a", checksum=pb.CHECKSUM_SHA256)[0].digest == hashlib.sha256(b"one").hexdigest()


def test_a_reply_takes_what_it_can(tree: Tree, place: Path) -> None:
    names = [b"%d" % number for number in range(12)]
    for name in names:
        (place / name.decode()).write_bytes(name[:1] * MIB)
    reply, content = tree.read(*names)
    assert 0 < len(reply.files) < 12
    assert len(content) == len(reply.files) * MIB < ROOM


# -- listings and digests


def test_pages_of_a_listing(tree: Tree, place: Path) -> None:
    for number in range(5):
        (place / f"d{number}").mkdir()
        (place / f"d{number}" / "f").write_bytes(b"x")
    whole = tree.names()
    assert len(whole) == 10
    for limit in (1, 3, 9, 10, 11):
        found, after = [], b""
        while True:
            page = tree.list(recursive=True, limit=limit, after=after)
            found += [entry.name for entry in page.entries]
            after = page.next
            if not after:
                break
            assert len(page.entries) == limit
        assert found == whole
    refused("INVALID_PARAMS", lambda: tree.list(limit=10_001))


def test_what_an_entry_tells(tree: Tree, place: Path) -> None:
    (place / "f").write_bytes(b"abc")
    (place / "f").chmod(0o751)
    os.utime(place / "f", ns=(1, 1234567890123456789))
    os.link(place / "f", place / "h")
    os.symlink("nowhere", place / "l")
    entries = {entry.name: entry for entry in tree.list().entries}
    status = (place / "f").stat()
    assert entries[b"f"] == pb.FileEntry(
        name=b"f",
        type="file",
        size=3,
        mode="0751",
        owner=entries[b"l"].owner,
        group=entries[b"l"].group,
        mtime=1234567890,
        mtime_nanos=123456789,
        allocated=status.st_blocks * 512,
        link_id=entries[b"h"].link_id,
        links=2,
    )
    assert (entries[b"l"].type, entries[b"l"].link_target, entries[b"l"].link_id) == ("symlink", b"nowhere", "")
    itself = tree.list(place / "l", itself=True).entries
    assert [(entry.name, entry.type) for entry in itself] == [(b"", "symlink")]
    refused("FILE_NOT_FOUND", lambda: tree.list(place / "l", itself=True, follow=True))
    assert tree.list(place / "f").entries[0].size == 3
    assert tree.list("/", itself=True).entries[0].type == "directory"
    refused("FILE_NOT_FOUND", lambda: tree.list(place / "missing"))
    refused("PERMISSION_DENIED", lambda: tree.list("/root"))


def test_a_listing_tells_only_what_everybody_may_see(place: Path) -> None:
    """Outside the allowed places; and never what a denied name is."""
    (place / "seen").write_bytes(b"")
    (place / "seen").chmod(0o644)
    (place / "hidden").write_bytes(b"")
    (place / "hidden").chmod(0o600)
    (place / ".ssh").mkdir()
    (place / ".ssh" / "id_rsa").write_bytes(b"")
    outside = FileService(PathPolicy(["/nowhere/"]), ROOM, UploadSessions())
    reply = outside.List(pb.ListRequest(path=str(place), recursive=True), context())
    assert {entry.name: entry.type for entry in reply.entries} == {
        b"seen": "file",
        b"hidden": "",
        b".ssh": "directory",
        b".ssh/id_rsa": "",
    }


def test_digests(tree: Tree, place: Path) -> None:
    content = os.urandom(3 * MIB + 5)
    (place / "f").write_bytes(content)

    def digests(path: Path = place / "f", **fields: Any) -> pb.ChecksumResponse:
        return tree.service.Checksum(pb.ChecksumRequest(path=str(path), **fields), context())

    assert list(digests().files[0].digests) == [hashlib.md5(content).hexdigest()]
    part = digests(checksum=pb.CHECKSUM_SHA256, offset=MIB, length=2 * MIB, block_size=MIB).files[0]
    assert list(part.digests) == [hashlib.sha256(content[at : at + MIB]).hexdigest() for at in (MIB, 2 * MIB)]
    assert list(digests(offset=3 * MIB, block_size=MIB).files[0].digests) == [
        hashlib.md5(content[3 * MIB :]).hexdigest()
    ]
    several = digests(place, names=[b"f", b"missing"]).files
    assert (several[0].size, several[1].failure.reason) == (len(content), "FILE_NOT_FOUND")
    for fields in ({"block_size": 1}, {"checksum": pb.CHECKSUM_CRC32}, {"offset": -1}):
        refused("INVALID_PARAMS", lambda fields=fields: digests(**fields))
    refused("PERMISSION_DENIED", lambda: digests(Path("/etc/shadow")))


def test_where_there_is_data(tree: Tree, place: Path) -> None:
    with open(place / "f", "wb") as file:
        file.seek(4 * MIB)
        file.write(b"x" * MIB)
        file.truncate(20 * MIB)
    reply = tree.service.DataRanges(pb.DataRangesRequest(path=f"{place}/f"), context())
    assert reply.total_size == 20 * MIB
    if (place / "f").stat().st_blocks * 512 < 20 * MIB:
        assert [(each.offset, each.length) for each in reply.ranges] == [(4 * MIB, MIB)]
    assert stat.S_ISREG((place / "f").stat().st_mode)


@pytest.mark.parametrize(("number", "message"), [(errno.ENOSPC, "No space left"), (errno.EDQUOT, "quota is used up")])
def test_a_disk_or_quota_that_is_full(
    tree: Tree, place: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    real = os.pwrite

    def full(fd: int, content: Any, offset: int) -> int:
        if bytes(content) == b"two":
            raise OSError(number, os.strerror(number))
        return real(fd, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    call = context()
    call.content = b"onetwothree"
    files = [new(b"a", 3), new(b"b", 3), new(b"c", 5)]
    reply = tree.service.WriteFiles(pb.WriteFilesRequest(path=str(place), files=files), call)
    assert [(each.name, each.reason) for each in reply.failures] == [(b"b", "NO_SPACE")]
    assert message in reply.failures[0].message
    assert sorted(os.listdir(place)) == ["a", "c"]


def test_space_that_is_kept_free(place: Path) -> None:
    service = FileService(PathPolicy([f"{place}/"]), ROOM, UploadSessions(), keep_free=1 << 60)
    call = context()
    call.content = b"x"
    request = pb.WriteFilesRequest(path=str(place), files=[new(b"f", 1)])
    refusal = refused("NO_SPACE", lambda: service.WriteFiles(request, call))
    assert "limits.free_space" in refusal.details()
    assert os.listdir(place) == []
