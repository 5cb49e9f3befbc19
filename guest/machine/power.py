"""Shutting the guest down, at a time to come, by whatever init it has."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import threading
import time
from typing import Callable, Sequence

from guest.machine.systemd import DIRECTORIES, is_running

POWEROFF, REBOOT = "poweroff", "reboot"

REPLY_TIME = 1.0
"""Seconds that are left for the reply to reach the host."""

_RUN_TIME = 30.0  # seconds

_log = logging.getLogger(__name__)


def command(action: str) -> list[str]:
    """What begins it. Raises FileNotFoundError."""
    words = ["systemctl", "--no-block", action] if is_running() else [action]
    return [_find(words[0]), *words[1:]]


def run(action: str) -> None:
    """Begin to shut down. Raises OSError, SubprocessError."""
    _run(command(action))


def tell_users(message: str) -> None:
    """Write to the terminals of who is logged in, by wall(1), where that is installed."""
    try:
        _run([_find("wall"), "--", message])
    except (OSError, subprocess.SubprocessError) as failure:
        _log.info("users are not told: %s", failure)


class PowerPlan:
    """At most one shutdown to come."""

    def __init__(
        self,
        do: Callable[[str], None] = run,
        tell: Callable[[str], None] = tell_users,
        reply_time: float = REPLY_TIME,
        check: Callable[[str], object] = command,
    ) -> None:
        self._check = check
        self._do = do
        self._tell = tell
        self._reply_time = reply_time
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def plan(self, action: str, delay: float, message: str) -> float:
        """Do it after so many seconds, in place of what was planned before; when, in seconds since 1970.

        Raises FileNotFoundError where the guest has no program for it.
        """
        self._check(action)
        seconds = max(delay, self._reply_time)
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(seconds, lambda: self._act(timer, action))
            timer = self._timer
            timer.daemon = True
            timer.start()
        if message:
            self._tell(message)
        return time.time() + seconds

    def cancel(self) -> bool:
        """Call it off; False where nothing was planned."""
        with self._lock:
            timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            return timer is not None

    def _act(self, timer: threading.Timer, action: str) -> None:
        with self._lock:
            if timer is not self._timer:  # called off, or put in another's place, at the last moment
                return
            self._timer = None
        _log.warning("%s, as a caller asked for", action)
        try:
            self._do(action)
        except (OSError, subprocess.SubprocessError) as failure:
            _log.error("%s failed: %s", action, failure)


def _find(program: str) -> str:
    for place in DIRECTORIES:
        if os.access(f"{place}/{program}", os.X_OK):
            return f"{place}/{program}"
    raise FileNotFoundError(errno.ENOENT, f"{program} is not installed (looked in {', '.join(DIRECTORIES)})")


def _run(words: Sequence[str]) -> None:
    subprocess.run(
        words,
        check=True,
        timeout=_RUN_TIME,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
