"""Copies files and trees between this machine and the guest, and mirrors one in the other.

`copy` and `sync` are what commands and programs use; how files are moved is in the modules below.
"""

from __future__ import annotations

from typing import Any

from host.copy.entry import Preserve, Report
from host.copy.options import Done, Options
from host.copy.plan import copy
from host.copy.sync import sync
from host.errors import failure
from vsrpc.filesystem import umask

__all__ = ["Done", "Options", "Preserve", "Report", "checked", "copy", "preserving", "sync"]


def preserving(all_of_it: bool) -> Preserve:
    """What a copy keeps of its sources: all, or only the permission bits, less this process's umask."""
    if all_of_it:
        return Preserve(True, True, True)
    return Preserve(umask=umask())


def checked(report: Report) -> dict[str, Any]:
    """The report's numbers. Raises INCOMPLETE if something was not copied; if that is all that there was, its error."""
    if not report.failures:
        return report.as_dict()
    if len(report.failures) == 1 and not report.copied and report.first is not None:
        raise report.first
    message = f"{len(report.failures)} were not copied: {report.failures[0].message}"
    if len(report.failures) > 1:
        message += f", and {len(report.failures) - 1} more"
    raise failure("INCOMPLETE", message, **report.as_dict())
