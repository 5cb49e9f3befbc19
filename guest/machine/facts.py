"""What the guest is, read from the kernel and the distribution's files.

Plain values, no messages. What a minimal guest lacks is empty, never an error. Paths begin at `root`, so that tests
can show another machine.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

# What firmware says of hypervisors (SMBIOS vendor and product name), and systemd-detect-virt's word for each.
_FIRMWARE = (
    ("KVM", "kvm"),
    ("QEMU", "qemu"),
    ("VMware", "vmware"),
    ("VirtualBox", "oracle"),
    ("Xen", "xen"),
    ("Microsoft Corporation", "microsoft"),
    ("Amazon EC2", "amazon"),
    ("Google", "google"),
)

_DETECT_VIRT = ("/usr/bin/systemd-detect-virt", "/bin/systemd-detect-virt")


@dataclass(frozen=True)
class Memory:
    """Bytes of memory in all, and what can be used without swapping."""

    total: int
    available: int

    @property
    def percent(self) -> float:
        """Memory in use."""
        return 100.0 * (self.total - self.available) / self.total if self.total else 0.0


def os_version(root: Path = Path("/")) -> str:
    """The distribution's name for people: PRETTY_NAME of os-release(5)."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        match = re.search(r'^PRETTY_NAME=(["\']?)(.*)\1\s*$', _text(root / name), re.MULTILINE)
        if match:
            return re.sub(r"\\(.)", r"\1", match.group(2))
    return "Linux"


def memory(root: Path = Path("/")) -> Memory:
    """From /proc/meminfo; kernels before 3.14 do not say what is available, so it is estimated there."""
    fields = dict(re.findall(r"^(\w+):\s+(\d+)", _text(root / "proc/meminfo"), re.MULTILINE))
    kib = {name: int(value) for name, value in fields.items()}
    estimate = kib.get("MemFree", 0) + kib.get("Buffers", 0) + kib.get("Cached", 0)
    return Memory(kib.get("MemTotal", 0) * 1024, kib.get("MemAvailable", estimate) * 1024)


def boot_time(root: Path = Path("/")) -> int:
    """When the guest booted, in seconds since the Unix epoch; 0 if not known."""
    match = re.search(r"^btime (\d+)", _text(root / "proc/stat"), re.MULTILINE)
    return int(match.group(1)) if match else 0


def machine_id(root: Path = Path("/")) -> str:
    """Content of machine-id(5)."""
    return _text(root / "etc/machine-id").strip()


def process_count(root: Path = Path("/")) -> int:
    """Number of processes."""
    return sum(name.isdigit() for name in os.listdir(root / "proc"))


def virtualization(root: Path = Path("/"), programs: tuple[str, ...] = _DETECT_VIRT) -> str:
    """What systemd-detect-virt says ("none" on bare metal); without it, what the firmware says; empty if unknown."""
    for program in programs:
        try:
            done = subprocess.run(
                [program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        word = done.stdout.decode("ascii", "replace").strip()
        if word:
            return word
    firmware = " ".join(_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return next((word for mark, word in _FIRMWARE if mark in firmware), "")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
