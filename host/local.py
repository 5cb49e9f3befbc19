"""The `local:` target: a guest daemon in a child process, with a private socket, for trying things out and for tests.

The daemon gets a directory that only this user can enter, and ends with its parent however that ends: it stops
when its standard input, a pipe from here, reaches its end. The shell around it then removes the directory. This
package never imports the guest; it starts it as a user would.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Mapping

from host.config import KEY_VARIABLE
from host.errors import failure

_START_TIMEOUT = 20.0  # seconds; a cold start on a slow machine takes two
_STOP_TIMEOUT = 10.0
_POLL_INTERVAL = 0.005

# sun_path of a UNIX address has 108 bytes (unix(7)); the directory and the name must fit.
_LONGEST_DIRECTORY = 60

# $0 is the directory, the rest the daemon's command line.
_RUN_THEN_CLEAN = '"$@"; status=$?; rm -rf "$0"; exit $status'


class LocalGuest:
    """A guest daemon of our own, listening once this is made. `close` ends it; so does the end of this process."""

    def __init__(self, debug: bool = False) -> None:
        """Start it and wait until it listens. `debug` shows its log on stderr. Raises RPCError if it does not start."""
        base = tempfile.gettempdir()
        self._directory = tempfile.mkdtemp(
            prefix="vsrpc-local-", dir=base if len(base) < _LONGEST_DIRECTORY else "/tmp"
        )
        self._socket = os.path.join(self._directory, "s")
        self._log = None if debug else tempfile.TemporaryFile()  # noqa: SIM115  # close() closes it
        config = os.path.join(self._directory, "guest.yaml")
        with open(config, "w", encoding="utf-8") as stream:
            stream.write(_config())
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _RUN_THEN_CLEAN, self._directory]
            + [sys.executable, "-m", "guest", "--listen", self.target, "--config", config, "--exit-with-stdin"]
            + (["--debug"] if debug else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            # Also keeps `-m guest` from finding a guest.py of the user's directory.
            cwd=self._directory,
            env={**_without_keys(os.environ), "PYTHONPATH": _python_path()},
            # A Ctrl-C is for us; the daemon must outlive it to undo what is half done.
            start_new_session=True,
        )
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.close()
            raise

    @property
    def target(self) -> str:
        """Where it listens, "unix:PATH"."""
        return f"unix:{self._socket}"

    def close(self) -> None:
        """Stop the daemon and remove its directory. May be called twice."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            _remove(self._directory)
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> LocalGuest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _wait_until_it_listens(self) -> None:
        until = time.monotonic() + _START_TIMEOUT
        while not self._listens():
            if self._process.poll() is not None:
                raise failure(
                    "CONNECTION_REFUSED", f"local: the embedded guest daemon did not start: {self._last_words()}"
                )
            if time.monotonic() > until:
                raise failure(
                    "CONNECTION_REFUSED", f"local: the embedded guest daemon does not listen after {_START_TIMEOUT:g} s"
                )
            time.sleep(_POLL_INTERVAL)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self._socket)
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

    def _last_words(self) -> str:
        if self._log is None:
            return f"exit code {self._process.returncode}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"


def _config() -> str:
    # JSON is YAML: quoting is right whatever the directory is called.
    import json

    paths = ["/tmp/", "/var/log/", "/home/", "/opt/"]
    own = os.path.join(os.path.realpath(tempfile.gettempdir()), "")
    return json.dumps({"security": {"allowed_paths": paths if own in paths else [*paths, own]}})


def _without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a daemon, whose callers may see it."""
    return {name: value for name, value in environ.items() if name != KEY_VARIABLE}


def _python_path() -> str:
    """Where this copy of the project lies, first: the daemon must be of the same version."""
    import vsrpc

    root = os.path.dirname(os.path.dirname(os.path.abspath(vsrpc.__file__)))
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([root, inherited] if inherited else [root])


def _remove(directory: str) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)
