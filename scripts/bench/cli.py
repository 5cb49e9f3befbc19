"""The command line of the benchmark: runs the sections, prints a table of each, writes all to a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Sequence

from scripts.bench import drift, during, environment, idle, inflight, jobs, latency, process, transfers, trees
from scripts.bench.bench import LARGE, MB, Bench
from scripts.bench.place import Place, local_place, vm_place
from scripts.bench.report import Table, missed
from scripts.vm import VMError
from scripts.vm.paths import PROJECT

SECTIONS: dict[str, Callable[[Bench], list[Table]]] = {
    "process": process.run,
    "latency": latency.run,
    "idle": idle.run,
    "transfers": transfers.run,
    "trees": trees.run,
    "jobs": jobs.run,
    # Last: many calls at a time leave the daemon with more memory than it needs, and that is not the transfers'.
    "during": during.run,
    "inflight": inflight.run,
    "drift": drift.run,
}
VM_NAME = "bench"
ROUNDS, QUICK_ROUNDS = 5, 3
# The host has a file to upload, what came back of it, and for local: what is the guest's.
FILES_AT_ONCE = 4


def main() -> int:
    """The result is the exit code; a goal that is missed is no failure of the benchmark."""
    try:
        _run(_parser().parse_args())
    except VMError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    names = _sections(options.only)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    output = options.json or PROJECT / "build" / ("bench-local.json" if options.local else "bench.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    started, tables = time.monotonic(), []
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vsrpc-bench-")))
        _check_space(work, 100 * MB if options.quick else LARGE)
        _let_python_cache(work)
        place: Place = stack.enter_context(local_place()) if options.local else stack.enter_context(vm_place(VM_NAME))
        bench = Bench(place, stack, work, rounds, options.quick)
        about = environment.describe(bench)
        print("\n".join(f"{name}: {text}" for name, text in about.items()), end="\n\n", flush=True)
        for name in names:
            tables += (found := SECTIONS[name](bench))
            print("\n\n".join(table.text() for table in found), end="\n\n", flush=True)
            # After each section: a run that is given up was not for nothing.
            report = {"environment": about, "tables": [table.as_json() for table in tables]}
            output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{time.monotonic() - started:.0f} s; goals missed: {missed(tables)}; all figures: {output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--local", action="store_true", help="over local:, with no VM and nobody to compare with")
    parser.add_argument("--quick", action="store_true", help=f"files up to 100 MB, {QUICK_ROUNDS} rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {ROUNDS}, and half of them for 1 GB")
    parser.add_argument("--only", default="", metavar="NAME,…", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: build/bench.json or build/bench-local.json")
    return parser


def _sections(only: str) -> Sequence[str]:
    names = [name for name in only.split(",") if name] or list(SECTIONS)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        sys.exit(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return names


def _check_space(work: Path, size: int) -> None:
    free = shutil.disk_usage(work).free
    if free < FILES_AT_ONCE * size:
        sys.exit(f"{work.parent} has {free // MB} MB free, {FILES_AT_ONCE * size // MB} are needed; set TMPDIR")


def _let_python_cache(work: Path) -> None:
    """Let the programs that are measured find their modules compiled, as installed ones do, and leave none here."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(work / "pycache")
