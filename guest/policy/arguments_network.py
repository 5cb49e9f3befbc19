"""Argument rules of ip, netstat, ping and ss: they show what there is.

Each rule is an `arguments_rows.Rule`; their purpose is said in arguments.py. All are allow lists.

A name that is no network interface must not get where one is looked up: for a process with privileges the kernel then
loads a module of that name (dev_load, net/core/dev_ioctl.c), so `ip addr show dev softdog` would load a watchdog.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Sequence

from guest.policy.arguments_rows import Row, matching, names, nothing
from guest.policy.getopt import ArgumentRefused, Options, read
from guest.policy.judge import PathJudge

_NO_INTERFACE = "no network interface has that name; looking it up could load a kernel module"

# ip(8) takes any beginning of a word, and which word that is depends on the order in its sources: only
# beginnings that have meant one thing in every version are listed.
_IP_FLAGS = names(
    "-4 -6 -0 -B -M -s -stats -statistics -d -details -h -human -human-readable -iec -o -oneline -r -resolve -t "
    "-timestamp -ts -tshort -j -json -p -pretty -c -color -br -brief -N -Numeric -V -Version -help"
)
_ADDRESS = names("a addr address")
_LINK = names("l li link")
_NEIGH = names("n neigh neighbor neighbour")
_ROUTE = names("r ro route")
_RULE = names("ru rule")
_IP_VERBS = names("show sh list ls lst get help")
_IP_SHORT_SHOW = _ADDRESS | _ROUTE | _NEIGH  # `ip link s` is `set`
# What may be listed, and the words there after which stands a name that is not an interface's.
_IP_NAMED = {
    **dict.fromkeys(_ADDRESS | _LINK, names("scope type group")),
    **dict.fromkeys(_NEIGH, names("nud proto protocol")),
    **dict.fromkeys(_ROUTE, names("table proto protocol scope type ipproto")),
    **dict.fromkeys(_RULE, names("table lookup proto protocol ipproto")),
    "mroute": names("table"),
    "nexthop": names("proto protocol"),
    "ntable": names("name"),
    "stats": names("group subgroup suite"),
    **dict.fromkeys(names("addrlabel maddr maddress netconf netns tcp_metrics tunnel vrf help"), names("")),
}
_IP_WORDS = names(
    "dev iif oif master nomaster vrf up permanent dynamic secondary primary tentative -tentative deprecated "
    "-deprecated dadfailed -dadfailed temporary mngtmpaddr home nodad noprefixroute autojoin proxy unused to from "
    "cache cloned root match exact via src default all any not groups fdb id fibmatch pref priority tos dsfield mark "
    "fwmark uid uidrange sport dport l3mdev address"
)
_IP_NUMBER = re.compile(r"[0-9]+(-[0-9]+)?|0x[0-9A-Fa-f]+(/0x[0-9A-Fa-f]+)?|[0-9]+(\.[0-9]+){0,3}/[0-9]+")
_IP_NAME = re.compile(r"[\w.+-]+")


def ip(arguments: Sequence[str], judge: PathJudge) -> None:
    """Objects that hold no secrets may be listed, in this network namespace."""
    pending = list(reversed(arguments))
    while pending and pending[-1].startswith("-"):
        option = pending.pop()
        option = option[1:] if option.startswith("--") else option
        if option in ("-f", "-family") and pending:
            pending.pop()
        elif option.partition("=")[0] not in _IP_FLAGS:
            raise ArgumentRefused(option, "the option is not one that is known to be safe")
    if not pending:
        return
    kind = pending.pop()
    if kind not in _IP_NAMED:
        raise ArgumentRefused(kind, "ip's object is not one that may be listed (address, link, route, rule, neigh …)")
    if pending:
        verb = pending.pop()
        if verb not in _IP_VERBS and not (verb == "s" and kind in _IP_SHORT_SHOW):
            raise ArgumentRefused(f"{kind} {verb}", "ip may only show, list and get here")
    while pending:
        word = pending.pop()
        if word in _IP_NAMED[kind]:
            if pending and not _IP_NAME.fullmatch(pending[-1]):
                raise ArgumentRefused(pending[-1], "not a name")
            pending = pending[:-1]
        elif not (word in _IP_WORDS or _IP_NUMBER.fullmatch(word) or _is_address(word) or _is_interface(word)):
            raise ArgumentRefused(
                word, f"not a word that is known to be safe, a number or an address, and {_NO_INTERFACE}"
            )


netstat = Row(
    Options(
        flags="aceghilnoprstuwxvWNMFCSUZV46",
        values="A",
        long_flags="route interfaces groups statistics masquerade verbose wide numeric numeric-hosts numeric-ports "
        "numeric-users symbolic extend programs timers continuous listening all fib cache context tcp udp udplite sctp "
        "raw unix inet inet6 version help",
    ),
    nothing(_NO_INTERFACE),
    values={"A": matching("[a-z0-9,]+", "not a list of address families")},
)

_PING = Options(
    flags="346aBDhLnOqRUvVrbHCd",
    values="cIiMmQSsTtWwpeFN",
    refused={"f": "it floods the network", "A": "it floods the network", "l": "it floods the network"},
)
_PING_INTERVAL = 0.2  # seconds: the least that ping grants users who are not root


def ping(arguments: Sequence[str], judge: PathJudge) -> None:
    """As a user who is not root may ping. It ends by -c, -w or the command's timeout."""
    given = read(arguments, _PING)
    for name, value in given.options:
        if name == "I" and not _is_interface(value or "") and not _is_address(value or ""):
            raise ArgumentRefused(f"-I {value}", _NO_INTERFACE)
        if name == "i":
            try:
                allowed = float(value or "") >= _PING_INTERVAL
            except ValueError:
                allowed = False
            if not allowed:
                raise ArgumentRefused(f"-i {value}", f"the interval must be a number of at least {_PING_INTERVAL}")
    for host in given.operands:
        _check_zone(host)


_SS = Options(
    flags="hVHOnraloempibEsTZztuwxdS046",
    values="fA",
    long_flags="help version no-header oneline numeric resolve all listening options extended memory processes "
    "threads info tos cgroup summary events context contexts bpf ipv4 ipv6 packet tcp mptcp sctp udp dccp raw "
    "unix tipc vsock xdp inet-sockopt",
    long_values="family query socket",
    refused={
        **dict.fromkeys(("K", "kill"), "it closes the guest's connections"),
        **dict.fromkeys(("D", "diag"), "it writes a file"),
        **dict.fromkeys(("F", "filter"), "its file could not be judged; give the filter as arguments"),
        **dict.fromkeys(("N", "net"), "it leads to another system"),
    },
)
_SS_WORDS = re.compile(r"[^\s()=!<>&|]+")
_SS_COMPARISONS = names("eq ne neq gt lt ge le geq leq is")


def ss(arguments: Sequence[str], judge: PathJudge) -> None:
    """The operands together are a filter, in which an interface is named by `dev NAME` or in an address (`%NAME`)."""
    words = [word for word in _SS_WORDS.findall(" ".join(read(arguments, _SS).operands)) if word not in _SS_COMPARISONS]
    for before, word in zip(["", *words], words):
        if before == "dev" and not _is_interface(word):
            raise ArgumentRefused(f"dev {word}", _NO_INTERFACE)
        _check_zone(word)


def _check_zone(host: str) -> None:
    """Refuse `fe80::1%NAME`, also with a port behind it, where NAME is no interface."""
    zone = re.split(r"[\]:]", host.partition("%")[2])[0]
    if "%" in host and not _is_interface(zone):
        raise ArgumentRefused(host, _NO_INTERFACE)


def _is_interface(name: str) -> bool:
    return any(name == known for _, known in socket.if_nameindex())


def _is_address(text: str) -> bool:
    """An IP address or prefix without a zone."""
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return "%" not in text
