"""Directories entered step by step, walks that are gone on with, and removal: none of them ever follows a link."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from vsrpc.filetree import MAX_DEPTH, Directory, Parents, parts_of, remove, walk


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Directory]:
    """A directory with all sorts of things, and beside it one that must never be touched."""
    place, outside = tmp_path / "place", tmp_path / "outside"
    for directory in (place / "a" / "b", place / "c", outside):
        directory.mkdir(parents=True)
    for name in ("a/b/f", "a/g", "a.txt", "c/h", "zz"):
        (place / name).write_bytes(b"x")
    (outside / "keep").write_bytes(b"x")
    os.symlink(outside, place / "link")
    os.symlink("nowhere", place / "c" / "dangling")
    os.mkfifo(place / "fifo")
    (Path(os.fsdecode(os.fsencode(place) + b"/\xff\n"))).write_bytes(b"x")
    with Directory(os.open(place, os.O_RDONLY | os.O_DIRECTORY)) as made:
        yield made


ALL = ["a", "a/b", "a/b/f", "a/g", "a.txt", "c", "c/dangling", "c/h", "fifo", "link", "zz", "\udcff\n"]


def names(root: Directory, **options: str) -> list[str]:
    return [seen.name for seen in walk(root, **options)]


def test_a_walk_is_sorted_and_follows_no_link(root: Directory) -> None:
    assert names(root) == ALL
    assert [seen.name for seen in walk(root, recursive=False)] == [name for name in ALL if "/" not in name]


@pytest.mark.parametrize("after", [*ALL, "a/b/e", "b", "c/a", "zzz"])
def test_a_walk_goes_on_behind_any_name(root: Directory, after: str) -> None:
    """Also one that is not there any more."""
    behind = [name for name in ALL if name.split("/") > after.split("/")]
    assert names(root, after=after) == behind


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(root: Directory) -> None:
    class Forbidding(Directory):
        def check(self, leaf: str, status: os.stat_result | None) -> None:
            if leaf in ("g", "c"):
                raise PermissionError(13, "no")

    with Forbidding(os.dup(root.fd)) as directory:
        told = {seen.name: seen.failure for seen in walk(directory)}
    assert {name for name, failure in told.items() if failure is not None} == {"a/g", "c"}
    assert not any(name.startswith("c/") for name in told)


@pytest.mark.parametrize("name", ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\0b", "x" * 256])
def test_names_that_lead_elsewhere_are_none(name: str) -> None:
    with pytest.raises(OSError):
        parts_of(name)
    with pytest.raises(OSError):
        parts_of("/".join(["d"] * (MAX_DEPTH + 1)))


def test_parents_are_entered_and_never_through_a_link(root: Directory) -> None:
    with Parents(root) as parents:
        for name in ("a/b/f", "a/g", "a/b/f", "c/h", "zz", "a/b/f"):
            directory, leaf = parents.of(name)
            assert os.stat(leaf, dir_fd=directory.fd).st_size == 1
        parents.of("zz")
        for name in ("/zz", "link/keep", "a/../link/keep", "zz/x", "missing/x"):
            with pytest.raises(OSError):
                parents.of(name)
        directory, leaf = parents.of("c/h")  # after failures, too
        assert os.stat(leaf, dir_fd=directory.fd).st_size == 1


def test_removal_leaves_what_links_lead_to(root: Directory, tmp_path: Path) -> None:
    failures: list[str] = []
    for name in os.listdir(root.fd):
        remove(root, name, True, lambda each, cause: failures.append(each), lambda: None)
    assert (os.listdir(root.fd), failures) == ([], [])
    assert os.listdir(tmp_path / "outside") == ["keep"]


def test_removal_goes_on_around_what_it_may_not_remove(root: Directory) -> None:
    class Keeping(Directory):
        def check(self, leaf: str, status: os.stat_result | None) -> None:
            if leaf == "f":
                raise PermissionError(13, "no")

    failures: list[str] = []
    with Keeping(os.dup(root.fd)) as directory:
        removed = remove(directory, "a", True, lambda each, cause: failures.append(each), lambda: None)
    assert (removed, failures) == (1, ["a/b/f"])  # nor that the directories above it are not empty
    assert names(root)[:4] == ["a", "a/b", "a/b/f", "a.txt"]
