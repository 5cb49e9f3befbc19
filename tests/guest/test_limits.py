"""Limits: what is beyond one is refused by value, limit and key, and nothing is left of it; nor of a crash."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from exec_helpers import new_context
from servicer_helpers import context

import vsrpc
from guest import config
from guest.config import LimitsConfig
from guest.files import target
from guest.files.sessions import UploadSessions
from guest.files.temps import TEMP_PREFIX, TempFiles
from guest.policy.commands import CommandPolicy
from guest.policy.paths import PathPolicy
from guest.services.file import FileService
from guest.services.shell import ShellServicer
from vsrpc.errors import NotRun, RpcError
from vsrpc.v1 import file_pb2 as pb
from vsrpc.v1 import shell_pb2
from vsrpc.v1.file_vsrpc import FileStub

MIB = 1024 * 1024
REPOSITORY = Path(__file__).parents[2]


class Services:
    """The services that have limits, on a directory of their own."""

    def __init__(self, place: Path, **limits: Any) -> None:
        self.place = place
        settings = LimitsConfig(**limits)
        paths = PathPolicy([f"{place}/"])
        self._sessions = UploadSessions(settings)
        self.files = FileService(paths, 10 * MIB, self._sessions, settings.free_space)
        self.shell = ShellServicer(CommandPolicy((), paths), limits=settings)

    def exec(self, **fields: Any) -> Any:
        return self.shell.Exec(shell_pb2.ExecRequest(**fields), new_context())

    def upload(self, content: bytes) -> Any:
        return self.files.Upload(pb.UploadRequest(path=f"{self.place}/f", content=content), context())

    def init(self, size: int) -> str:
        return self.files.InitUpload(pb.InitUploadRequest(path=f"{self.place}/f", size=size), context()).session_id

    def chunk(self, session: str, content: bytes) -> Any:
        call = context()
        call.content = content
        return self.files.UploadChunk(pb.UploadChunkRequest(session_id=session, offset=0), call)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Services]]:
    made: list[Services] = []

    def make(**limits: Any) -> Services:
        made.append(Services(tmp_path, **limits))
        return made[-1]

    yield make
    for services in made:
        services.files.stop()


NO_ROOM = {"free_space": 1 << 50}

REFUSALS: list[tuple[dict[str, Any], Callable[[Services], Any], str, str, str]] = [
    # limits, what is done, reason, key, what the message says
    ({"argument_size": 1024}, lambda it: it.exec(command="echo " + "x" * 1019), "TOO_LARGE", "argument_size", "1025"),
    ({"argument_size": 1024}, lambda it: it.exec(command="\u4e2d" * 342), "TOO_LARGE", "argument_size", "1027"),
    ({"argument_size": 1024}, lambda it: it.exec(argv=["echo"] * 300), "TOO_LARGE", "argument_size", "argv has 1500"),
    ({"argument_size": 1024}, lambda it: it.exec(argv=["echo", *[""] * 1100]), "TOO_LARGE", "argument_size", "1105"),
    ({"environment_size": 4}, lambda it: it.exec(argv=["id"], env={"A": "12"}), "TOO_LARGE", "environment_size", "5"),
    ({"environment_size": 0}, lambda it: it.exec(argv=["id"], env={"A": ""}), "TOO_LARGE", "environment_size", "has 3"),
    ({"uploads": 1}, lambda it: (it.init(1), it.init(1)), "BUSY", "uploads", "1 uploads are open"),
    ({"upload_space": 100}, lambda it: it.init(101), "TOO_LARGE", "upload_space", "101"),
    ({"upload_space": 100}, lambda it: (it.init(60), it.init(41)), "BUSY", "upload_space", "beside the 60"),
    (NO_ROOM, lambda it: it.upload(b"abc"), "NO_SPACE", "free_space", "for 3 bytes"),
    (NO_ROOM, lambda it: it.init(3), "NO_SPACE", "free_space", "for 3 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("limits", "act", "reason", "key", "says"), REFUSALS)
def test_what_is_beyond_a_limit(
    make: Callable[..., Services],
    limits: dict[str, Any],
    act: Callable[[Services], Any],
    reason: str,
    key: str,
    says: str,
) -> None:
    services = make(**limits)
    with pytest.raises(RpcError) as caught:
        act(services)
    error = caught.value
    assert (error.reason, error.data["rule"]) == (reason, f"limits.{key}")
    for part in (says, f"limits.{key}", str(limits[key])):
        assert part in error.details()
    assert isinstance(error, NotRun) == (reason == "BUSY"), "waiting helps where others are what is in the way"
    assert os.listdir(services.place) == []


@pytest.mark.parametrize(
    ("limits", "act"),
    [
        ({"argument_size": 1024}, lambda it: it.exec(command="echo " + "x" * 1018)),
        ({"argument_size": 1024}, lambda it: it.exec(argv=["echo", "x" * 1018])),
        ({"environment_size": 10}, lambda it: it.exec(command="id", env={"A": "1234567"})),
        ({"environment_size": 100_000}, lambda it: it.exec(command="id", env={f"A{n}": "" for n in range(5000)})),
        ({"uploads": 2}, lambda it: (it.init(1), it.init(1))),
        ({"upload_space": 100}, lambda it: (it.init(60), it.init(40))),
        ({"commands": 1}, lambda it: (it.exec(command="id"), it.exec(command="id"))),
        ({"free_space": 1}, lambda it: (it.upload(b"abc"), it.chunk(it.init(3), b"abc"))),
    ],
)
def test_what_just_fits(make: Callable[..., Services], limits: dict[str, Any], act: Callable[[Services], Any]) -> None:
    act(make(**limits))


def test_space_that_others_take_while_chunks_come(
    make: Callable[..., Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    services = make(free_space=1000)
    session = services.init(10)
    monkeypatch.setattr(target, "free_bytes", lambda fd: 1005)
    with pytest.raises(RpcError, match=r"for 10 bytes \(1005 bytes are free, and limits\.free_space keeps 1000"):
        services.chunk(session, b"0123456789")
    assert os.listdir(services.place) == []


def test_commands_at_a_time(make: Callable[..., Services], tmp_path: Path) -> None:
    """One more is refused, and those that were refused or failed hold no place."""
    from concurrent.futures import ThreadPoolExecutor

    services = make(commands=1)
    os.mkfifo(tmp_path / "fifo")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(services.exec, command=f"cat {tmp_path}/fifo")
        fd = os.open(tmp_path / "fifo", os.O_WRONLY)  # once cat reads
        try:
            for _ in range(2):
                with pytest.raises(
                    RpcError, match=r"1 commands run already \(limits\.commands .* is 1\); try"
                ) as caught:
                    services.exec(command="id")
                assert isinstance(caught.value, NotRun)
        finally:
            os.close(fd)
        assert first.result(60).exit_code == 0
    with pytest.raises(RpcError, match="not allowed"):
        services.exec(command="rm x")
    assert services.exec(command="id").exit_code == 0


def test_a_buffer_that_takes_no_request_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text("limits: {buffered: 8M}\n")
    with pytest.raises(config.ConfigError, match=r"limits\.buffered is 8388608, less than server\.max_request_size"):
        config.load(str(path))


# -- what a crash leaves

NAMED = """
import os, errno
from guest.__main__ import main
real = os.open
def open_named(path, flags, mode=0o777, *, dir_fd=None):
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(errno.EOPNOTSUPP, "")
    return real(path, flags, mode, dir_fd=dir_fd)
os.open = open_named
main()
"""
"""The daemon where no file system makes files without names."""


@contextlib.contextmanager
def daemon(place: Path, name: str) -> Iterator[tuple[subprocess.Popen[bytes], vsrpc.Channel]]:
    """One whose files are in place/files, and its state in place/state."""
    (place / "files").mkdir(exist_ok=True)
    (place / "c").write_text(
        f"security: {{allowed_paths: ['{place}/files/']}}\naudit: {{file: {place}/audit-{name}}}\n"
    )
    socket = place / f"{name}.sock"
    command = [sys.executable, "-c", NAMED, "--config", f"{place}/c", "--listen", f"unix:{socket}"]
    environment = {**os.environ, "STATE_DIRECTORY": f"{place}/state"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            until(socket.exists)
            with vsrpc.connect(f"unix:{socket}") as channel:
                yield process, channel
        finally:
            process.kill()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def begin(channel: vsrpc.Channel, place: Path, name: str) -> None:
    request = pb.InitUploadRequest(path=f"{place}/files/{name}", size=10)
    session = FileStub(channel).InitUpload(request, timeout=60).session_id
    FileStub(channel).UploadChunk(pb.UploadChunkRequest(session_id=session, offset=0, content=b"half"), timeout=60)


def test_what_a_killed_daemon_was_given_is_removed_by_the_next(tmp_path: Path) -> None:
    """And nothing else: not what a living daemon uses, nor what only looks like it."""
    other = tmp_path / "files" / (TEMP_PREFIX + "0" * 32)
    with daemon(tmp_path, "living") as (_, living):
        begin(living, tmp_path, "a")
        (in_use,) = os.listdir(tmp_path / "files")
        with daemon(tmp_path, "killed") as (process, channel):
            begin(channel, tmp_path, "b")
            process.send_signal(signal.SIGKILL)
            process.wait()
        other.write_bytes(b"somebody's")
        (left,) = {*os.listdir(tmp_path / "files")} - {in_use, other.name}
        with daemon(tmp_path, "next") as (process, channel):
            until(lambda: not (tmp_path / "files" / left).exists())
            assert sorted(os.listdir(tmp_path / "files")) == sorted([in_use, other.name])
            until(lambda: len(os.listdir(tmp_path / "state" / "uploads")) == 1)
            assert '"event":"removed","instance":"' in (tmp_path / "audit-next").read_text()
            begin(channel, tmp_path, "c")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        assert sorted(os.listdir(tmp_path / "files")) == sorted([in_use, other.name])
        assert len(os.listdir(tmp_path / "state" / "uploads")) == 1, "the living one's"


class Crashed:
    """Notes of a daemon that is gone."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.files = place / "files"
        self.files.mkdir()
        self._temps = TempFiles(f"{place}/state")
        self.name = TEMP_PREFIX + "1" * 32

    def leave(self, directory: str = "", name: str = "") -> None:
        self._temps.note(directory or str(self.files), name or self.name)
        os.close(self._temps._own_fd)  # as its end would
        self._temps._own_fd = -1

    def removed(self) -> list[str]:
        """What the next one removes."""
        removed: list[str] = []
        TempFiles(f"{self.place}/state").remove_leftovers(removed.append)
        return removed

    def notes(self) -> list[Path]:
        return list((self.place / "state" / "uploads").rglob("*"))


def test_leftovers(tmp_path: Path) -> None:
    crashed = Crashed(tmp_path)
    (crashed.files / crashed.name).write_bytes(b"x")
    crashed.leave()
    assert crashed.removed() == [f"{crashed.files}/{crashed.name}"]
    assert (os.listdir(crashed.files), crashed.notes()) == ([], [])


@pytest.mark.parametrize("how", ["gone", "directory gone", "directory is a link", "a directory", "another name"])
def test_what_is_not_a_leftover(tmp_path: Path, how: str) -> None:
    crashed = Crashed(tmp_path)
    place = crashed.files / crashed.name
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / crashed.name).write_bytes(b"x")
    if how == "directory gone":
        crashed.files.rmdir()
    elif how == "directory is a link":
        crashed.files.rmdir()
        crashed.files.symlink_to(victim)
    elif how == "a directory":
        place.mkdir()
    if how == "another name":
        crashed.leave(str(victim), "passwd")
        (victim / "passwd").write_bytes(b"x")
    else:
        crashed.leave()
    before = sorted(os.listdir(crashed.files)) if crashed.files.exists() else None
    assert crashed.removed() == []
    assert (victim / crashed.name).exists()
    assert (sorted(os.listdir(crashed.files)) if crashed.files.exists() else None) == before
    assert crashed.notes() == []


def test_what_cannot_be_removed_now_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed = Crashed(tmp_path)
    (crashed.files / crashed.name).write_bytes(b"x")
    crashed.leave()
    real_unlink = os.unlink

    def unlink(path: str, *, dir_fd: int | None = None) -> None:
        if path == crashed.name:
            raise OSError(30, os.strerror(30))
        real_unlink(path, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        assert crashed.removed() == []
    assert crashed.removed() == [f"{crashed.files}/{crashed.name}"]


def test_without_a_place_for_notes_uploads_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file")
    temps = TempFiles(f"{tmp_path}/state")
    service = FileService(PathPolicy([f"{tmp_path}/"]), 10 * MIB, UploadSessions(), temps=temps)
    for content in (b"one", b"two"):
        service.Upload(pb.UploadRequest(path=f"{tmp_path}/f", content=content), context())
    assert (tmp_path / "f").read_bytes() == b"two"
    assert caplog.text.count("may leave temporary files behind") == 1
    service.stop()


def test_notes_are_gone_with_the_uploads(tmp_path: Path) -> None:
    temps = TempFiles(f"{tmp_path}/state")
    service = FileService(PathPolicy([f"{tmp_path}/"]), 10 * MIB, UploadSessions(), temps=temps)
    service.Upload(pb.UploadRequest(path=f"{tmp_path}/f", content=b"x"), context())
    service.stop()
    (own,) = os.listdir(tmp_path / "state" / "uploads")
    assert os.listdir(tmp_path / "state" / "uploads" / own) == []
    temps.close()
    assert os.listdir(tmp_path / "state" / "uploads") == []
