"""A QEMU guest agent on a UNIX socket, whose guest is this machine: it runs the programs, with fakes before them."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable

COMMANDS = ("guest-ping", "guest-info", "guest-sync-delimited", "guest-exec", "guest-exec-status")
COMMANDS = (*COMMANDS, "guest-file-open", "guest-file-write", "guest-file-close")


class FakeAgent:
    """Serves one client after the other until close(). `programs` is what comes first in the guest's PATH."""

    def __init__(self, path: Path, programs: Path) -> None:
        self.path = path
        self.calls: list[str] = []
        self.disabled: set[str] = set()
        self.greeting = b""
        """Sent to each client at once: the rest of what was meant for another."""
        self.fault: Callable[[str, dict[str, Any]], Any] = lambda name, arguments: None
        """Called for each request; may raise, or return what is answered."""
        self.open: dict[int, Any] = {}
        self._environment = {**os.environ, "PATH": f"{programs}:/usr/bin:/bin"}
        self._ended: dict[int, subprocess.CompletedProcess[bytes]] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for file in self.open.values():
            file.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                try:
                    self._client(client)
                except (EOFError, OSError):
                    pass  # it left, or a fault says that we do

    def _client(self, client: socket.socket) -> None:
        client.sendall(self.greeting)
        with client.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line.rpartition(b"\xff")[2])
                name, arguments = request["execute"], request.get("arguments", {})
                self.calls.append(name)
                if name == "guest-sync-delimited":
                    client.sendall(b'\xff{"return": %d}\n' % arguments["id"])
                    continue
                reply = self.fault(name, arguments) or self._reply(name, arguments)
                client.sendall(reply if isinstance(reply, bytes) else json.dumps(reply).encode() + b"\n")

    def _reply(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name in self.disabled:
            return error(f"Command {name} has been disabled")
        values = {key.replace("-", "_"): value for key, value in arguments.items()}
        return {"return": getattr(self, "_" + name.replace("-", "_"))(**values)}

    def _guest_ping(self) -> dict[str, Any]:
        return {}

    def _guest_info(self) -> dict[str, Any]:
        supported = [{"name": name, "enabled": name not in self.disabled} for name in COMMANDS]
        return {"version": "7.2.0", "supported_commands": supported}

    def _guest_exec(self, path: str, arg: list[str], capture_output: bool, input_data: str = "") -> dict[str, Any]:
        number = len(self._ended) + 1000
        done = subprocess.run(
            [path, *arg], env=self._environment, input=base64.b64decode(input_data), capture_output=True, check=False
        )
        self._ended[number] = done
        return {"pid": number}

    def _guest_exec_status(self, pid: int) -> dict[str, Any]:
        done = self._ended[pid]
        output = {"out-data": done.stdout, "err-data": done.stderr}
        encoded = {name: base64.b64encode(data).decode() for name, data in output.items() if data}
        return {"exited": True, "exitcode": done.returncode, **encoded}

    def _guest_file_open(self, path: str, mode: str) -> int:
        handle = 1 + max(self.open, default=0)
        self.open[handle] = open(path, mode + "b")  # noqa: SIM115  # guest-file-close, or close(), closes it
        return handle

    def _guest_file_write(self, handle: int, buf_b64: str) -> dict[str, Any]:
        return {"count": self.open[handle].write(base64.b64decode(buf_b64)), "eof": False}

    def _guest_file_close(self, handle: int) -> dict[str, Any]:
        self.open.pop(handle).close()
        return {}


def error(text: str) -> dict[str, Any]:
    """How the agent refuses."""
    return {"error": {"class": "GenericError", "desc": text}}
