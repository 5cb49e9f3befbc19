"""What callers may never touch, whatever the configuration allows."""

from __future__ import annotations

import os
import re
import stat

_DENIED = (
    (r"/etc/\.?g?shadow[^/]*", "password hashes"),
    (r"/var/backups/g?shadow[^/]*", "password hashes"),
    (r"/etc/security/opasswd[^/]*", "password hashes"),
    (r"/etc/sudoers[^/]*", "who may become root"),
    (r"/etc/ssh/ssh_host_[^/]*_key", "the guest's SSH host keys"),
    # Private keys have any name; what is not secret has a few.
    (r".*/\.ssh/(?!(?:authorized_keys2?|known_hosts[^/]*|config|rc|environment|[^/]*\.pub)\Z)[^/]+", "SSH keys"),
    (r".*/\.gnupg/(?:private-keys[^/]*|secring[^/]*)", "private keys"),
    (r"/proc", "kernel and processes"),
    (r"/sys", "kernel and devices"),
    (r"/dev", "devices"),
    (r"/etc/vsrpc", "the daemon's own files"),
    (r"/opt/vsrpc", "the daemon's own files"),
)
"""Patterns of whole real paths, each with all below it, and what they protect."""

_DENIED_RE = tuple((re.compile(f"(?:{pattern})(?:/.*)?\\Z", re.DOTALL), why) for pattern, why in _DENIED)

_SECRETS = ("/etc/shadow", "/etc/gshadow", "/etc/shadow-", "/etc/gshadow-", "/etc/sudoers", "/etc/security/opasswd")
"""Denied files that a hard link elsewhere could expose (where fs.protected_hardlinks is off)."""

_KERNEL_TYPES = frozenset(
    (
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "proc",
        "pstore",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    )
)
"""File systems that show the kernel's state, which may be mounted elsewhere, too: a chroot's /proc."""


def why_path_denied(real: str) -> str:
    """What the deny list protects at a real path; empty when it is not on the list."""
    return next((why for pattern, why in _DENIED_RE if pattern.match(real)), "")


def why_file_denied(status: os.stat_result) -> str:
    """What makes a file secret that is reached by an innocent path; empty when nothing does."""
    if _shows_kernel_state(status.st_dev):
        return "kernel and processes"
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and any(_is(path, status) for path in _SECRETS):
        return "a hard link to a secret"
    return ""


def _shows_kernel_state(device: int) -> bool:
    if os.major(device):  # a disk's
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            if number in line and line.split(" ", 3)[2] == number:  # proc(5)
                return line.partition(" - ")[2].partition(" ")[0] in _KERNEL_TYPES
    return False


def _is(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except OSError:
        return False
