"""The grammar of the commands that put vsrpc into a guest (host/cli/provisioning.py)."""

from __future__ import annotations

import argparse
from typing import Callable

BOOTSTRAP_SECONDS = 60.0
CONFIRM_SECONDS = 120.0
PORT = "test.vserial.0"


def add_commands(
    command: Callable[..., argparse.ArgumentParser],
    add_patience: Callable[[argparse.ArgumentParser, float, str], None],
    seconds: Callable[[str], float],
) -> None:
    """Add them; `command` makes a subparser of a name and a help text."""
    channel = command("channel", "the port in libvirt: print or add it, list ports, find a socket", timeout=False)
    channel.add_argument("action", metavar="ACTION", choices=("add", "list", "socket"), help="add, list, socket")
    channel.add_argument("domain", metavar="DOMAIN", help="the libvirt domain")
    channel.add_argument("--name", default=PORT, metavar="PORT", help=f"name of the port (default: {PORT})")
    _add_connect(channel)
    channel.add_argument(
        "--own-controller", action="store_true", help="add: with a virtio-serial controller of its own"
    )
    channel.add_argument("--apply", action="store_true", help="add: change the domain instead of printing the XML")
    channel.add_argument("--live", action="store_true", help="add --apply: to the running domain only, until it ends")

    bootstrap = command("bootstrap", "install the guest side through the QEMU guest agent", timeout=False)
    way = bootstrap.add_mutually_exclusive_group(required=True)
    way.add_argument("--agent", metavar="SOCKET", help="UNIX socket of the guest agent's port")
    way.add_argument("--domain", metavar="DOMAIN", help="the libvirt domain, whose agent virsh reaches")
    _add_connect(bootstrap)
    _add_bundle(bootstrap)
    bootstrap.add_argument("--port", metavar="PORT", help=f"port to serve (default: as configured there, else {PORT})")
    add_patience(bootstrap, BOOTSTRAP_SECONDS, "seconds to wait for the agent, and for the new daemon's answer at -s")

    update = command("update-guest", "replace the guest's daemon through its own port", timeout=False)
    _add_bundle(update)
    update.add_argument(
        "--confirm-within",
        type=seconds,
        default=CONFIRM_SECONDS,
        metavar="SEC",
        help="the guest goes back if its new daemon is not reached in so many seconds, 5 to 3600 "
        f"(default: {CONFIRM_SECONDS:g})",
    )


def _add_connect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connect", metavar="URI", help="libvirt's URI, as virsh -c takes it")


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle",
        metavar="FILE",
        help="the guest bundle, vsrpc-guest-VERSION.tar.gz (default: the one of this version in share/vsrpc)",
    )
    parser.add_argument("--force", action="store_true", help="also where that version is installed already")
