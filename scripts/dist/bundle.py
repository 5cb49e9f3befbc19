"""The guest bundle: an archive that installs the daemon on any Linux with Python 3.8, without a package of its own.

One for all architectures, since nothing in it is compiled: protobuf's wheel for any machine, and of PyYAML's wheel what
is Python. Both are downloaded by pip as requirements-guest.txt pins them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from . import tree
from .sources import INSTALLER, PROJECT, DistError, guest_files, version

REQUIREMENTS = PROJECT / "requirements-guest.txt"
# Any machine's wheel would do for what is not compiled; the hashes say which it is.
WHEELS = (
    *("--python-version=3.8", "--implementation=cp", "--platform=manylinux2014_x86_64"),
    *("--only-binary=:all:", "--no-deps", "--require-hashes"),
)


def vendor() -> Path:
    """The directory with the guest's packages, downloaded if it is not there or the requirements changed."""
    key = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    target = PROJECT / "build" / f"vendor-{key}"
    if target.is_dir():
        return target
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        stage = Path(directory) / "vendor"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        command = [*pip, *WHEELS, f"--target={stage}", f"--requirement={REQUIREMENTS}"]
        if subprocess.run(command, check=False).returncode:
            raise DistError(f"pip could not download what {REQUIREMENTS.name} names; its message is above")
        try:
            stage.rename(target)
        except OSError:  # another build was faster
            if not target.is_dir():
                raise
    return target


def files() -> tree.Tree:
    """All that is in the bundle's directory."""
    found: tree.Tree = {}
    tree.add(found, "install.sh", INSTALLER, program=True)
    tree.add(found, "LICENSE", PROJECT / "LICENSE")
    for path in guest_files():
        tree.add(found, str(path), PROJECT / path)
    packages = vendor()
    for source in packages.rglob("*"):
        path = source.relative_to(packages)
        licence = path.parts[0].endswith(".dist-info") and path.name.startswith("LICENSE")
        if licence or (source.suffix == ".py" and path.parts[0] != "_yaml"):
            tree.add(found, f"vendor/{path}", source)
    found[tree.SUMS] = (tree.sums(found), False)
    return found


def build(target: Path) -> Path:
    """Write the bundle into a directory; its path."""
    name = f"vsrpc-guest-{version()}"
    path = target / f"{name}.tar.gz"
    tree.tar_gz(files(), name, path)
    return path
