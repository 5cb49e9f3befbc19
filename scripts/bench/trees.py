"""Section `trees`: many small files, up and down, beside tar over the raw port."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Callable

from host.client import VirtioRPCClient
from scripts.bench.bench import Bench
from scripts.bench.report import Row, Table
from scripts.bench.rounds import Sample, column, interleave

FILES, QUICK_FILES = 10_000, 2_000
DIRECTORIES = 100
FILE_SIZE = 1000
SHARE = 0.3  # of what tar over the raw port moves
COPY, TAR = "vsrpc copy", "tar, raw port"


def run(bench: Bench) -> list[Table]:
    """One table."""
    files = QUICK_FILES if bench.quick else FILES
    source = bench.work / "tree"
    for number in range(files):
        directory = source / f"d{number % DIRECTORIES}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file{number}").write_bytes(os.urandom(FILE_SIZE))
    rows = []
    with VirtioRPCClient(bench.place.target) as client:
        for direction, movers in (("upload", _uploads(bench, client, source)), ("download", _downloads(bench, client))):
            turns = [(name, partial(_measure, bench, move, files)) for name, move in movers]
            found = interleave(f"{direction} tree", turns, bench.rounds, warm_up=True)
            some = {
                name: Row(f"{direction} {files} files", name, "files/s", column(of, "rate"))
                for name, of in found.items()
            }
            if TAR in some:
                some[COPY].compare(some[TAR], bench.goal(">=", SHARE))
            rows += some.values()
    bench.place.settle()
    _empty(bench, "tree")
    shutil.rmtree(source)
    notes = [f"{FILE_SIZE} bytes each, in {DIRECTORIES} directories; vsrpc has them on disk at its end, tar does not"]
    return [Table("trees", rows, notes)]


Movers = list[tuple[str, Callable[[], None]]]


def _uploads(bench: Bench, client: VirtioRPCClient, source: Path) -> Movers:
    def copy() -> None:
        client.copy(str(source), f"guest:{bench.path('tree-copy')}/copy", recursive=True)

    movers: Movers = [(COPY, copy)]
    if bench.peers is not None:
        raw = bench.peers.raw
        movers.insert(0, (TAR, lambda: raw.upload_tree(source, bench.path("tree-copy"))))
    return movers


def _downloads(bench: Bench, client: VirtioRPCClient) -> Movers:
    _empty(bench, "tree")
    client.copy(str(bench.work / "tree"), f"guest:{bench.path('tree')}/tree", recursive=True)
    target = bench.work / "back"

    def into(move: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            move()

        return run

    path = f"{bench.path('tree')}/tree"
    movers: Movers = [(COPY, into(lambda: client.copy(f"guest:{path}/.", str(target), recursive=True)))]
    if bench.peers is not None:
        raw = bench.peers.raw
        movers.insert(0, (TAR, into(lambda: raw.download_tree(path, target))))
    return movers


def _measure(bench: Bench, move: Callable[[], None], files: int) -> Sample:
    _empty(bench, "tree-copy")
    bench.place.settle()
    started = time.perf_counter()
    move()
    return {"rate": files / (time.perf_counter() - started)}


def _empty(bench: Bench, name: str) -> None:
    """Let there be an empty directory of that name in the guest."""
    with VirtioRPCClient(bench.place.target) as client:
        if client.get_file_info(bench.path(name))["data"]["exists"]:
            client.call("File", "Remove", {"path": bench.path(name), "recursive": True})
        client.call("File", "MakeDirectory", {"path": bench.path(name)})
