"""The guest's clock: what it says, and setting it."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path

_RTC = "/dev/rtc0"
_RTC_SET_TIME = 0x4024700A  # linux/rtc.h

YEAR_2000, YEAR_2100 = 946_684_800, 4_102_444_800
"""Seconds since 1970: a clock outside is a mistake."""


def timezone(root: Path = Path("/")) -> str:
    """The name of the time zone: where /etc/localtime leads to, else what /etc/timezone says, else "UTC"."""
    try:
        _, found, name = os.path.realpath(root / "etc/localtime").partition("/zoneinfo/")
        if found:
            return name
        return (root / "etc/timezone").read_text("utf-8", "replace").strip() or "UTC"
    except OSError:
        return "UTC"


def set_time(nanoseconds: int) -> int:
    """Set the clock; by how many nanoseconds that changed it. Raises OSError (EPERM)."""
    before = time.time_ns()
    time.clock_settime_ns(time.CLOCK_REALTIME, nanoseconds)
    return nanoseconds - before


def set_hardware_clock() -> None:
    """Let the hardware clock, which counts in UTC, say what the clock says (rtc(4)). Raises OSError."""
    now = time.gmtime()
    fields = (now.tm_sec, now.tm_min, now.tm_hour, now.tm_mday, now.tm_mon - 1, now.tm_year - 1900, 0, 0, 0)
    fd = os.open(_RTC, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _RTC_SET_TIME, struct.pack("9i", *fields))
    finally:
        os.close(fd)
