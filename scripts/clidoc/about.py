"""What no parser knows of the programs: what they are for, their environment and files, examples."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Callable

from guest import __main__ as guest_main
from host.cli import parser as host_parser


@dataclass(frozen=True)
class Program:
    """One program's page."""

    parser: Callable[[], argparse.ArgumentParser]
    section: int
    """Of the manual: 1 for users' commands, 8 for system administration."""
    summary: str
    description: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    """Command lines, and what each does."""
    see_also: tuple[tuple[str, int], ...] = field(default=())


PROGRAMS = (
    Program(
        host_parser._build,
        1,
        "call a KVM guest over its virtio-serial port",
        (
            "vsrpc-host runs commands in a Linux guest, moves files, controls services and tells how the guest does, "
            "through the UNIX socket that QEMU or libvirt binds to a virtio-serial port of the guest. The guest needs "
            "no network; vsrpc-guest(8) must run in it.",
            "Options that apply to every command may stand before or after it. An option wins over the environment, "
            "that over the configuration file, that over the default.",
            "exec streams: input, output and exit code are the command's. What it runs is a job of the guest, which "
            "goes on when the link breaks, and also on its own (--detach); jobs, attach, logs and kill are for those. "
            "Ctrl-C reaches the command, a second one ends it. In a terminal (shell, exec -t) a tilde and a dot at the "
            "beginning of a line leave, and the job goes on.",
            "One client at a time has the port. Clients of vsrpc take turns, and say who has it when that takes longer "
            "than a second.",
        ),
        environment=(
            ("VIRTIO_SOCKET", "the socket or target, where -s is not given"),
            (
                "VSRPC_LOCK_DIR",
                "the directory in which the clients of a port take turns",
            ),
            ("VSRPC_KEY", "the key that signs requests, NAME SECRET; wins over VSRPC_KEY_FILE"),
            ("VSRPC_KEY_FILE", "a file with that key; wins over connection.key_file"),
            ("XDG_CONFIG_HOME", "where the user's configuration is looked for (default: ~/.config)"),
        ),
        files=(
            ("~/.config/vsrpc/host.yaml", "the user's configuration; it replaces the system's, and does not add to it"),
            ("/etc/vsrpc/host.yaml", "the system's configuration"),
            ("/run/vsrpc", "lock files of root; of other users: $XDG_RUNTIME_DIR/vsrpc, else /tmp/vsrpc-UID"),
        ),
        examples=(
            ("vsrpc-host -s /run/vm1-vsrpc.sock ping", "See whether the guest answers."),
            ('vsrpc-host exec "df -h | head -3"', "Run a command; output and exit code are the command's."),
            ("vsrpc-host exec 'tar x -C /opt' < big.tar", "Give a command its input."),
            ("vsrpc-host shell", "Open a login shell, where the guest's policy allows that."),
            ('vsrpc-host exec --detach "sleep 3600"', "Start a job, and print its id."),
            ("vsrpc-host logs -f JOB", "Follow what a job writes."),
            ("vsrpc-host upload big.iso /tmp/big.iso", "Copy a file to the guest."),
            ("vsrpc-host download /var/log/syslog .", "Copy a file from the guest."),
            ("vsrpc-host service nginx restart", "Restart a service of the guest."),
            ("vsrpc-host freeze --lease 30", "Hold all writes for a snapshot; thaw ends that."),
            ("vsrpc-host doctor", "Find out why the guest does not answer."),
            ("vsrpc-host -s local: info", "Try things out on an embedded guest daemon, without a VM."),
        ),
        see_also=(("vsrpc-guest", 8), ("virsh", 1)),
    ),
    Program(
        guest_main._parser,
        8,
        "serve a guest to its host over a virtio-serial port",
        (
            "vsrpc-guest is the daemon in the guest that vsrpc-host(1) calls. It runs as root, started by udev and "
            "systemd when the port appears, and does what its configuration allows: it runs listed commands without "
            "a shell, reads and writes files below listed directories, and controls services.",
            "It survives disconnects of the host, unplugging of the port and restarts of QEMU, and never ends because "
            "of what a client sends. A wrong configuration starts nothing: the message names the file, the line and "
            "the key.",
        ),
        files=(
            ("/etc/vsrpc/guest.yaml", "the configuration; each key is explained in it"),
            ("/etc/vsrpc/keys", "the keys that callers sign with, where they must; root's, of mode 0600"),
            ("/dev/virtio-ports/test.vserial.0", "the port, unless the configuration names another"),
        ),
        examples=(
            ("systemctl status vsrpc-guest", "See whether the daemon runs."),
            ("journalctl -u vsrpc-guest", "Read its log."),
            ("vsrpc-guest check-config /etc/vsrpc/guest.yaml", "See whether a configuration is right."),
            ('vsrpc-guest explain exec "ls /tmp"', "See what the policy would do, and which rule decides."),
            ("vsrpc-guest --listen unix:/run/vsrpc-test.sock --debug", "Serve on a UNIX socket, to try things out."),
        ),
        see_also=(("vsrpc-host", 1), ("systemctl", 1), ("journalctl", 1)),
    ),
)
