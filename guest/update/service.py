"""systemd, as an update needs it: the daemon's unit and the update's own."""

from __future__ import annotations

import os
import subprocess
from typing import Sequence

from guest.update.layout import UNIT, UPDATE_UNIT, Layout, command, own_release

_PROGRAM_SECONDS = 120.0  # systemctl restart waits until the old daemon has ended

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

_UNIT_FILE = """\
# Written while an update is under way. Interrupted by a crash or power cut, it is undone by this at the next start.
[Unit]
Description=update of the vsrpc guest daemon

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


class Service:
    """The units. Nothing here raises: what fails is told in the log, and the next step shows whether it mattered."""

    def __init__(self, layout: Layout, environment: dict[str, str] | None = None) -> None:
        self._layout = layout
        self._environment = environment or ENVIRONMENT

    def restart_daemon(self) -> None:
        """Have systemd read the unit and the rule anew, and start the daemon that is installed now."""
        self._run("systemctl", "daemon-reload")
        self._run("udevadm", "control", "--reload")
        self._run("systemctl", "restart", UNIT)

    def last_words(self) -> str:
        """The last line of the daemon's log."""
        line = self._run("journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=1", f"--unit={UNIT}")
        return " ".join(line.split())[-500:]

    def begin_update(self) -> None:
        """Start the update's unit, now and at each boot until it has ended."""
        words = [word.replace("\\", "\\\\").replace('"', '\\"') for word in command(own_release(), "run")]
        with open(self._layout.update_unit, "w", encoding="utf-8") as stream:
            stream.write(_UNIT_FILE.format(command=" ".join(f'"{word}"' for word in words)))
            stream.flush()
            os.fsync(stream.fileno())
        self._run("systemctl", "daemon-reload")
        self._run("systemctl", "enable", UPDATE_UNIT)
        self._run("systemctl", "restart", "--no-block", UPDATE_UNIT)

    def end_update(self) -> None:
        """Remove the update's unit, from within."""
        self._run("systemctl", "disable", UPDATE_UNIT)
        try:
            os.unlink(self._layout.update_unit)
        except FileNotFoundError:
            pass
        self._run("systemctl", "daemon-reload")

    def _run(self, *words: str) -> str:
        try:
            done = run(words, self._environment, _PROGRAM_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"{' '.join(words)}: {error}", flush=True)
            return ""
        if done.returncode:
            print(f"{' '.join(words)}: exit code {done.returncode}: {done.stdout.strip()}", flush=True)
        return done.stdout


def run(words: Sequence[str], environment: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, its output in one. Raises OSError, TimeoutExpired."""
    return subprocess.run(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
        cwd="/",
        encoding="utf-8",
        errors="replace",
    )
