"""The guest's clock: what it says, and setting it.

Also a program, `clock.py NANOSECONDS BOOTTIME HARDWARE`, which systemd runs where the daemon's unit may not set the
clock: so nothing of ours is loaded here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

_RTC = "/dev/rtc0"
_RTC_SET_TIME = 0x4024700A  # linux/rtc.h

YEAR_2000, YEAR_2100 = 946_684_800, 4_102_444_800
"""Seconds since 1970: a clock outside is a mistake."""

_RUN_TIME = 30.0  # seconds


def timezone(root: Path = Path("/")) -> str:
    """The name of the time zone: where /etc/localtime leads to, else what /etc/timezone says, else "UTC"."""
    try:
        _, found, name = os.path.realpath(root / "etc/localtime").partition("/zoneinfo/")
        if found:
            return name
        return (root / "etc/timezone").read_text("utf-8", "replace").strip() or "UTC"
    except OSError:
        return "UTC"


def set_time(nanoseconds: int, hardware: bool = False) -> int:
    """Set the clock, and `hardware`: the hardware clock too; by how many nanoseconds it was changed.

    Raises OSError (EPERM; ENOENT for a hardware clock that is not there), with nothing set unless it says otherwise.
    """
    boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    before = time.time_ns()
    try:
        _set(nanoseconds, boottime, hardware)
    except PermissionError:
        if not os.path.isdir("/run/systemd/system"):
            raise
        _have_it_set(nanoseconds, boottime, hardware)
    return nanoseconds - before


def _set(nanoseconds: int, boottime: int, hardware: bool) -> None:
    """Set the clock to what was right when CLOCK_BOOTTIME was `boottime`."""
    rtc = os.open(_RTC, os.O_RDONLY | os.O_CLOEXEC) if hardware else -1
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, nanoseconds + time.clock_gettime_ns(time.CLOCK_BOOTTIME) - boottime)
        if hardware:
            now = time.gmtime()  # which is what it counts in (rtc(4))
            fields = (now.tm_sec, now.tm_min, now.tm_hour, now.tm_mday, now.tm_mon - 1, now.tm_year - 1900, 0, 0, 0)
            try:
                fcntl.ioctl(rtc, _RTC_SET_TIME, struct.pack("9i", *fields))
            except OSError as failure:
                raise OSError(failure.errno, f"{failure.strerror} (the system's clock is set)", _RTC) from None
    finally:
        if hardware:
            os.close(rtc)


def _have_it_set(nanoseconds: int, boottime: int, hardware: bool) -> None:
    """By a process that has none of our unit's limits."""
    program = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    arguments = [str(nanoseconds), str(boottime), str(int(hardware))]
    try:
        done = subprocess.run(
            ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--", *program, *arguments],
            check=False,
            timeout=_RUN_TIME,
            cwd="/",
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        raise PermissionError(errno.EPERM, "the daemon may not, and systemd-run is not installed") from None
    except subprocess.TimeoutExpired:
        raise TimeoutError(errno.ETIMEDOUT, f"systemd-run has not ended within {_RUN_TIME:g} s") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        number, _, text = said.partition(" ")
        raise OSError(int(number) if number.isdigit() else errno.EPERM, text or said or "systemd-run failed")


if __name__ == "__main__":
    try:
        _set(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
    except OSError as wrong:
        sys.exit(f"{wrong.errno} {wrong.filename or 'the clock'}: {wrong.strerror}")
