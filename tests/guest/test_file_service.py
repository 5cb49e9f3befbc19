"""Whole files: Upload, Download, DownloadChunk and Stat, called on the servicer."""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import os
import pwd
import socket
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest
from servicer_helpers import as_ordinary_user, context, refused

from guest.files.sessions import UploadSessions
from guest.policy.paths import PathPolicy
from guest.services import file as file_service
from guest.services.file import FileService
from vsrpc.errors import RpcError
from vsrpc.filesystem import rename_new
from vsrpc.v1 import file_pb2 as pb

ROOM = 10 * 1024 * 1024


@pytest.fixture
def service(place: Path) -> FileService:
    return FileService(PathPolicy([f"{place}/"]), ROOM, UploadSessions())


def upload(service: FileService, path: object, content: bytes = b"new", **fields: Any) -> pb.UploadResponse:
    return service.Upload(pb.UploadRequest(path=str(path), content=content, **fields), context())


def names(place: Path) -> list[str]:
    return sorted(os.listdir(place))


def test_upload_makes_a_file(place: Path, service: FileService, way: str) -> None:
    reply = upload(service, place / "f", b"content", mode="0640")
    assert (reply.path, reply.size, reply.md5) == (f"{place}/f", 7, hashlib.md5(b"content").hexdigest())
    assert (place / "f").read_bytes() == b"content"
    assert stat.S_IMODE((place / "f").stat().st_mode) == 0o640
    assert names(place) == ["f"]


def test_upload_replaces_a_file_in_one_step(place: Path, service: FileService, way: str) -> None:
    (place / "f").write_bytes(b"old")
    with open(place / "f", "rb") as reader:
        upload(service, place / "f", b"new and longer")
        assert reader.read() == b"old"  # who had it open has the whole old file
    assert (place / "f").read_bytes() == b"new and longer"
    assert names(place) == ["f"]


def test_upload_without_overwriting(place: Path, service: FileService, way: str) -> None:
    upload(service, place / "f", b"first", overwrite=False)
    failure = refused("FILE_EXISTS", lambda: upload(service, place / "f", b"second", overwrite=False))
    assert str(place / "f") in failure.details()
    assert (place / "f").read_bytes() == b"first"
    assert names(place) == ["f"]


def test_only_one_of_many_wins_without_overwriting(place: Path, service: FileService, way: str) -> None:
    results: list[str] = []

    def run(number: int) -> None:
        try:
            upload(service, place / "f", b"%d" % number, overwrite=False)
            results.append("won")
        except RpcError as failure:
            results.append(failure.reason)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["FILE_EXISTS"] * 7 + ["won"]
    assert names(place) == ["f"]


def test_mode_and_owner(place: Path, service: FileService) -> None:
    for mode, expected in (("", 0o644), ("644", 0o644), ("0600", 0o600), ("1777", 0o1777)):
        upload(service, place / "f", mode=mode)
        assert stat.S_IMODE((place / "f").stat().st_mode) == expected
    me, mine = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    for owner, group in ((me, mine), (str(os.geteuid()), str(os.getegid()))):
        upload(service, place / "f", owner=owner, group=group)
        assert ((place / "f").stat().st_uid, (place / "f").stat().st_gid) == (os.geteuid(), os.getegid())
    if os.geteuid() == 0:
        upload(service, place / "f", owner="nobody", mode="0711")
        status = (place / "f").stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (pwd.getpwnam("nobody").pw_uid, 0o711)


def test_a_link_is_replaced_not_followed(place: Path, service: FileService) -> None:
    (place / "real").write_bytes(b"real")
    (place / "link").symlink_to(place / "real")
    upload(service, place / "link", b"new")
    assert (place / "real").read_bytes() == b"real"
    assert not (place / "link").is_symlink()


@pytest.mark.parametrize(
    ("fields", "reason", "message"),
    [
        ({"path": ""}, "MISSING_REQUIRED", "path is missing"),
        ({"path": "f"}, "INVALID_PARAMS", "path is not absolute: f"),
        ({"path": "{place}/a\0b"}, "INVALID_PARAMS", "NUL"),
        ({"path": "/etc/hosts"}, "PERMISSION_DENIED", "Path not in allowed list: /etc/hosts"),
        ({"path": "{place}/{up}/etc/passwd"}, "PERMISSION_DENIED", "it leads to /etc/passwd"),
        ({"path": "{place}/out/new"}, "PERMISSION_DENIED", "it leads to /etc/new"),
        ({"path": "{place}/no/f"}, "FILE_NOT_FOUND", "No such directory: {place}/no"),
        ({"path": "{place}/f/f"}, "FILE_NOT_FOUND", "Not a directory: {place}/f"),
        ({"path": "{place}/dir"}, "WRONG_FILE_TYPE", "The target is a directory: {place}/dir"),
        ({"path": "{place}/dir/"}, "WRONG_FILE_TYPE", "{place}/dir/"),
        ({"path": "{place}/fifo"}, "WRONG_FILE_TYPE", "The target is a FIFO: {place}/fifo"),
        ({"path": "{place}/socket"}, "WRONG_FILE_TYPE", "The target is a socket: {place}/socket"),
        ({"path": "{place}/" + "n" * 256}, "INVALID_PARAMS", "longer than its file system allows"),
        ({"mode": "rw-"}, "INVALID_PARAMS", "mode 'rw-' is not octal"),
        ({"mode": "0888"}, "INVALID_PARAMS", "mode '0888' is not octal"),
        ({"mode": "10000"}, "INVALID_PARAMS", "mode '10000' is not octal"),
        ({"mode": "-1"}, "INVALID_PARAMS", "mode '-1' is not octal"),
        ({"owner": "nosuchuser"}, "INVALID_PARAMS", "No such owner in the guest: 'nosuchuser'"),
        ({"owner": "4294967295"}, "INVALID_PARAMS", "No such owner in the guest: '4294967295'"),
        ({"owner": "00000000000"}, "INVALID_PARAMS", "No such owner in the guest"),
        ({"owner": "-1"}, "INVALID_PARAMS", "No such owner in the guest: '-1'"),
        ({"group": "root:root"}, "INVALID_PARAMS", "No such group in the guest: 'root:root'"),
    ],
)
def test_bad_uploads_leave_nothing(
    place: Path, service: FileService, fields: dict[str, str], reason: str, message: str
) -> None:
    (place / "f").write_bytes(b"old")
    (place / "dir").mkdir()
    (place / "out").symlink_to("/etc")
    os.mkfifo(place / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "socket"))
    before = names(place)
    names_of = {"{place}": str(place), "{up}": os.path.relpath("/", place)}
    filled = {"path": f"{place}/f", **fields}
    for mark, meant in names_of.items():
        filled = {name: value.replace(mark, meant) for name, value in filled.items()}
    failure = refused(reason, lambda: service.Upload(pb.UploadRequest(content=b"new", **filled), context()))
    assert message.replace("{place}", str(place)) in failure.details()
    assert names(place) == before
    assert (place / "f").read_bytes() == b"old"


@pytest.fixture
def full(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system with room for 64 KiB: a real one where mounting is allowed, else writes that fail."""
    directory = place / "full"
    directory.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(directory)]
    if subprocess.run(["mount", *options], stderr=subprocess.DEVNULL).returncode == 0:
        try:
            yield directory
        finally:
            subprocess.run(["umount", str(directory)], check=True)
        return

    def no_space(fd: int, content: Any, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", no_space)
    yield directory


def test_a_full_disk(full: Path, place: Path, service: FileService, way: str) -> None:
    failure = refused("NO_SPACE", lambda: upload(service, full / "f", b"x" * 100_000))
    assert str(full / "f") in failure.details()
    assert "bytes are free" in failure.details()
    assert names(full) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.EROFS, errno.EFBIG])
@pytest.mark.parametrize("function", ["pwrite", "fsync", "fchmod", "rename"])
def test_any_failure_leaves_the_target_as_it_was(
    place: Path, service: FileService, way: str, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    (place / "f").write_bytes(b"old")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(RpcError):
        upload(service, place / "f")
    assert (place / "f").read_bytes() == b"old"
    assert names(place) == ["f"]


def test_a_directory_that_the_daemon_may_not_write(place: Path, service: FileService) -> None:
    with as_ordinary_user():
        if place.stat().st_uid == os.geteuid():  # the tests do not run as root
            place.chmod(0o555)
        failure = refused("PERMISSION_DENIED", lambda: upload(service, place / "f"))
    assert "operating system" in failure.details()
    place.chmod(0o755)


def test_an_owner_that_the_daemon_may_not_give(place: Path, service: FileService) -> None:
    place.chmod(0o777)
    with as_ordinary_user():
        failure = refused("PERMISSION_DENIED", lambda: upload(service, place / "f", owner="root"))
    assert "may not give files to others" in failure.details()
    assert names(place) == []


def test_rename_new_never_replaces(place: Path) -> None:
    """On the real system call: what the uploads above use where there are no hard links."""
    fd = os.open(place, os.O_RDONLY)
    try:
        (place / "a").write_text("a")
        rename_new(fd, "a", "b")
        (place / "a").write_text("a2")
        with pytest.raises(FileExistsError):
            rename_new(fd, "a", "b")
    finally:
        os.close(fd)
    assert (place / "b").read_text() == "a"


# -- Download, DownloadChunk


def download(service: FileService, path: object, **fields: Any) -> pb.DownloadResponse:
    return service.Download(pb.DownloadRequest(path=str(path), **fields), context())


def chunk(service: FileService, path: object, **fields: Any) -> pb.DownloadChunkResponse:
    call = context()
    reply = service.DownloadChunk(pb.DownloadChunkRequest(path=str(path), **fields), call)
    reply.content = bytes(call.reply_content)  # which stands beside it
    return reply


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 0, b"0123456789"), (3, 0, b"3456789"), (3, 4, b"3456"), (8, 100, b"89"), (10, 0, b""), (0, 10, b"0123456789")],
)
def test_download(place: Path, service: FileService, offset: int, length: int, expected: bytes) -> None:
    (place / "f").write_bytes(b"0123456789")
    reply = download(service, place / "f", offset=offset, length=length)
    assert reply.content == expected
    assert (reply.path, reply.size, reply.total_size, reply.offset) == (f"{place}/f", len(expected), 10, offset)
    assert reply.md5 == hashlib.md5(expected).hexdigest()


def test_download_gives_no_more_than_a_reply_takes(place: Path, service: FileService) -> None:
    with open(place / "f", "wb") as big:
        big.truncate(3 * ROOM)
    for length in (0, 2 * ROOM):
        reply = download(service, place / "f", length=length)
        assert ROOM - 65536 < reply.size == len(reply.content)
        assert len(reply.SerializeToString()) < ROOM
        assert reply.total_size == 3 * ROOM


def test_chunks_one_after_another_are_the_file(place: Path, service: FileService) -> None:
    content = os.urandom(5 * 1024 * 1024 + 17)
    (place / "f").write_bytes(content)
    got, offset = b"", 0
    while True:
        reply = chunk(service, place / "f", offset=offset)
        assert reply.chunk_md5 == hashlib.md5(reply.content).hexdigest()
        assert (reply.offset, reply.size, reply.total_size) == (offset, len(reply.content), len(content))
        got += reply.content
        assert reply.has_more == reply.HasField("next_offset") == (len(got) < len(content))
        if not reply.has_more:
            break
        assert reply.size == 2 * 1024 * 1024
        offset = reply.next_offset
    assert got == content
    assert chunk(service, place / "f", size=5 * 1024 * 1024).size == 5 * 1024 * 1024


@pytest.mark.parametrize(
    ("fields", "reason", "message"),
    [
        ({"path": "{place}/none"}, "FILE_NOT_FOUND", "No such file: {place}/none"),
        ({"path": "{place}"}, "WRONG_FILE_TYPE", "Not a regular file but a directory: {place}"),
        ({"path": "/etc/shadow"}, "PERMISSION_DENIED", "Path not in allowed list: /etc/shadow"),
        ({"path": "/etc/hosts"}, "PERMISSION_DENIED", "security.allowed_paths"),
        (
            {"path": "{place}/f", "offset": 11},
            "INVALID_PARAMS",
            "offset 11 is beyond the end of {place}/f, which has 10",
        ),
        ({"path": "{place}/f", "offset": -1}, "INVALID_PARAMS", "offset is -1"),
    ],
)
def test_bad_downloads(place: Path, service: FileService, fields: dict[str, Any], reason: str, message: str) -> None:
    (place / "f").write_bytes(b"0123456789")
    filled = {**fields, "path": fields["path"].replace("{place}", str(place))}
    for call in (download, chunk):
        failure = refused(reason, lambda call=call: call(service, **filled))
        assert message.replace("{place}", str(place)) in failure.details()


def test_bad_sizes(place: Path, service: FileService) -> None:
    (place / "f").write_bytes(b"x")
    assert "length is -1" in refused("INVALID_PARAMS", lambda: download(service, place / "f", length=-1)).details()
    assert "size is -5" in refused("INVALID_PARAMS", lambda: chunk(service, place / "f", size=-5)).details()
    failure = refused("INVALID_PARAMS", lambda: chunk(service, place / "f", size=5 * 1024 * 1024 + 1))
    assert "at most 5242880" in failure.details()


def test_a_file_that_is_cut_meanwhile(place: Path, service: FileService, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "f"
    path.write_bytes(b"0123456789")
    real = file_service.read_into

    def cut(fd: int, buffer: bytearray, offset: int) -> None:
        os.truncate(path, 4)
        real(fd, buffer, offset)

    monkeypatch.setattr(file_service, "read_into", cut)
    reply = chunk(service, path)
    assert (reply.content, reply.total_size, reply.has_more) == (b"0123", 4, False)


def test_chunks_tell_of_a_file_that_is_replaced_or_changed(place: Path, service: FileService) -> None:
    path = place / "f"
    path.write_bytes(b"first")
    os.utime(path, ns=(1, 1))
    first = chunk(service, path)
    assert (chunk(service, path).file_id, chunk(service, path).version) == (first.file_id, first.version)
    with open(path, "r+b") as file:
        file.write(b"F")
    changed = chunk(service, path)
    assert changed.file_id == first.file_id
    assert changed.version != first.version
    (place / "g").write_bytes(b"other")
    (place / "g").rename(path)
    assert chunk(service, path).file_id != first.file_id


def test_a_chunk_without_md5(place: Path, service: FileService) -> None:
    (place / "f").write_bytes(b"x")
    assert chunk(service, place / "f", checksum=pb.CHECKSUM_MD5).chunk_md5 == hashlib.md5(b"x").hexdigest()
    assert chunk(service, place / "f", checksum=pb.CHECKSUM_CRC32).chunk_md5 == ""
    refusal = refused("INVALID_PARAMS", lambda: chunk(service, place / "f", checksum=7))
    assert "checksum 7 is unknown: give one of CHECKSUM_UNSPECIFIED (0)" in refusal.details()


# -- Stat


def stat_of(service: FileService, path: object) -> pb.StatResponse:
    return service.Stat(pb.StatRequest(path=str(path)), context())


def test_stat_of_a_file(place: Path, service: FileService) -> None:
    path = place / "f"
    path.write_bytes(b"abc")
    path.chmod(0o4751)
    os.utime(path, (1111, 2222))
    reply = stat_of(service, path)
    assert reply == pb.StatResponse(
        path=str(path),
        exists=True,
        type="file",
        size=3,
        mode="4751",
        owner=pwd.getpwuid(os.geteuid()).pw_name,
        group=grp.getgrgid(os.getegid()).gr_name,
        mtime=2222,
        atime=1111,
        ctime=int(path.stat().st_ctime),
        md5=hashlib.md5(b"abc").hexdigest(),
        uid=os.getuid(),
        gid=os.getgid(),
        device=path.stat().st_dev,
        inode=path.stat().st_ino,
        links=1,
        allocated=path.stat().st_blocks * 512,
    )


def test_stat_of_other_kinds(place: Path, service: FileService) -> None:
    os.mkfifo(place / "fifo")
    (place / "link").symlink_to("/etc/shadow")
    for name, kind in ((".", "directory"), ("fifo", "other"), ("link", "symlink")):
        reply = stat_of(service, place / name)
        assert (reply.exists, reply.type, reply.md5) == (True, kind, "")


def test_stat_of_nothing(place: Path, service: FileService) -> None:
    assert stat_of(service, place / "none") == pb.StatResponse(path=f"{place}/none", exists=False)
    assert stat_of(service, "/no/such/place") == pb.StatResponse(path="/no/such/place", exists=False)


def test_stat_tells_what_everybody_sees_but_no_digest_of_it(service: FileService) -> None:
    reply = stat_of(service, "/etc/hosts")
    assert (reply.exists, reply.type, reply.size, reply.md5) == (True, "file", os.stat("/etc/hosts").st_size, "")
    refused("PERMISSION_DENIED", lambda: stat_of(service, "/etc/shadow"))


def test_stat_of_owners_without_a_name(place: Path, service: FileService, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(grp, "getgrgid", nobody)
    reply = stat_of(service, place)
    assert (reply.owner, reply.group) == (str(os.geteuid()), str(os.getegid()))


def test_stat_digests_no_large_file(place: Path, service: FileService) -> None:
    for size, digested in ((16 * 1024 * 1024, True), (16 * 1024 * 1024 + 1, False)):
        with open(place / "f", "wb") as file:
            file.truncate(size)
        assert bool(stat_of(service, place / "f").md5) == digested


def test_work_for_a_caller_who_left_ends(place: Path, service: FileService) -> None:
    (place / "f").write_bytes(b"abc")
    request = pb.StatRequest(path=f"{place}/f")
    refused("DEADLINE_EXCEEDED", service.Stat, request, context(0))
    left = context()
    left.cancel()
    refused("CANCELLED", service.Stat, request, left)


@pytest.mark.parametrize("room", [64 * 1024, 1024 * 1024, 10 * 1024 * 1024])
def test_the_suggested_chunk_fits_a_request_even_in_base64(place: Path, room: int) -> None:
    service = FileService(PathPolicy([f"{place}/"]), room, UploadSessions())
    begun = service.InitUpload(pb.InitUploadRequest(path=f"{place}/f", size=1), context())
    assert 0 < begun.chunk_size * 4 // 3 < room
    service.stop()


def test_no_descriptor_is_left_open(place: Path, service: FileService) -> None:
    (place / "f").write_bytes(b"abc")
    before = os.listdir("/proc/self/fd")
    for path in (place / "f", place / "none", place, "/etc/shadow", f"{place}/none/f"):
        for call in (upload, download, chunk, stat_of):
            with contextlib.suppress(RpcError):
                call(service, path)
    assert os.listdir("/proc/self/fd") == before
