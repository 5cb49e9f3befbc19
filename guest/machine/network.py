"""Network interfaces and the users who are logged in: what needs psutil.

It is imported at the first use only, since that takes longer than all of the daemon's start. A guest that lacks it is
still served, without these two.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interface:
    """A network interface; `mac` is empty where there is none, addresses have their prefix length."""

    name: str
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Login:
    """A user's session; `host` is empty for a local one, `started` in seconds since the Unix epoch."""

    name: str
    terminal: str
    host: str
    started: int


def interfaces() -> list[Interface]:
    """All interfaces, by name."""
    try:
        import psutil
    except ImportError:
        return []
    found = psutil.net_if_addrs()
    return [_interface(name, found[name]) for name in sorted(found)]


def logins() -> list[Login]:
    """The sessions in the guest's utmp; none where it keeps no utmp."""
    try:
        import psutil
    except ImportError:
        return []
    return [Login(each.name, each.terminal or "", each.host or "", int(each.started)) for each in psutil.users()]


def _interface(name: str, entries: list[Any]) -> Interface:
    mac = ""
    addresses = []
    for entry in entries:
        if entry.family == socket.AF_PACKET:
            mac = "" if set(entry.address) <= set("0:") else entry.address
        elif entry.family in (socket.AF_INET, socket.AF_INET6):
            address = entry.address.partition("%")[0]  # without the scope of a link-local address
            addresses.append(address + _prefix(entry.family, entry.netmask))
    return Interface(name, mac, tuple(addresses))


def _prefix(family: int, netmask: str | None) -> str:
    """ "/24" of "255.255.255.0"."""
    if not netmask:
        return ""
    return f"/{bin(int.from_bytes(socket.inet_pton(family, netmask), 'big')).count('1')}"
