"""The libvirt channel that makes a port: its XML, what a domain has, and adding one."""

from __future__ import annotations

import contextlib
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from host.errors import RPCError, UsageError, failure
from host.virsh import Virsh

PORT = "test.vserial.0"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_RESERVED = ("org.qemu.", "com.redhat.", "org.spice-space.", "org.libguestfs.")


@dataclass(frozen=True)
class PortChannel:
    """A virtio channel of a domain. `socket` is "" where it has none, as while the domain is shut off."""

    name: str
    socket: str
    state: str
    """"connected" or "disconnected", by whether the guest has it open; "" where libvirt does not say."""


def checked_name(name: str) -> str:
    """The name of a port. Raises UsageError for one that cannot be, or that others use."""
    if not _NAME.match(name):
        raise UsageError(f"port name {name!r}: use letters, digits, '.', '_' and '-' only, at most 64")
    if name.startswith(_RESERVED):
        message = "libvirt, QEMU or SPICE keeps such names for its own programs"
        raise UsageError(f"port name {name!r}: {message}: choose another, such as {PORT}")
    return name


def channels(virsh: Virsh, domain: str) -> list[PortChannel]:
    """The domain's virtio channels, as it runs or, where it does not, as it is configured."""
    return _channels(_parsed(virsh.xml(domain)))


def socket_of(virsh: Virsh, domain: str, name: str) -> str:
    """Path of the channel's socket. Raises UsageError where there is no such channel, RPCError while it has none."""
    found = channels(virsh, domain)
    for channel in found:
        if channel.name == name:
            if channel.socket:
                return channel.socket
            message = f"the channel {name} of {domain} has no socket while the domain is shut off: virsh start {domain}"
            raise failure("CONNECTION_REFUSED", message)
    there = ", ".join(each.name for each in found) or "none"
    raise UsageError(f"{domain} has no channel {name} (it has: {there}): vsrpc-host channel add {domain} --apply")


def device_xml(name: str, controller: int | None) -> list[str]:
    """The devices to add: the channel and, with `controller`, one of that index for it alone, first."""
    target = f"<target type='virtio' name={quoteattr(name)}/>"
    if controller is None:
        return [f"<channel type='unix'>\n  {target}\n</channel>\n"]
    address = f"<address type='virtio-serial' controller='{controller}' bus='0' port='1'/>"
    return [
        f"<controller type='virtio-serial' index='{controller}'/>\n",
        f"<channel type='unix'>\n  {target}\n  {address}\n</channel>\n",
    ]


class Adding:
    """Adding a channel to a domain: what is there, and what is to be done. Looks at the domain, changes nothing yet."""

    def __init__(self, virsh: Virsh, domain: str, name: str, own_controller: bool) -> None:
        self._virsh = virsh
        self._domain = domain
        self._name = name
        self.running, self.persistent = virsh.state(domain)
        live = _parsed(virsh.xml(domain)) if self.running else None
        config = _parsed(virsh.xml(domain, inactive=True)) if self.persistent else None
        known = [each for each in (live, config) if each is not None]
        self.in_live = live is not None and _has(live, name)
        self.in_config = config is not None and _has(config, name)
        indexes = [_controllers(each) for each in known]
        # Without any controller a running domain cannot take a channel.
        needed = own_controller or not all(indexes)
        self.controller = max((index for each in indexes for index in each), default=-1) + 1 if needed else None

    @property
    def devices(self) -> list[str]:
        """The XML of what is to be added."""
        return device_xml(self._name, self.controller)

    @property
    def done(self) -> bool:
        """Whether the domain has the channel, running and configured."""
        return (self.in_live or not self.running) and (self.in_config or not self.persistent)

    def apply(self, live: bool, config: bool) -> tuple[bool, bool]:
        """Add it to the running domain, to its configuration, or both; where it already is, nothing is done.

        Returns to which of them it was added. Raises RPCError, after which neither has more than before.
        """
        live, config = live and not self.in_live, config and not self.in_config
        options = [name for name, wanted in (("--live", live), ("--config", config)) if wanted]
        if not options:
            return False, False
        done: list[str] = []
        try:
            for device in self.devices:
                self._virsh.change("attach-device", self._domain, device, options)
                done.append(device)
        except RPCError:
            for device in reversed(done):
                with contextlib.suppress(RPCError):  # what went wrong first is what counts
                    self._virsh.change("detach-device", self._domain, device, options)
            raise
        return live, config


def _parsed(text: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise failure("PROTOCOL_ERROR", f"what virsh dumpxml prints is no XML: {error}") from None


def _channels(domain: ElementTree.Element) -> list[PortChannel]:
    found = []
    for channel in domain.iterfind("./devices/channel"):
        target, source = channel.find("target"), channel.find("source")
        if target is None or target.get("type") != "virtio":
            continue
        path = source.get("path", "") if source is not None and channel.get("type") == "unix" else ""
        found.append(PortChannel(target.get("name", ""), path, target.get("state", "")))
    return found


def _has(domain: ElementTree.Element, name: str) -> bool:
    return any(each.name == name for each in _channels(domain))


def _controllers(domain: ElementTree.Element) -> list[int]:
    found = domain.iterfind("./devices/controller[@type='virtio-serial']")
    return [int(each.get("index", "0")) for each in found]
