"""The commands: each makes its calls through the client, prints, and gives the exit code."""

from __future__ import annotations

import argparse
import importlib
from typing import Any, Callable, Mapping

from host.cli import exits
from host.cli.output import TransferProgress, print_json, print_line
from host.client import VirtioRPCClient

Arguments = argparse.Namespace
Command = Callable[[VirtioRPCClient, Arguments], int]

_EXEC_TIMEOUT = 30.0


def _print_data(envelope: Mapping[str, Any], args: Arguments) -> int:
    print_json(envelope if args.raw else envelope["data"])
    return exits.OK


def _ping(client: VirtioRPCClient, args: Arguments) -> int:
    return _print_data(client.ping(), args)


def _wait(client: VirtioRPCClient, args: Arguments) -> int:
    from host.waiting import wait

    return _print_data(wait(client, args.patience), args)


def _doctor(client: VirtioRPCClient, args: Arguments) -> int:
    from host.cli.diagnosis import print_finding, print_verdict
    from host.doctor import examine

    report = examine(client, (lambda finding: None) if args.raw else print_finding)
    print_verdict(report, args.raw)
    return exits.of_reason(report.reason) if report.reason else exits.OK


def _info(client: VirtioRPCClient, args: Arguments) -> int:
    return _print_data(client.get_system_info(), args)


def _status(client: VirtioRPCClient, args: Arguments) -> int:
    return _print_data(client.get_system_status(), args)


def _file_info(client: VirtioRPCClient, args: Arguments) -> int:
    return _print_data(client.get_file_info(args.path), args)


def _in(module: str, name: str) -> Command:
    """A command of another module, which the others need not load."""

    def run(client: VirtioRPCClient, args: Arguments) -> int:
        command: Command = getattr(importlib.import_module(f"host.cli.{module}"), name)
        return command(client, args)

    return run


def _file_command(module: str, name: str) -> Command:
    def run(client: VirtioRPCClient, args: Arguments) -> int:
        command: Command = getattr(importlib.import_module(f"host.cli.{module}"), name)
        return command(client, args)

    return run


def _exec(client: VirtioRPCClient, args: Arguments) -> int:
    if not args.raw:
        return _in("jobs", "exec_")(client, args)
    timeout = args.exec_timeout or args.timeout or _EXEC_TIMEOUT
    envelope = client.exec_command(args.line, timeout=timeout, working_dir=args.workdir)
    data = envelope["data"]
    print_json(envelope)
    return int(data["exit_code"]) & 0xFF


def _upload(client: VirtioRPCClient, args: Arguments) -> int:
    with TransferProgress("upload") as progress:
        envelope = client.upload_file(
            args.local,
            args.remote,
            mode=args.mode,
            overwrite=not args.no_overwrite,
            chunk_size=args.chunk_size,
            checksum=args.checksum,
            progress_callback=None if args.raw else progress,
        )
    return _print_transfer("Upload", envelope, envelope["data"]["path"], args)


def _download(client: VirtioRPCClient, args: Arguments) -> int:
    with TransferProgress("download") as progress:
        envelope = client.download_file(
            args.remote,
            args.local,
            overwrite=not args.no_overwrite,
            chunk_size=args.chunk_size,
            checksum=args.checksum,
            progress_callback=None if args.raw else progress,
        )
    return _print_transfer("Download", envelope, envelope["data"]["local_path"], args)


def _print_transfer(what: str, envelope: Mapping[str, Any], path: str, args: Arguments) -> int:
    if args.raw:
        return _print_data(envelope, args)
    data = envelope["data"]
    print_line(f"{what} successful: {path} ({data['size']} bytes)")
    if data.get("sha256"):
        print_line(f"SHA256: {data['sha256']}")
    else:
        print_line(f"MD5: {data['md5']}" if data["md5"] else "Checksum: CRC-32 of each message")
    return exits.OK


def _update_guest(client: VirtioRPCClient, args: Arguments) -> int:
    from host.cli.provisioning import update_guest

    return update_guest(client, args)


COMMANDS: Mapping[str, Command] = {
    "ping": _ping,
    "wait": _wait,
    "doctor": _doctor,
    "info": _info,
    "status": _status,
    "exec": _exec,
    "shell": _in("jobs", "shell"),
    "jobs": _in("jobs", "jobs"),
    "attach": _in("jobs", "attach"),
    "logs": _in("jobs", "logs"),
    "kill": _in("jobs", "kill"),
    "shutdown": _in("machine", "shutdown"),
    "reboot": _in("machine", "shutdown"),
    "time": _in("machine", "time_"),
    "hostname": _in("machine", "hostname"),
    "freeze": _in("machine", "freeze"),
    "thaw": _in("machine", "thaw"),
    "trim": _in("machine", "trim"),
    "top": _in("machine", "top"),
    "users": _in("machine", "users"),
    "interfaces": _in("machine", "interfaces"),
    "upload": _upload,
    "download": _download,
    "cp": _file_command("copying", "cp"),
    "sync": _file_command("copying", "sync"),
    "ls": _file_command("listing", "ls"),
    "stat": _file_command("listing", "stat"),
    "df": _file_command("listing", "df"),
    "checksum": _file_command("listing", "checksum"),
    "mkdir": _file_command("files", "mkdir"),
    "rm": _file_command("files", "rm"),
    "mv": _file_command("files", "mv"),
    "chmod": _file_command("files", "chmod"),
    "chown": _file_command("files", "chown"),
    "ln": _file_command("files", "ln"),
    "touch": _file_command("files", "touch"),
    "tail": _file_command("files", "tail"),
    "file-info": _file_info,
    "service": _in("units", "service"),
    "units": _in("units", "units"),
    "journal": _in("units", "journal"),
    "update-guest": _update_guest,
}
