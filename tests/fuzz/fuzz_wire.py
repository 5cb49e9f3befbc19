"""Coverage-guided fuzzing of the wire core: `make fuzz`, and `make fuzz REPLAY=FILE` for a finding.

A run is two processes. The inner one is atheris: libFuzzer takes it over and ends it as it likes. The outer one tells
it what to do, shows how it goes, and reports. The corpus in build/fuzz grows from run to run.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "wire")]

BUILD = ROOT / "build" / "fuzz"
CORPUS, SEED_FILES, FINDINGS, LOG = (BUILD / name for name in ("corpus", "seeds", "findings", "log.txt"))

# In bytes: some messages of the small limits, or one that passes them.
MAX_INPUT = 2048
# In seconds: a thousand times what an input takes.
SLOW = 5
MEMORY_MIB = 1024

HEADER_SIZE = 4  # of a case's bytes
STATUS = re.compile(r"#(\d+)\s+(?:INITED|NEW|REDUCE|pulse|RELOAD|DONE)\s+cov: (\d+) ft: (\d+) corp: (\d+)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--replay", type=Path, metavar="FILE")
    parser.add_argument("--inner", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner is not None:
        fuzz(arguments.inner)
    if arguments.replay:
        return replay(arguments.replay)
    return run(arguments.seconds)


def fuzz(options: list[str]) -> None:
    """The inner process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["vsrpc.wire"], enable_loader_override=False):
        import vsrpc.wire  # noqa: F401  # before the harness, which is not to be instrumented
    from wire_inputs import mutated
    from wire_invariant import Case, check

    def test_one_input(raw: bytes) -> None:
        check(Case.from_bytes(raw))

    def mutate(raw: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.3:
            return bytes(atheris.Mutate(raw, max_size))
        header, data = raw[:HEADER_SIZE].ljust(HEADER_SIZE, b"\0"), raw[HEADER_SIZE:]
        return (header + mutated(data, random))[:max_size]

    atheris.Setup([sys.argv[0], *options], test_one_input, custom_mutator=mutate)
    atheris.Fuzz()


def run(seconds: int) -> int:
    """Fuzz for so long; 1 if something was found."""
    from wire_inputs import SEEDS

    for directory in (CORPUS, SEED_FILES, FINDINGS):
        directory.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(SEEDS):
        (SEED_FILES / f"{number:03}").write_bytes(bytes(case))
    known = set(FINDINGS.iterdir())
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT}",
        f"-timeout={SLOW}",
        f"-report_slow_units={SLOW}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-artifact_prefix={FINDINGS}/",
        "-print_final_stats=1",
        str(CORPUS),
        str(SEED_FILES),
    ]
    print(f"fuzzing vsrpc.wire for {seconds} s from {len(SEEDS)} seeds; log: {LOG.relative_to(ROOT)}", flush=True)
    started = time.monotonic()
    progress: tuple[int, ...] = (0, 0, 0, 0)
    with LOG.open("w") as log, subprocess.Popen(
        [sys.executable, __file__, "--inner", *options], stderr=subprocess.PIPE, text=True, errors="replace"
    ) as inner:
        assert inner.stderr is not None
        shown = started
        for line in inner.stderr:
            log.write(line)
            status = STATUS.match(line)
            if status:
                progress = tuple(map(int, status.groups()))
                if time.monotonic() - shown >= 10:
                    shown = time.monotonic()
                    print(f"  {shown - started:4.0f} s: {progress[0]} executions, coverage {progress[1]}", flush=True)
    return report(progress, time.monotonic() - started, sorted(set(FINDINGS.iterdir()) - known), inner.returncode)


def report(progress: tuple[int, ...], seconds: float, findings: list[Path], status: int) -> int:
    final = re.findall(r"stat::(\w+):\s+(\d+)", LOG.read_text())
    executions = int(dict(final).get("number_of_executed_units", progress[0]))
    print(f"executions    {executions}, {executions / seconds:.0f}/s")
    if any(progress):
        print(f"coverage      {progress[1]} branches of vsrpc.wire, {progress[2]} features, by {progress[3]} inputs")
    print(f"findings      {len(findings)}")
    for finding in findings:
        name = finding.relative_to(ROOT)
        print(f"  {name}\n    replay with: make fuzz REPLAY={name}")
    if findings:
        return 1
    if status:
        print("The fuzzer itself failed:", *LOG.read_text().splitlines()[-20:], sep="\n  ")
        return 1
    return 0


def replay(file: Path) -> int:
    """Show the input and check it; 1, with the traceback, if it is a finding still."""
    from wire_invariant import Case, check

    case = Case.from_bytes(file.read_bytes())
    print(f"{case.role.__name__}{', which asked for a sync' if case.synced else ''}; {case.limits}")
    print(f"in pieces of {case.sizes}, {len(case.data)} bytes:\n{case.data!r}", flush=True)
    check(case)
    print("It holds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
