"""`VM`: one test machine, from image to socket.

Disks are three layers: the image of the recipe, on it the guest side of vsrpc as installed (both cached), on it what
this run writes (thrown away). A VM outlives the process that started it; any process may attach to it by its name.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from . import accel, host, image, payload, qemu
from .errors import VMError
from .ga import GuestAgent
from .paths import cache_dir, locked, prune, run_dir, runtime_root
from .qmp import connect

LAYERS_KEPT = 4
BOOT_SECONDS = {"kvm": 60.0, "tcg": 240.0}
DAEMON_SECONDS = {"kvm": 20.0, "tcg": 90.0}
QUIT_SECONDS = 5.0
SERVICE = "vsrpc-guest.service"
# Whoever comes in the first quarter of a second after a daemon opened its port may have been there before, for all it
# knows, and is sent away once.
NEW_SECONDS = 0.3
# A service is active once its process runs; under emulation it takes seconds more until it has its port open.
SERVES = f"ls -l /proc/$(systemctl show --value -p MainPID {SERVICE})/fd 2>/dev/null | grep -q /dev/vport"


class VM:
    """A test VM by its name; creating the object starts nothing.

    Attributes:
        ga: the QEMU guest agent in it, the way in that does not depend on vsrpc.
    """

    def __init__(self, name: str = "default") -> None:
        self.name = name
        self.run = run_dir(name)
        self.ga = GuestAgent(self.run / qemu.AGENT.file)

    @property
    def socket(self) -> Path:
        """The host end of the vsrpc port."""
        return self.run / qemu.VSRPC.file

    @property
    def spare_socket(self) -> Path:
        """The host end of a port that nothing in the guest opens by itself (/dev/virtio-ports/test.spare.0)."""
        return self.run / qemu.SPARE.file

    @property
    def control_socket(self) -> Path:
        """The host end of another such port (/dev/virtio-ports/test.control.0): for tests to talk to their programs."""
        return self.run / qemu.CONTROL.file

    @property
    def running(self) -> bool:
        """Whether its QEMU is alive."""
        return qemu.pid(self.run) is not None

    @property
    def accel(self) -> str:
        """ "kvm" or "tcg"."""
        return str(self._state()["accel"])

    @property
    def ssh_port(self) -> int | None:
        """The port of 127.0.0.1 that leads to the guest's sshd, if started with one."""
        port: int | None = self._state()["ssh_port"]
        return port

    @property
    def ssh_key(self) -> Path:
        """The private key that root of the guest accepts, if started with ssh."""
        return self.run / "ssh_key"

    def start(self, ssh: bool = False, wait_daemon: bool = False) -> None:
        """Boot with the present guest side of vsrpc installed. One that runs already is brought up to date only.

        Args:
            ssh: give the guest a network, and forward a port of this host to its sshd.
            wait_daemon: return only when the daemon's service is active.

        Raises:
            HostIncompleteError: this host lacks programs.
            VMError: a step failed.
        """
        with self._locked():
            guest_side = payload.collect()
            if not self.running:
                self._boot(ssh, guest_side)
            elif ssh and not self.ssh_port:
                raise VMError(f"VM {self.name} runs without a network; stop it first")
            elif self._state()["payload"] != guest_side.key:
                payload.install(self.ga, guest_side)
                self._save_state(payload=guest_side.key)
        if wait_daemon:
            self.wait_daemon()

    def stop(self) -> None:
        """End the VM and throw away its disk and directory. No error if it does not run."""
        if not self.run.exists():
            return
        if self.running:
            try:
                self.qmp("quit")
                qemu.wait_gone(self.run, QUIT_SECONDS)
            except VMError:
                pass  # it hangs or is just dying
            qemu.stop(self.run)
        self._disk.unlink(missing_ok=True)
        self._unfinished_layer.unlink(missing_ok=True)
        shutil.rmtree(self.run)

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        """Run one QMP command; keyword `device_id` means `device-id`."""
        with connect(self.run / "qmp.sock") as qmp:
            return qmp.command(command, **arguments)

    def unplug_port(self) -> None:
        """Take the vsrpc port away, as `virsh detach-device` does. Returns when QEMU has done so."""
        self._unplug(qemu.VSRPC)

    def replug_port(self) -> None:
        """Bring the vsrpc port back, on the same socket."""
        self._replug(qemu.VSRPC)

    def unplug_spare_port(self) -> None:
        """Like unplug_port()."""
        self._unplug(qemu.SPARE)

    def replug_spare_port(self, number: int | None = None) -> None:
        """Like replug_port().

        Args:
            number: on the controller (1 to 30), whose virtqueues it gets; by default the lowest that is free.
        """
        self._replug(qemu.SPARE, number)

    def pause(self) -> None:
        """Stop the guest's CPUs."""
        self.qmp("stop")

    def resume(self) -> None:
        """Let the guest's CPUs go on."""
        self.qmp("cont")

    def reset(self) -> None:
        """Press the reset button; returns when the guest agent of the next boot answers.

        An emulated machine was seen to hang then before its kernel said anything: it is pressed once more, after half
        of the time that a boot may take, and what its CPUs did is printed.
        """
        before = self.boot_id()
        self.qmp("system_reset")
        try:
            self.wait_boot(before, BOOT_SECONDS[self.accel] / 2)
        except VMError as failure:
            if not self.running:
                raise
            print(f"VM {self.name} is reset once more: {failure}\n{self._cpus()}", file=sys.stderr)
            self.qmp("system_reset")
            self.wait_boot(before)

    def boot_id(self) -> str:
        """The kernel's random name of the present boot."""
        return self.ga.read_file("/proc/sys/kernel/random/boot_id").decode().strip()

    def wait_boot(self, before: str = "", seconds: float | None = None) -> None:
        """Wait until the guest agent answers, from another boot than `before`.

        Raises:
            VMError: it does not in time; the message has the end of the console.
        """
        limit = BOOT_SECONDS[self.accel] if seconds is None else seconds
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if not self.running:
                raise VMError(f"QEMU of VM {self.name} exited while the guest booted{self._console_tail()}")
            try:
                self.ga.ping(timeout=min(10.0, max(0.1, deadline - time.monotonic())))
                if self.boot_id() != before:
                    return
            except VMError:
                continue
        raise VMError(f"the guest did not boot within {limit:g} s{self._console_tail()}")

    def wait_daemon(self) -> None:
        """Wait until the vsrpc daemon's service is active and has opened the port, so that it serves.

        Raises:
            VMError: it is not in time; the message has the end of its journal.
        """
        limit = DAEMON_SECONDS[self.accel]
        deadline = time.monotonic() + limit
        while self.ga.exec(["/bin/sh", "-c", SERVES]).rc:
            if time.monotonic() > deadline:
                log = self.ga.exec(["/bin/journalctl", "-u", SERVICE, "-n", "20", "--no-pager", "-o", "cat"]).stdout
                raise VMError(f"{SERVICE} does not serve after {limit:g} s:\n{log.decode(errors='replace')}")
            time.sleep(0.1)
        time.sleep(NEW_SECONDS)

    def _unplug(self, port: qemu.Port) -> None:
        with connect(self.run / "qmp.sock") as qmp:
            qmp.command("device_del", id=port.ident)
            qmp.wait_event("DEVICE_DELETED")

    def _replug(self, port: qemu.Port, number: int | None = None) -> None:
        device: dict[str, Any] = {"id": port.ident, "bus": f"{port.controller}.0", "name": port.name}
        if number is not None:
            device["nr"] = number
        self.qmp("device_add", driver="virtserialport", chardev=port.chardev, **device)

    @property
    def _disk(self) -> Path:
        return cache_dir() / f"run-{self.name}.qcow2"

    @property
    def _unfinished_layer(self) -> Path:
        return self._disk.with_suffix(".layer")

    def _boot(self, ssh: bool, guest_side: payload.Payload) -> None:
        self.stop()  # what an earlier one left behind
        self.run.mkdir(mode=0o700)
        try:
            host.require(host.RUN_NEEDS)
            base = image.ensure()
            layer = cache_dir() / f"guest-{base.key}-{guest_side.key}.qcow2"
            disk, cached = self._disk, layer.exists()
            if cached:
                layer.touch()
                qemu.create_overlay(disk, layer, "qcow2")
            else:
                disk = self._unfinished_layer
                qemu.create_overlay(disk, base.disk, "raw")
            setup = qemu.Setup(self.run, base, disk, accel.detect(base.kernel), _free_port() if ssh else None)
            self._save_state(accel=setup.accel, ssh_port=setup.ssh_port, payload=guest_side.key)
            qemu.start(setup)
            self.wait_boot()
            if not cached:
                payload.install(self.ga, guest_side)
                self._keep_layer(layer)
            if ssh:
                self._admit_ssh()
        except BaseException:
            self.stop()
            raise

    def _keep_layer(self, layer: Path) -> None:
        """Turn what the disk holds now into the cached layer, and go on writing to a new one, with no reboot."""
        qemu.create_overlay(self._disk, layer, "qcow2")
        self.ga.check(["/bin/sync"])
        with self.ga.frozen():
            self.qmp(
                "blockdev-snapshot-sync",
                device=qemu.DISK_ID,
                snapshot_file=str(self._disk),
                format="qcow2",
                mode="existing",
            )
        # Not before: taking a snapshot, QEMU opens the old disk once more by its name.
        self._unfinished_layer.rename(layer)
        prune(list(cache_dir().glob("guest-*.qcow2")), LAYERS_KEPT)

    def _admit_ssh(self) -> None:
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.ssh_key)]
        host.require({"ssh-keygen": "openssh-client"})
        subprocess.run(make, check=True)
        self.ga.check(["/bin/mkdir", "-p", "-m", "700", "/root/.ssh"])
        self.ga.write_file("/root/.ssh/authorized_keys", self.ssh_key.with_suffix(".pub").read_bytes(), 0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(runtime_root() / f".{self.name}.lock"):
            yield

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.run / "state.json").read_text())
        except FileNotFoundError:
            raise VMError(f"VM {self.name} does not run; start it first") from None
        return state

    def _save_state(self, **changes: Any) -> None:
        path = self.run / "state.json"
        state = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**state, **changes}))

    def _cpus(self) -> str:
        """What QEMU knows of what the guest's CPUs do."""
        try:
            registers = str(self.qmp("human-monitor-command", command_line="info registers -a"))
        except VMError as failure:
            return str(failure)
        return "\n".join(line for line in registers.splitlines() if "CPU" in line or "IP=" in line)

    def _console_tail(self) -> str:
        try:
            lines = (self.run / "console.log").read_text(errors="replace").splitlines()[-25:]
        except FileNotFoundError:
            lines = []
        return "; the end of its console:\n" + "\n".join(lines)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
