"""The Pythons that the guest side runs on, as far as this machine has them."""

from __future__ import annotations

import functools
import glob
import os
import shutil
import subprocess
import sys
from typing import Iterator

PYTHONS = [(3, minor) for minor in range(8, 15)]
# Where interpreters live beside PATH: version managers and CI images.
PYTHON_HOMES = ("~/.*/versions/*/bin", "~/.local/share/uv/python/*/bin", "/opt/python/*/bin", "/opt/*/Python/*/*/bin")


@functools.lru_cache(maxsize=None)
def interpreter(version: tuple[int, int]) -> str | None:
    """A Python of that version that runs, this one first; None where there is none."""
    name = f"python{version[0]}.{version[1]}"
    for candidate in _candidates(name):
        command = [candidate, "-I", "-S", "-c", "import sys; print(*sys.version_info[:2])"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
        except (OSError, subprocess.SubprocessError):
            continue  # for example a version manager's shim for a version that is not active
        if found == [str(part) for part in version]:
            return candidate
    return None


def _candidates(name: str) -> Iterator[str]:
    yield sys.executable
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which(name, path=directory)
        if found:
            yield found
    for pattern in PYTHON_HOMES:
        yield from sorted(glob.glob(f"{os.path.expanduser(pattern)}/{name}"))
