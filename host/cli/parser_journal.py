"""The grammar of the commands that list units and read the journal."""

from __future__ import annotations

import argparse
from typing import Callable

STATES = ("running", "stopped", "failed", "starting", "stopping", "reloading", "exited")
PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


def add_journal(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add them."""
    units = command("units", "list the units of the guest's systemd: services, sockets, timers …")
    units.add_argument("pattern", metavar="PATTERN", nargs="?", default="", help="a name or pattern, as in 'php*'")
    units.add_argument("--state", choices=STATES, default="", help="only those in this state")

    journal = command("journal", "print what the guest's services and kernel have logged, and follow it")
    journal.add_argument("-u", "--unit", default="", metavar="UNIT", help="only what is of this unit, or about it")
    journal.add_argument("-f", "--follow", action="store_true", help="go on with what is logged from now on")
    journal.add_argument(
        "-n", "--lines", type=_lines, metavar="N", help="how many at most, or all (default: 10; all with --since)"
    )
    journal.add_argument("--since", default="", metavar="TIME", help="only from then on: a time, or 1h for an hour ago")
    journal.add_argument("--until", default="", metavar="TIME", help="only until then")
    journal.add_argument(
        "-p",
        "--priority",
        type=_priority,
        metavar="PRIO",
        help=f"only what is at least so urgent: {', '.join(PRIORITIES)}, or 0 to 7",
    )
    journal.add_argument(
        "-o",
        "--output",
        choices=("short", "cat", "json"),
        default="short",
        help="time, program and message; the message alone; or JSON, one object a line (default: short)",
    )


def _lines(text: str) -> int | str:
    if text == "all":
        return text
    if text.isascii() and text.isdigit() and int(text) < 2**31:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines, or all")


def _priority(text: str) -> int:
    name = {"error": "err", "warn": "warning", "panic": "emerg"}.get(text, text)
    if name in PRIORITIES:
        return PRIORITIES.index(name)
    if text in ("0", "1", "2", "3", "4", "5", "6", "7"):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a priority: {', '.join(PRIORITIES)}, or 0 to 7")
