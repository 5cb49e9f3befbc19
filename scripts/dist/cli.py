"""The command line of `python3 scripts/dist`."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Callable

from . import bundle, deb, tree, wheel
from .sources import PROJECT, DistError

BUILDERS: dict[str, Callable[[Path], list[Path]]] = {
    "wheel": wheel.build,  # and sdist
    "bundle": lambda target: [bundle.build(target)],
    "deb": deb.build,
}


def main() -> int:
    """Build what is asked for; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/dist", description="Build what is given to users.")
    parser.add_argument("what", nargs="*", metavar="ARTEFACT", help=f"{', '.join(BUILDERS)} (default: all)")
    parser.add_argument("--out", type=Path, default=PROJECT / "dist", metavar="DIR", help="default: dist")
    options = parser.parse_args()
    unknown = [name for name in options.what if name not in BUILDERS]
    if unknown:
        parser.error(f"no artefact {unknown[0]!r}; there are {', '.join(BUILDERS)}")
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        for name in options.what or BUILDERS:
            for path in BUILDERS[name](out):
                print(path)
    except DistError as error:
        print(f"dist: {error}", file=sys.stderr)
        return 1
    write_sums(out)
    return 0


def write_sums(out: Path) -> None:
    """Write SHA256SUMS of all artefacts in a directory, for sha256sum(1)."""
    paths = sorted(path for path in out.iterdir() if path.is_file() and path.name != tree.SUMS)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    (out / tree.SUMS).write_text("".join(lines))
