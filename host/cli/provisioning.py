"""Commands that put vsrpc into a guest: the port in libvirt, the daemon by a guest agent, its update by the port."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Callable, Mapping

from host.cli import exits
from host.cli.output import complain, print_json, print_line
from host.client import VirtioRPCClient
from host.config import SOCKET_VARIABLE
from host.errors import UsageError

if TYPE_CHECKING:
    from host.virsh import Virsh

Arguments = argparse.Namespace


def channel(args: Arguments) -> int:
    """channel add|list|socket DOMAIN."""
    from host import libvirt_channel
    from host.virsh import Virsh

    name = libvirt_channel.checked_name(args.name)
    virsh = Virsh(args.connect)
    if args.action == "add":
        return _add_channel(args, virsh, name)
    for option in ("apply", "live", "own_controller"):
        if getattr(args, option):
            raise UsageError(f"--{option.replace('_', '-')} belongs to channel add: leave it out")
    if args.action == "list":
        found = libvirt_channel.channels(virsh, args.domain)
        if args.raw:
            return _envelope({"channels": [asdict(each) for each in found]})
        for each in found:
            print_line("\t".join((each.name, each.state or "-", each.socket or "-")), keep="\t")
        return exits.OK
    path = libvirt_channel.socket_of(virsh, args.domain, name)
    return _envelope({"socket": path}) if args.raw else _line(path)


def _add_channel(args: Arguments, virsh: Virsh, name: str) -> int:
    from host.libvirt_channel import Adding, socket_of

    adding = Adding(virsh, args.domain, name, args.own_controller)
    if not args.apply:
        if args.live:
            raise UsageError("--live says where --apply adds the channel: give that too")
        if adding.done:
            complain("note", f"{args.domain} has the channel {name} already: nothing to add")
            return exits.OK
        return _line("".join(adding.devices).rstrip("\n"))
    if args.live and not adding.running:
        raise UsageError(f"--live: {args.domain} does not run: leave it out, the channel is there at its next start")
    live, config = adding.apply(live=adding.running, config=adding.persistent and not args.live)
    there = adding.in_live or live
    path = socket_of(virsh, args.domain, name) if there else ""
    if args.raw:
        return _envelope({"name": name, "live": live, "config": config, "socket": path})
    where = " and ".join(text for text, done in (("the running domain", live), ("its configuration", config)) if done)
    print_line(f"added {name} to {where}" if where else f"{args.domain} has the channel {name} already")
    print_line(f"socket: {path}" if there else f"its socket is made when {args.domain} starts next")
    return exits.OK


def bootstrap(args: Arguments) -> int:
    """bootstrap: the guest side by a QEMU guest agent."""
    from host import bundle as bundles
    from host.bootstrap import bootstrap as install
    from host.guest_agent import AgentOfDomain, AgentSocket, GuestAgent
    from host.libvirt_channel import checked_name
    from host.virsh import Virsh

    port = checked_name(args.port) if args.port else ""
    bundle = bundles.find(args.bundle)
    if args.domain:
        virsh = Virsh(args.connect)
        agent = GuestAgent(lambda: AgentOfDomain(virsh, args.domain, args.patience))
    else:
        agent = GuestAgent(lambda: AgentSocket(args.agent, args.patience))
    try:
        progress = _Percent()
        installed = install(agent, bundle, port, args.force, _tell(args), progress)
    finally:
        agent.close()
    facts = {
        "version": installed.version,
        "previous_version": installed.previous_version,
        "changed": installed.changed,
        "output": installed.output,
    }
    target = args.socket if args.socket is not None else os.environ.get(SOCKET_VARIABLE)
    if target:
        _tell(args)(f"waiting until the guest answers at {target}")
        facts["agent"] = _answering(target, args.patience)
    if args.raw:
        return _envelope(facts)
    if installed.changed:
        print_line(installed.output.splitlines()[-1] if installed.output else f"installed {installed.version}")
    else:
        print_line(f"version {installed.version} is installed already (--force installs it anew)")
    if target:
        print_line(f"{facts['agent']} answers at {target}")
    return exits.OK


def _answering(target: str, seconds: float) -> str:
    """The agent that says hello there. Raises RPCError where none does in time."""
    from host.waiting import wait

    client = VirtioRPCClient(target, connect_timeout=seconds)
    try:
        wait(client, seconds)
        peer = client.channel.beginning.peer
        return peer.agent if peer is not None else ""
    finally:
        client.disconnect()


def update_guest(client: VirtioRPCClient, args: Arguments) -> int:
    """update-guest: the daemon by its own port."""
    from host import bundle as bundles
    from host.update import update

    done = update(client, bundles.find(args.bundle), args.confirm_within, args.force, _tell(args))
    if args.raw:
        return _envelope(asdict(done))
    if not done.changed:
        return _line(f"the guest runs version {done.version} already (--force installs it anew)")
    return _line(f"updated from {done.previous_version} to {done.version}, which answers")


def _tell(args: Arguments) -> Callable[[str], None]:
    return (lambda text: None) if args.raw else print_line


class _Percent:
    """How much was sent, on a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if self._shown:
            print(f"\r{100 * done // total}%", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _line(text: str) -> int:
    print_line(text)
    return exits.OK


def _envelope(data: Mapping[str, Any]) -> int:
    print_json({"code": 0, "message": "success", "timestamp": int(time.time()), "data": data})
    return exits.OK


WITHOUT_GUEST: Mapping[str, Callable[[Arguments], int]] = {"channel": channel, "bootstrap": bootstrap}
"""Commands that call no guest by the client: they need no target."""
