"""Network interfaces, asked of the kernel by rtnetlink(7)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Iterator

# linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_addr.h
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 0x1, 0x300
_IFLA_ADDRESS, _IFLA_IFNAME = 1, 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")  # length, type

_BUFFER = 64 * 1024  # bytes: more than the kernel puts into one message
_TIMEOUT = 5.0  # seconds; the kernel answers at once
_MAC_SIZES = (6, 20)  # bytes, of Ethernet and InfiniBand; a tunnel's "hardware address" is its IP address


@dataclass(frozen=True)
class Interface:
    """A network interface; `mac` is empty where there is none, addresses have their prefix length."""

    name: str
    mac: str
    addresses: tuple[str, ...]


def interfaces() -> list[Interface]:
    """All interfaces, by name, IPv4 addresses first; none where the kernel cannot be asked."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(_TIMEOUT)
            links = [_link(body) for kind, body in _dump(kernel, _GETLINK) if kind == _NEWLINK]
            addresses = [_address(body) for kind, body in _dump(kernel, _GETADDR) if kind == _NEWADDR]
    except OSError:
        return []
    return sorted(
        (
            Interface(name, mac, tuple(text for family, of, text in sorted(addresses, key=_family) if of == index))
            for index, name, mac in links
        ),
        key=lambda interface: interface.name,
    )


def _family(address: tuple[int, int, str]) -> int:
    return address[0]


def _dump(kernel: socket.socket, kind: int) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each message of the kernel's answer to a request for all of a kind."""
    content = bytes(_LINK.size)
    kernel.send(_MESSAGE.pack(_MESSAGE.size + len(content), kind, _REQUEST | _DUMP, kind, 0) + content)
    while True:
        data = kernel.recv(_BUFFER)
        while data:
            length, answer, _, sequence, _ = _MESSAGE.unpack_from(data)
            if answer == _ERROR:
                code = -struct.unpack_from("=i", data, _MESSAGE.size)[0]
                raise OSError(code, "rtnetlink refused")
            if answer == _DONE:
                return
            if sequence == kind:
                yield answer, data[_MESSAGE.size : length]
            data = data[_aligned(length) :]


def _link(body: bytes) -> tuple[int, str, str]:
    """Index, name and MAC."""
    attributes = _attributes(body[_LINK.size :])
    hardware = attributes.get(_IFLA_ADDRESS, b"")
    mac = hardware.hex(":") if len(hardware) in _MAC_SIZES and any(hardware) else ""
    return _LINK.unpack_from(body)[2], attributes[_IFLA_IFNAME].rstrip(b"\0").decode("utf-8", "replace"), mac


def _address(body: bytes) -> tuple[int, int, str]:
    """Family, index of the interface, and address with prefix length (its own one, of a point-to-point link)."""
    family, prefix, _, _, index = _ADDR.unpack_from(body)
    attributes = _attributes(body[_ADDR.size :])
    address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS, b"")
    known = family in (socket.AF_INET, socket.AF_INET6)
    return family, index if known else -1, f"{socket.inet_ntop(family, address)}/{prefix}" if known else ""


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(max(length, _ATTRIBUTE.size)) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
