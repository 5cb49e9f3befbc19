"""The guest under test, and the command line as users run it: a process, with a target, in one of the wire formats."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

# Makes protobuf look missing to a Python that starts with this directory in its path.
_NO_PROTOBUF = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "google" or name.startswith("google."):
            raise ImportError("no module named " + name + " (blocked by a test)")

sys.meta_path.insert(0, Blocker())
"""


Remote = Callable[[str], str]
"""Makes paths in the guest that no other test uses."""


@dataclass(frozen=True)
class Guest:
    """The guest under test: its target, as users name it after -s, and a way in beside the port."""

    target: str
    run: Callable[[Sequence[str]], str]
    """Runs a program in the guest and gives its output."""

    def files(self, prefix: str) -> list[str]:
        """Files in the guest's /tmp that begin with a prefix, and temporary ones of uploads."""
        token = os.path.basename(prefix)
        names = self.run(["ls", "-a", "/tmp"]).splitlines()
        return [name for name in names if name.startswith(token) or ".vsrpc-upload" in name]


@dataclass(frozen=True)
class Outcome:
    """How a command line ended."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """The command line, as a process, on one target in one mode."""

    def __init__(self, target: str, mode: str, directory: Path) -> None:
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTIO_", "XDG_"))}
        self._environ["XDG_CONFIG_HOME"] = str(directory / "no-config")
        self._prefix = ["-s", target]
        if mode == "json":
            self._prefix.append("--json")
        if mode == "no-protobuf":
            (directory / "blocked").mkdir()
            (directory / "blocked" / "sitecustomize.py").write_text(_NO_PROTOBUF)
            path = [str(directory / "blocked"), *filter(None, [self._environ.get("PYTHONPATH")])]
            self._environ["PYTHONPATH"] = os.pathsep.join(path)

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start it and let it run."""
        return subprocess.Popen([sys.executable, "-m", "host", *self._prefix, *argv], env=self._environ, **options)

    def on_terminal(self, *argv: str) -> bytes:
        """Run it to its good end with a terminal for all that it prints, and tell what that shows."""
        master, slave = pty.openpty()
        shown = b""
        with self.start(*argv, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave) as process:
            os.close(slave)
            with contextlib.suppress(OSError):  # EIO: the last writer has closed it
                while True:
                    shown += os.read(master, 65536)
        os.close(master)
        assert process.returncode == 0
        return shown

    def __call__(self, *argv: str) -> Outcome:
        """Run it to its end."""
        with self.start(*argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, err = process.communicate(timeout=100)
            return Outcome(process.returncode, out, err.decode())
