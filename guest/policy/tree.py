"""The path policy for many files below a directory: each is judged, without looking it up by its whole path.

A directory is judged on what was opened, as guest.policy.paths does it. What is in it inherits that and is judged by
its name, and by itself only where that could make a difference.
"""

from __future__ import annotations

import os
import stat
from typing import TypeVar

from guest.errors import error
from guest.os_errors import as_rpc_error, file_errors, printable
from guest.policy.denied import is_path_denied
from guest.policy.paths import METADATA, READ, VISIBLE, WRITE, PathPolicy
from guest.policy.resolve import look, where
from vsrpc.errors import RpcError
from vsrpc.filetree import Directory

__all__ = ["METADATA", "READ", "WRITE", "JudgedDirectory", "open_parent", "open_place", "open_tree"]

J = TypeVar("J", bound="JudgedDirectory")


class JudgedDirectory(Directory):
    """An open directory, below which things may be looked at, read or written (`access`).

    `path` is what the caller calls it. Making one raises RpcError if the policy refuses it; the descriptor is then
    still the caller's. With `judged` False it is only the place where something else is, which is judged itself.
    """

    def __init__(self, policy: PathPolicy, fd: int, path: str, access: str, judged: bool = True) -> None:
        super().__init__(fd)
        self.path = path
        self.policy = policy
        self._access = access
        self._real = where(fd, path)
        self._inside = self._real if self._real.endswith("/") else self._real + "/"
        self.rule, self._alike = policy.judge_directory(path, self._real, fd, access) if judged else ("", False)

    def entered(self: J, leaf: str, fd: int) -> J:
        """A directory in it, judged by itself."""
        return type(self)(self.policy, fd, self.child(leaf), self._access)

    def child(self, leaf: str) -> str:
        """The path of something in it, as the caller calls it."""
        return os.path.join(self.path, leaf)

    def real_child(self, leaf: str) -> str:
        """Its real path."""
        return os.path.join(self._real, leaf)

    def check(self, leaf: str, status: os.stat_result | None) -> None:
        """Raise PERMISSION_DENIED for what may not be touched. `status`: what is there, None for nothing."""
        real = f"{self._inside}{leaf}"
        linked = status is not None and stat.S_ISREG(status.st_mode) and status.st_nlink > 1
        visible = self.rule != VISIBLE or (status is not None and status.st_mode & stat.S_IROTH)
        if self._alike and visible and not linked and not is_path_denied(real, self._access == WRITE):
            return
        fd: int | None = None
        try:
            if status is not None:
                fd = os.open(leaf, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            self.policy.judge(self.child(leaf), real, fd, self._access)
        finally:
            if fd is not None:
                os.close(fd)


def open_tree(policy: PathPolicy, path: str, access: str) -> JudgedDirectory:
    """Open a directory for working on all below it, readable if its content is looked at.

    Raises RpcError, FILE_NOT_FOUND and WRONG_FILE_TYPE among others.
    """
    directory = _open(policy, path, access, judged=True)
    if access != WRITE:
        try:
            with file_errors(path):
                fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory.fd)
        except BaseException:
            directory.close()
            raise
        directory.fd, old = fd, directory.fd
        os.close(old)
    return directory


def open_place(policy: PathPolicy, path: str, access: str) -> JudgedDirectory:
    """Open the directory that names are below: they are judged, each by itself if it is not allowed as a whole."""
    try:
        return _open(policy, path, access, judged=True)
    except RpcError as failure:
        if failure.reason != "PERMISSION_DENIED":
            raise
        try:
            return _open(policy, path, access, judged=False)
        except RpcError:
            raise failure from None  # which does not tell what is there


def open_parent(policy: PathPolicy, path: str, access: str) -> tuple[JudgedDirectory, str]:
    """The directory that a path is in, and its name there, which may be used; what has the name is not looked at."""
    above, leaf = os.path.split(path.rstrip("/") if path.strip("/") else path)
    if leaf in ("", ".", ".."):
        policy.check_metadata(path)
        shown = printable(path)
        raise error("INVALID_PARAMS", f"Names no entry of a directory: {shown} (give its own name)", path=shown)
    return open_place(policy, above, access), leaf


def _open(policy: PathPolicy, path: str, access: str, judged: bool) -> JudgedDirectory:
    fd, real = look(path)
    if fd is None:
        if judged:
            policy.judge(path, real, None, access)
        raise error("FILE_NOT_FOUND", f"No such directory: {printable(path)}", path=printable(path))
    try:
        if judged:
            policy.judge(path, real, fd, access)
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise error("WRONG_FILE_TYPE", f"Not a directory: {printable(path)}", path=printable(path))
        return JudgedDirectory(policy, fd, path, access, judged)
    except OSError as failure:
        os.close(fd)
        raise as_rpc_error(failure, path) from failure
    except BaseException:
        os.close(fd)
        raise
