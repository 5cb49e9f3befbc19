"""A copy of many files to the guest."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Tuple

from host.backend import Started
from host.chunks import FIELDS, digest_of
from host.copy.entry import DIRECTORY, FILE, Report, rpc_error
from host.copy.guest import LONG, NO_SET_ID, TRANSIENT, GuestTree, join, new_file
from host.copy.large import LargeUpload
from host.copy.local import LocalTree
from host.copy.mover import BATCH_BYTES, BATCH_FILES, BATCHES, SMALL, Item, Mover
from host.copy.options import Meter, Options
from host.errors import RPCError
from host.names import name_of, path_fields, shown
from host.window import Piece, Window

_SYNC_AFTER = 6  # batches

Batch = List[Tuple[Item, Dict[str, Any], bytes]]
"""Things to be made in one call: what each is, its NewFile, its content."""


class Upload(Mover):
    """From a directory here to one in the guest."""

    def __init__(
        self, local: LocalTree, guest: GuestTree, root: str, options: Options, report: Report, meter: Meter
    ) -> None:
        super().__init__(options, report, meter)
        self._local = local
        self._guest = guest
        self._root = root
        self._checked = FIELDS[options.checksum]

    def source(self, item: Item) -> str:
        return self._local.full(item.entry.name)

    def run(
        self, items: Iterable[Item], first_names: dict[str, str] | None = None, touched: Iterable[Item] = ()
    ) -> None:
        items = list(items)
        for item in items if self.options.preserve.mode else ():
            if item.entry.kind == FILE and item.entry.mode & ~NO_SET_ID:
                self.report.skipped.append(f"{shown(self.source(item))}: its set-ID bits are not copied to a guest")
        super().run(items, first_names, touched)

    def make_directories(self, items: list[Item]) -> None:
        for start in range(0, len(items), BATCH_FILES):
            part = [item for item in items[start : start + BATCH_FILES] if self._has_place(item)]
            files = [new_file(item.entry, item.dest, self.options.preserve, DIRECTORY) for item in part]
            failures = _by_name(self._guest.write(self._root, files) if files else ())
            for item in part:
                if item.dest in failures:
                    if self._has_place(item):  # else that of the directory above is told
                        self.failed(item, failures[item.dest])
                else:
                    self.report.directories += 1

    def move_small(self, items: Iterable[Item], large: Callable[[Item], None]) -> None:
        under_way: deque[Batch] = deque()
        sync: Started | None = None
        with Window(BATCHES) as window:
            for number, batch in enumerate(self._batches(items, large), 1):
                if number % _SYNC_AFTER == 0:  # beside the next ones, so that the end has less to wait for
                    _end(sync)
                    request = {**path_fields(self._root), "sync": True}
                    sync = self._guest.files.start("WriteFiles", request, LONG)
                size = sum(len(content) for _, _, content in batch)
                while not window.has_room(size):
                    self._take(window, under_way.popleft(), large)
                window.add(Piece(0, size, self._guest.files.start("WriteFiles", self._request(batch))))
                under_way.append(batch)
            while window:
                self._take(window, under_way.popleft(), large)
        _end(sync)

    def _batches(self, items: Iterable[Item], large: Callable[[Item], None]) -> Iterator[Batch]:
        batch: Batch = []
        size = 0
        for item in items:
            content = b""
            if item.entry.kind == FILE:
                try:
                    content = self._local.read(item.entry.name, SMALL + 1)
                except OSError as failure:
                    self.failed(item, failure)
                    continue
                if len(content) > SMALL:  # it has grown
                    large(item)
                    continue
            new = new_file(item.entry, item.dest, self.options.preserve)
            new["size"] = len(content)
            if batch and (size + len(content) > BATCH_BYTES or len(batch) == BATCH_FILES):
                yield batch
                batch, size = [], 0
            batch.append((item, new, content))
            size += len(content)
        if batch:
            yield batch

    def _request(self, batch: Batch) -> dict[str, Any]:
        content = b"".join(content for _, _, content in batch)
        return {
            **path_fields(self._root),
            **self._checked,
            "files": [new for _, new, _ in batch],
            "overwrite": self.options.overwrite,
            "digest": digest_of(content, self.options.checksum),
            "content": content,
        }

    def _take(self, window: Window, batch: Batch, large: Callable[[Item], None]) -> None:
        try:
            _, reply = window.take()
        except RPCError as error:
            if error.reason not in TRANSIENT and error.reason != "TOO_LARGE":
                raise
            self._again(batch, large, error)
        else:
            self._count(batch, reply.data["failures"])

    def _again(self, batch: Batch, large: Callable[[Item], None], error: RPCError) -> None:
        """Send a batch once more: in smaller ones if the guest takes no more in a call, a file alone in chunks."""
        if error.reason == "TOO_LARGE":
            if len(batch) == 1:
                large(batch[0][0])
                return
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                self._send(half, large)
        else:
            self._send(batch, large)

    def _send(self, batch: Batch, large: Callable[[Item], None]) -> None:
        try:
            reply = self._guest.reply("WriteFiles", self._request(batch))
        except RPCError as error:
            if error.reason != "TOO_LARGE":
                raise
            self._again(batch, large, error)
        else:
            self._count(batch, reply.data["failures"])

    def _count(self, batch: Batch, told: Iterable[Mapping[str, Any]]) -> None:
        failures = _by_name(told)
        for item, _, content in batch:
            if item.dest in failures:
                self.failed(item, failures[item.dest])
            else:
                self.copied(item, len(content), len(content))

    def move_large(self, item: Item) -> None:
        crossed = counted = 0

        def count(done: int, sent: int) -> None:
            nonlocal crossed, counted
            counted += done
            crossed += sent
            self.meter.add(0, done)

        fd = self._local.open(item.entry.name)
        try:
            new = new_file(item.entry, item.dest, self.options.preserve)
            fields = {name: value for name, value in new.items() if name not in ("name", "type")}
            fields["overwrite"] = self.options.overwrite
            path, target = self.source(item), join(self._root, item.dest)
            LargeUpload(self._guest, fd, path, target, self.options, count).run(fields)
            size = os.fstat(fd).st_size
        except BaseException:
            self.meter.add(0, -counted)
            raise
        finally:
            os.close(fd)
        self.copied(item, size, crossed, counted)

    def make_links(self, links: list[tuple[Item, str]], instead: Callable[[Item, str], None]) -> None:
        for start in range(0, len(links), BATCH_FILES):
            part = links[start : start + BATCH_FILES]
            files = [
                {"name": os.fsencode(item.dest), "type": "hardlink", "target": os.fsencode(first)}
                for item, first in part
            ]
            failures = _by_name(self._guest.write(self._root, files, overwrite=self.options.overwrite))
            for item, _ in part:
                failure = failures.get(item.dest)
                if failure is None:
                    self.copied(item, 0, 0)
                elif failure.reason == "FILE_EXISTS":
                    self.failed(item, failure)
                else:
                    instead(item, failure.message)

    def finish(self, directories: list[Item]) -> None:
        keep = self.options.preserve
        for start in range(0, len(directories) if keep.times or keep.owner else 0, BATCH_FILES):
            part = directories[start : start + BATCH_FILES]
            files = [new_file(item.entry, item.dest, keep, "attributes") for item in part]
            failures = _by_name(self._guest.write(self._root, files))
            for item in part:
                if item.dest in failures:
                    self.report.failed(self.source(item), failures[item.dest])
        if self.report.copied:
            self._guest.sync(self._root)

    def set_attributes(self, items: list[Item]) -> None:
        """Give files that are there what they shall have."""
        for start in range(0, len(items), BATCH_FILES):
            part = items[start : start + BATCH_FILES]
            files = [new_file(item.entry, item.dest, self.options.preserve, "attributes") for item in part]
            failures = _by_name(self._guest.write(self._root, files))
            for item in part:
                if item.dest in failures:
                    self.report.failed(self.source(item), failures[item.dest])


def _end(sync: Started | None) -> None:
    """Wait for what was begun early; what went wrong with it, the sync at the end meets, too."""
    if sync is not None:
        with contextlib.suppress(RPCError):
            sync.result()


def _by_name(failures: Iterable[Mapping[str, Any]]) -> dict[str, RPCError]:
    return {name_of(each): rpc_error(each["reason"], each["message"]) for each in failures}
