"""The commands that look at files of the guest: ls, stat, df, checksum."""

from __future__ import annotations

import argparse
import os
import stat as modes
import time
from typing import Any, Iterable, Mapping, Sequence

from host.calls import FileCalls
from host.cli import exits
from host.cli.files import each_path
from host.cli.output import columns, complain, print_json, print_line
from host.client import VirtioRPCClient
from host.copy.entry import Entry
from host.copy.guest import LONG, GuestTree
from host.errors import failure
from host.names import name_of, path_fields, shown

Arguments = argparse.Namespace

_BITS = {
    "directory": modes.S_IFDIR,
    "symlink": modes.S_IFLNK,
    "fifo": modes.S_IFIFO,
    "socket": modes.S_IFSOCK,
    "character device": modes.S_IFCHR,
    "block device": modes.S_IFBLK,
}


def ls(client: VirtioRPCClient, args: Arguments) -> int:
    """List directories."""
    guest = GuestTree(FileCalls(client.calls))
    listed: list[dict[str, Any]] = []
    several = len(args.paths) > 1

    def list_one(path: str) -> int:
        entries = list(_entries(guest, path, args))
        if args.print_json or args.raw:
            listed.extend({"directory": _text(path), **_as_dict(entry)} for entry in entries)
            return exits.OK
        if several:
            print_line(f"{path}:")
        rows = [_long(entry) if args.long else (entry.name,) for entry in entries]
        for line in columns(rows, right=(1, 4)) if args.long else (row[0] for row in rows):
            print_line(line)
        unread = [entry for entry in entries if entry.failure and entry.kind]
        for entry in unread:
            complain("error", (entry.failure or ("", ""))[1])
        return exits.REMOTE if unread else exits.OK

    code = each_path(args.paths, list_one)
    _print_found(args, "entries", listed)
    return code


def _entries(guest: GuestTree, path: str, args: Arguments) -> Iterable[Entry]:
    if args.itself:
        entry = guest.entry(path)
        if entry is None:
            raise failure("FILE_NOT_FOUND", f"No such file or directory: {shown(path)}")
        return [entry._replace(name=path)]
    found = guest.entries(path, recursive=args.recursive)
    return (entry if entry.name else entry._replace(name=path) for entry in found)


def _long(entry: Entry) -> tuple[str, ...]:
    link = f" -> {entry.target}" if entry.kind == "symlink" else ""
    name = entry.name + link
    if not entry.kind:
        return ("?" * 10, "?", "?", "?", "?", "?", name)
    mode = modes.filemode(entry.mode | _BITS.get(entry.kind, modes.S_IFREG))
    changed = time.strftime("%F %T", time.localtime(entry.mtime_ns // 10**9))
    return (mode, str(entry.links), entry.owner, entry.group, str(entry.size), changed, name)


def _as_dict(entry: Entry) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": _text(entry.name)}
    if _text(entry.name).encode() != os.fsencode(entry.name):
        import base64

        fields["name_base64"] = base64.b64encode(os.fsencode(entry.name)).decode()
    fields.update(
        type=entry.kind,
        size=entry.size,
        mode=f"{entry.mode:04o}",
        owner=entry.owner,
        group=entry.group,
        mtime=entry.mtime_ns / 10**9,
        links=entry.links,
        allocated=entry.allocated,
    )
    if entry.kind == "symlink":
        fields["link_target"] = _text(entry.target)
    if entry.failure:
        fields["failure"] = dict(zip(("reason", "message"), entry.failure))
    return fields


def stat(client: VirtioRPCClient, args: Arguments) -> int:
    """Describe files."""
    told: list[Mapping[str, Any]] = []

    def describe(path: str) -> int:
        data = client.get_file_info(path)["data"]
        if not data["exists"]:
            raise failure("FILE_NOT_FOUND", f"No such file or directory: {shown(path)}")
        told.append(data)
        if not (args.print_json or args.raw):
            for line in _described(path, data):
                print_line(line)
        return exits.OK

    code = each_path(args.paths, describe)
    _print_found(args, "files", told)
    return code


def _described(path: str, data: Mapping[str, Any]) -> Iterable[str]:
    link = f" -> {shown(name_of(data, 'link_target'))}" if data["type"] == "symlink" else ""
    kind = {"directory": modes.S_IFDIR, "symlink": modes.S_IFLNK, "file": modes.S_IFREG}.get(data["type"], 0)
    mode = int(data["mode"], 8)
    yield f"    Path: {path}{link}"
    yield f"    Type: {data['type']}, {data['size']} bytes, {data['allocated']} allocated"
    yield f"    Mode: {data['mode']} ({modes.filemode(mode | kind)})"
    yield f"   Owner: {data['owner']} ({data['uid']}), group {data['group']} ({data['gid']})"
    yield f"   Inode: {data['inode']} on device {data['device']}, {data['links']} links"
    for label, field in (("Modified", "mtime"), ("Accessed", "atime"), (" Changed", "ctime")):
        yield f"{label}: {time.strftime('%F %T %z', time.localtime(int(data[field])))}"
    if data["md5"]:
        yield f"     MD5: {data['md5']}"


def df(client: VirtioRPCClient, args: Arguments) -> int:
    """Space on file systems."""
    found: list[Mapping[str, Any]] = []

    def ask(path: str) -> int:
        found.extend(FileCalls(client.calls).call("FileSystems", path_fields(path) if path else {}).data["filesystems"])
        return exits.OK

    code = each_path(args.paths or [""], ask)
    if not _print_found(args, "filesystems", found):
        rows = [("FILESYSTEM", "TYPE", "SIZE", "USED", "AVAIL", "USE%", "MOUNTED ON"), *map(_usage, found)]
        for line in columns(rows, right=(2, 3, 4, 5)):
            print_line(line)
    return code


def _usage(each: Mapping[str, Any]) -> tuple[str, ...]:
    from host.cli.progress import size

    used, available = int(each["used"]), int(each["available"])
    percent = f"{-(-100 * used // (used + available))}%" if used + available else "-"
    numbers = [size(int(each["total"])), size(used), size(available), percent]
    return (each["device"], each["fstype"], *numbers, each["mountpoint"])


def checksum(client: VirtioRPCClient, args: Arguments) -> int:
    """Digests of files."""
    name = {"md5": "CHECKSUM_MD5", "sha256": "CHECKSUM_SHA256"}[args.algorithm]
    found: list[dict[str, Any]] = []

    def digest(path: str) -> int:
        fields = {**path_fields(path), "checksum": name}
        each = FileCalls(client.calls).call("Checksum", fields, args.timeout or LONG).data["files"][0]
        if args.print_json or args.raw:
            found.append({"path": _text(path), "size": int(each["size"]), args.algorithm: each["digests"][0]})
        else:
            print_line(f"{each['digests'][0]}  {path}")
        return exits.OK

    code = each_path(args.paths, digest)
    _print_found(args, "files", found)
    return code


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def _print_found(args: Arguments, what: str, found: Sequence[Mapping[str, Any]]) -> bool:
    """Print what was found as JSON where that is asked for, and tell whether it is."""
    if args.print_json:
        print_json(found)
    elif args.raw:
        print_json({"code": 0, "message": "success", "timestamp": int(time.time()), "data": {what: found}})
    else:
        return False
    return True
