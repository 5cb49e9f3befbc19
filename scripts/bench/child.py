"""A program from its start to its finish: how long it took, its CPU time, its peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from scripts.vm.paths import PROJECT

_LAUNCHER = str(Path(__file__).with_name("launch.py"))
VSRPC_HOST = [sys.executable, "-m", "host"]


@dataclass(frozen=True)
class Child:
    """What a program used: seconds, CPU seconds, bytes."""

    seconds: float
    cpu: float
    peak: int


def run(argv: Sequence[str]) -> Child:
    """Run it in the project's directory, and wait. Raises RuntimeError if it fails."""
    # -I, -S: the launcher starts soonest, and with little memory, when it imports nothing that it does not need.
    command = [sys.executable, "-I", "-S", _LAUNCHER, *argv]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed with code {done.returncode}: {done.stderr.strip()}")
    return Child(**json.loads(done.stdout))
