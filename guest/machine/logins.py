"""Users who are logged in, read from utmp(5)."""

from __future__ import annotations

import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

_USER_PROCESS = 7

# Type, pid, terminal, id, user, host, exit status (2), session, seconds, microseconds, address, reserved. glibc keeps
# the 32-bit form on most 64-bit machines (__WORDSIZE_TIME64_COMPAT32 of bits/wordsize.h), but not on arm64.
_COMMON = "=hxxi32s4s32s256shh"
_RECORD = struct.Struct(_COMMON + "iii16s20x")
_RECORD_ARM64 = struct.Struct(_COMMON + "qqq16s20x4x")


@dataclass(frozen=True)
class Login:
    """A user's session; `host` is empty for a local one, `started` in seconds since the Unix epoch."""

    name: str
    terminal: str
    host: str
    started: int


def logins(root: Path = Path("/"), machine: str = platform.machine()) -> list[Login]:
    """The sessions in the guest's utmp whose first process lives; none where it keeps no utmp."""
    try:
        data = (root / "run/utmp").read_bytes()
    except OSError:
        return []
    record = _RECORD_ARM64 if machine == "aarch64" else _RECORD
    whole = len(data) - len(data) % record.size
    found = []
    for kind, pid, terminal, _, name, host, _, _, _, started, *_ in record.iter_unpack(data[:whole]):
        if kind == _USER_PROCESS and os.path.isdir(root / "proc" / str(pid)):
            found.append(Login(_text(name), _text(terminal), _text(host), started))
    return found


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")
