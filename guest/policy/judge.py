"""Asks the path policy about paths as a command gives them: relative to its working directory."""

from __future__ import annotations

import os
import stat
from functools import cached_property
from typing import Callable, Protocol

from guest.errors import error
from guest.os_errors import printable
from guest.policy.getopt import ArgumentRefused
from guest.policy.paths import Directory, Opened
from vsrpc.errors import RpcError

NULL_DEVICE = "/dev/null"
"""May be read and written by everyone, though devices are on the path policy's deny list."""

_MAX_TREE = 20_000
"""Files below a directory that are judged for `grep -r`; beyond that the judging would cost more than the search."""


class PathRules(Protocol):
    """What is needed of the path policy (guest.policy.paths.PathPolicy). All raise RpcError to refuse."""

    def check_read(self, path: str) -> str:
        """Whether content may be read."""

    def check_write(self, path: str) -> str:
        """Whether a file may be written there."""

    def check_metadata(self, path: str) -> str:
        """Whether metadata may be read; a symbolic link is itself."""

    def open_read(self, path: str) -> Opened:
        """Open a regular file for reading its content."""

    def open_write(self, path: str, *, append: bool, mode: int) -> Opened:
        """Open a regular file for writing, from its beginning or at its end; a new one gets `mode`."""

    def open_directory(self, path: str) -> Directory:
        """Open a directory of which metadata may be read."""


def always() -> None:
    """The `go_on` of those who have all the time."""


class PathJudge:
    """The path policy as seen from one working directory (an absolute path).

    `go_on` is called before each look, of which one command can need a great many: it raises when time is up.
    """

    def __init__(self, rules: PathRules, directory: str, go_on: Callable[[], None] = always) -> None:
        self._rules = rules
        self._directory = directory
        self.go_on = go_on

    def absolute(self, path: str) -> str:
        """The path from the root; not normalised, as `..` after a symbolic link means what the link leads to."""
        return os.path.join(self._directory, path)

    def read(self, path: str) -> None:
        """Raise RpcError unless the content of `path` may be read."""
        path = self._judged(path)
        if path != NULL_DEVICE:
            self._rules.check_read(path)

    def metadata(self, path: str) -> None:
        """Raise RpcError unless metadata of `path` and, if it is a link, of what it leads to may be read."""
        path = self._judged(path)
        if path == NULL_DEVICE:
            return
        self._rules.check_metadata(path)
        if os.path.islink(path):
            self._rules.check_metadata(os.path.realpath(path))

    def names(self, directory: str) -> list[str]:
        """The names in a directory whose metadata may be read; none where there is no directory. Raises RpcError."""
        try:
            opened = self._rules.open_directory(self._judged(directory))
        except RpcError as failure:
            if failure.reason in ("FILE_NOT_FOUND", "WRONG_FILE_TYPE"):
                return []
            raise
        try:
            return os.listdir(f"/proc/self/fd/{opened.fd}")
        except OSError:  # the daemon's user may not list it
            return []
        finally:
            os.close(opened.fd)

    def _judged(self, path: str) -> str:
        """The absolute path; raises RpcError for one that the policy and a command would not understand alike.

        What /proc/self/cwd and its like lead to depends on the process that asks (proc(5)).
        """
        self.go_on()
        absolute = self.absolute(path)
        on_the_way = ""
        for name in absolute.split("/")[1:-1]:
            on_the_way += "/" + name
            try:
                through = os.stat(on_the_way).st_dev in self._processes
            except OSError:  # nothing is there, which is judged by its place
                break
            if through:
                raise error(
                    "PERMISSION_DENIED",
                    f"Path not in allowed list: {printable(absolute)} (it leads through /proc, where names depend on "
                    "the process: refused always; write the path that is meant)",
                    path=printable(absolute),
                    rule="paths through /proc",
                )
        return absolute

    @cached_property
    def _processes(self) -> frozenset[int]:
        """The devices of /proc, which can be mounted more than once."""
        devices = set()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                mount, _, source = line.partition(" - ")
                if source.startswith("proc "):
                    major, minor = mount.split(" ", 3)[2].split(":")
                    devices.add(os.makedev(int(major), int(minor)))
        return frozenset(devices)

    def read_tree(self, path: str) -> None:
        """Raise unless every regular file at or below `path` may be read. Links below are not followed."""
        self.read(path)
        count = 0
        for directory, _, names in os.walk(os.path.realpath(self.absolute(path))):
            count += len(names)
            if count > _MAX_TREE:
                raise ArgumentRefused(path, f"more than {_MAX_TREE} files are below it: name a smaller directory")
            for name in names:
                self.go_on()
                file = os.path.join(directory, name)
                if _is_regular(file):
                    self._rules.check_read(file)


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:  # it went away meanwhile
        return False
