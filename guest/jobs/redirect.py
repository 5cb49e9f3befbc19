"""Opens the files of redirections, within the path policy."""

from __future__ import annotations

import os
import stat

from guest.errors import error
from guest.os_errors import file_errors, printable
from guest.policy.commands_syntax import Mode
from guest.policy.judge import NULL_DEVICE, PathRules

_NEW_FILE_MODE = 0o666  # less the umask, as in sh


def check(rules: PathRules, path: str, mode: Mode) -> None:
    """Raise RpcError when the policy refuses `path` (absolute), before anything has run."""
    if path == NULL_DEVICE:
        return
    if mode is Mode.READ:
        rules.check_read(path)
    else:
        rules.check_write(path)


def open_file(rules: PathRules, path: str, mode: Mode) -> int:
    """A descriptor of the file at `path` (absolute), which the caller closes; raises RpcError.

    Only regular files and /dev/null: opening anything else may wait or have an effect.
    """
    if path == NULL_DEVICE:
        return os.open(path, (os.O_RDONLY if mode is Mode.READ else os.O_WRONLY) | os.O_CLOEXEC)
    if mode is Mode.READ:
        return rules.open_read(path)
    directory, name = rules.open_parent(path)
    try:
        with file_errors(path, directory):
            return _open_for_writing(directory, name, path, mode)
    finally:
        os.close(directory)


def _open_for_writing(directory: int, name: str, path: str, mode: Mode) -> int:
    # O_NOFOLLOW, and truncation only after the look at what was opened: the name may have been put there by another
    # user of the guest.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    flags |= os.O_APPEND if mode is Mode.APPEND else 0
    fd = os.open(name, flags, _NEW_FILE_MODE, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise error("WRONG_FILE_TYPE", f"Not a regular file: {printable(path)}", path=printable(path))
        if status.st_nlink != 1:
            raise error(
                "PERMISSION_DENIED",
                f"The file has {status.st_nlink} names (hard links), one of which may be elsewhere: {printable(path)}",
                path=printable(path),
            )
        if mode is Mode.WRITE:
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd
