"""Files that stay open between the chunks that are read of them."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Callable

import pytest
from servicer_helpers import context, refused

import vsrpc.deadline
from guest.files.open_files import OpenFiles
from guest.files.sessions import UploadSessions
from guest.policy.paths import Opened, PathPolicy
from guest.services.file import FileService
from vsrpc.v1 import file_pb2 as pb

SIZE = 10


class Judge:
    """Opens files, and counts how often."""

    def __init__(self) -> None:
        self.opened: list[int] = []

    def open_read(self, path: str) -> Opened:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.opened.append(fd)
        return Opened(fd, "rule")

    @property
    def open_now(self) -> int:
        return sum(os.path.exists(f"/proc/self/fd/{fd}") for fd in set(self.opened))


class Clock:
    """The one that deadlines are read from."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(vsrpc.deadline, "time", clock)
    return clock


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def files(judge: Judge) -> OpenFiles:
    return OpenFiles(judge.open_read)


@pytest.fixture
def service(place: Path) -> FileService:
    return FileService(PathPolicy([f"{place}/"]), 1 << 20, UploadSessions())


def read(files: OpenFiles, path: object, *, again: bool) -> int:
    file, status = files.take(str(path))
    files.give(str(path), file, again=again)
    return status.st_size


def chunk(service: FileService, path: object, offset: int) -> bytes:
    call = context()
    service.DownloadChunk(pb.DownloadChunkRequest(path=str(path), offset=offset, size=SIZE), call)
    return bytes(call.reply_content)


def test_a_file_is_opened_once_and_closed_at_its_end(place: Path, files: OpenFiles, judge: Judge) -> None:
    (place / "f").write_bytes(bytes(SIZE))
    for again in (True, True, True, False):
        assert read(files, place / "f", again=again) == SIZE
    assert (len(judge.opened), judge.open_now) == (1, 0)


def test_its_size_is_what_it_is_now(place: Path, files: OpenFiles) -> None:
    (place / "f").write_bytes(bytes(SIZE))
    assert read(files, place / "f", again=True) == SIZE
    (place / "f").write_bytes(bytes(SIZE + 4))
    assert read(files, place / "f", again=True) == SIZE + 4


def test_a_judgement_is_good_for_a_second(place: Path, files: OpenFiles, judge: Judge, clock: Clock) -> None:
    (place / "f").write_bytes(b"x")
    for clock.now in (100.0, 100.5, 100.9, 101.0, 101.5):
        read(files, place / "f", again=True)
    assert (len(judge.opened), judge.open_now) == (2, 1)
    clock.now = 101.9
    files.sweep()
    assert judge.open_now == 1
    clock.now = 102.0
    files.sweep()
    assert judge.open_now == 0, "nobody has to come for it"


def replace_by_file(place: Path) -> None:
    (place / "other").write_bytes(b"other")
    (place / "other").rename(place / "f")


def replace_by_link(place: Path) -> None:
    (place / "other").write_bytes(b"other")
    (place / "f").unlink()
    (place / "f").symlink_to("other")


@pytest.mark.parametrize("replace", [replace_by_file, replace_by_link])
def test_what_took_its_place_is_judged(
    place: Path, files: OpenFiles, judge: Judge, replace: Callable[[Path], None]
) -> None:
    (place / "f").write_bytes(bytes(SIZE))
    read(files, place / "f", again=True)
    replace(place)
    assert read(files, place / "f", again=True) == len(b"other")
    assert (len(judge.opened), judge.open_now) == (2, 1)


def test_a_link_that_now_leads_out_is_refused(place: Path, service: FileService) -> None:
    (place / "file").write_bytes(b"0123456789abcdef")
    (place / "f").symlink_to("file")
    assert chunk(service, place / "f", 0) == b"0123456789"
    (place / "f").unlink()
    (place / "f").symlink_to("/etc/hostname")
    refused("PERMISSION_DENIED", lambda: chunk(service, place / "f", 0))


def test_one_that_was_removed_is_not_found(place: Path, service: FileService) -> None:
    (place / "f").write_bytes(b"0123456789abcdef")
    assert chunk(service, place / "f", 0) == b"0123456789"
    (place / "f").unlink()
    refused("FILE_NOT_FOUND", lambda: chunk(service, place / "f", SIZE))


def test_two_readers_of_which_one_comes_to_the_end(place: Path, files: OpenFiles, judge: Judge) -> None:
    (place / "f").write_bytes(bytes(SIZE))
    path = str(place / "f")
    read(files, path, again=True)
    first, _ = files.take(path)
    second, _ = files.take(path)
    files.give(path, second, again=False)
    assert os.pread(first.fd, SIZE, 0) == bytes(SIZE), "it is still open"
    files.give(path, first, again=True)
    assert (len(judge.opened), judge.open_now) == (1, 0)


def test_one_that_was_read_to_its_end_is_not_kept_for_who_comes_late(
    place: Path, files: OpenFiles, judge: Judge
) -> None:
    """Of several chunks under way the last one may be the first that is done."""
    (place / "f").write_bytes(bytes(SIZE))
    read(files, place / "f", again=False)
    read(files, place / "f", again=True)
    assert judge.open_now == 0


def test_one_that_was_read_to_its_end_is_kept_again_later(
    place: Path, files: OpenFiles, judge: Judge, clock: Clock
) -> None:
    for name in ("f", "g", "f"):
        (place / name).write_bytes(b"x")
        read(files, place / name, again=False)
        clock.now += 0.4
    read(files, place / "g", again=True)
    assert judge.open_now == 0
    clock.now += 0.3
    read(files, place / "g", again=True)
    assert judge.open_now == 1, "its second has passed"
    read(files, place / "f", again=True)
    assert judge.open_now == 1, "this one's has begun anew"


def test_few_stay_open_and_none_when_idle(place: Path, files: OpenFiles, judge: Judge) -> None:
    for number in range(20):
        (place / str(number)).write_bytes(b"x")
        read(files, place / str(number), again=True)
    assert judge.open_now == 8
    read(files, place / "19", again=True)
    assert len(judge.opened) == 20, "the last ones are kept"
    files.clear()
    assert judge.open_now == 0


def test_a_file_in_use_outlives_the_idle_moment(place: Path, files: OpenFiles, judge: Judge) -> None:
    (place / "f").write_bytes(b"x")
    path = str(place / "f")
    read(files, path, again=True)
    file, _ = files.take(path)
    files.clear()
    assert os.pread(file.fd, 1, 0) == b"x"
    files.give(path, file, again=False)
    assert judge.open_now == 0


def test_many_threads_leave_none_open(place: Path, files: OpenFiles, judge: Judge) -> None:
    (place / "f").write_bytes(bytes(SIZE))
    path = str(place / "f")
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(200):
                file, _ = files.take(path)
                if os.pread(file.fd, SIZE, 0) != bytes(SIZE):
                    raise ValueError("another file's descriptor")
                files.give(path, file, again=(turn + number) % 7 != 0)
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files.clear()
    assert not failures
    assert not [link for link in os.listdir("/proc/self/fd") if _leads_to(link, path)]


def _leads_to(fd: str, path: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == path
    except OSError:
        return False


def test_a_daemon_that_is_idle_keeps_no_file_open(place: Path, service: FileService) -> None:
    (place / "f").write_bytes(b"0123456789abcdef")
    chunk(service, place / "f", 0)
    before = len(os.listdir("/proc/self/fd"))
    service.idle()
    assert len(os.listdir("/proc/self/fd")) == before - 1
