"""The files that the artefacts are made of, their version and their time."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
INSTALLER = PROJECT / "scripts" / "install-guest.sh"
OLDEST = 315532800  # 1980, where the time of zip files, such as wheels, begins


class DistError(Exception):
    """An artefact cannot be built; the text says why and what helps."""


def version() -> str:
    """The project's version, as the code says it."""
    text = (PROJECT / "vsrpc" / "_version.py").read_text(encoding="utf-8")
    match = re.search(r'__version__ = "([^"]+)"', text)
    if match is None:
        raise DistError("vsrpc/_version.py names no version")
    return match.group(1)


def epoch() -> int:
    """Seconds since the Unix epoch that files in artefacts bear: SOURCE_DATE_EPOCH, else the last commit's time."""
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    if said:
        if not said.isdigit():
            raise DistError(f"SOURCE_DATE_EPOCH is {said!r}; give seconds since 1970, or leave it out")
        return max(OLDEST, int(said))
    command = ["git", "-C", str(PROJECT), "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return OLDEST
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip() else OLDEST


def package_files(*packages: str) -> list[Path]:
    """Files of top-level packages, sorted, relative to the project."""
    found = [path for package in packages for path in (PROJECT / package).rglob("*") if path.is_file()]
    return sorted(path.relative_to(PROJECT) for path in found if "__pycache__" not in path.parts)


def guest_files() -> list[Path]:
    """What a guest needs of the packages: all but the code generator."""
    return [path for path in package_files("vsrpc", "guest") if path.parts[:2] != ("vsrpc", "codegen")]
