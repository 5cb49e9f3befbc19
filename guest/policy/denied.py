"""What callers may never touch, whatever the configuration allows."""

from __future__ import annotations

import glob
import os
import re
import stat
from typing import Iterable, Sequence

from guest.errors import error
from guest.os_errors import printable
from guest.policy.mounts import mount_table
from guest.policy.resolve import within
from vsrpc.errors import RpcError

OWN_FILES = "the daemon's own files"

_DENIED = (
    # Of this system, and of any other whose root directory lies here: a chroot, a container, a backup, a mounted disk.
    (r".*/etc/\.?g?shadow(?:[^\w/][^/]*)?", "password hashes"),
    (r".*/var/backups/g?shadow(?:[^\w/][^/]*)?", "password hashes"),
    (r".*/etc/security/opasswd(?:[^\w/][^/]*)?", "password hashes"),
    (r".*/etc/ssh/ssh_host_[^/]*_key", "SSH host keys"),
    (r"/etc/sudoers(?:[^\w/][^/]*)?", "who may become root"),
    # Private keys have any name; what is not secret has a few.
    (r".*/\.ssh/(?!(?:authorized_keys2?|known_hosts[^/]*|config|rc|environment|[^/]*\.pub)\Z)[^/]+", "SSH keys"),
    (r".*/\.gnupg/(?:private-keys[^/]*|secring[^/]*)", "private keys"),
    (r"/etc/(?:ssl|pki/[^/]+)/private", "private keys"),
    (r"/etc/letsencrypt/(?:accounts|keys|(?:archive|live)/[^/]+/privkey[^/]*)", "private keys"),
    (r"/etc/(?:[^/]+\.)?keytab", "Kerberos keys"),
    (r"/var/lib/(?:samba/private|sss/(?:db|secrets))", "password hashes"),
    (
        r"/etc/(?:NetworkManager/system-connections|wireguard|ppp/[^/]+-secrets|ipsec\.secrets|(?:ipsec\.d|swanctl)/private)",
        "passwords and keys of networks",
    ),
    (r"/(?:etc|run)/credstore[^/]*|/run/credentials|/var/lib/systemd/credential\.secret", "credentials of services"),
    (r"/etc/cryptsetup-keys\.d", "keys of disks"),
    (r"/opt/vsrpc", "the daemon's own files"),
    (r"/proc", "kernel and processes"),
    (r"/sys", "kernel and devices"),
    (r"/dev", "devices"),
    (r"/etc/vsrpc|.*/vsrpc-guest\.service(?:\.d)?|.*/udev/rules\.d/60-vsrpc\.rules", OWN_FILES),
)
"""Patterns of whole real paths, each with all below it, and what they protect."""

_WRITE_DENIED_RE = re.compile(
    r".*/(?:\.ssh(?:/.*)?"  # authorized_keys, rc, environment (sshd(8))
    r"|\.(?:profile|bash_(?:profile|login|logout)|bashrc|zshenv|zprofile|zshrc|zlogin|zlogout|kshrc|cshrc|tcshrc|login"
    r"|logout|inputrc|pam_environment|forward|rhosts|shosts)"
    r"|\.config/(?:systemd|autostart|environment\.d|fish)(?:/.*)?|\.local/share/systemd(?:/.*)?)\Z",
    re.DOTALL,
)
"""Files of users that say who may log in, or what runs when they do: their content may be read, not written."""

_LINK_DENIED_RE = re.compile(r".*/(?:\.config|\.local(?:/share)?)\Z", re.DOTALL)
"""Directories of users in which something is denied, which therefore may not be links."""

_DENIED_RE = tuple((re.compile(f"(?:{pattern})(?:/.*)?\\Z", re.DOTALL), why) for pattern, why in _DENIED)

# Most paths are on no list: one look tells.
_ANY_DENIED_RE = re.compile("(?:{})(?:/.*)?\\Z".format("|".join(pattern for pattern, _ in _DENIED)), re.DOTALL)

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


KEY = "security.allowed_paths"
"""The key that says what is allowed, where nothing here denies it."""


class DenyList:
    """What is never allowed: the built-in list, the daemon's `own` files, and what the configuration adds.

    Links in `denied` are followed each time, so that they protect what they lead to now.
    """

    def __init__(self, own: Iterable[str], denied: Iterable[str]) -> None:
        self._own = tuple({each for path in own for each in (os.path.abspath(path), os.path.realpath(path))})
        self._denied = tuple(denied)
        self._mounts = mount_table()

    def is_plain_below(self, real: str) -> bool:
        """Whether what is in a directory is denied only by its name, by the built-in list, and not by where it is."""
        inside = real if real.endswith("/") else real + "/"
        denied = (each for entry in self._denied for each in (os.path.abspath(entry), os.path.realpath(entry)))
        points = (mount.point for mount in self._mounts.mounts().by_number.values())
        return not any(path.startswith(inside) for paths in (self._own, denied, points) for path in paths)

    def judge(self, path: str, real: str, fd: int | None) -> Sequence[str]:
        """Raise PERMISSION_DENIED for what is on the list.

        `path` was asked for; `fd`, if something is there, is what was opened, and `real` where that is or would be.
        Returns all paths that lead to it.
        """
        mount = self._mounts.of(fd, real)
        if mount is None:
            raise always(path, real, "it is mounted outside the daemon's file system")
        if mount.type in _KERNEL_TYPES:
            raise always(path, real, "kernel and processes")
        spots = [real, *self._mounts.others(mount, real)]
        status = None if fd is None else os.fstat(fd)
        linked = status if status and stat.S_ISREG(status.st_mode) and status.st_nlink > 1 else None
        for spot in spots:
            why = why_path_denied(spot) or self._why_own(spot)
            if why:
                raise always(path, real, why)
        if linked and any(_is_same(secret, linked) for secret in (*_secrets(), *self._own)):
            raise always(path, real, "a hard link to a secret")
        for entry in self._denied:
            places = (os.path.abspath(entry), os.path.realpath(entry))
            if any(within(spot, place) for spot in spots for place in places) or (linked and _is_same(entry, linked)):
                rule = f"security.denied_paths: {entry}"
                raise refusal(path, real, f"refused always by {rule} in the guest's configuration", rule)
        return spots

    def _why_own(self, spot: str) -> str:
        # Most paths are none: one look tells.
        if spot.startswith(self._own) and any(_is_own(spot, own) for own in self._own):
            return OWN_FILES
        return ""


def is_path_denied(real: str, write: bool) -> bool:
    """Whether the built-in lists protect anything at a real path: faster, for very many paths."""
    return bool(_ANY_DENIED_RE.match(real) or (write and _WRITE_DENIED_RE.match(real)))


def why_link_denied(real: str) -> str:
    """What could be reached by another way if there was a symbolic link at a real path; empty where nothing could.

    What is below a link is judged by where it leads; so no link may stand where the lists protect what is below.
    """
    return "who may log in, and what runs then" if _LINK_DENIED_RE.match(real) else ""


def why_write_denied(real: str) -> str:
    """What the deny list for writing protects at a real path; empty when it is not on the list."""
    return "who may log in, and what runs then" if _WRITE_DENIED_RE.match(real) else ""


def why_path_denied(real: str) -> str:
    """What the built-in list protects at a real path; empty when it is not on the list."""
    if not _ANY_DENIED_RE.match(real):
        return ""
    return next(why for pattern, why in _DENIED_RE if pattern.match(real))


def always(path: str, real: str, why: str, what: str = "") -> RpcError:
    """The error for what no configuration can allow: `why`, for people, and `what` the rule protects, if not that."""
    return refusal(path, real, f"{why}: refused always, {KEY} cannot allow it", f"built-in deny list: {what or why}")


def refusal(path: str, real: str, why: str, rule: str) -> RpcError:
    """The error for a path that leads to a real one, and the rule that refuses it."""
    leads = "" if real == path else f"it leads to {printable(real)}; "
    message = f"Path not in allowed list: {printable(path)} ({leads}{why})"
    return error("PERMISSION_DENIED", message, path=printable(path), rule=printable(rule))


def _is_own(real: str, own: str) -> bool:
    """Also a copy beside a file, such as a rotated log or a backup of the configuration."""
    return within(real, own) or (real.startswith((own + ".", own + "~")) and not os.path.isdir(own))


def _is_same(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except OSError:
        return False


def _secrets() -> list[str]:
    return [*_SECRETS, *glob.glob("/etc/ssh/ssh_host_*_key")]
