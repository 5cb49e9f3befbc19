"""The commands for the guest as a machine: power, clock, host name, file systems, processes, users, interfaces."""

from __future__ import annotations

import argparse
import time
from typing import Any, Mapping, Sequence

from host.cli import exits
from host.cli.output import print_json, print_line, print_table
from host.client import VirtioRPCClient
from host.errors import UsageError

Arguments = argparse.Namespace

_FREEZE_TIME = 60.0  # seconds: file systems first write what they hold


def shutdown(client: VirtioRPCClient, args: Arguments) -> int:
    """Shut the guest down, or reboot it, or call that off."""
    action = "CANCEL" if args.cancel else "REBOOT" if args.reboot else "POWEROFF"
    fields = {"action": f"POWER_ACTION_{action}", "delay": args.delay, "message": args.message}
    data = _data(client, args, "Power", fields)
    if data is not None:
        what = {"CANCEL": "called off", "REBOOT": "reboots", "POWEROFF": "shuts down"}[action]
        print_line(what if args.cancel else f"{what} at {_clock(int(data['at']))}")
    return exits.OK


def time_(client: VirtioRPCClient, args: Arguments) -> int:
    """Tell the guest's clock, or set it to this host's."""
    if args.hardware and not args.sync:
        raise UsageError("--hardware goes with --sync: it sets the hardware clock too")
    if args.sync:
        data = _data(client, args, "SetTime", {"time_us": time.time_ns() // 1000, "hardware": args.hardware})
        if data is not None:
            print_line(f"set; it was changed by {int(data['change_us']) / 1e6:+.3f} s")
        return exits.OK
    before = time.time()
    data = _data(client, args, "GetTime", {})
    if data is not None:
        ahead = int(data["time_us"]) / 1e6 - (before + time.time()) / 2
        offset = int(data["utc_offset"])
        local = time.strftime("%F %T", time.gmtime(int(data["time_us"]) // 10**6 + offset))
        print_line(f"{local} {data['timezone']} (UTC{offset / 3600:+g}), {ahead:+.3f} s from this host's clock")
    return exits.OK


def hostname(client: VirtioRPCClient, args: Arguments) -> int:
    """Tell the host name, or set it."""
    if args.name is None:
        envelope = client.get_system_info()
        print_json(envelope) if args.raw else print_line(envelope["data"]["hostname"])
        return exits.OK
    data = _data(client, args, "SetHostname", {"hostname": args.name})
    if data is not None:
        print_line(f"{data['hostname']} (it was {data['previous']})")
    return exits.OK


def freeze(client: VirtioRPCClient, args: Arguments) -> int:
    """Freeze file systems."""
    fields = {"mountpoints": args.mountpoints, "lease": args.lease}
    data = _data(client, args, "Freeze", fields, _FREEZE_TIME)
    if data is not None:
        print_line(f"frozen for {data['lease']} s at most: {', '.join(data['mountpoints'])}")
    return exits.OK


def thaw(client: VirtioRPCClient, args: Arguments) -> int:
    """Thaw them."""
    data = _data(client, args, "Thaw", {})
    if data is not None:
        print_line(f"thawed: {', '.join(data['mountpoints'])}" if data["mountpoints"] else "nothing was frozen")
    return exits.OK


def trim(client: VirtioRPCClient, args: Arguments) -> int:
    """Tell disks which blocks are free."""
    data = _data(client, args, "Trim", {"mountpoints": args.mountpoints, "minimum": args.minimum}, 600.0)
    if data is None:
        return exits.OK
    if not data["filesystems"]:
        print_line("no file system here can be trimmed")
    for each in data["filesystems"]:
        print_line(f"{each['mountpoint']}: {each['error'] or str(each['bytes']) + ' bytes'}")
    return exits.REMOTE if any(each["error"] for each in data["filesystems"]) else exits.OK


def top(client: VirtioRPCClient, args: Arguments) -> int:
    """List the processes that use most."""
    fields = {"order": f"PROCESS_ORDER_{args.sort.upper()}", "limit": args.lines}
    data = _data(client, args, "Processes", fields)
    if data is not None:
        rows = [
            (
                str(each["pid"]),
                each["user"],
                f"{each['cpu']:.1f}",
                f"{int(each['memory']) / 2**20:.1f}M",
                each["command"],
            )
            for each in data["processes"]
        ]
        print_table(("PID", "USER", "CPU%", "MEMORY", "COMMAND"), rows)
    return exits.OK


def users(client: VirtioRPCClient, args: Arguments) -> int:
    """List who is logged in."""
    envelope = client.get_system_info()
    if args.raw:
        print_json(envelope)
        return exits.OK
    listed: Sequence[Mapping[str, Any]] = envelope["data"]["users"]
    rows = [(each["name"], each["terminal"], each["host"], _clock(int(each["started"]))) for each in listed]
    print_table(("USER", "TERMINAL", "FROM", "SINCE"), rows)
    return exits.OK


def interfaces(client: VirtioRPCClient, args: Arguments) -> int:
    """List network interfaces with their addresses."""
    envelope = client.get_system_info()
    if args.raw:
        print_json(envelope)
        return exits.OK
    listed: Sequence[Mapping[str, Any]] = envelope["data"]["interfaces"]
    rows = [(each["name"], each["mac"], " ".join(each["addresses"])) for each in listed]
    print_table(("INTERFACE", "MAC", "ADDRESSES"), rows)
    return exits.OK


def _data(
    client: VirtioRPCClient, args: Arguments, rpc: str, fields: Mapping[str, Any], timeout: float | None = None
) -> Mapping[str, Any] | None:
    """The reply's data; None where it was printed as it is."""
    envelope = client.call("Machine", rpc, fields, args.timeout or timeout)
    if args.raw:
        print_json(envelope)
        return None
    data: Mapping[str, Any] = envelope["data"]
    return data


def _clock(seconds: int) -> str:
    return time.strftime("%F %T", time.localtime(seconds))
