"""The commands for the guest's services and its journal."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from typing import Any, Callable, Mapping

from host.cli import exits
from host.cli.output import complain, print_bare, print_json, print_line, print_table
from host.client import VirtioRPCClient
from host.errors import UsageError
from host.journal import Entry, RemoteJournal, message_of

Arguments = argparse.Namespace

LINES = 10
"""Entries that are shown where nothing says how many, or since when."""

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400, "w": 604800}
_AGO = re.compile(r"-?(\d+(?:\.\d+)?) ?(s|sec|m|min|h|hour|d|day|w)s?(?: ago)?\Z")
_CLOCKS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%H:%M:%S", "%H:%M")
_TIMES = 'write "2026-05-31 14:00", "14:00", "1h" (an hour ago), "today", "yesterday", or @SECONDS since 1970'


def service(client: VirtioRPCClient, args: Arguments) -> int:
    """Control a service. The first line is its state alone, and for programs the only one."""
    timeout = {"timeout": args.timeout} if args.timeout else {}
    envelope = client.control_service(args.name, args.action, **timeout)
    data = envelope["data"]
    if args.raw:
        print_json(envelope)
        return exits.OK
    print_line(data["status"])
    if args.action == "status" and (args.verbose or (sys.stdout is not None and sys.stdout.isatty())):
        _print_details(data)
    return exits.OK


def units(client: VirtioRPCClient, args: Arguments) -> int:
    """List units."""
    fields = {"pattern": args.pattern, "status": args.state}
    envelope = client.call("ServiceManager", "ListUnits", {name: value for name, value in fields.items() if value})
    if args.raw:
        print_json(envelope)
        return exits.OK
    names = ("name", "status", "substate", "description")
    print_table(("UNIT", "STATUS", "SUBSTATE", "DESCRIPTION"), [[each[n] for n in names] for each in _units(envelope)])
    return exits.OK


def journal(client: VirtioRPCClient, args: Arguments) -> int:
    """Print the journal, and follow it."""
    if args.follow and args.until:
        raise UsageError("--follow goes on for ever, and --until ends: give one of them")
    now = time.time()
    fields: dict[str, Any] = {}
    if args.unit:
        fields["unit"] = args.unit
    if args.priority is not None:
        fields["priority"] = args.priority
    for name in ("since", "until"):
        if getattr(args, name):
            fields[f"{name}_us"] = _moment(name, getattr(args, name), now)
    lines = args.lines
    if lines is None and not args.since:
        lines = LINES
    elif lines == "all":
        lines = None
    show = _as_json if args.raw or args.output == "json" else _SHAPES[args.output]
    remote = RemoteJournal(client.calls, on_lost=lambda why: complain("waiting", f"{why}; going on when it is back"))
    for entry in remote.entries(fields, lines, args.follow, args.timeout):
        print_bare(show(entry))
    return exits.OK


def _units(envelope: Mapping[str, Any]) -> list[Mapping[str, str]]:
    listed: list[Mapping[str, str]] = envelope["data"]["units"]
    return listed


def _print_details(data: Mapping[str, Any]) -> None:
    """What there is beside the state; a guest of an older version tells less."""
    print_line(f"unit state: {data.get('substate') or data['status']}, {'' if data['enabled'] else 'not '}enabled")
    if data["pid"]:
        print_line(f"main pid: {data['pid']}")
    if int(data.get("memory", 0)):
        print_line(f"memory: {int(data['memory']) / 2**20:.1f} MiB")
    entries = data.get("journal", ())
    if entries:
        print_line("last messages:")
    for entry in entries:
        print_bare("  " + _short({**entry, "message": message_of(entry)}))


def _short(entry: Entry) -> str:
    """As journalctl shows it: time, program, message; what follows its first line is indented."""
    seconds, rest = divmod(int(entry["time_us"]), 10**6)
    when = f"{time.strftime('%F %T', time.localtime(seconds))}.{rest // 1000:03}"
    pid = f"[{entry['pid']}]" if entry["pid"] else ""
    text = f"{when} {entry['identifier']}{pid}: "
    return text + _text(entry).replace("\n", "\n" + " " * len(text))


def _text(entry: Entry) -> str:
    message: bytes = entry["message"]
    missing = int(entry["message_size"]) - len(message)
    more = f" ... ({missing} bytes more)" if missing > 0 else ""
    return message.rstrip(b"\n").decode("utf-8", "surrogateescape") + more


def _as_json(entry: Entry) -> str:
    message: bytes = entry["message"]
    return json.dumps({**entry, "message": message.decode("utf-8", "replace")}, ensure_ascii=True)


_SHAPES: Mapping[str, Callable[[Entry], str]] = {"short": _short, "cat": _text}


def _moment(name: str, text: str, now: float) -> int:
    """Microseconds since 1970; before now by the guest's clock, negative, where that is what was meant."""
    ago = _AGO.match(text)
    if ago:
        return -max(1, int(float(ago.group(1)) * _UNITS[ago.group(2)] * 1e6))
    if re.match(r"@\d+(\.\d+)?\Z", text):
        return int(float(text[1:]) * 1e6)
    today = time.localtime(now)
    day = {"today": 0, "yesterday": -1}.get(text)
    if day is not None:
        return int(time.mktime((*today[:2], today[2] + day, 0, 0, 0, 0, 0, -1))) * 10**6
    if text == "now":
        return -1
    for form in _CLOCKS:
        try:
            parsed = time.strptime(text, form)
        except ValueError:
            continue
        date = today[:3] if "%d" not in form else parsed[:3]
        return int(time.mktime((*date, *parsed[3:6], 0, 0, -1))) * 10**6
    raise UsageError(f"--{name} {text}: no such time; {_TIMES}")
