"""KVM or software emulation: decided by booting a kernel, because a /dev/kvm that opens may still hang every guest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from . import paths

# A kernel without a root file system panics, and QEMU exits: under a second with KVM that works.
PROBE_SECONDS = 10.0
PROBE_ARGS = "console=ttyS0 panic=-1"
PROBE_END = b"Kernel panic"

OPTIONS = {
    "kvm": ["-accel", "kvm", "-cpu", "host"],
    # Emulating few features boots fastest ("max" takes a quarter longer); rdrand spares the wait for entropy.
    "tcg": ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64,-svm,+rdrand"],
}


def detect(kernel: Path) -> str:
    """ "kvm" where it really works, else "tcg". Tried once per boot of the host."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    verdict = paths.cache_dir() / f"accel-{boot_id}"
    if not verdict.exists():
        works = _boots(kernel)
        for old in verdict.parent.glob("accel-*"):
            old.unlink()
        verdict.write_text("kvm" if works else "tcg")
    return verdict.read_text()


def _boots(kernel: Path) -> bool:
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256"]
    command += [*OPTIONS["kvm"], "-serial", "stdio", "-kernel", str(kernel), "-append", PROBE_ARGS]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return PROBE_END in done.stdout
