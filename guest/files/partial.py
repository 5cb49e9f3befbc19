"""A new file for a target that outlives its upload: the next one of the same source goes on with it (vsrpc.partial).

Where such files are is noted, so that they go after a day though no upload comes there again. A note is a symbolic link
to the file, below the daemon's state directory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re

from guest.errors import error
from guest.files.target import TargetFile, TargetSpec
from guest.os_errors import printable
from guest.policy.paths import PathPolicy
from vsrpc.newfile import unlink
from vsrpc.partial import PREFIX, KeptFile, remove_old

_KEY = re.compile(r"[0-9A-Za-z]{8,64}\Z")

_log = logging.getLogger(__name__)


class Partials:
    """The notes, below the directory `state`, which is made when it is needed."""

    def __init__(self, state: str) -> None:
        self._notes = os.path.join(state, "partial")

    def note(self, path: str) -> None:
        """Note a file that is about to be made. One that cannot be noted may stay for longer than a day."""
        token = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
        try:
            os.makedirs(self._notes, mode=0o700, exist_ok=True)
            os.symlink(path, os.path.join(self._notes, token))
        except FileExistsError:
            pass
        except OSError as failure:
            _log.warning("%s: %s; what an interrupted upload leaves may stay", self._notes, failure.strerror)

    def remove_old(self) -> None:
        """Remove what is older than a day, and notes of what is not there any more."""
        try:
            notes = os.open(self._notes, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # nothing was ever noted
            return
        try:
            for token in os.listdir(notes):
                try:
                    if not _is_there(os.readlink(token, dir_fd=notes)):
                        unlink(token, notes)
                except OSError as failure:
                    _log.warning("%s: %s", os.path.join(self._notes, token), failure.strerror)
        finally:
            os.close(notes)


def _is_there(path: str) -> bool:
    """Whether what was noted is there, once it is removed if it is old."""
    directory, name = os.path.split(path)
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if os.readlink(f"/proc/self/fd/{fd}") != directory or not name.startswith(PREFIX):
            return False  # links lead somewhere else now
        remove_old(fd)
        return os.path.lexists(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


class PartialFile(TargetFile):
    """See above; `left` is how many bytes an earlier upload has left.

    Raises what TargetFile raises, INVALID_PARAMS for a key that is none, and BUSY if another daemon writes it.
    """

    def __init__(self, policy: PathPolicy, spec: TargetSpec, key: str, keep_free: int, partials: Partials) -> None:
        if not _KEY.match(key):
            message = f"resume_key {key[:64]!r} is not 8 to 64 letters and digits"
            raise error("INVALID_PARAMS", message, field="resume_key")
        self.left = 0
        self._key = key
        self._partials = partials
        super().__init__(policy, spec, keep_free)
        self.resumable = True

    def cut(self, size: int) -> None:
        """Forget what was left beyond a size; raises RpcError."""
        if self.left > size:
            self.set_size(size)
            self.left = size

    def discard(self) -> None:
        """Let go of it, and remove it unless it is to be kept; does nothing the second time."""
        if isinstance(self._new, KeptFile):
            self._new.keep = self.resumable
        super().discard()

    def _create(self) -> KeptFile:
        directory = os.readlink(f"/proc/self/fd/{self._dirfd}")
        try:
            made = KeptFile(self._dirfd, self._key, self._name, lambda name: self._partials.note(f"{directory}/{name}"))
        except BlockingIOError:
            shown = printable(self.spec.path)
            message = f"Another upload of the same file is going on: {shown} (wait for it)"
            raise error("BUSY", message, path=shown) from None
        self.left = made.left
        return made
