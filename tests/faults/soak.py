"""make soak: many cycles of faults, at a simulated port or a VM's, with what came of them.

    python tests/faults/soak.py [--place sim|vm] [--cycles N] [--seed S] [--kinds NAME[=WEIGHT],NAME…]

Prints how often each fault was made, how the calls under way ended, how long the next client took from its connect to
its first answer, and what was wrong; exits non-zero if anything was.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for each in (ROOT, ROOT / "tests", ROOT / "tests" / "faults"):
    sys.path.insert(0, str(each))

from fault_cycles import KINDS, Report, Soak  # noqa: E402
from fault_places import Place, SimulatedPlace, Usage, VMPlace  # noqa: E402

# After these the next client works at once: those that were killed are ours.
KILLS = (
    "die_connecting",
    "die_in_sync",
    "die_in_head",
    "die_in_body",
    "die_in_download",
    "process_is_killed",
)
# After these too, but the guest is busy with what they asked for: commands run on, for their caller may come back.
KILLS_WITH_WORK_LEFT = ("die_waiting", "die_not_reading", "die_in_queue", "zombies_ask", "slow_client")

_SETTLE = 4.0  # seconds: an idle daemon gives back what it does not use

_WORKERS = 8  # threads that a daemon makes only when it needs them

# How often what happens: rare is what costs seconds each time.
WEIGHTS = {
    "nothing": 1.0,
    "die_connecting": 1.0,
    "die_in_sync": 1.0,
    "die_in_head": 1.0,
    "die_in_body": 1.0,
    "die_waiting": 1.0,
    "die_in_download": 2.0,
    "die_not_reading": 1.0,
    "die_in_queue": 1.0,
    "zombies_ask": 0.5,
    "slow_client": 0.5,
    "say_garbage": 1.0,
    "plain_client_dies_in_body": 1.0,
    "guest_is_paused": 0.3,
    "daemon_dies": 0.1,
    "daemon_restarts": 0.1,
    "port_is_replugged": 0.2,
    "process_is_killed": 0.1,
    "many_calls": 0.1,
    "another_version": 0.5,
    "clock_jumps": 0.1,
    "worse_port": 0.2,
}


@dataclass(frozen=True)
class Outcome:
    """What came of a soak: the report, and what the daemon used and the port took before and after."""

    report: Report
    usage: tuple[Usage, Usage]
    output: tuple[int, int]


def soak(place: Place, cycles: int, seed: int, kinds: dict[str, float], settle: float = 0.0) -> Outcome:
    """Run the cycles, and count what they cost; `settle`: seconds until it is looked what the daemon uses."""
    output = place.healed_output()
    with Soak(place, seed) as work:
        before = _usage(place, work, settle)
        work.run(cycles, kinds)
        work.verify()
        after = _usage(place, work, settle)
    outcome = Outcome(work.report, (before, after), (output, place.healed_output()))
    if outcome.output[1] < output:
        work.report.wrong.append(f"the port takes {outcome.output[1]} writes, and took {output} at first")
    if after.threads > before.threads + _WORKERS or after.descriptors > before.descriptors + _WORKERS:
        work.report.wrong.append(f"the daemon uses {after}, and used {before} before")
    return outcome


def _usage(place: Place, work: Soak, settle: float) -> Usage:
    """What the daemon uses after the same calls: what it allocates once, it has then."""
    work.run(5, {"many_calls": 1.0})
    time.sleep(settle)
    return place.usage()


def text(outcome: Outcome, seconds: float) -> str:
    """The outcome, for people."""
    report, (before, after) = outcome.report, outcome.usage
    lines = [f"{'fault':28}{'cycles':>8}{'recovery p50':>14}{'p99':>10}{'max':>10}  (ms)"]
    normal = sorted(1000 * each for each in report.recoveries.get("nothing", []))
    for kind, count in sorted(report.cycles.items()):
        times = sorted(1000 * each for each in report.recoveries.get(kind, []))
        figures = f"{statistics.median(times):14.1f}{_p99(times):10.1f}{times[-1]:10.1f}" if times else ""
        lines.append(f"{kind:28}{count:8}{figures}")
    everything = sorted(1000 * each for times in report.recoveries.values() for each in times)
    lines.append(
        f"{'all':28}{sum(report.cycles.values()):8}{statistics.median(everything):14.1f}{_p99(everything):10.1f}"
        f"{everything[-1]:10.1f}"
    )
    for what, kinds in (("", KILLS), (" and left the guest with work", KILLS_WITH_WORK_LEFT)):
        killed = sorted(1000 * each for kind in kinds for each in report.recoveries.get(kind, []))
        if normal and killed:
            times = f"p99 {_p99(killed):.1f} ms, {_p99(killed) / statistics.median(normal):.1f} times the normal p50"
            lines.append(f"after clients of ours that were killed{what}: {times}")
    lines.append(f"slowest: {report.slowest[1]}")
    lines.append("calls under way: " + ", ".join(f"{count} {name}" for name, count in sorted(report.calls.items())))
    lines.append(f"daemon: {before} before, {after} after ({100 * after.memory / before.memory - 100:+.1f} % memory)")
    lines.append("the port takes {} writes, {} after".format(*outcome.output))
    lines.append(f"{seconds:.0f} s; wrong: {len(report.wrong)}")
    return "\n".join([*lines, *(f"WRONG: {each}" for each in report.wrong)])


def _p99(times: list[float]) -> float:
    return times[min(len(times) - 1, int(len(times) * 0.99))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", choices=["sim", "vm"], default="sim")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument(
        "--kinds",
        type=_kinds,
        default=WEIGHTS,
        metavar="NAME[=WEIGHT],NAME…",
        help=f"only these, as often as WEIGHT says: {', '.join(KINDS)}",
    )
    options = parser.parse_args()
    print(f"{options.cycles} cycles at the {options.place}, seed {options.seed}", flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vsrpc-soak-") as directory:
        os.environ["VSRPC_LOCK_DIR"] = directory
        if options.place == "sim":
            with SimulatedPlace(Path(directory)) as place:
                outcome = soak(place, options.cycles, options.seed, options.kinds, _SETTLE)
        else:
            outcome = _at_vm(options.cycles, options.seed, options.kinds)
    print(text(outcome, time.monotonic() - begun))
    return 1 if outcome.report.wrong else 0


def _kinds(text: str) -> dict[str, float]:
    """The faults that are to happen, and their weights."""
    kinds = {}
    for each in text.split(","):
        name, _, weight = each.partition("=")
        if name not in KINDS:
            raise argparse.ArgumentTypeError(f"no such fault: {name}")
        try:
            kinds[name] = float(weight) if weight else WEIGHTS[name]
        except ValueError:
            raise argparse.ArgumentTypeError(f"the weight of {name} is no number: {weight!r}") from None
    return kinds


def _at_vm(cycles: int, seed: int, kinds: dict[str, float]) -> Outcome:
    from scripts.vm import VM

    vm = VM("soak")
    vm.start(wait_daemon=True)
    try:
        with VMPlace(vm) as place:
            return soak(place, cycles, seed, kinds, _SETTLE)
    finally:
        vm.stop()


if __name__ == "__main__":
    sys.exit(main())
