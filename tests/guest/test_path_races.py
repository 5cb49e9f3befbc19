"""Somebody in the guest swaps a directory of an allowed place and a link to a forbidden one, as fast as possible.

Whatever a caller does meanwhile: nothing of the forbidden place is told, and nothing there changes.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Callable, Iterator

import pytest
from exec_helpers import Guest
from servicer_helpers import context, refused

from guest.files.sessions import UploadSessions
from guest.jobs import redirect
from guest.jobs.expand import Expander
from guest.policy.commands_parser import parse
from guest.policy.commands_syntax import Mode
from guest.policy.judge import PathJudge
from guest.policy.paths import PathPolicy
from guest.services.file import FileService
from vsrpc.errors import RpcError
from vsrpc.v1 import file_pb2 as pb

_EXCHANGE = 2  # linux/fs.h, RENAME_EXCHANGE
_AT_FDCWD = -100


class Swapped:
    """`place` is a directory with the file "f" and, in turn, a link to the forbidden directory, which has one too."""

    def __init__(self, root: Path) -> None:
        self.allowed = root / "allowed"
        self.forbidden = root / "forbidden"
        self.place = self.allowed / "d"
        self.place.mkdir(parents=True)
        self.forbidden.mkdir(mode=0o700)
        (self.place / "f").write_text("fine")
        (self.forbidden / "f").write_text("secret")
        (self.forbidden / "hidden").write_text("")
        (self.forbidden / "f").chmod(0o600)
        (self.allowed / "link").symlink_to(self.forbidden)
        self.policy = PathPolicy([str(self.allowed)])
        self.files = FileService(self.policy, 1 << 20, UploadSessions())
        self.guest = Guest(str(self.allowed))
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._swap)

    def _swap(self) -> None:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        one, other = os.fsencode(self.place), os.fsencode(self.allowed / "link")
        while not self._done.is_set():
            assert rename(_AT_FDCWD, one, _AT_FDCWD, other, _EXCHANGE) == 0

    def __enter__(self) -> Swapped:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.files.stop()


@pytest.fixture
def swapped() -> Iterator[Swapped]:
    root = Path(tempfile.mkdtemp(prefix="races-"))
    root.chmod(0o755)
    try:
        with Swapped(root) as world:
            yield world
    finally:
        shutil.rmtree(root)


def upload(world: Swapped, path: str) -> str:
    world.files.Upload(pb.UploadRequest(path=f"{path}/new", content=b"mine", owner="0", mode="0640"), context())
    return "fine"


def upload_in_chunks(world: Swapped, path: str) -> str:
    begun = world.files.InitUpload(pb.InitUploadRequest(path=f"{path}/new", size=4), context())
    part = context()
    part.content = b"mine"
    world.files.UploadChunk(pb.UploadChunkRequest(session_id=begun.session_id, offset=0), part)
    world.files.FinishUpload(pb.FinishUploadRequest(session_id=begun.session_id), context())
    return "fine"


def download(world: Swapped, path: str) -> str:
    return world.files.Download(pb.DownloadRequest(path=f"{path}/f"), context()).content.decode()


def stat(world: Swapped, path: str) -> str:
    reply = world.files.Stat(pb.StatRequest(path=f"{path}/f"), context())
    return "fine" if (reply.size, reply.mode) == (4, "0644") else f"told of {reply}"


def read_redirected(world: Swapped, path: str) -> str:
    return world.guest.exec(f"cat < {path}/f").stdout.decode()


def write_redirected(world: Swapped, path: str) -> str:
    fd = redirect.open_file(world.policy, f"{path}/new", Mode.WRITE)
    os.write(fd, b"mine")
    os.close(fd)
    return "fine"


def work_there(world: Swapped, path: str) -> str:
    names = world.guest.exec("ls", working_dir=path).stdout.decode().split()
    return "fine" if "hidden" not in names else f"told of {names}"


def glob(world: Swapped, path: str) -> str:
    command = parse(f"echo {path}/*").commands[0]
    names = " ".join(Expander({}, PathJudge(world.policy, "/")).arguments(command))
    return "fine" if "hidden" not in names else f"told of {names}"


@pytest.mark.parametrize(
    "act", [upload, upload_in_chunks, download, stat, read_redirected, write_redirected, work_there, glob]
)
def test_nothing_leads_out(swapped: Swapped, act: Callable[[Swapped, str], str]) -> None:
    seen = {"fine": 0, "PERMISSION_DENIED": 0}
    while min(seen.values()) < (20 if act in (upload, upload_in_chunks, read_redirected, work_there) else 300):
        try:
            outcome = act(swapped, str(swapped.place))
        except RpcError as failure:
            outcome = failure.reason
        assert outcome in seen, outcome
        seen[outcome] += 1
    assert sorted(os.listdir(swapped.forbidden)) == ["f", "hidden"]
    assert (swapped.forbidden / "f").read_text() == "secret"
    assert (swapped.forbidden / "f").stat().st_mode & 0o777 == 0o600


def test_a_directory_that_is_moved_out_during_an_upload(tmp_path: Path) -> None:
    """Between the beginning of an upload and its end there may be minutes."""
    for name in ("in/d", "out"):
        (tmp_path / name).mkdir(parents=True)
    files = FileService(PathPolicy([f"{tmp_path}/in"]), 1 << 20, UploadSessions())
    try:
        begun = files.InitUpload(pb.InitUploadRequest(path=f"{tmp_path}/in/d/f", size=0), context())
        os.rename(tmp_path / "in/d", tmp_path / "out/d")
        end = pb.FinishUploadRequest(session_id=begun.session_id)
        assert (
            f"it leads to {tmp_path}/out/d/f"
            in refused("PERMISSION_DENIED", files.FinishUpload, end, context()).details()
        )
        assert os.listdir(tmp_path / "out/d") == []
    finally:
        files.stop()
