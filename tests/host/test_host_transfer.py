"""The transfer engine against a guest in memory: what arrives, in how many calls, and what is left when it fails."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest
from host_fakes import FakeFiles

from host import transfer
from host.errors import RPCError, UsageError, failure
from host.transfer_options import NEVER_SMALL

MIB = 1024 * 1024


def content_of(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def upload(guest: FakeFiles, local: object, remote: str, **options: Any) -> dict[str, Any]:
    return transfer.upload(guest, str(local), remote, **{"mode": "0644", **options})


def download(guest: FakeFiles, remote: str, local: object, **options: Any) -> dict[str, Any]:
    return transfer.download(guest, remote, str(local), **options)


@pytest.mark.parametrize(
    ("size", "chunk", "calls"),
    [
        (0, 2 * MIB, ["Upload"]),
        (1, 2 * MIB, ["Upload"]),
        (2 * MIB, 2 * MIB, ["Upload"]),
        (2 * MIB + 1, 2 * MIB, ["InitUpload", "UploadChunk", "UploadChunk", "FinishUpload"]),
        (4 * MIB, 2 * MIB, ["InitUpload", "UploadChunk", "UploadChunk", "FinishUpload"]),
        (3 * MIB, 5 * MIB, ["InitUpload", "UploadChunk", "FinishUpload"]),
    ],
)
def test_upload_arrives_whole_in_as_few_calls_as_needed(
    tmp_path: Path, size: int, chunk: int, calls: list[str]
) -> None:
    source = tmp_path / "source"
    source.write_bytes(content_of(size))
    guest = FakeFiles()
    data = upload(guest, source, "/tmp/target", chunk_size=chunk)
    assert guest.files == {"/tmp/target": content_of(size)}
    assert (data["path"], data["size"]) == ("/tmp/target", size)
    assert data["md5"] == hashlib.md5(content_of(size)).hexdigest()
    assert guest.calls == calls


@pytest.mark.parametrize("size", [MIB, MIB + 1, 2 * MIB, 5 * MIB + 5])
def test_upload_to_a_guest_that_takes_less_in_a_call(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(content_of(size))
    guest = FakeFiles()
    guest.max_content = MIB
    told: list[int] = []
    upload(guest, source, "/tmp/target", chunk_size=5 * MIB, progress=lambda done, total: told.append(done))
    assert guest.files == {"/tmp/target": content_of(size)}
    assert told == sorted(told)


@pytest.mark.parametrize("size", [0, 5, 2 * MIB + 5])
def test_chunked_upload_of_any_size(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(content_of(size))
    guest = FakeFiles()
    upload(guest, source, "/tmp/target", small_file=NEVER_SMALL)
    assert guest.files == {"/tmp/target": content_of(size)}
    assert guest.calls[0] == "InitUpload"


@pytest.mark.parametrize("size", [0, 1, 2 * MIB, 2 * MIB + 1, 7 * MIB])
def test_download_arrives_whole(tmp_path: Path, size: int) -> None:
    guest = FakeFiles({"/tmp/f": content_of(size)})
    data = download(guest, "/tmp/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == content_of(size)
    assert data == {
        "path": "/tmp/f",
        "local_path": str(tmp_path / "f"),
        "size": size,
        "md5": hashlib.md5(content_of(size)).hexdigest(),
    }
    assert os.listdir(tmp_path) == ["f"]
    assert set(guest.calls) == {"DownloadChunk"}
    if size <= 1:
        assert len(guest.calls) == 1


def test_progress_goes_from_nothing_to_all(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(content_of(5 * MIB))
    guest = FakeFiles()
    up: list[tuple[int, int]] = []
    upload(guest, source, "/tmp/f", progress=lambda done, total: up.append((done, total)))
    assert up == [(done * MIB, 5 * MIB) for done in (0, 2, 4, 5)]
    down: list[tuple[int, int]] = []
    download(guest, "/tmp/f", tmp_path / "f", progress=lambda done, total: down.append((done, total)))
    assert (down[0], down[-1]) == (up[0], up[-1])
    assert down == sorted(set(down)), "each more than the one before"


@pytest.mark.parametrize("size", [3, 3 * MIB])
@pytest.mark.parametrize("remote", ["/tmp", "/tmp/"])
def test_upload_into_a_directory_keeps_the_name(tmp_path: Path, remote: str, size: int) -> None:
    (tmp_path / "name.txt").write_bytes(content_of(size))
    guest = FakeFiles({"/tmp": None})
    assert upload(guest, tmp_path / "name.txt", remote)["path"] == "/tmp/name.txt"
    assert guest.files["/tmp/name.txt"] == content_of(size)


def test_download_into_a_directory_keeps_the_name(tmp_path: Path) -> None:
    guest = FakeFiles({"/tmp/name.txt": b"abc"})
    assert download(guest, "/tmp/name.txt", tmp_path)["local_path"] == str(tmp_path / "name.txt")
    assert (tmp_path / "name.txt").read_bytes() == b"abc"


def lose_reply_of(rpc: str) -> Any:
    def fault(called: str, fields: Mapping[str, Any]) -> None:
        if called == rpc and fields.get("offset", 1):
            raise failure("READ_TIMEOUT", "no reply")

    return fault


def interrupt(called: str, fields: Mapping[str, Any]) -> None:
    if called in ("UploadChunk", "DownloadChunk") and fields["offset"]:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("fault", "error"), [(lose_reply_of("UploadChunk"), RPCError), (interrupt, KeyboardInterrupt)])
def test_failed_upload_is_aborted_and_leaves_the_target(tmp_path: Path, fault: Any, error: type[BaseException]) -> None:
    (tmp_path / "source").write_bytes(content_of(5 * MIB))
    guest = FakeFiles({"/tmp/f": b"before"})
    guest.fault = fault
    with pytest.raises(error):
        upload(guest, tmp_path / "source", "/tmp/f")
    assert guest.calls[-1] == "AbortUpload"
    assert guest.open_sessions == 0
    assert guest.files == {"/tmp/f": b"before"}
    assert guest.timeouts[-1] == 5.0


def test_failure_of_the_abort_does_not_hide_the_first_error(tmp_path: Path) -> None:
    def fault(called: str, fields: Mapping[str, Any]) -> None:
        if called == "UploadChunk":
            raise failure("NO_SPACE", "disk full")
        if called == "AbortUpload":
            raise failure("READ_TIMEOUT", "no reply")

    (tmp_path / "source").write_bytes(content_of(3 * MIB))
    guest = FakeFiles()
    guest.fault = fault
    with pytest.raises(RPCError, match="disk full"):
        upload(guest, tmp_path / "source", "/tmp/f")


def test_nobody_is_asked_to_abort_over_a_lost_connection(tmp_path: Path) -> None:
    def fault(called: str, fields: Mapping[str, Any]) -> None:
        if called == "UploadChunk":
            raise failure("CONNECTION_LOST", "gone")

    (tmp_path / "source").write_bytes(content_of(3 * MIB))
    guest = FakeFiles()
    guest.fault = fault
    with pytest.raises(RPCError, match="gone"):
        upload(guest, tmp_path / "source", "/tmp/f")
    assert "AbortUpload" not in guest.calls


@pytest.mark.parametrize("change", [-1, +1])
def test_source_that_changes_its_size_during_the_upload(tmp_path: Path, change: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(content_of(5 * MIB))

    def fault(called: str, fields: Mapping[str, Any]) -> None:
        if called == "UploadChunk":
            os.truncate(source, 5 * MIB + change)

    guest = FakeFiles()
    guest.fault = fault
    with pytest.raises(RPCError, match="changed during the upload") as caught:
        upload(guest, source, "/tmp/f")
    assert caught.value.reason == "CONTENT_MISMATCH"
    assert (guest.files, guest.open_sessions) == ({}, 0)


def shrink(guest: FakeFiles, size: int) -> Any:
    def fault(called: str, fields: Mapping[str, Any]) -> None:
        if called == "DownloadChunk" and fields["offset"] >= 2 * MIB:
            guest.files["/tmp/f"] = content_of(size)

    return fault


def replace(guest: FakeFiles, field: str) -> Any:
    def fault(called: str, fields: Mapping[str, Any]) -> None:
        if called == "DownloadChunk" and fields["offset"] >= 2 * MIB:
            guest.identity[field] = "another"

    return fault


@pytest.mark.parametrize("existing", [None, b"before"])
@pytest.mark.parametrize("what", ["interrupt", "lost", "shrinks", "damage", "replaced", "changed"])
def test_failed_download_leaves_the_target_and_nothing_else(tmp_path: Path, what: str, existing: bytes | None) -> None:
    guest = FakeFiles({"/tmp/f": content_of(5 * MIB)})
    if what == "damage":
        guest.damage = True
    else:
        guest.fault = {
            "interrupt": interrupt,
            "lost": lose_reply_of("DownloadChunk"),
            "shrinks": shrink(guest, 2 * MIB),
            "replaced": replace(guest, "file_id"),
            "changed": replace(guest, "version"),
        }[what]
    if existing is not None:
        (tmp_path / "f").write_bytes(existing)
    with pytest.raises((RPCError, KeyboardInterrupt)):
        download(guest, "/tmp/f", tmp_path / "f")
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == (
        {} if existing is None else {"f": existing}
    )


def test_file_that_grows_during_the_download_is_read_up_to_its_first_size(tmp_path: Path) -> None:
    guest = FakeFiles({"/tmp/f": content_of(5 * MIB)})
    guest.fault = shrink(guest, 6 * MIB)
    assert download(guest, "/tmp/f", tmp_path / "f")["size"] == 5 * MIB
    assert (tmp_path / "f").read_bytes() == content_of(5 * MIB)


def test_upload_that_arrived_damaged(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"abc")
    guest = FakeFiles()
    guest.damage = True
    with pytest.raises(RPCError, match="damaged on the way"):
        upload(guest, tmp_path / "source", "/tmp/f")


@pytest.mark.parametrize("size", [0, -1, 5 * MIB + 1])
def test_chunk_sizes_that_cannot_be(tmp_path: Path, size: int) -> None:
    guest = FakeFiles({"/tmp/f": b""})
    with pytest.raises(UsageError, match=f"chunk size {size} is out of range"):
        download(guest, "/tmp/f", tmp_path / "f", chunk_size=size)
    with pytest.raises(UsageError, match=f"chunk size {size} is out of range"):
        upload(guest, tmp_path / "f", "/tmp/f", chunk_size=size)
    assert guest.calls == []


def test_no_overwrite_of_a_local_file_asks_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"before")
    guest = FakeFiles({"/tmp/f": b"new"})
    with pytest.raises(FileExistsError, match="already exists"):
        download(guest, "/tmp/f", tmp_path / "f", overwrite=False)
    assert guest.calls == []
    assert (tmp_path / "f").read_bytes() == b"before"


def test_no_overwrite_of_a_local_file_that_comes_meanwhile(tmp_path: Path) -> None:
    def fault(called: str, fields: Mapping[str, Any]) -> None:
        (tmp_path / "f").write_bytes(b"meanwhile")

    guest = FakeFiles({"/tmp/f": b"new"})
    guest.fault = fault
    with pytest.raises(FileExistsError, match="already exists"):
        download(guest, "/tmp/f", tmp_path / "f", overwrite=False)
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"meanwhile"


def test_download_without_overwrite_makes_a_new_file(tmp_path: Path) -> None:
    download(FakeFiles({"/tmp/f": b"new"}), "/tmp/f", tmp_path / "f", overwrite=False)
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"new"


def test_modes_of_downloaded_files(tmp_path: Path) -> None:
    guest = FakeFiles({"/tmp/f": b"new"})
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "old").chmod(0o640)
    before = os.umask(0o027)
    try:
        download(guest, "/tmp/f", tmp_path / "old")
        download(guest, "/tmp/f", tmp_path / "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_download_through_a_symlink_replaces_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    download(FakeFiles({"/tmp/f": b"new"}), "/tmp/f", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_download_into_a_device_keeps_the_device(tmp_path: Path) -> None:
    download(FakeFiles({"/tmp/f": b"new"}), "/tmp/f", "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    ("local", "error", "message"),
    [
        ("missing", FileNotFoundError, "No such file or directory; check the path"),
        ("directory", IsADirectoryError, "is a directory; upload a file"),
        ("fifo", OSError, "is not a regular file"),
    ],
)
def test_local_files_that_cannot_be_uploaded(tmp_path: Path, local: str, error: type[OSError], message: str) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    guest = FakeFiles()
    with pytest.raises(error, match=message) as caught:
        upload(guest, tmp_path / local, "/tmp/f")
    assert caught.value.filename == str(tmp_path / local)
    assert guest.calls == []


@pytest.mark.parametrize(
    ("local", "message"),
    [
        ("missing/f", "directory .*missing does not exist; create it first"),
        ("missing/", "no such directory; create it first"),
        ("file/f", "Not a directory"),
    ],
)
def test_local_places_that_cannot_take_a_download(tmp_path: Path, local: str, message: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    guest = FakeFiles({"/tmp/f": b"abc"})
    with pytest.raises(OSError, match=message):
        download(guest, "/tmp/f", f"{tmp_path}/{local}")
    assert guest.calls == []
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("existing", [None, b"before"])
def test_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bytes | None
) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if existing is not None:
        (tmp_path / "f").write_bytes(existing)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left on device; free some space") as caught:
        download(FakeFiles({"/tmp/f": b"abc"}), "/tmp/f", tmp_path / "f")
    monkeypatch.undo()
    assert caught.value.filename == str(tmp_path / "f")
    assert [(tmp_path / name).read_bytes() for name in os.listdir(tmp_path)] == ([] if existing is None else [existing])


@pytest.fixture
def private_directory() -> Iterator[Path]:
    """A directory with a file "secret" that only its owner may read; the test then runs as somebody else."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        (directory / "secret").write_bytes(b"")
        (directory / "secret").chmod(0o000)
        directory.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # nobody: root may do everything
        yield directory
        os.seteuid(user)
        directory.chmod(0o755)


def test_no_permission(private_directory: Path) -> None:
    guest = FakeFiles({"/tmp/f": b"abc"})
    for call in (
        lambda: upload(guest, private_directory / "secret", "/tmp/f"),
        lambda: download(guest, "/tmp/f", private_directory / "new"),
    ):
        with pytest.raises(PermissionError, match="Permission denied; check the permissions"):
            call()
    assert guest.calls == []
    assert os.listdir(private_directory) == ["secret"]
