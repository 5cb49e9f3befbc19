"""Opens the files of redirections, within the path policy."""

from __future__ import annotations

import os

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
        return rules.open_read(path).fd
    return rules.open_write(path, append=mode is Mode.APPEND, mode=_NEW_FILE_MODE).fd
