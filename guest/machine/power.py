"""Shutting the guest down, at a time to come, by whatever init it has."""

from __future__ import annotations

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


def run(action: str) -> None:
    """Begin to shut down. Raises OSError, SubprocessError."""
    command = ["systemctl", "--no-block", action] if is_running() else [action]
    _run(command)


def tell_users(message: str) -> None:
    """Write to the terminals of who is logged in, by wall(1), where that is installed."""
    try:
        _run(["wall", "--", message])
    except (OSError, subprocess.SubprocessError) as failure:
        _log.info("users are not told: %s", failure)


class PowerPlan:
    """At most one shutdown to come."""

    def __init__(
        self, do: Callable[[str], None] = run, tell: Callable[[str], None] = tell_users, reply_time: float = REPLY_TIME
    ) -> None:
        self._do = do
        self._tell = tell
        self._reply_time = reply_time
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def plan(self, action: str, delay: float, message: str) -> float:
        """Do it after so many seconds, in place of what was planned before; when, in seconds since 1970."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            seconds = max(delay, self._reply_time)
            self._timer = threading.Timer(seconds, self._act, (action,))
            self._timer.daemon = True
            self._timer.start()
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

    def _act(self, action: str) -> None:
        with self._lock:
            self._timer = None
        _log.warning("%s, as a caller asked for", action)
        try:
            self._do(action)
        except (OSError, subprocess.SubprocessError) as failure:
            _log.error("%s failed: %s", action, failure)


def _run(command: Sequence[str]) -> None:
    path = ":".join(DIRECTORIES)
    program = next(
        (f"{place}/{command[0]}" for place in (*DIRECTORIES, "/sbin") if os.access(f"{place}/{command[0]}", os.X_OK)),
        None,
    )
    if program is None:
        raise FileNotFoundError(f"{command[0]} is not installed (looked in {path})")
    subprocess.run(
        [program, *command[1:]],
        check=True,
        timeout=_RUN_TIME,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
