"""The commands that change files of the guest, and tail. They go on after a path that failed, and say so."""

from __future__ import annotations

import argparse
import posixpath
import sys
import time
from typing import Any, Callable, Mapping, Sequence

from host.calls import FileCalls
from host.cli import exits
from host.cli.output import complain, print_json, write_bytes
from host.client import VirtioRPCClient
from host.copy.guest import LONG, TRANSIENT, GuestTree
from host.copy.places import GUEST
from host.errors import RPCError, UsageError
from host.names import path_fields

Arguments = argparse.Namespace

_WAIT = 20.0  # seconds for which the guest waits for more of a file
_ANSWER_TIME = 15.0  # seconds more until a reply is given up
_PATIENCE = 300.0  # seconds without an answer after which a link is given up
_BREATH = 0.5


def mkdir(client: VirtioRPCClient, args: Arguments) -> int:
    """Make directories."""
    fields = {"mode": args.mode, "parents": args.parents}
    return each_path(args.paths, lambda path: _call(client, args, "MakeDirectory", {**path_fields(path), **fields}))


def rm(client: VirtioRPCClient, args: Arguments) -> int:
    """Remove files."""

    def remove(path: str) -> int:
        try:
            return _call(client, args, "Remove", {**path_fields(path), "recursive": args.recursive})
        except RPCError as error:
            if error.reason == "FILE_NOT_FOUND" and args.force:
                return exits.OK
            raise

    return each_path(args.paths, remove)


def mv(client: VirtioRPCClient, args: Arguments) -> int:
    """Rename files."""
    dest = guest_path(args.dest)
    entry = GuestTree(FileCalls(client.calls)).entry(dest, follow=True)
    into = entry is not None and entry.kind == "directory"
    if len(args.sources) > 1 and not into:
        raise UsageError(f"{args.dest} is no directory: several files can only be moved into one")

    def move(path: str) -> int:
        target = posixpath.join(dest, posixpath.basename(path.rstrip("/"))) if into else dest
        fields = {**path_fields(path), **path_fields(target, "target"), "overwrite": not args.no_overwrite}
        return _call(client, args, "Rename", fields)

    return each_path(args.sources, move)


def chmod(client: VirtioRPCClient, args: Arguments) -> int:
    """Change permission bits."""
    fields = {"mode": args.mode, "recursive": args.recursive}
    return each_path(args.paths, lambda path: _call(client, args, "SetAttributes", {**path_fields(path), **fields}))


def chown(client: VirtioRPCClient, args: Arguments) -> int:
    """Change owners."""
    owner, _, group = args.owner.partition(":")
    fields = {"owner": owner, "group": group, "recursive": args.recursive}
    return each_path(args.paths, lambda path: _call(client, args, "SetAttributes", {**path_fields(path), **fields}))


def ln(client: VirtioRPCClient, args: Arguments) -> int:
    """Make a link."""
    target = args.target if args.symbolic else guest_path(args.target)
    fields = {**path_fields(target, "target"), "symbolic": args.symbolic, "overwrite": args.force}
    return each_path([args.link], lambda path: _call(client, args, "Link", {**path_fields(path), **fields}))


def touch(client: VirtioRPCClient, args: Arguments) -> int:
    """Set times."""
    fields = {"no_create": args.no_create}
    return each_path(args.paths, lambda path: _call(client, args, "Touch", {**path_fields(path), **fields}))


def tail(client: VirtioRPCClient, args: Arguments) -> int:
    """Print the end of a file, and what is added to it."""
    fields: dict[str, Any] = {**path_fields(guest_path(args.path)), "lines": args.lines}
    end: int | None = None
    begun: float | None = None
    while True:
        try:
            reply = FileCalls(client.calls).start("Tail", fields, fields.get("wait", 0.0) + _ANSWER_TIME).result()
        except RPCError as error:
            gone = end is None and error.reason == "FILE_NOT_FOUND"
            now = time.monotonic()
            begun = now if begun is None else begun
            if not args.follow or gone or error.reason not in TRANSIENT | {"FILE_NOT_FOUND"} or now - begun > _PATIENCE:
                raise
            time.sleep(_BREATH)
            continue
        begun = None
        data = reply.data
        if data["restarted"]:
            complain("warning", f"{args.path} was cut or replaced: going on with what it is now")
        write_bytes(sys.stdout, bytes(reply.content))
        end = int(data["next_offset"])
        if not args.follow and end >= int(data["total_size"]):
            return exits.OK
        fields.update(offset=end, file_id=data["file_id"], wait=_WAIT if args.follow else 0.0)


def guest_path(text: str) -> str:
    """A path of the guest, which may be written as for cp, too."""
    return text[len(GUEST) :] if text.startswith(GUEST + "/") else text


def _call(client: VirtioRPCClient, args: Arguments, rpc: str, fields: Mapping[str, Any]) -> int:
    """Call, and tell what could not be done: the exit code."""
    data = FileCalls(client.calls).call(rpc, fields, args.timeout or LONG).data
    if args.raw:
        print_json({"code": 0, "message": "success", "timestamp": int(time.time()), "data": data})
    failures: Sequence[Mapping[str, Any]] = data.get("failures", ())
    for each in failures:
        complain("error", each["message"])
    return exits.REMOTE if failures else exits.OK


def each_path(paths: Sequence[str], act: Callable[[str], int]) -> int:
    """Do something with each path: the exit code of the first that failed, or of several."""
    codes: list[int] = []
    for path in map(guest_path, paths):
        try:
            codes.append(act(path))
        except RPCError as error:
            if len(paths) == 1 or error.reason in TRANSIENT:
                raise
            complain("error", error.message)
            codes.append(exits.of_error(error))
    wrong = {code for code in codes if code}
    return wrong.pop() if len(wrong) == 1 else exits.REMOTE if wrong else exits.OK
