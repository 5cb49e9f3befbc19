"""How a diagnosis is shown: one line for each check as it is done, and at last the verdict."""

from __future__ import annotations

import time

from host.cli.output import print_json, print_line
from host.doctor import Finding, Report
from host.errors import NUMBERS

_CHECK_WIDTH = 8
_STATE_WIDTH = 6


def print_finding(finding: Finding) -> None:
    """One line; and below it, one each, what may be the cause."""
    print_line(f"{finding.check:{_CHECK_WIDTH}} {finding.state:{_STATE_WIDTH}} {' '.join(finding.found.split())}")
    for hint in finding.hints:
        print_line(f"{'':{_CHECK_WIDTH}} {'maybe':{_STATE_WIDTH}} {hint}")


def print_verdict(report: Report, raw: bool) -> None:
    """The last line; with `raw` all findings as JSON instead, in the envelope of a call."""
    if not raw:
        print_line(f"{'verdict':{_CHECK_WIDTH}} {report.verdict}: {' '.join(report.summary.split())}")
        return
    code = NUMBERS[report.reason] if report.reason else 0
    print_json({"code": code, "message": report.summary, "timestamp": int(time.time()), "data": report.as_dict()})
