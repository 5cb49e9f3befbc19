"""libvirt, by its command line: virsh is called as a program, so that nothing must be built or installed for it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import Sequence

from host.errors import UsageError, failure

_SECONDS = 60.0

_NO_DOMAIN = ("failed to get domain", "Domain not found")
_NO_HYPERVISOR = ("failed to connect to the hypervisor",)
_FORBIDDEN = ("authentication failed", "access denied", "Permission denied", "authentication unavailable")
_OFF = ("shut off", "crashed")


class Virsh:
    """virsh on one hypervisor; `uri` is what its -c takes, None for its own default."""

    def __init__(self, uri: str | None = None) -> None:
        self._options = ["-c", uri] if uri else []
        self._hint = f" (virsh -c {uri})" if uri else " (if it is another libvirt's: --connect URI)"

    def state(self, domain: str) -> tuple[bool, bool]:
        """Whether the domain runs, and whether it has a configuration that outlives that."""
        lines = (line.partition(":") for line in self.run("dominfo", domain).splitlines())
        facts = {name.strip(): value.strip() for name, _, value in lines}
        return facts.get("State") not in _OFF, facts.get("Persistent") == "yes"

    def xml(self, domain: str, inactive: bool = False) -> str:
        """The domain's XML: as it runs, or what it will be at the next start."""
        return self.run("dumpxml", domain, *(["--inactive"] if inactive else []))

    def change(self, verb: str, domain: str, device: str, options: Sequence[str]) -> None:
        """attach-device or detach-device, with a device's XML."""
        with tempfile.NamedTemporaryFile("w", prefix="vsrpc-", suffix=".xml", encoding="utf-8") as file:
            file.write(device)
            file.flush()
            self.run(verb, domain, file.name, *options)

    def run(self, verb: str, domain: str, *arguments: str, seconds: float = _SECONDS) -> str:
        """What virsh prints. Raises RPCError with virsh's own words, and UsageError for what is missing or wrong."""
        if not domain or domain.startswith("-"):
            raise UsageError(f"{domain!r} is no domain's name: `virsh list --all` shows them")
        command = ["virsh", *self._options, verb, domain, *arguments]
        environment = {**os.environ, "LC_ALL": "C"}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=seconds, check=False)
        except FileNotFoundError:
            raise UsageError("virsh is not installed here: install it (Debian: libvirt-clients)") from None
        except subprocess.TimeoutExpired:
            raise failure("READ_TIMEOUT", f"virsh {verb} {domain} did not end within {seconds:g} s") from None
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "replace")
        said = " ".join(done.stderr.decode("utf-8", "replace").replace("error:", "").split())
        said = said or f"exit code {done.returncode}"
        if any(each in said for each in _FORBIDDEN):
            raise failure("PERMISSION_DENIED", f"libvirt refuses virsh {verb} {domain}: {said}: run it as root")
        if any(each in said for each in _NO_HYPERVISOR):
            raise failure("CONNECTION_REFUSED", f"virsh does not reach libvirt: {said}{self._hint}")
        if any(each in said for each in _NO_DOMAIN):
            raise UsageError(f"no such domain: {domain}: `virsh list --all` shows them{self._hint}")
        raise failure("CMD_EXEC_FAILED", f"virsh {verb} {domain} failed: {said}")
