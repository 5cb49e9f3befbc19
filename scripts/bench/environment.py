"""What the figures were measured on: without it they say nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

import vsrpc
from scripts.bench.bench import Bench
from scripts.bench.place import VMPlace


def describe(bench: Bench) -> dict[str, str]:
    """By what it is about."""
    host = f"{os.cpu_count()} CPUs ({_cpu_model()}), Linux {platform.release()}, Python {platform.python_version()}"
    found = {
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "host": f"{host}, protobuf {metadata.version('protobuf')}, load {os.getloadavg()[0]:.1f}",
        "files of the host": _first_line(["stat", "-f", "-c", "%T", str(bench.work)]),
        "vsrpc": f"{vsrpc.__version__}, commit {_commit()}",
    }
    if isinstance(bench.place, VMPlace):
        vm = bench.place.vm
        found["VM"] = f"{vm.accel}, {_first_line(['qemu-system-x86_64', '--version'])}"
        found["guest"] = bench.place.describe()
    else:
        found["guest"] = "the embedded one of local:, on the host"
    found["amount"] = f"{bench.rounds} rounds, {bench.rounds_for(bench.sizes[-1])} of the largest files"
    return found


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _commit() -> str:
    changes = _first_line(["git", "status", "--porcelain", "--untracked-files=no"])
    return _first_line(["git", "rev-parse", "--short", "HEAD"]) + (" and changes" if changes else "")


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.partition("\n")[0].strip()
