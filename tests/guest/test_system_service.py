"""Ping, Info and Status: on this machine against what the system says itself, and on made-up ones."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import struct
import time
from pathlib import Path

import psutil
import pytest
from servicer_helpers import context

from guest.machine import facts, logins, mounts, network
from guest.machine.cpu import CpuMeter, Sample
from guest.services import system
from guest.services.system import SystemService
from vsrpc._version import __version__
from vsrpc.v1 import system_pb2 as pb


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_ping() -> None:
    service = SystemService()
    first = service.Ping(pb.PingRequest(), context())
    assert first.message == "pong"
    assert abs(first.timestamp - time.time()) < 5
    assert 0 <= first.uptime < 60
    assert service.Ping(pb.PingRequest(), context()).uptime >= first.uptime


def test_info_of_this_machine() -> None:
    reply = SystemService().Info(pb.InfoRequest(), context())
    assert (reply.hostname, reply.os) == (socket.gethostname(), "Linux")
    assert (reply.kernel, reply.arch) == (platform.release(), platform.machine())
    assert reply.os_version
    assert reply.cpu_count == os.cpu_count()
    assert reply.memory_total == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01)
    assert 0 < reply.memory_available < reply.memory_total
    assert reply.python_version == platform.python_version()
    assert reply.boot_time == pytest.approx(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME), abs=3)
    assert reply.agent_version == __version__
    loopback = next(each for each in reply.interfaces if each.name == "lo")
    assert loopback.mac == ""
    assert "127.0.0.1/8" in loopback.addresses
    assert sorted(each.name for each in reply.interfaces) == sorted(os.listdir("/sys/class/net"))
    root = reply.filesystems[0]
    usage = shutil.disk_usage("/")
    assert (root.mountpoint, root.total) == ("/", usage.total)
    assert root.used == pytest.approx(usage.used, rel=0.05)
    assert not {"proc", "sysfs", "tmpfs", "devtmpfs"} & {each.fstype for each in reply.filesystems[1:]}


def test_info_asks_for_virtualization_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []

    def answer() -> str:
        asked.append(None)
        return "kvm"

    monkeypatch.setattr(facts, "virtualization", answer)
    system._virtualization.cache_clear()
    service = SystemService()
    try:
        for _ in range(3):
            assert service.Info(pb.InfoRequest(), context()).virtualization == "kvm"
    finally:
        system._virtualization.cache_clear()
    assert len(asked) == 1


def test_status_of_this_machine() -> None:
    reply = SystemService().Status(pb.StatusRequest(), context())
    assert 0 <= reply.cpu_usage <= 100
    assert 0 < reply.memory_usage < 100
    usage = shutil.disk_usage("/")
    assert reply.disk_usage["/"] == pytest.approx(100 * usage.used / (usage.used + usage.free), abs=1)
    assert len(reply.load_average) == 3
    assert reply.process_count == pytest.approx(sum(name.isdigit() for name in os.listdir("/proc")), abs=20)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('NAME=X\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n', "Debian GNU/Linux 12 (bookworm)"),
        ("PRETTY_NAME='Alpine Linux v3.20'\n", "Alpine Linux v3.20"),
        ("PRETTY_NAME=Arch\n", "Arch"),
        ('PRETTY_NAME="A \\"quoted\\" \\$name"\n', 'A "quoted" $name'),
        ("NAME=X\n", "Linux"),
    ],
)
def test_os_version(tmp_path: Path, content: str, expected: str) -> None:
    assert facts.os_version(machine(tmp_path, {"etc/os-release": content})) == expected


def test_os_version_of_the_vendors_file(tmp_path: Path) -> None:
    assert facts.os_version(machine(tmp_path, {"usr/lib/os-release": "PRETTY_NAME=Fedora\n"})) == "Fedora"


def test_memory_of_old_kernels_is_estimated(tmp_path: Path) -> None:
    content = "MemTotal:  1000 kB\nMemFree:   100 kB\nBuffers:    20 kB\nCached:    80 kB\nSwapCached: 7 kB\n"
    old = facts.memory(machine(tmp_path, {"proc/meminfo": content}))
    assert (old.total, old.available, old.percent) == (1024_000, 204_800, 80.0)
    new = facts.memory(machine(tmp_path, {"proc/meminfo": content + "MemAvailable: 500 kB\n"}))
    assert (new.available, new.percent) == (512_000, 50.0)


def test_a_bare_guest_has_empty_facts(tmp_path: Path) -> None:
    assert facts.memory(tmp_path) == facts.Memory(0, 0)
    assert facts.memory(tmp_path).percent == 0
    assert (facts.boot_time(tmp_path), facts.machine_id(tmp_path)) == (0, "")
    assert facts.virtualization(tmp_path, ("/no/such/program",)) == ""


@pytest.mark.parametrize(
    ("vendor", "product", "expected"),
    [
        ("QEMU\n", "Standard PC (Q35 + ICH9, 2009)\n", "qemu"),
        ("Red Hat\n", "KVM\n", "kvm"),
        ("VMware, Inc.\n", "VMware7,1\n", "vmware"),
        ("Dell Inc.\n", "PowerEdge\n", ""),
    ],
)
def test_virtualization_by_firmware(tmp_path: Path, vendor: str, product: str, expected: str) -> None:
    files = {"sys/class/dmi/id/sys_vendor": vendor, "sys/class/dmi/id/product_name": product}
    assert facts.virtualization(machine(tmp_path, files), ()) == expected


def test_virtualization_by_systemd(tmp_path: Path) -> None:
    program = tmp_path / "detect"
    program.write_text("#!/bin/sh\necho none\nexit 1\n")  # as on bare metal
    program.chmod(0o755)
    assert facts.virtualization(tmp_path, (str(tmp_path / "missing"), str(program))) == "none"


class Machine:
    """CPU counters and a clock, moved by the test."""

    def __init__(self) -> None:
        self.now, self.busy, self.total = 100.0, 1000, 5000

    def run(self, seconds: float, percent: float) -> None:
        ticks = round(seconds * 1000)
        self.now, self.total, self.busy = (
            self.now + seconds,
            self.total + ticks,
            self.busy + round(ticks * percent / 100),
        )

    def read(self) -> Sample:
        return Sample(self.now, self.busy, self.total)

    def meter(self, percent_while_asleep: float = 0) -> CpuMeter:
        return CpuMeter(self.read, lambda seconds: self.run(seconds, percent_while_asleep))


def test_cpu_usage_since_the_last_call() -> None:
    cpu = Machine()
    meter = cpu.meter()
    for percent in (25, 100, 0):
        cpu.run(10, percent)
        assert meter.percent() == pytest.approx(percent)


def test_the_first_cpu_usage_is_measured() -> None:
    assert Machine().meter(percent_while_asleep=75).percent() == pytest.approx(75)


def test_cpu_usage_of_two_calls_at_once_is_the_same() -> None:
    cpu = Machine()
    meter = cpu.meter(percent_while_asleep=99)
    cpu.run(10, 50)
    assert meter.percent() == pytest.approx(50)
    cpu.run(0.01, 100)
    assert meter.percent() == pytest.approx(50)


def test_an_old_sample_says_nothing_of_now() -> None:
    cpu = Machine()
    meter = cpu.meter(percent_while_asleep=80)
    cpu.run(3600, 1)
    assert meter.percent() == pytest.approx(80)


def test_a_clock_without_ticks_does_not_divide_by_zero() -> None:
    cpu = Machine()
    meter = cpu.meter()
    cpu.run(1, 30)
    assert meter.percent() == pytest.approx(30)
    cpu.now += 5
    assert meter.percent() == pytest.approx(30)


def test_mounts_are_real_storage_once(tmp_path: Path) -> None:
    for name in ("data", "with space", "bind", "image", "net", "etc"):
        (tmp_path / name).mkdir()
    (tmp_path / "etc/hosts").write_text("")
    escaped = str(tmp_path).replace(" ", "\\040")
    lines = [
        "1 1 0:1 / /proc rw - proc proc rw",
        f"2 1 254:2 / {escaped}/data rw shared:1 - ext4 /dev/vdb1 rw",
        f"3 1 254:2 /sub {escaped}/data/bind rw - ext4 /dev/vdb1 rw",
        f"4 1 254:3 / {escaped}/with\\040space rw master:1 propagate_from:2 - xfs /dev/vdc rw",
        f"5 1 7:1 / {escaped}/image ro - squashfs /dev/loop1 ro",
        f"6 1 0:50 / {escaped}/net rw - nfs4 server:/x rw",
        f"7 1 254:4 / {escaped}/etc/hosts rw - ext4 /dev/vdd rw",
        f"8 1 254:5 / {escaped}/gone rw - ext4 /dev/vde rw",
        "9 0 0:40 / / rw - overlay overlay rw",
    ]
    filesystems = "nodev\tproc\nnodev\tnfs4\nnodev\toverlay\n\text4\n\txfs\n\tsquashfs\n"
    root = machine(
        tmp_path / "machine", {"proc/self/mountinfo": "\n".join(lines) + "\n", "proc/filesystems": filesystems}
    )
    found = [(each.device, each.mountpoint, each.fstype) for each in mounts.mounts(root)]
    assert found == [
        ("overlay", "/", "overlay"),
        ("/dev/vdb1", f"{tmp_path}/data", "ext4"),
        ("/dev/vdc", f"{tmp_path}/with space", "xfs"),
    ]


def test_interfaces_are_those_that_psutil_finds() -> None:
    expected = []
    for name, entries in sorted(psutil.net_if_addrs().items()):
        macs = [each.address for each in entries if each.family == socket.AF_PACKET]
        of = [each for each in entries if each.family in (socket.AF_INET, socket.AF_INET6)]
        addresses = [f"{each.address.partition('%')[0]}/{prefix_length(each.netmask)}" for each in of]
        expected.append((name, "" if set(macs[0]) <= set("0:") else macs[0], sorted(addresses)))
    assert [(each.name, each.mac, sorted(each.addresses)) for each in network.interfaces()] == expected


def prefix_length(netmask: str | None) -> int:
    assert netmask is not None
    family = socket.AF_INET6 if ":" in netmask else socket.AF_INET
    return bin(int.from_bytes(socket.inet_pton(family, netmask), "big")).count("1")


def test_a_guest_whose_kernel_is_not_to_be_asked_has_no_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket, "socket", refuse)
    assert network.interfaces() == []


@pytest.mark.parametrize(
    ("machine_name", "times", "size"), [("x86_64", "iii16s20x", 384), ("aarch64", "qqq16s24x", 400)]
)
def test_logins_are_live_sessions_of_utmp(tmp_path: Path, machine_name: str, times: str, size: int) -> None:
    record = struct.Struct("=hxxi32s4s32s256shh" + times)
    assert record.size == size  # of struct utmp there

    def entry(kind: int, pid: int, name: bytes, host: bytes = b"") -> bytes:
        return record.pack(kind, pid, b"pts/0", b"", name, host, 0, 0, 0, 1735312345, 7, b"")

    utmp = tmp_path / "run/utmp"
    machine(tmp_path, {"proc/77/stat": "", "run/utmp": ""})
    assert logins.logins(tmp_path, machine_name) == []
    entries = entry(2, 77, b"reboot"), entry(7, 77, b"ann", b"10.0.0.1"), entry(7, 78, b"gone"), entry(7, 77, b"b\xff")
    utmp.write_bytes(b"".join(entries) + b"cut off")
    assert logins.logins(tmp_path, machine_name) == [
        logins.Login("ann", "pts/0", "10.0.0.1", 1735312345),
        logins.Login("b\ufffd", "pts/0", "", 1735312345),
    ]
    utmp.unlink()
    assert logins.logins(tmp_path, machine_name) == []
