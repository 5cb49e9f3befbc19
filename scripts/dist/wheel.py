"""Wheel and sdist. The wheel is built from the unpacked sdist, so that this holds all that it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from .sources import PROJECT, DistError, epoch
from .tree import Tree, tar_gz

# What the sdist is made of, and what lies there without being part of it. A clean copy is built, since setuptools
# takes names from what earlier builds left in the tree.
PARTS = (
    *("vsrpc", "guest", "host", "proto", "scripts", "tests", "docs", "examples"),
    *("Makefile", "pyproject.toml", "MANIFEST.in", "requirements-dev.txt", "requirements-fuzz.txt"),
    *("requirements-guest.txt", "README.md", "PROTOCOL.md", "CHANGELOG.md", "LICENSE"),
)
NOT_OURS = shutil.ignore_patterns("__pycache__", "*.egg-info", "node_modules", ".*_cache", ".hypothesis")


def build(target: Path) -> list[Path]:
    """Write both into a directory; their paths."""
    with tempfile.TemporaryDirectory(prefix="vsrpc-wheel-") as directory:
        copy, out = Path(directory) / "source", Path(directory) / "out"
        copy.mkdir()
        for part in PARTS:
            if (PROJECT / part).is_dir():
                shutil.copytree(PROJECT / part, copy / part, ignore=NOT_OURS)
            else:
                shutil.copy(PROJECT / part, copy)
        command = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={out}", str(copy)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise DistError(f"building the wheel failed:\n{done.stdout[-2000:]}")
        (wheel,) = out.glob("*.whl")
        (sdist,) = out.glob("*.tar.gz")
        _write_again(sdist, target / sdist.name)
        shutil.copyfile(wheel, target / wheel.name)
        return [target / wheel.name, target / sdist.name]


def _write_again(sdist: Path, target: Path) -> None:
    """The same sdist without the time of its making in it."""
    tree: Tree = {}
    top = sdist.name[: -len(".tar.gz")]
    with tarfile.open(sdist) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                tree[member.name[len(top) + 1 :]] = (content.read(), bool(member.mode & 0o100))
    tar_gz(tree, top, target)
