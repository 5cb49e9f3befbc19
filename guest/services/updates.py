"""Replacing the daemon by another release, at its host's wish: checks, preparation, and what became of it.

What is done after the reply, when this daemon is gone, is guest.update's.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import shutil
import subprocess
import threading
import time
import uuid

from guest.errors import error
from guest.os_errors import file_errors, printable
from guest.update import archive, state
from guest.update.layout import UNIT, Layout, command, own_release
from guest.update.service import run
from guest.update.state import CHECKING, CONFIRMED, ROLLED_BACK, State
from vsrpc._version import __version__
from vsrpc.errors import RpcError
from vsrpc.v1 import system_pb2 as pb
from vsrpc.wire import Buffer

CONFIRM_WITHIN = 120.0
"""Seconds that the host has to reach the new daemon where it does not say."""
_CONFIRM_LIMITS = (5.0, 3600.0)

_SHA256 = re.compile(r"[0-9A-Fa-f]{64}\Z")
_BEGIN_SECONDS = 30.0
_BEGIN_GRACE = 120.0  # an update that was prepared so long ago, and not begun, never will be

_RUN_DIRECTORY = "/run/systemd/system"
_CGROUP = "/proc/self/cgroup"


class Updates:
    """The daemon's part in its own replacement.

    `allowed` is security.allow_update. `release` is the directory of the code that runs; `cgroup` the file that names
    the unit of this process; `path` where programs are looked for.
    """

    def __init__(
        self,
        allowed: bool,
        layout: Layout | None = None,
        release: str | None = None,
        cgroup: str = _CGROUP,
        run_directory: str = _RUN_DIRECTORY,
        path: str = "/usr/sbin:/usr/bin:/sbin:/bin",
    ) -> None:
        self._allowed = allowed
        self._layout = layout or Layout()
        self._release = release or own_release()
        self._cgroup = cgroup
        self._run_directory = run_directory
        self._environment = {"PATH": path, "LC_ALL": "C"}
        self._lock = threading.Lock()

    def begin(self, content: Buffer, sha256: str, confirm_within: float) -> pb.UpdateResponse:
        """Check the bundle and start the update. Raises RpcError; nothing has changed then."""
        if not self._allowed:
            message = "Updates through the port are not allowed: set security.allow_update to true in the guest"
            raise error("PERMISSION_DENIED", f"{message} (or use vsrpc-host bootstrap, or scripts/deploy.sh)")
        _check_request(content, sha256, confirm_within)
        self._check_installation()
        with self._lock:
            return self._begin(content, confirm_within or CONFIRM_WITHIN)

    def confirm(self, update_id: str) -> pb.ConfirmUpdateResponse:
        """How the update goes; keeps it if this is its daemon. Raises RpcError for an update that is not known."""
        if not update_id:
            raise error("MISSING_REQUIRED", "update_id is missing: give the one of Update", field="update_id")
        update = self._last()
        if update is None or update.update_id != update_id:
            message = f"No such update: {update_id[:64]!r} (another one has been made since, or none at all)"
            raise error("SESSION_NOT_FOUND", message)
        phase = update.phase
        if phase == CHECKING:
            with file_errors(self._layout.work):
                phase = state.decide(self._layout.work, CONFIRMED)
            if phase == ROLLED_BACK:
                phase = "going back"  # it is decided, and not done yet
        reply = {
            CONFIRMED: pb.UPDATE_STATE_CONFIRMED,
            ROLLED_BACK: pb.UPDATE_STATE_ROLLED_BACK,
        }.get(phase, pb.UPDATE_STATE_RUNNING)
        return pb.ConfirmUpdateResponse(state=reply, message=_one_line(update.message or phase), version=__version__)

    def _begin(self, content: Buffer, confirm_within: float) -> pb.UpdateResponse:
        work = self._layout.work
        with file_errors(work):
            os.makedirs(work, 0o700, exist_ok=True)
            self._refuse_another()
            update = self._prepare(content, confirm_within)
            try:
                self._start()
            except RpcError:
                shutil.rmtree(work)
                raise
        return pb.UpdateResponse(update_id=update.update_id, version=update.version, previous_version=__version__)

    def _prepare(self, content: Buffer, confirm_within: float) -> State:
        shutil.rmtree(self._layout.work)  # of the last one
        new = os.path.join(self._layout.work, "new")
        os.mkdir(self._layout.work, 0o700)
        os.mkdir(new)
        try:
            bundle = archive.unpack(content, new)
            update = State(uuid.uuid4().hex, bundle, archive.version(bundle), confirm_within=confirm_within)
            os.sync()
            state.save(self._layout.work, update)
        except archive.BadBundle as failure:
            shutil.rmtree(new, ignore_errors=True)
            message = f"content is no guest bundle: {failure} (give vsrpc-guest-VERSION.tar.gz, whole)"
            raise error("INVALID_PARAMS", printable(message), field="content") from None
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return update

    def _start(self) -> None:
        """Begin the update outside of this daemon's unit, which it stops. Raises RpcError."""
        words = ["systemd-run", "--quiet", "--collect", "--unit=vsrpc-update-begin"]
        try:
            done = run([*words, *command(self._release, "begin")], self._environment, _BEGIN_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise error("NOT_SUPPORTED", f"systemd-run cannot be used in this guest: {failure}") from None
        if done.returncode:
            said = _one_line(done.stdout) or f"exit code {done.returncode}"
            raise error("UNIT_FAILED", f"systemd did not start the update: {said}")

    def _check_installation(self) -> None:
        """Refuse what cannot be replaced this way, or not while it serves the call."""
        releases = os.path.join(os.path.dirname(self._layout.current), "releases")
        if os.path.dirname(self._release) != os.path.realpath(releases):
            message = f"This daemon was not installed by a bundle's install.sh (it runs from {self._release})"
            raise error("NOT_SUPPORTED", f"{message}: update it as it was installed, a Debian package by apt or dpkg")
        if os.path.realpath(self._layout.current) != self._release:
            message = "Another release was installed since this daemon was started"
            raise error("NOT_SUPPORTED", f"{message}: restart it first (vsrpc-host service vsrpc-guest restart)")
        if not os.path.isdir(self._run_directory):
            message = "This guest has no systemd, which alone can replace a daemon that serves a call"
            raise error("NOT_SUPPORTED", f"{message}: run the bundle's install.sh in it, and start the daemon anew")
        with open(self._cgroup, encoding="utf-8") as stream:
            units = [line.rstrip("\n").rpartition("/")[2] for line in stream]
        if UNIT not in units:
            message = f"This daemon does not run as {UNIT}, so that an update would start another one beside it"
            raise error("NOT_SUPPORTED", f"{message}: run the bundle's install.sh in the guest")

    def _refuse_another(self) -> None:
        update = self._last()
        busy = os.path.exists(self._layout.update_unit)  # it goes last
        if update is not None and update.phase not in state.ENDED:
            age = time.time() - os.stat(os.path.join(self._layout.work, "state.json")).st_mtime
            busy = busy or update.phase != state.READY or 0 <= age < _BEGIN_GRACE
        if busy:
            message = "Another update of this guest is under way: try again when it has ended"
            raise error("BUSY", f"{message} (in the guest: systemctl status vsrpc-update)")

    def _last(self) -> State | None:
        try:
            return state.load(self._layout.work)
        except (OSError, ValueError):
            return None


def _check_request(content: Buffer, sha256: str, confirm_within: float) -> None:
    if not len(content):
        raise error("MISSING_REQUIRED", "content is missing: give a guest bundle", field="content")
    if not _SHA256.match(sha256):
        message = f"sha256 {sha256[:80]!r} is not 64 hexadecimal digits" if sha256 else "sha256 is missing"
        raise error("INVALID_PARAMS" if sha256 else "MISSING_REQUIRED", message, field="sha256")
    low, high = _CONFIRM_LIMITS
    if confirm_within and not low <= confirm_within <= high:
        message = f"confirm_within is {confirm_within:g}: give {low:g} to {high:g} seconds, or 0 for {CONFIRM_WITHIN:g}"
        raise error("INVALID_PARAMS", message, field="confirm_within")
    actual = hashlib.sha256(content).hexdigest()
    if not hmac.compare_digest(actual, sha256.lower()):
        message = f"SHA-256 of what arrived is {actual}, not {sha256.lower()}: nothing was changed; send it again"
        raise error("CONTENT_MISMATCH", message, sha256=actual)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))
