"""Makes one directory what another one is: copies what differs and, if asked to, removes what is too much."""

from __future__ import annotations

import contextlib
import os
import posixpath
from typing import Any, Callable, Iterator, Mapping

from host.chunks import FIELDS, FileCalls, new_digest
from host.copy.download import Download
from host.copy.entry import DIRECTORY, FILE, SYMLINK, Entry, Report, rpc_error
from host.copy.guest import NO_SET_ID, GuestTree
from host.copy.local import LocalTree, is_temporary
from host.copy.mover import Item
from host.copy.options import Done, Meter, Options
from host.copy.places import place_of
from host.copy.plan import check_sides
from host.copy.upload import Upload
from host.errors import UsageError, failure
from host.names import name_of, path_fields, shown
from host.transfer_options import MD5, SHA256

_COMPARED_FILES, _COMPARED_BYTES = 200, 64 * 1024 * 1024  # in one call


def sync(
    files: FileCalls,
    source: str,
    target: str,
    *,
    delete: bool = False,
    dry_run: bool = False,
    compare_content: bool = False,
    options: Options | None = None,
    listener: Callable[[Done], None] | None = None,
) -> Report:
    """Make the target directory what the source directory is; one of them is written `guest:/path`.

    Files of the same size and time are taken for the same, or with `compare_content` those of the same content. Raises
    as `copy` does.
    """
    origin, dest = place_of(source), place_of(target)
    check_sides([origin], dest)
    guest = GuestTree(files)
    with contextlib.ExitStack() as stack:
        here, there = (dest.path, origin.path) if origin.guest else (origin.path, dest.path)
        if origin.guest:
            _check_directory(guest.entry(there, follow=True), source)
            is_new = not os.path.isdir(here)
        else:
            if not os.path.isdir(here):
                raise UsageError(f"{shown(source)} is no directory: to copy a file use cp")
            entry = guest.entry(there, follow=True)
            is_new = entry is None
            if entry is not None:
                _check_directory(entry, target)
        work = _Sync(guest, there, origin.guest, options or Options(), Meter(listener), delete, dry_run)
        if is_new and not dry_run:
            if origin.guest:
                os.mkdir(here)
            else:
                files.call("MakeDirectory", path_fields(there))
        local = None if is_new and origin.guest and dry_run else stack.enter_context(LocalTree(here))
        work.run(local, is_new, compare_content)
        return work.report


def _check_directory(entry: Entry | None, given: str) -> None:
    if entry is None:
        raise failure("FILE_NOT_FOUND", f"No such directory: {shown(given)}")
    if entry.kind != DIRECTORY:
        raise failure("WRONG_FILE_TYPE", f"{shown(given)} is no directory: to copy a file use cp")


class _Sync:
    def __init__(
        self, guest: GuestTree, root: str, down: bool, options: Options, meter: Meter, delete: bool, dry_run: bool
    ) -> None:
        self.report = Report()
        self._guest = guest
        self._root = root
        self._down = down
        self._options = options
        self._meter = meter
        self._delete = delete
        self._dry_run = dry_run

    def run(self, local: LocalTree | None, is_new: bool, compare_content: bool) -> None:
        here = _listed(local.entries("")) if local is not None else {}
        there = {} if is_new and not self._down else _listed(self._guest.entries(self._root))
        wanted, present = (there, here) if self._down else (here, there)
        whole = not any(entry.failure for entry in wanted.values())
        alike = {
            name for name, entry in wanted.items() if name in present and _alike(entry, present[name], compare_content)
        }
        if compare_content and local is not None:
            alike -= self._different(local, [name for name in sorted(alike) if wanted[name].kind == FILE])
        in_the_way = [name for name, entry in wanted.items() if name in present and _in_the_way(entry, present[name])]
        gone = tuple(name + "/" for name in in_the_way)
        extra = [name for name in present if name not in wanted and not name.startswith(gone)]
        items = [Item(entry, name) for name, entry in wanted.items() if name not in alike]
        changed = [
            Item(wanted[name], name)
            for name in sorted(alike)
            if wanted[name].kind != DIRECTORY and self._differs(wanted[name], present[name])
        ]
        self.report.unchanged = sum(wanted[name].kind != DIRECTORY for name in alike) - len(changed)
        deletes = _topmost(extra) if self._delete and whole else []
        if self._delete and not whole:
            self.report.skipped.append("nothing was deleted, since the source could not be read as a whole")
        first_names = {wanted[name].link_id: name for name in sorted(alike) if wanted[name].link_id}
        if self._dry_run:
            self._plan(items, changed, deletes, present)
            return
        assert local is not None
        if self._delete:
            self._remove(local, in_the_way)
        mover: Upload | Download
        if self._down:
            mover = Download(self._guest, self._root, local, self._options, self.report, self._meter)
        else:
            mover = Upload(local, self._guest, self._root, self._options, self.report, self._meter)
        self._remove(local, deletes)
        mover.run(items, first_names, self._touched(wanted, present, alike, items, deletes))
        mover.set_attributes(changed)

    def _touched(
        self,
        wanted: Mapping[str, Entry],
        present: Mapping[str, Entry],
        alike: set[str],
        items: list[Item],
        deletes: list[str],
    ) -> list[Item]:
        """Directories that are there, and get another time by what is made or removed in them, or have another one."""
        parents = {posixpath.dirname(name) for name in [*(item.dest for item in items), *deletes]}
        return [
            Item(wanted[name], name)
            for name in sorted(alike)
            if wanted[name].kind == DIRECTORY and (name in parents or self._differs(wanted[name], present[name]))
        ]

    def _plan(self, items: list[Item], changed: list[Item], deletes: list[str], present: Mapping[str, Entry]) -> None:
        lines = [f"delete {shown(name)}" for name in deletes]
        for item in items:
            what = {DIRECTORY: "mkdir", SYMLINK: "link", FILE: "copy"}.get(item.entry.kind)
            if what is None:
                what = "skip"
            if what == "mkdir" and item.dest in present and present[item.dest].kind == DIRECTORY:
                continue
            size = f" ({item.entry.size} bytes)" if what == "copy" else ""
            lines.append(f"{what} {shown(item.dest)}{size}")
        lines += [f"change {shown(item.dest)}" for item in changed]
        self.report.planned = lines

    def _remove(self, local: LocalTree, names: list[str]) -> None:
        if self._down:
            for name in names:
                self.report.deleted += local.remove(
                    name, lambda each, cause: self.report.failed(local.full(each), cause)
                )
            return
        for start in range(0, len(names), 500):
            removed, failures = self._guest.remove(self._root, names[start : start + 500])
            self.report.deleted += removed
            for each in failures:
                path = f"guest:{posixpath.join(self._root, name_of(each))}"
                self.report.failed(path, rpc_error(each["reason"], each["message"]))

    def _different(self, local: LocalTree, names: list[str]) -> set[str]:
        """Those of the files that do not have the same content on both sides."""
        checksum = SHA256 if self._options.checksum == SHA256 else MD5
        different: set[str] = set()
        for batch in _batches(local, names):
            theirs = self._guest.digests(self._root, batch, FIELDS[checksum].get("checksum", "CHECKSUM_MD5"))
            for name, each in zip(batch, theirs):
                if each.get("failure") is not None or list(each["digests"]) != [_digest(local, name, checksum)]:
                    different.add(name)
        return different

    def _differs(self, wanted: Entry, present: Entry) -> bool:
        """Whether what is kept of a source is another one here."""
        owner = self._options.preserve.owner and (wanted.owner, wanted.group) != (present.owner, present.group)
        taken = NO_SET_ID if wanted.kind == FILE and not self._down else 0o7777
        mode = wanted.kind != SYMLINK and wanted.mode & taken != present.mode
        return owner or mode or (wanted.kind != SYMLINK and not _same_time(wanted, present))


def _listed(entries: Iterator[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries if not is_temporary(entry.name)}


def _alike(wanted: Entry, present: Entry, compare_content: bool) -> bool:
    """Whether nothing needs to be copied; for files to be compared, whether they may have the same content."""
    if wanted.kind != present.kind or wanted.failure is not None:
        return False
    if wanted.kind == FILE:
        return wanted.size == present.size and (compare_content or _same_time(wanted, present))
    return wanted.kind == DIRECTORY or (wanted.kind == SYMLINK and wanted.target == present.target)


def _same_time(one: Entry, other: Entry) -> bool:
    """Some file systems keep whole seconds."""
    if one.mtime_ns % 10**9 and other.mtime_ns % 10**9:
        return one.mtime_ns == other.mtime_ns
    return one.mtime_ns // 10**9 == other.mtime_ns // 10**9


def _in_the_way(wanted: Entry, present: Entry) -> bool:
    """Whether what is there must go first: files and links replace each other, directories and others do not."""
    replaceable = (FILE, SYMLINK)
    if wanted.kind == present.kind or wanted.kind not in (*replaceable, DIRECTORY):
        return False
    return not (wanted.kind in replaceable and present.kind in replaceable)


def _topmost(names: list[str]) -> list[str]:
    """Those that are not below another one of them."""
    kept: list[str] = []
    for name in sorted(names, key=lambda name: name.split("/")):
        if not kept or not name.startswith(kept[-1] + "/"):
            kept.append(name)
    return kept


def _batches(local: LocalTree, names: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name in names:
        try:
            more = local.entry(name).size
        except OSError:
            continue
        if batch and (size + more > _COMPARED_BYTES or len(batch) == _COMPARED_FILES):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += more
    if batch:
        yield batch


def _digest(local: LocalTree, name: str, checksum: str) -> str:
    digest: Any = new_digest(checksum)
    try:
        fd = local.open(name)
    except OSError:
        return ""
    with open(fd, "rb", buffering=0) as file:
        while True:
            block = file.read(1024 * 1024)
            if not block:
                return str(digest.hexdigest())
            digest.update(block)
