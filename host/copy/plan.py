"""What is to be copied, and what it shall be called: as cp(1) has it.

A target that is a directory gets the sources in it, under their names; else it is the copy's name. Symbolic links are
followed where they are sources of a copy that is not recursive, and else kept.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from typing import Callable, Iterable, Iterator, Sequence

from host.chunks import FileCalls
from host.copy.download import Download
from host.copy.entry import DIRECTORY, FILE, SYMLINK, Entry, Report
from host.copy.guest import GuestTree
from host.copy.local import LocalTree, is_temporary
from host.copy.mover import Item, Mover
from host.copy.options import Done, Meter, Options
from host.copy.places import Place, place_of
from host.copy.upload import Upload
from host.errors import RPCError, UsageError, failure
from host.names import shown


def copy(
    files: FileCalls,
    sources: Sequence[str],
    target: str,
    recursive: bool = False,
    options: Options | None = None,
    listener: Callable[[Done], None] | None = None,
) -> Report:
    """Copy files and directories between this machine and the guest, whose paths are written `guest:/path`.

    What cannot be copied is in the report, and the rest is copied all the same. Raises UsageError, OSError for a target
    here and RPCError for one of the guest that cannot be used, and RPCError where the link or the guest is lost.
    """
    places, dest = [place_of(each) for each in sources], place_of(target)
    check_sides(places, dest)
    with contextlib.ExitStack() as stack:
        work = _Copy(files, dest, recursive, options or Options(), Meter(listener), stack)
        work.run(places)
        return work.report


def check_sides(sources: Iterable[Place], dest: Place) -> None:
    """Raise UsageError unless all sources are on one side, and the target on the other."""
    for each in sources:
        if each.guest == dest.guest:
            where = "the guest: use exec with cp" if each.guest else "this machine: use cp"
            raise UsageError(
                f"{shown(each.given)} and {shown(dest.given)} are both on {where}, or write guest:/path for the guest's"
            )


class _Copy:
    """One copy, of which each part is from one directory to another."""

    def __init__(
        self,
        files: FileCalls,
        dest: Place,
        recursive: bool,
        options: Options,
        meter: Meter,
        stack: contextlib.ExitStack,
    ) -> None:
        self.report = Report()
        self._guest = GuestTree(files)
        self._dest = dest
        self._recursive = recursive
        self._options = options
        self._meter = meter
        self._stack = stack
        self._locals: dict[str, LocalTree] = {}

    def run(self, sources: list[Place]) -> None:
        """Copy them."""
        into = self._is_directory(self._dest)
        if not into and (len(sources) > 1 or self._dest.slash):
            raise failure("WRONG_FILE_TYPE", f"{shown(self._dest.given)} is no directory; make it first (mkdir)")
        parts: dict[tuple[str, str], list[Item]] = {}
        taken: dict[str, str] = {}
        for source in sources:
            root, name = (self._dest.path, source.name) if into else (self._dest.root, self._dest.name)
            if not into and self._dest.guest is False:
                self._local(root)  # which must be there
            try:
                if source.name and name in taken:
                    raise UsageError(f"would take the place of the copy of {shown(taken[name])}")
                origin, items = self._items(source, name)
            except (OSError, RPCError, UsageError) as cause:
                self.report.failed(source.given, cause)
                continue
            taken[name] = source.given
            parts.setdefault((origin, root), []).extend(items)
        if not into:
            self._check_space([item for items in parts.values() for item in items])
        for (origin, root), items in parts.items():
            self._mover(origin, root).run(items)

    def _mover(self, origin: str, root: str) -> Mover:
        if self._dest.guest:
            return Upload(self._local(origin), self._guest, root, self._options, self.report, self._meter)
        return Download(self._guest, origin, self._local(root), self._options, self.report, self._meter)

    def _local(self, path: str) -> LocalTree:
        if path not in self._locals:
            self._locals[path] = self._stack.enter_context(LocalTree(path))
        return self._locals[path]

    def _is_directory(self, place: Place) -> bool:
        if not place.guest:
            return os.path.isdir(place.path)
        entry = self._guest.entry(place.path, follow=True)
        return entry is not None and entry.kind == DIRECTORY

    def _items(self, source: Place, name: str) -> tuple[str, list[Item]]:
        """What is to be copied of a source, under a name ("": what is in it), and the root that its names are below."""
        if source.guest:
            root, top, followed, below = self._guest_source(source)
        else:
            root, top, followed, below = self._local_source(source)
        if top is not None and top.kind == DIRECTORY and not self._recursive:
            raise failure("WRONG_FILE_TYPE", f"{shown(source.given)} is a directory: copy it with all in it (-r)")
        items: list[Item] = []
        if top is not None and name:
            items.append(Item(top, name, followed))
        if top is None or top.kind == DIRECTORY:
            if not self._recursive:
                raise failure("WRONG_FILE_TYPE", f"{shown(source.given)} is a directory: copy it with all in it (-r)")
            cut = len(top.name) + 1 if top is not None and top.name else 0
            for entry in below():
                if not is_temporary(entry.name):
                    items.append(Item(entry, posixpath.join(name, entry.name[cut:])))
        return root, items

    def _local_source(self, source: Place) -> tuple[str, Entry | None, bool, Callable[[], Iterator[Entry]]]:
        root, name = source.root, source.name
        if not name:
            tree = self._local(root)
            return root, None, False, lambda: tree.entries("")
        status = os.lstat(source.path)
        if stat.S_ISLNK(status.st_mode) and (source.slash or not self._recursive):
            os.stat(source.path)  # says what is wrong with a link that leads nowhere
            root, name = os.path.split(os.path.realpath(source.path))
        tree = self._local(root)
        return root, tree.entry(name), False, lambda: tree.entries(name)

    def _guest_source(self, source: Place) -> tuple[str, Entry | None, bool, Callable[[], Iterator[Entry]]]:
        root, name = source.root, source.name
        if not name:
            return root, None, False, lambda: self._guest.entries(root)
        top = self._guest.entry(source.path)
        followed = top is not None and top.kind == SYMLINK and (source.slash or not self._recursive)
        if followed:
            top = self._guest.entry(source.path, follow=True)
        if top is None:
            raise failure("FILE_NOT_FOUND", f"No such file or directory: {shown(source.path)}")
        return root, top._replace(name=name), followed, lambda: self._guest.entries(source.path, name)

    def _check_space(self, items: list[Item]) -> None:
        """Refuse what cannot fit before anything is copied; what takes the place of other files may still fit."""
        needed = sum(min(item.entry.size, item.entry.allocated) for item in items if item.entry.kind == FILE)
        if not needed:
            return
        root = self._dest.root
        free = self._guest.free(root) if self._dest.guest else self._local(root).free()
        if needed > free:  # what an interrupted copy has left there is not needed again
            there = (
                self._guest.entries(root, recursive=False) if self._dest.guest else self._local(root).entries("", False)
            )
            free += sum(entry.allocated for entry in there if is_temporary(entry.name))
        if needed > free:
            side = "in the guest" if self._dest.guest else "here"
            message = f"No space left {side} for {needed} bytes ({free} bytes are free): {shown(self._dest.path)}"
            raise failure("NO_SPACE", message, free=str(free))
