"""Key files: read only where nobody else can read them, and read again when they change."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from typing import Callable, Mapping, Tuple

from vsrpc.auth import Key, parse_keys
from vsrpc.errors import RpcError
from vsrpc.status import Code

_log = logging.getLogger(__name__)

# How often a file is looked at for changes, in seconds.
_LOOK_EVERY = 1.0

_HOW_TO_MAKE_ONE = 'to make one: (umask 077; echo "NAME $(openssl rand -hex 32)" > {0})'

_Version = Tuple[int, ...]


class KeyFileError(ValueError):
    """A key file that cannot be used: which, why, and what to do. It shows no secret."""


def read_keys(path: str) -> dict[str, Key]:
    """The keys of a file by their names, in its order. Raises KeyFileError.

    As ssh does with private keys, a file is refused that others than its owner can read, or that is another user's.
    """
    return _read(path)[1]


def _read(path: str) -> tuple[_Version, dict[str, Key]]:
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            _check_privacy(path, status)
            data = stream.read()
    except OSError as error:
        way_out = ""
        if error.errno == errno.ENOENT:
            way_out = f"; {_HOW_TO_MAKE_ONE.format(path)}"
        elif error.errno in (errno.EACCES, errno.EPERM):
            way_out = "; run as the user that it belongs to, or name a key file of your own"
        raise KeyFileError(f"{path}: cannot read the keys: {error.strerror}{way_out}") from None
    try:
        return _version(status), parse_keys(data.decode("ascii"))
    except UnicodeDecodeError:
        raise KeyFileError(f"{path}: there are characters other than ASCII in it") from None
    except ValueError as error:
        raise KeyFileError(f"{path}: {error}") from None


def _check_privacy(path: str, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(
            f"{path}: belongs to user {status.st_uid}, who can read and change the keys: chown it to root, or to the "
            f"user that uses it ({os.geteuid()})"
        )
    if mode & 0o077:
        raise KeyFileError(f"{path}: mode {mode:04o} lets others at the keys: chmod 600 {path}")


def _version(status: os.stat_result) -> _Version:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class KeyFile:
    """A server's keys, as its key file has them now. Thread-safe.

    A new version that cannot be used leaves no key at all until it is mended: it may be there to take one away.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises KeyFileError."""
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._version: _Version | None
        self._version, self._keys = _read(path)
        self._next_look = clock() + _LOOK_EVERY

    def __call__(self) -> Mapping[str, Key]:
        """The keys by their names. Raises RpcError UNAVAILABLE while there is none."""
        with self._lock:
            if self._clock() >= self._next_look:
                self._look()
                self._next_look = self._clock() + _LOOK_EVERY
            if self._keys:
                return self._keys
        message = "the guest cannot tell who calls: its key file cannot be used; its log says why"
        raise RpcError(Code.UNAVAILABLE, message, reason="SERVICE_UNAVAILABLE")

    def _look(self) -> None:
        try:
            version: _Version | None = _version(os.stat(self.path))
        except OSError:
            version = None
        if version == self._version and (version is not None or not self._keys):
            return
        try:
            self._version, self._keys = _read(self.path)
            _log.info("%s: read anew; keys: %s", self.path, ", ".join(self._keys))
        except KeyFileError as error:
            self._version, self._keys = version, {}
            _log.error("%s; all calls are refused until it is mended", error)
