"""A copy of many files from the guest."""

from __future__ import annotations

import os
from collections import deque
from typing import Any, Callable, Iterable, Iterator, Mapping

from host.backend import Reply
from host.chunks import FIELDS, digest_of
from host.copy.entry import SYMLINK, NotWritten, Report, rpc_error
from host.copy.guest import TRANSIENT, GuestTree, join
from host.copy.large_download import LargeDownload
from host.copy.local import LocalTree
from host.copy.mover import BATCH_BYTES, BATCH_FILES, BATCHES, SMALL, Item, Mover
from host.copy.options import Meter, Options
from host.errors import RPCError, failure
from host.names import path_fields
from host.window import Piece, Window
from vsrpc.newfile import Attributes


class Download(Mover):
    """From a directory in the guest to one here."""

    def __init__(
        self, guest: GuestTree, root: str, local: LocalTree, options: Options, report: Report, meter: Meter
    ) -> None:
        super().__init__(options, report, meter)
        self._guest = guest
        self._root = root
        self._local = local
        self._made: set[str] = set()
        self._checked = FIELDS[options.checksum]

    def source(self, item: Item) -> str:
        return f"guest:{join(self._root, item.entry.name)}"

    def failed(self, item: Item, cause: Exception) -> None:
        """The guest's part is an RPCError: what the operating system says is of the file here."""
        if isinstance(cause, OSError) and not isinstance(cause, NotWritten):
            why = cause.strerror or str(cause)
            if isinstance(cause, FileExistsError):
                why = "already exists; choose another name, or let it be overwritten"
            cause = NotWritten(cause.errno, why, self._local.full(item.dest))
        super().failed(item, cause)

    def make_directories(self, items: list[Item]) -> None:
        for item in items:
            if not self._has_place(item):
                continue
            try:
                # Ours to write in, whatever it shall be in the end.
                if self._local.make_directory(item.dest, self.options.preserve.mode_of(item.entry) | 0o700):
                    self._made.add(item.dest)
                self.report.directories += 1
            except OSError as failure:
                self.failed(item, failure)

    def move_small(self, items: Iterable[Item], large: Callable[[Item], None]) -> None:
        under_way: deque[list[Item]] = deque()
        with Window(BATCHES) as window:
            for batch in self._batches(items):
                size = sum(item.entry.size for item in batch)
                while not window.has_room(size):
                    self._take(window, under_way.popleft(), large)
                window.add(Piece(0, size, self._guest.files.start("ReadFiles", self._request(batch))))
                under_way.append(batch)
            while window:
                self._take(window, under_way.popleft(), large)

    def _batches(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        batch: list[Item] = []
        size = 0
        for item in items:
            if item.entry.kind == SYMLINK:
                self._one(item, self._symlink)
                continue
            if batch and (size + item.entry.size > BATCH_BYTES or len(batch) == BATCH_FILES):
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += item.entry.size
        if batch:
            yield batch

    def _symlink(self, item: Item) -> None:
        self._local.symlink(item.dest, item.entry.target, self.options.overwrite)
        keep = self.options.preserve
        if keep.times or keep.owner:
            self._local.set_attributes(item.dest, self._attributes(item))
        self.copied(item, 0, 0)

    def _request(self, batch: list[Item]) -> dict[str, Any]:
        names = [os.fsencode(item.entry.name) for item in batch]
        return {**path_fields(self._root), **self._checked, "names": names, "max_size": SMALL}

    def _take(self, window: Window, batch: list[Item], large: Callable[[Item], None]) -> None:
        try:
            _, reply = window.take()
        except RPCError as error:
            if error.reason not in TRANSIENT:
                raise
            reply = self._guest.reply("ReadFiles", self._request(batch))
        while True:
            self._store(reply, batch, large)
            batch = batch[len(reply.data["files"]) :]
            if not batch:
                return
            reply = self._guest.reply("ReadFiles", self._request(batch))  # the guest's replies take no more

    def _store(self, reply: Reply, batch: list[Item], large: Callable[[Item], None]) -> None:
        files: list[Mapping[str, Any]] = reply.data["files"]
        if not files or sum(int(each["size"]) for each in files) != len(reply.content):
            raise failure("PROTOCOL_ERROR", "the guest sent other files than it was asked for")
        digest = digest_of(reply.content, self.options.checksum)
        if digest != reply.data["digest"]:
            raise failure("CONTENT_MISMATCH", "files were damaged on the way: copy again")
        at = 0
        with memoryview(reply.content) as content:
            for item, each in zip(batch, files):
                size = int(each["size"])
                told = each.get("failure")
                if told is not None:
                    if told["reason"] == "TOO_LARGE":
                        large(item)
                    else:
                        self.failed(item, rpc_error(told["reason"], told["message"]))
                    continue
                try:
                    with content[at : at + size] as part:
                        self._local.write(item.dest, part, self._attributes(item), self.options.overwrite)
                    self.copied(item, size, size)
                except OSError as cause:
                    self.failed(item, cause)
                at += size

    def _attributes(self, item: Item) -> Attributes:
        return self._local.attributes(item.entry, self.options.preserve)

    def move_large(self, item: Item) -> None:
        crossed = counted = 0

        def count(done: int, sent: int) -> None:
            nonlocal crossed, counted
            counted += done
            crossed += sent
            self.meter.add(0, done)

        path = join(self._root, item.entry.name)
        entry = item.entry
        try:
            now = self._guest.entry(path, follow=item.followed)
            if now is None or now.kind != entry.kind:
                raise failure("FILE_NOT_FOUND", f"No such file any more: {path}")
            entry = now._replace(name=entry.name)
            directory, leaf = self._local.parent(item.dest)
            move = LargeDownload(self._guest, entry, path, directory, leaf, self.options, count)
            move.run(self._local.attributes(entry, self.options.preserve))
        except BaseException:
            self.meter.add(0, -counted)
            raise
        self.copied(item, entry.size, crossed, counted)

    def make_links(self, links: list[tuple[Item, str]], instead: Callable[[Item, str], None]) -> None:
        for item, first in links:
            try:
                self._local.hard_link(item.dest, first, self.options.overwrite)
                self.copied(item, 0, 0)
            except FileExistsError as failure:
                self.failed(item, failure)
            except OSError as failure:
                instead(item, failure.strerror or str(failure))

    def finish(self, directories: list[Item]) -> None:
        keep = self.options.preserve
        for item in directories:
            if item.dest in self._made or keep.mode or keep.times or keep.owner:
                try:
                    self._local.set_attributes(item.dest, self._attributes(item))
                except OSError as failure:
                    self.report.failed(self.source(item), failure)
        if self.report.copied:
            self._local.sync()

    def set_attributes(self, items: list[Item]) -> None:
        """Give files that are there what they shall have."""
        for item in items:
            try:
                self._local.set_attributes(item.dest, self._attributes(item))
            except OSError as failure:
                self.report.failed(self.source(item), failure)
