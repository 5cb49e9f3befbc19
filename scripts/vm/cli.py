"""The commands of `python3 scripts/vm`."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Callable

from . import image
from .console import attach
from .errors import VMError
from .machine import VM


def main() -> int:
    """Run one command; the result is the exit code."""
    options = _parser().parse_args()
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        return command(options)
    except VMError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/vm", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__.lstrip("_"), help=text, description=text)
        command.set_defaults(run=run)
        return command

    add(_build, "build the guest image, if it is not cached")
    named = [
        add(_start, "boot a VM, or bring a running one up to date; prints the path of its vsrpc socket"),
        add(_stop, "end a VM and throw away its disk"),
        add(_status, "show whether a VM runs and where its sockets are"),
        add(_console, "attach to the serial console, root logged in (Ctrl-] leaves); in a pipe: print its log"),
        add(_exec, "run a command in the guest as root, through the QEMU guest agent"),
    ]
    for command in named:
        command.add_argument("--name", default="default", help="which VM (default: %(default)s)")
    named[0].add_argument("--ssh", action="store_true", help="give it a network, and a port of this host to its sshd")
    named[0].add_argument("--wait-daemon", action="store_true", help="return when the vsrpc daemon is active")
    named[-1].add_argument("argv", nargs="+", metavar="ARG", help="the command; put -- before it if it has options")
    return parser


def _build(_: argparse.Namespace) -> int:
    print(image.ensure().disk.parent)
    return 0


def _start(options: argparse.Namespace) -> int:
    vm, began = VM(options.name), time.monotonic()
    vm.start(ssh=options.ssh, wait_daemon=options.wait_daemon)
    print(f"VM {vm.name} is up ({vm.accel}, {time.monotonic() - began:.1f} s)", file=sys.stderr)
    if vm.ssh_port:
        print(f"ssh -i {vm.ssh_key} -p {vm.ssh_port} root@127.0.0.1", file=sys.stderr)
    print(vm.socket)
    return 0


def _stop(options: argparse.Namespace) -> int:
    VM(options.name).stop()
    return 0


def _status(options: argparse.Namespace) -> int:
    vm = VM(options.name)
    if not vm.running:
        print(f"VM {vm.name}: stopped")
        return 3  # as systemctl status does
    print(f"VM {vm.name}: running under {vm.accel}")
    for label, path in (("vsrpc port", vm.socket), ("spare port", vm.spare_socket), ("files", vm.run)):
        print(f"  {label:10}  {path}")
    return 0


def _console(options: argparse.Namespace) -> int:
    vm = VM(options.name)
    if not vm.running:
        raise VMError(f"VM {vm.name} does not run; start it first")
    attach(vm.run / "console.sock", vm.run / "console.log")
    return 0


def _exec(options: argparse.Namespace) -> int:
    done = VM(options.name).ga.exec(["/usr/bin/env", *options.argv])
    sys.stdout.buffer.write(done.stdout)
    sys.stderr.buffer.write(done.stderr)
    return done.rc
