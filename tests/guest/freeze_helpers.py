"""File systems of our own for the tests of freezing, and a kernel that keeps account of them."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Callable

import pytest

from guest.machine import freeze as freezing
from guest.machine.freeze import FIFREEZE, Freezer
from guest.machine.mounts import Mount


class Kernel:
    """What ioctl(2) says: of each place, by its last name, what is frozen, and what fails."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.note = str(root / "note")
        self.log: list[str] = []
        self.fails: dict[tuple[int, str], int] = {}
        self.frozen: set[str] = set()
        self.held = False
        self.on_freeze: Callable[[str], None] = lambda name: None
        # As mounts() gives them: the root first, not in the order of mounting.
        mounts = []
        for order, name in ((0, "root"), (2, "data"), (1, "longest")):
            (root / name).mkdir()
            mounts.append(Mount(f"/dev/{name}", str(root / name), "ext4", 1, 1, 1, order))
        mounts.append(Mount("tmpfs", str(root), "tmpfs", 1, 1, 1, 3))
        self.root = root
        monkeypatch.setattr(freezing, "mounts", lambda: mounts)
        self.freezer = Freezer(self.hold, self.ioctl, self.note)

    def hold(self, held: bool) -> None:
        assert not self.frozen
        self.held = held

    def ioctl(self, fd: int, request: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        failure = self.fails.get((request, name))
        if failure is None and request == FIFREEZE:
            assert self.held
            self.on_freeze(name)
            self.frozen.add(name)
            self.log.append(f"freeze {name}")
        elif failure is None and name in self.frozen:
            self.frozen.remove(name)
            self.log.append(f"thaw {name}")
        else:
            raise OSError(failure or errno.EINVAL, "so says the kernel")

    def place(self, name: str) -> str:
        return str(self.root / name)


def wait_until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    while not condition():
        waiting.wait(0.01)
