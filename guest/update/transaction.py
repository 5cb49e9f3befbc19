"""One update to its end: keep what is there, install, wait until somebody reaches the new daemon, or go back.

Whatever ends the process that does this, go_on() in a new one brings it to one of the two ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

from guest.update import saved, state
from guest.update.archive import INSTALLER
from guest.update.layout import UNIT, Layout
from guest.update.service import ENVIRONMENT, Service, run
from guest.update.state import CHECKING, CONFIRMED, INSTALLING, READY, ROLLED_BACK, State

_INSTALLER_SECONDS = 300.0
_POLL = 0.2
_MOST_SAID = 2000  # characters of the installer's output in a message


class Transaction:
    """Updates of one installation."""

    def __init__(self, layout: Layout, service: Service) -> None:
        self._layout = layout
        self._work = layout.work
        self._service = service

    def go_on(self, update: State) -> None:
        """Bring an update to its end, from READY; one that was interrupted later is undone."""
        if update.phase != READY:
            self._decide(update, "it was interrupted, by a crash or a restart of the guest")
            return
        try:
            saved.save(self._layout)
        except OSError as error:
            self._end(update, ROLLED_BACK, f"nothing was changed: what is installed cannot be kept: {error}")
            return
        self._enter(update, INSTALLING)
        failure = self._install(update)
        if not failure:
            self._enter(update, CHECKING)
            failure = self._wait(update)
        self._decide(update, failure)

    def _install(self, update: State) -> str:
        """Run the bundle's installer; says what went wrong, or nothing."""
        environment = {**ENVIRONMENT, "PYTHON": sys.executable}
        try:
            done = run(["/bin/sh", os.path.join(update.bundle, INSTALLER)], environment, _INSTALLER_SECONDS)
        except subprocess.TimeoutExpired:
            return f"its installer did not end within {_INSTALLER_SECONDS:g} s"
        print(done.stdout.strip(), flush=True)
        if done.returncode:
            return f"its installer failed: {done.stdout.strip()[-_MOST_SAID:] or f'exit code {done.returncode}'}"
        return ""

    def _wait(self, update: State) -> str:
        """Wait until it is confirmed; says what is wrong, or nothing."""
        deadline = time.monotonic() + update.confirm_within
        while state.decided(self._work) != CONFIRMED:
            if time.monotonic() > deadline:
                what = f"nobody reached the new daemon through its port within {update.confirm_within:g} s"
                words = self._service.last_words() or f"journalctl -u {UNIT} has its log"
                return f"{what} (the last line of its log: {words})"
            time.sleep(_POLL)
        return ""

    def _decide(self, update: State, failure: str) -> None:
        # A confirmation counts even where its taker was interrupted.
        verdict = ROLLED_BACK if failure else CONFIRMED
        if update.phase == CHECKING and state.decide(self._work, verdict) == CONFIRMED:
            self._end(update, CONFIRMED)
            return
        # An installer that says that it failed has put back all itself.
        if saved.restore(self._layout) or update.phase == CHECKING:
            self._service.restart_daemon()
        self._end(update, ROLLED_BACK, failure)

    def _enter(self, update: State, phase: str) -> None:
        update.phase = phase
        state.save(self._work, update)

    def _end(self, update: State, phase: str, message: str = "") -> None:
        shutil.rmtree(os.path.join(self._work, "new"), ignore_errors=True)
        update.message = message
        self._enter(update, phase)
        shutil.rmtree(os.path.join(self._work, "saved"), ignore_errors=True)
        self._service.end_update()
