"""Where things lie: the cache of images, and a short private directory per running VM."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from .errors import VMError

# sun_path of unix(7) holds 108 bytes with the final NUL.
MAX_SOCKET_PATH = 107
LONGEST_FILE = "console.sock"
PROJECT = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """Images and disks; may grow to a few GB, so never on a RAM file system by default."""
    base = os.environ.get("VSRPC_CACHE")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vsrpc")
    path = Path(base).absolute() / "vm"
    path.mkdir(parents=True, exist_ok=True)
    return path


def runtime_root() -> Path:
    """The private parent of all run directories of this user."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    root = Path(base) / "vsrpc-vm" if base else Path("/tmp") / f"vsrpc-vm-{os.getuid()}"
    try:
        root.mkdir(mode=0o700)
    except FileExistsError:
        info = root.lstat()
        # Somebody else's directory in /tmp could replace our sockets under us.
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
            raise VMError(f"{root} is not a private directory of uid {os.getuid()}; remove it") from None
    return root


def run_dir(name: str) -> Path:
    """The directory of one VM; created by start, removed by stop."""
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise VMError(f"VM name {name!r}: use letters, digits, '-' and '_' only")
    path = runtime_root() / name
    longest = len(os.fsencode(path / LONGEST_FILE))
    if longest > MAX_SOCKET_PATH:
        raise VMError(
            f"{path} is too long for a UNIX socket ({longest} > {MAX_SOCKET_PATH} bytes); "
            "use a shorter --name or XDG_RUNTIME_DIR"
        )
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive advisory lock on `path` (created if missing), against other processes and threads."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def prune(paths: list[Path], keep: int) -> None:
    """Remove all but the `keep` most recently used. A running VM holds its files open and loses nothing."""
    for path in sorted(paths, key=lambda p: p.stat().st_mtime, reverse=True)[keep:]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
