"""Copies between a stream here (standard input and output) and a file of the guest. There is nothing to resume."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from itertools import count
from typing import Any, Callable, Iterable, Mapping, Protocol, Sequence

from host.backend import Buffer, Reply
from host.chunks import FIELDS, FileCalls, digest_of, receive, send
from host.copy.entry import Preserve, Report
from host.copy.guest import LONG, GuestTree
from host.copy.options import Done, Meter, Options
from host.copy.places import Place, place_of
from host.errors import RPCError, UsageError, failure
from host.localfile import read_up_to
from host.names import path_fields, shown
from host.transfer_options import CRC32, SHA256

_ABORT_TIMEOUT = 5.0  # seconds


class Writable(Protocol):
    """What is needed of a binary file."""

    def write(self, content: Buffer, /) -> object:
        """Write all of it."""


def _guest_place(text: str) -> Place:
    place = place_of(text)
    if not place.guest:
        raise UsageError(f"{shown(text)} is not in the guest: a stream goes to or comes from guest:/path")
    return place


def upload(
    files: FileCalls, fd: int, target: str, options: Options, listener: Callable[[Done], None] | None = None
) -> Report:
    """Copy what an open file or pipe gives to a file of the guest. Raises UsageError, OSError, RPCError."""
    place, report, meter = _guest_place(target), Report(), Meter(listener)
    meter.at(target)
    status = os.fstat(fd)
    meter.expect(1, status.st_size if stat.S_ISREG(status.st_mode) else 0)
    keep: Preserve = options.preserve
    fields: dict[str, Any] = {
        **path_fields(place.path),
        **FIELDS[options.checksum],
        "mode": f"{0o666 & ~keep.umask:04o}",
        "keep_attributes": True,
        "overwrite": options.overwrite,
        "stream": True,
        "chunk_digests": True,
    }
    begun = files.call("InitUpload", fields).data
    session, chunk_size = begun["session_id"], min(options.chunk_size, int(begun["chunk_size"]))

    def sent(size: int) -> None:
        report.bytes += size
        meter.add(0, size)

    def read(offset: int, size: int) -> Buffer:
        return read_up_to(fd, size)

    try:
        parts = ((number * chunk_size, chunk_size) for number in count())
        send(files, session, parts, read, chunk_size, 0, sent, options.checksum)
        files.call("FinishUpload", {"session_id": session, "size": report.bytes}, LONG)
    except BaseException:
        with contextlib.suppress(RPCError):
            files.call("AbortUpload", {"session_id": session}, _ABORT_TIMEOUT)
        raise
    report.files, report.sent = 1, report.bytes
    meter.add(1, 0)
    return report


def download(
    files: FileCalls,
    sources: Sequence[str],
    out: Writable,
    options: Options,
    listener: Callable[[Done], None] | None = None,
) -> Report:
    """Write the content of files of the guest to a binary file, one after the other.

    Raises UsageError, RPCError; OSError where it cannot be written.
    """
    report, meter, guest = Report(), Meter(listener), GuestTree(files)
    found = [(place.path, _size(guest, place)) for place in map(_guest_place, sources)]
    meter.expect(len(found), sum(size for _, size in found))
    for path, size in found:
        meter.at(f"guest:{path}")
        _send_to(files, path, size, out, options, meter)
        report.files += 1
        report.bytes += size
        meter.add(1, 0)
    report.sent = report.bytes
    return report


def _size(guest: GuestTree, place: Place) -> int:
    entry = guest.entry(place.path, follow=True)
    if entry is None:
        raise failure("FILE_NOT_FOUND", f"No such file: {shown(place.path)}")
    if entry.kind != "file":
        raise failure("WRONG_FILE_TYPE", f"Not a regular file but a {entry.kind}: {shown(place.path)}")
    return entry.size


def _send_to(files: FileCalls, path: str, size: int, out: Writable, options: Options, meter: Meter) -> None:
    done = 0
    first: Mapping[str, Any] = {}

    def took(offset: int, reply: Reply) -> bool:
        nonlocal done, first
        first = first or reply.data
        if reply.data.get("file_id") != first.get("file_id") or int(reply.data["total_size"]) < size:
            message = f"{shown(path)} was cut or replaced while it was copied; what came of it is not whole"
            raise failure("CONTENT_MISMATCH", message)
        field = "chunk_sha256" if options.checksum == SHA256 else "chunk_md5"
        if options.checksum != CRC32 and reply.data.get(field) != digest_of(reply.content, options.checksum):
            raise failure("CONTENT_MISMATCH", f"{shown(path)} at offset {offset} was damaged on the way; copy it again")
        out.write(reply.content)
        done += len(reply.content)
        meter.add(0, len(reply.content))
        return done < size

    parts: Iterable[tuple[int, int]] = [(0, size)] if size else []
    receive(files, {**path_fields(path), **FIELDS[options.checksum]}, deque(parts), options.chunk_size, took)
