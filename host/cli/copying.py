"""The commands cp and sync."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from host.calls import FileCalls
from host.cli import exits
from host.cli.output import complain, print_json, print_line
from host.cli.progress import CopyProgress
from host.client import VirtioRPCClient
from host.copy import Options, Report, checked, preserving
from host.copy import copy as copy_files
from host.copy import sync as sync_directories
from host.copy.places import STREAM, place_of
from host.errors import UsageError

_SHOWN = 100  # failures that are told one by one


def cp(client: VirtioRPCClient, args: argparse.Namespace) -> int:
    """Copy files and directories."""
    options = Options(
        preserving(args.preserve), not args.no_overwrite, args.checksum, args.chunk_size, not args.no_resume
    )
    with CopyProgress(args.progress) as progress:
        if STREAM in args.sources or args.dest == STREAM:
            report = _stream(client, args, options, progress)
        else:
            report = copy_files(FileCalls(client.calls), args.sources, args.dest, args.recursive, options, progress)
    return _told(report, args)


def _stream(client: VirtioRPCClient, args: argparse.Namespace, options: Options, progress: CopyProgress) -> Report:
    from host.copy import stream

    if args.dest != STREAM:
        if len(args.sources) > 1:
            raise UsageError("- is standard input, and goes to one file: name no other source")
        return stream.upload(FileCalls(client.calls), 0, args.dest, options, progress)
    if STREAM in args.sources:
        raise UsageError("- cannot be both source and target: name guest:/path for one of them")
    if sys.stdout is None:
        raise OSError(9, "standard output is closed")
    report = stream.download(FileCalls(client.calls), args.sources, sys.stdout.buffer, options, progress)
    sys.stdout.buffer.flush()
    return report


def sync(client: VirtioRPCClient, args: argparse.Namespace) -> int:
    """Make a directory what another one is."""
    place_of(args.dest)
    options = Options(preserving(args.owner)._replace(mode=True, times=True))
    with CopyProgress(args.progress) as progress:
        report = sync_directories(
            FileCalls(client.calls),
            args.source,
            args.dest,
            delete=args.delete,
            dry_run=args.dry_run,
            compare_content=args.checksum,
            options=options,
            listener=progress,
        )
    for line in report.planned:
        print_line(line)
    return _told(report, args)


def _told(report: Report, args: argparse.Namespace) -> int:
    for note in report.skipped:
        complain("warning", note)
    if args.raw and args.dest != STREAM:
        data: dict[str, Any] = {**report.as_dict(), "planned": report.planned}
        print_json({"code": 0, "message": "success", "timestamp": int(time.time()), "data": data})
    if len(report.failures) > 1 or report.copied:
        for failed in report.failures[:_SHOWN]:
            complain("error", failed.message)
        if report.failures:
            what = "file or directory was" if len(report.failures) == 1 else "files or directories were"
            more = f" (the first {_SHOWN} are told)" if len(report.failures) > _SHOWN else ""
            complain("error", f"{len(report.failures)} {what} not copied{more}; {report.copied} were")
            return exits.REMOTE
    checked(report)
    return exits.OK
