"""The QEMU command line of a test VM, and the start and end of its process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import recipe
from .accel import OPTIONS
from .errors import VMError
from .host import environment
from .image import Image

DISK_ID = "disk0"
# The daemon may bind the driver of its port anew, which takes away all ports of the same controller.
CONTROLLERS = SHARED, OWN = "serial0", "serial1"
# Address randomisation stays on: a kernel that is unpacked over the code of the one before a reset makes QEMU's
# emulation drop that code piece by piece, for 20 seconds.
KERNEL_ARGS = (
    "console=ttyS0",
    "quiet",
    "panic=-1",  # reboot instead of hanging
    "systemd.show_status=0",
    # Dear under emulation, and the guest keeps nobody's secrets.
    "mitigations=off",
    "audit=0",
    "lsm=",
    "cryptomgr.notests",
    "rcupdate.rcu_expedited=1",
    "random.trust_cpu=1",
    "net.ifnames=0",
    "8250.nr_uarts=1",
    # Emulated devices that nothing uses: probing them takes seconds.
    "modprobe.blacklist=ata_piix,ata_generic,floppy,psmouse,i2c_piix4,pcspkr,evdev,button",
    "modprobe.blacklist=kvm_amd,kvm_intel,powernow_k8,acpi_cpufreq",
)
# The emulated time stamp counters are one clock; Linux doubts it of so old a CPU, and would take the slow HPET.
EMULATED_KERNEL_ARGS = ("tsc=reliable",)
START_SECONDS = 30.0
TERM_SECONDS = 5.0


@dataclass(frozen=True)
class Port:
    """A virtio-serial port: its id, its name in the guest, the id of its character device, its socket's file, and its
    controller."""

    ident: str
    name: str
    chardev: str
    file: str
    controller: str = SHARED


VSRPC = Port("vsrpc-port", "test.vserial.0", "vsrpc-chardev", "vsrpc.sock", OWN)
SPARE = Port("spare-port", "test.spare.0", "spare", "spare.sock")
# A test's way to what it runs in the guest, where the agent's tenth of a second a command is too much.
CONTROL = Port("control-port", "test.control.0", "control", "control.sock")
AGENT = Port("ga-port", "org.qemu.guest_agent.0", "ga", "ga.sock")


@dataclass(frozen=True)
class Setup:
    """What differs between one VM and the next."""

    run: Path
    image: Image
    disk: Path
    accel: str
    ssh_port: int | None = None


def command(setup: Setup) -> list[str]:
    """QEMU's arguments; it goes to the background once all sockets listen."""
    run = setup.run
    append = [*KERNEL_ARGS, *EMULATED_KERNEL_ARGS] if setup.accel == "tcg" else list(KERNEL_ARGS)
    args = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-name", f"vsrpc-{run.name}"]
    # Two CPUs also where they are emulated: the guest boots a quarter faster than with one.
    args += ["-machine", "pc", *OPTIONS[setup.accel], "-smp", "2", "-m", "1024"]
    args += ["-kernel", str(setup.image.kernel), "-initrd", str(setup.image.initrd)]
    # The disk is thrown away with the VM, so nothing has to reach the host's disk.
    args += ["-drive", f"if=none,id={DISK_ID},format=qcow2,cache=unsafe,file={setup.disk}"]
    args += ["-device", f"virtio-blk-pci,drive={DISK_ID}"]
    for controller in CONTROLLERS:
        args += ["-device", f"virtio-serial-pci,id={controller},max_ports=31"]
    for port in (VSRPC, SPARE, CONTROL, AGENT):
        args += ["-chardev", f"socket,id={port.chardev},path={run / port.file},server=on,wait=off"]
        device = f"virtserialport,bus={port.controller}.0,chardev={port.chardev},id={port.ident},name={port.name}"
        args += ["-device", device]
    console = f"socket,id=console,path={run / 'console.sock'},server=on,wait=off,logfile={run / 'console.log'}"
    args += ["-chardev", console, "-serial", "chardev:console"]
    args += ["-qmp", f"unix:{run / 'qmp.sock'},server=on,wait=off"]
    if os.access("/dev/vhost-vsock", os.R_OK | os.W_OK):
        args += ["-device", f"vhost-vsock-pci,guest-cid={random.randrange(1 << 10, 1 << 31)}"]
    if setup.ssh_port:
        args += ["-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:{setup.ssh_port}-:22"]
        args += ["-device", "virtio-net-pci,netdev=net0,romfile="]
        append += ["systemd.wants=systemd-networkd.service", "systemd.wants=ssh.service"]
    return [*args, "-append", " ".join(append), "-daemonize", "-pidfile", str(run / "pid")]


def start(setup: Setup) -> None:
    """Start QEMU; on return its sockets accept clients.

    Raises:
        VMError: it refused; the message has what it said.
    """
    try:
        done = subprocess.run(
            command(setup), env=environment(), capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        stop(setup.run)
        raise VMError(f"QEMU did not start within {START_SECONDS:g} s") from None
    if done.returncode:
        raise VMError(f"QEMU did not start (code {done.returncode}):\n{done.stderr.strip()}")


def pid(run: Path) -> int | None:
    """The process of the VM in this run directory, if it is alive."""
    try:
        number = int((run / "pid").read_text())
        cmdline = Path(f"/proc/{number}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    # The number may belong to another process by now.
    return number if os.fsencode(run / "pid") in cmdline.split(b"\0") else None


def stop(run: Path) -> None:
    """End the process, politely and then not. It has nothing to save."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = pid(run)
        if process is None:
            return
        os.kill(process, number)
        if wait_gone(run, TERM_SECONDS):
            return
    raise VMError(f"QEMU (pid {pid(run)}) does not die")


def wait_gone(run: Path, seconds: float) -> bool:
    """Whether the process ended within this time."""
    deadline = time.monotonic() + seconds
    while pid(run) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def create_overlay(path: Path, backing: Path, backing_format: str) -> None:
    """A new qcow2 disk at `path` that holds the changes to `backing` only. `backing` need not exist yet."""
    path.unlink(missing_ok=True)
    create = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", backing_format, "-b", str(backing), str(path)]
    done = subprocess.run(
        [*create, str(recipe.DISK_SIZE)], env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise VMError(f"cannot create the disk {path}: {done.stderr.strip()}")
