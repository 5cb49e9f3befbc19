"""The programs the host needs, and the Debian mirror it uses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .errors import HostIncompleteError

# program (or file) that must be there -> Debian package that brings it
RUN_NEEDS = {"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils"}
BUILD_NEEDS = {
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "unshare": "util-linux",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
USER_BUILD_NEEDS = {"newuidmap": "uidmap"}  # mmdebstrap works in a user namespace where we are not root
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not in a Debian user's PATH, yet mkfs.ext4 lives there


def environment() -> dict[str, str]:
    """The environment for the programs above."""
    return {**os.environ, "PATH": os.environ.get("PATH", "") + ":" + SBIN, "LC_ALL": "C.UTF-8"}


def require(needs: dict[str, str]) -> None:
    """Make sure that the programs are there; root gets them installed.

    Raises:
        HostIncompleteError: something is missing and cannot be installed from here.
    """
    packages = _missing(needs)
    if not packages:
        return
    names = " ".join(packages)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise HostIncompleteError(f"the VM needs packages of this host: {names}; run: sudo apt-get install {names}")
    print(f"Installing {names} ...", flush=True)
    env = {**environment(), "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    subprocess.run(["apt-get", "update", "-q"], env=env, capture_output=True, check=False)
    done = subprocess.run(install, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode or _missing(needs):
        raise HostIncompleteError(f"`{' '.join(install)}` failed:\n{done.stdout[-2000:]}")


def build_needs() -> dict[str, str]:
    """What building the image needs, for this user."""
    return BUILD_NEEDS if os.geteuid() == 0 else {**BUILD_NEEDS, **USER_BUILD_NEEDS}


def _missing(needs: dict[str, str]) -> list[str]:
    path = environment()["PATH"]
    return [
        package
        for need, package in needs.items()
        if not (Path(need).exists() if need.startswith("/") else shutil.which(need, path=path))
    ]


def mirrors() -> dict[str, str]:
    """Label of a Debian archive ("Debian", "Debian-Security") -> the URI that this machine's own apt uses for it."""
    found: dict[str, str] = {}
    lines = _apt("apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages")
    for line in lines:
        origin, label, uri = line.split("|", 2)
        if origin == "Debian":
            found[label] = uri.rstrip("/")
    return found


def apt_options() -> list[str]:
    """The settings of this machine's apt that decide whether a mirror can be reached and is believed."""
    wanted = ("Proxy", "Check-Valid-Until", "Check-Date")
    return [line for line in _apt("apt-config", "dump", "--format", '%F "%v";%n', "Acquire") if _names(line, wanted)]


def _names(line: str, wanted: tuple[str, ...]) -> bool:
    key, _, value = line.partition(" ")
    return any(word in key.split("::") for word in wanted) and value != '"";'


def _apt(*command: str) -> list[str]:
    if not shutil.which(command[0]):
        return []
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []
