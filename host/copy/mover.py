"""What every copy of many files does, in whichever direction: directories first, small files in batches, large ones one
by one, links, and at last what the directories shall be.

What goes wrong with one file is reported, and the rest goes on. A link or guest that is lost for good ends the copy.
"""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from typing import Callable, Iterable, NamedTuple

from host.copy.entry import DIRECTORY, FILE, SYMLINK, Entry, Report, rpc_error
from host.copy.guest import TRANSIENT
from host.copy.options import Meter, Options
from host.errors import RPCError
from host.names import shown

SMALL = 1024 * 1024
"""Bytes up to which a file goes in a batch."""

BATCH_BYTES = 1024 * 1024
"""Bytes of a batch: less would make calls of it, more would make others wait."""

BATCH_FILES = 500

BATCHES = 2
"""Batches under way: one that the guest works on, and one that is on its way. More would only get into each other's way
in a guest with few CPUs."""

# Errors of a call that say nothing of the file: going on would only repeat them.
_FATAL = TRANSIENT | {"PROTOCOL_ERROR", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND", "DEADLINE_EXCEEDED", "CANCELLED"}


class Item(NamedTuple):
    """Something to be copied."""

    entry: Entry
    """What it is; its name is below the source's root."""
    dest: str
    """Its name below the target's root."""
    followed: bool = False
    """Whether the source's name is a symbolic link that is followed."""


class Mover(ABC):
    """Copies items between two roots."""

    def __init__(self, options: Options, report: Report, meter: Meter) -> None:
        self.options = options
        self.report = report
        self.meter = meter
        self._lost: set[str] = set()  # directories that could not be made

    def run(
        self, items: Iterable[Item], first_names: dict[str, str] | None = None, touched: Iterable[Item] = ()
    ) -> None:
        """Copy them; a directory comes before what is in it. Raises RPCError where nothing more can be done.

        `first_names`: of hard links, what is there already. `touched`: directories that are there, which shall be in
        the end what their sources are.
        """
        directories: list[Item] = []
        small: list[Item] = []
        large: list[Item] = []
        links: list[tuple[Item, str]] = []
        first_names = {} if first_names is None else first_names
        for item in items:
            entry = item.entry
            if entry.failure is not None:
                self.report.failed(self.source(item), rpc_error(*entry.failure))
            if entry.kind == DIRECTORY:
                directories.append(item)
            elif entry.kind == FILE and entry.link_id in first_names and not item.followed:
                links.append((item, first_names[entry.link_id]))
            elif entry.kind == FILE:
                if entry.link_id:
                    first_names[entry.link_id] = item.dest
                (large if entry.size > SMALL or item.followed else small).append(item)
            elif entry.kind == SYMLINK:
                small.append(item)
            elif entry.kind:
                self.report.skipped.append(f"{shown(self.source(item))} is a {entry.kind}: left out")
        self.meter.expect(len(small) + len(large) + len(links), sum(map(_bytes, small)) + sum(map(_bytes, large)))
        self.make_directories(directories)
        self.move_small(filter(self._has_place, small), large.append)
        for item in filter(self._has_place, large):
            self._one(item, self.move_large)
        self.make_links([each for each in links if self._has_place(each[0])], self._copy_instead)
        made = [item for item in directories if item.dest not in self._lost]
        self.finish(sorted([*made, *touched], key=lambda item: item.dest, reverse=True))

    def failed(self, item: Item, cause: Exception) -> None:
        """An item was not copied; raises the cause if no other can be either."""
        if isinstance(cause, RPCError) and cause.reason in _FATAL:
            raise cause
        self.report.failed(self.source(item), cause)
        if item.entry.kind == DIRECTORY:
            self._lost.add(item.dest)
        else:
            self.meter.add(1, _bytes(item))

    def copied(self, item: Item, size: int, sent: int, counted: int = 0) -> None:
        """A file or link was copied; `counted`: bytes of it that the meter has been told."""
        if item.entry.kind == FILE:
            self.report.files += 1
            self.report.bytes += size
            self.report.sent += sent
        else:
            self.report.links += 1
        self.meter.add(1, _bytes(item) - counted)

    def _one(self, item: Item, move: Callable[[Item], None]) -> None:
        self.meter.at(self.source(item))
        try:
            move(item)
        except (OSError, RPCError) as failure:
            self.failed(item, failure)

    def _has_place(self, item: Item) -> bool:
        """Whether the directory that it belongs in is there: if not, that has been told."""
        if posixpath.dirname(item.dest) not in self._lost:
            return True
        if item.entry.kind == DIRECTORY:
            self._lost.add(item.dest)
        return False

    def _copy_instead(self, item: Item, why: str) -> None:
        self.report.skipped.append(f"{shown(self.source(item))} is a copy now, not a hard link: {why}")
        self._one(item, self.move_large)

    @abstractmethod
    def source(self, item: Item) -> str:
        """The path of the source, for messages."""

    @abstractmethod
    def make_directories(self, items: list[Item]) -> None:
        """Make directories, outer ones first."""

    @abstractmethod
    def move_small(self, items: Iterable[Item], large: Callable[[Item], None]) -> None:
        """Copy small files and symbolic links; what has grown is given to `large`."""

    @abstractmethod
    def move_large(self, item: Item) -> None:
        """Copy a file. Raises OSError, RPCError."""

    @abstractmethod
    def make_links(self, links: list[tuple[Item, str]], instead: Callable[[Item, str], None]) -> None:
        """Give files that have been copied, by their names, further ones; what cannot be linked is given to `instead`,
        with the reason."""

    @abstractmethod
    def finish(self, directories: list[Item]) -> None:
        """Give directories what they shall have, inner ones first, and have all put on disk."""


def _bytes(item: Item) -> int:
    """Bytes of an item, holes not counted."""
    entry = item.entry
    if entry.kind != FILE:
        return 0
    return min(entry.size, entry.allocated) if entry.sparse else entry.size
