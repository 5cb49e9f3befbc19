"""Copies against a guest in memory: one that means harm, one that takes little in a call, one whose link breaks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Mapping

import pytest
from host_fakes import FakePending

from host.backend import Reply
from host.cli.progress import CopyProgress, bar
from host.copy import Done, Options, checked, copy
from host.copy import guest as copy_guest
from host.copy.places import place_of
from host.errors import RPCError, UsageError, failure


class FakeGuest:
    """Answers calls of the File service from what a test says."""

    def __init__(
        self, entries: list[dict[str, Any]] | None = None, content: Mapping[bytes, bytes] | None = None
    ) -> None:
        self.entries = entries or []
        self.content = dict(content or {})
        self.largest = 10**9
        self.faults: list[RPCError] = []
        self.batches: list[int] = []

    def start(self, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> FakePending:
        return FakePending(lambda: self.call(rpc, fields, timeout))

    def call(self, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        if self.faults and rpc in ("WriteFiles", "ReadFiles"):
            raise self.faults.pop()
        answer: Callable[[Mapping[str, Any]], Reply] = getattr(self, f"_{rpc}")
        return answer(fields)

    def _List(self, fields: Mapping[str, Any]) -> Reply:
        if fields.get("itself"):
            return Reply({"entries": [entry(b"", "directory")], "next": b""})
        return Reply({"entries": self.entries, "next": b""})

    def _WriteFiles(self, fields: Mapping[str, Any]) -> Reply:
        content = fields.get("content", b"")
        if len(content) > self.largest:
            raise failure("TOO_LARGE", "too much")
        at = 0
        for each in fields.get("files", ()):
            size = each.get("size", 0)
            if each.get("type", "file") == "file":
                self.content[each["name"]] = content[at : at + size]
            at += size
        self.batches.append(len(fields.get("files", ())))
        return Reply({"written": 0, "failures": []})

    def _ReadFiles(self, fields: Mapping[str, Any]) -> Reply:
        import hashlib

        files = [{"size": len(self.content[name])} for name in fields["names"]]
        content = b"".join(self.content[name] for name in fields["names"])
        return Reply({"files": files, "digest": hashlib.md5(content).hexdigest()}, content)

    def _FileSystems(self, fields: Mapping[str, Any]) -> Reply:
        return Reply({"filesystems": [{"available": 10**12}]})


def entry(name: bytes, kind: str = "file", size: int = 0, target: bytes = b"") -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "size": size,
        "mode": "0644",
        "owner": "root",
        "group": "root",
        "mtime": 0,
        "mtime_nanos": 0,
        "link_target": target,
        "link_id": "",
        "allocated": size,
        "links": 1,
    }


HOSTILE: dict[str, list[dict[str, Any]]] = {
    "up": [entry(b"../evil", size=4)],
    "absolute": [entry(b"/evil", size=4)],
    "up in the middle": [entry(b"d", "directory"), entry(b"d/../../evil", size=4)],
    "through a link": [entry(b"l", "symlink", target=b".."), entry(b"l/evil", size=4)],
    "directory through a link": [entry(b"l", "symlink", target=b".."), entry(b"l/evil", "directory")],
    "link up": [entry(b"../evil", "symlink", target=b"/etc/passwd")],
    "no name": [entry(b"d", "directory"), entry(b"d//", size=4)],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_guest_that_means_harm_writes_nothing_elsewhere(tmp_path: Path, case: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    content = {b"top/" + each["name"]: b"evil" for each in HOSTILE[case]}
    guest = FakeGuest(HOSTILE[case], content)
    report = copy(guest, ["guest:/top"], str(place), recursive=True)
    assert len(report.failures) == 1
    assert os.listdir(tmp_path) == ["place"]
    assert not any(path.name == "evil" for path in place.rglob("*"))
    with pytest.raises(RPCError) as caught:
        checked(report)
    assert caught.value.reason == "INCOMPLETE"


def test_a_guest_that_gives_other_files_than_asked_for(tmp_path: Path) -> None:
    guest = FakeGuest([entry(b"a", size=1)], {b"top/a": b"x"})
    real = guest._ReadFiles
    for change in (
        lambda data: {**data, "files": []},
        lambda data: {**data, "files": [{"size": 5}]},
        lambda data: {**data, "digest": "0" * 32},
    ):
        guest._ReadFiles = lambda fields, change=change: Reply(change(real(fields).data), b"x")  # type: ignore[method-assign]
        with pytest.raises(RPCError):
            copy(guest, ["guest:/top"], str(tmp_path), recursive=True)
        assert not (tmp_path / "top" / "a").exists()


def test_batches_become_smaller_where_the_guest_takes_no_more(tmp_path: Path) -> None:
    source = tmp_path / "t"
    source.mkdir()
    for number in range(8):
        (source / f"f{number}").write_bytes(bytes([number]) * 1000)
    guest = FakeGuest()
    guest.largest = 2000
    report = copy(guest, [str(source)], "guest:/d", recursive=True)
    assert (report.failures, report.files) == ([], 8)
    assert guest.content == {os.fsencode(f"t/f{number}"): bytes([number]) * 1000 for number in range(8)}
    assert max(guest.batches) <= 8


@pytest.mark.parametrize("reason", ["CONNECTION_LOST", "READ_TIMEOUT", "SERVICE_UNAVAILABLE"])
def test_a_link_that_breaks_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setattr(copy_guest, "_BREATH", 0)
    (tmp_path / "f").write_bytes(b"x")
    guest = FakeGuest()
    guest.faults = [failure(reason, "gone")] * 3
    assert copy(guest, [str(tmp_path / "f")], "guest:/d").failures == []
    assert guest.content == {b"f": b"x"}


def test_a_link_that_stays_broken_ends_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_guest, "_BREATH", 0)
    monkeypatch.setattr(copy_guest.GuestTree.__init__, "__defaults__", (0.0,))
    (tmp_path / "f").write_bytes(b"x")
    guest = FakeGuest()
    guest.faults = [failure("CONNECTION_LOST", "gone")] * 100
    with pytest.raises(RPCError) as caught:
        copy(guest, [str(tmp_path / "f"), str(tmp_path / "f2")], "guest:/d")
    assert caught.value.reason == "CONNECTION_LOST"


@pytest.mark.parametrize(
    ("text", "root", "name", "slash"),
    [
        ("guest:/a/b", "/a", "b", False),
        ("guest:/a/b/", "/a", "b", True),
        ("guest:/a", "/", "a", False),
        ("guest:/", "/", "", True),
        ("guest:/a/.", "/a", "", True),
        ("guest:/a/..", "/a/..", "", True),
        ("/x/y", "/x", "y", False),
    ],
)
def test_places(text: str, root: str, name: str, slash: bool) -> None:
    place = place_of(text)
    assert (place.guest, place.root, place.name, place.slash) == (text.startswith("guest:"), root, name, slash)


@pytest.mark.parametrize("text", ["", "guest:", "guest:a", "guest:./a"])
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        place_of(text)
    with pytest.raises(UsageError):
        copy(FakeGuest(), [text], "guest:/x", options=Options())


def test_what_a_bar_shows() -> None:
    assert bar(Done(0, 1, 0, 1000, ""), 0.0, None) == f"[{' ' * 24}]   0%  0 B/1.0 kB  0 B/s"
    assert bar(Done(5, 10, 500_000, 1_000_000, ""), 2.5e5, 62.0) == (
        f"[{'=' * 12}{' ' * 12}]  50%  500.0 kB/1.0 MB  250.0 kB/s  1:02 left  5/10 files"
    )
    assert bar(Done(3, 3, 0, 0, ""), 0.0, None).startswith(f"[{'=' * 24}] 100%  0 B/0 B")


def test_progress_is_told_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with CopyProgress("json", clock=lambda: now[0]) as progress:
        for number in range(1, 101):
            now[0] += 0.01
            progress(Done(0, 1, number, 100, "f\n"))
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4
    assert '"bytes": 100' in lines[-1]
    with CopyProgress(None) as progress:  # in a pipe
        progress(Done(0, 1, 1, 1, ""))
    assert capsys.readouterr().err == ""
