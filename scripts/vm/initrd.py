"""The guest's initramfs: busybox, the modules that reach the disk, and ten lines of shell.

The distribution's own starts udev and waits for it; under emulation this one boots seconds faster.
"""

from __future__ import annotations

from pathlib import Path

from .errors import VMError

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module"; done </modules/order
until [ -b /dev/vda ]; do $b usleep 10000; done
$b mount -t ext4 -o rw,noatime /dev/vda /root && $b umount /dev && exec $b switch_root /root /sbin/init
echo "initramfs: cannot mount /dev/vda"
exec $b sh </dev/console >/dev/console 2>&1
"""


def build(modules_dir: Path, busybox: Path, names: tuple[str, ...]) -> bytes:
    """An uncompressed cpio archive that loads the modules `names` with all they depend on.

    Args:
        modules_dir: `/lib/modules/VERSION` of the guest, with its modules.dep.
        busybox: a statically linked busybox.
    """
    files = _load_order(modules_dir, names)
    archive = [_entry(directory, 0o040755, b"") for directory in ("bin", "dev", "modules", "root")]
    archive.append(_entry("init", 0o100755, INIT.encode()))
    archive.append(_entry("bin/busybox", 0o100755, busybox.read_bytes()))
    archive += [_entry(f"modules/{path.name}", 0o100644, path.read_bytes()) for path in files]
    archive.append(_entry("modules/order", 0o100644, "".join(f"{p.name}\n" for p in files).encode()))
    archive.append(_entry("TRAILER!!!", 0, b""))
    return b"".join(archive)


def _load_order(modules_dir: Path, names: tuple[str, ...]) -> list[Path]:
    needs: dict[str, list[str]] = {}
    for line in (modules_dir / "modules.dep").read_text().splitlines():
        module, _, others = line.partition(":")
        needs[module] = others.split()
    by_name = {Path(module).stem: module for module in needs}
    ordered: list[str] = []
    for name in names:
        if name not in by_name:
            raise VMError(f"the guest kernel {modules_dir.name} has no module {name}")
        module = by_name[name]
        # modules.dep lists the closure, the deepest last.
        ordered += [m for m in [*reversed(needs[module]), module] if m not in ordered]
    return [modules_dir / module for module in ordered]


def _entry(name: str, mode: int, data: bytes) -> bytes:
    """One member in the "newc" format of cpio(5)."""
    encoded = name.encode() + b"\0"
    nlink = 2 if mode & 0o040000 else 1
    fields = (0, mode, 0, 0, nlink, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
