"""The guest's side of a copy: entries, batches of small files, and the link that may break meanwhile."""

from __future__ import annotations

import logging
import os
import posixpath
import time
from typing import Any, Callable, Iterable, Iterator, Mapping, TypeVar

from host.backend import Reply
from host.chunks import FileCalls
from host.copy.entry import Entry, Preserve, of_reply
from host.errors import RPCError, failure
from host.names import path_fields, raw

log = logging.getLogger(__name__)

T = TypeVar("T")

LONG = 600.0
"""Seconds that a call may take which has as much to do as the guest's disk is slow: syncing, removing, digesting."""

_PATIENCE = 90.0  # seconds without an answer after which a broken link is given up: a guest has rebooted by then
_BREATH = 0.5  # seconds between attempts

NO_SET_ID = 0o1777
"""Bits of a file's mode that the guest takes."""

# What a link that is about to heal, or a daemon that starts again, makes of calls.
TRANSIENT = frozenset(
    ("CONNECTION_LOST", "CONNECTION_REFUSED", "READ_TIMEOUT", "WRITE_TIMEOUT", "SERVICE_UNAVAILABLE", "BUSY")
)


class GuestTree:
    """Files of the guest below any directory. `patience`: seconds for which a broken link is waited for."""

    def __init__(self, files: FileCalls, patience: float = _PATIENCE) -> None:
        self.files = files
        self._patience = patience

    def entry(self, path: str, follow: bool = False) -> Entry | None:
        """What is at a path, with an empty name; None where nothing is. Raises RPCError."""
        fields = {**path_fields(path), "itself": True, "follow": follow}
        try:
            reply = self.reply("List", fields)
        except RPCError as error:
            if error.reason != "FILE_NOT_FOUND":
                raise
            return None
        if len(reply.data["entries"]) != 1:
            raise failure("PROTOCOL_ERROR", f"the guest told {len(reply.data['entries'])} entries of one file")
        return of_reply(reply.data["entries"][0])

    def entries(self, path: str, prefix: str = "", recursive: bool = True) -> Iterator[Entry]:
        """What is in a directory, with all below it if `recursive`; names are put behind a prefix. Raises RPCError."""
        fields: dict[str, Any] = {**path_fields(path), "recursive": recursive}
        while True:
            data = self.reply("List", fields, LONG).data
            for each in data["entries"]:
                yield of_reply(each, prefix)
            after = raw(data, "next")
            if not after:
                return
            if not data["entries"]:
                raise failure("PROTOCOL_ERROR", "the guest says that there is more to list, and lists nothing")
            fields["after"] = after

    def reply(self, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        """The reply of a call that may be repeated. Raises RPCError."""
        return self.again(lambda: self.files.start(rpc, fields, timeout).result())

    def again(self, call: Callable[[], T]) -> T:
        """The result of a call that may be repeated, made again while there is patience with the link."""
        begun: float | None = None
        while True:
            try:
                return call()
            except RPCError as error:
                begun = self.bear(error, begun)

    def bear(self, error: RPCError, begun: float | None) -> float:
        """Wait a moment if trying again may help, else raise the error; `begun` is when the trying began."""
        now = time.monotonic()
        begun = now if begun is None else begun
        if error.reason not in TRANSIENT or now - begun > self._patience:
            raise error
        log.debug("trying again: %s", error.message)
        time.sleep(_BREATH)
        return begun

    def write(self, root: str, files: Iterable[Mapping[str, Any]], **fields: Any) -> list[Mapping[str, Any]]:
        """Have things made below a directory, in one call: the failures. Raises RPCError for the call."""
        request = {**path_fields(root), "files": list(files), **fields}
        timeout = LONG if fields.get("sync") else None
        reply = self.reply("WriteFiles", request, timeout)
        failures: list[Mapping[str, Any]] = reply.data["failures"]
        return failures

    def sync(self, root: str) -> None:
        """Have what was written there put on its disk. Raises RPCError."""
        self.write(root, (), sync=True)

    def remove(self, root: str, names: list[str]) -> tuple[int, list[Mapping[str, Any]]]:
        """Remove what has these names below a directory: how many files that were, and the failures."""
        fields = {**path_fields(root), "names": [os.fsencode(name) for name in names], "recursive": True}
        data = self.files.call("Remove", fields, LONG).data
        return int(data["removed"]), data["failures"]

    def digests(self, root: str, names: list[str], checksum: str) -> list[Mapping[str, Any]]:
        """Digests of files below a directory. Raises RPCError for the call."""
        fields = {**path_fields(root), "names": [os.fsencode(name) for name in names], "checksum": checksum}
        found: list[Mapping[str, Any]] = self.reply("Checksum", fields, LONG).data["files"]
        return found

    def free(self, path: str) -> int:
        """Bytes that can still be written on the file system of a path."""
        data = self.again(lambda: self.files.call("FileSystems", path_fields(path))).data
        return int(data["filesystems"][0]["available"])


def new_file(entry: Entry, name: str, keep: Preserve, kind: str = "") -> dict[str, Any]:
    """The NewFile that makes a copy of an entry."""
    fields: dict[str, Any] = {"name": os.fsencode(name)}
    if kind or entry.kind != "file":
        fields["type"] = kind or entry.kind
    if entry.kind == "symlink":
        fields["target"] = os.fsencode(entry.target)
    else:
        mode = keep.mode_of(entry)
        fields["mode"] = f"{mode if entry.kind == 'directory' else mode & NO_SET_ID:04o}"
    if keep.owner:
        fields.update(owner=entry.owner, group=entry.group)
    if keep.times:
        fields.update(time_fields(entry.mtime_ns))
    if not keep.mode:
        fields["keep_attributes"] = True
    return fields


def time_fields(mtime_ns: int) -> dict[str, int]:
    """A time in the fields of a request."""
    return {"mtime": mtime_ns // 10**9, "mtime_nanos": mtime_ns % 10**9}


def join(root: str, name: str) -> str:
    """A path in the guest."""
    return posixpath.join(root, name) if name else root
