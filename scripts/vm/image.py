"""Builds the guest image with mmdebstrap: kernel, initramfs and an ext4 disk, cached by a hash of the recipe.

No loop mounts and no root needed: mkfs.ext4 fills the file system from mmdebstrap's chroot while that still exists.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import host, initrd, paths, recipe
from .errors import VMError

BASES_KEPT = 2

# Run by mmdebstrap as (mapped) root with the chroot as $1, after the packages are installed.
CUSTOMIZE = """
set -eu
root=$1
chroot "$root" passwd -q -d root
chroot "$root" systemctl -q disable {disabled}
chroot "$root" systemctl -q mask {masked}
mkdir -p "$root/etc/systemd/system-generators"
for generator in {generators}; do ln -s /dev/null "$root/etc/systemd/system-generators/$generator"; done
chroot "$root" systemctl -q enable serial-getty@ttyS0.service
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/etc/apt/apt.conf.d/99mmdebstrap
: >"$root/etc/machine-id"
mkdir {out}/boot
cp "$root"/boot/vmlinuz-* {out}/boot/vmlinuz
cp "$root"/bin/busybox {out}/boot/
cp -R "$root"/usr/lib/modules {out}/boot/
chmod -R a+rwX {out}/boot
"""
# At this time /proc, /sys and /dev are mounted in the chroot, and services are kept from being started in it: neither
# may be copied.
MKFS = """
set -eu
rm -f "$1/usr/sbin/policy-rc.d"
awk -v d="$1/" 'index($2, d) == 1 {{ print $2 }}' /proc/mounts | sort -r | xargs -r umount -l
exec mkfs.ext4 -q -F -L vsrpc-guest -d "$1" {out}/disk.img
"""


@dataclass(frozen=True)
class Image:
    """A built guest image. `disk` is raw and must never be written: boot an overlay of it."""

    key: str
    disk: Path
    kernel: Path
    initrd: Path


def key() -> str:
    """Names the image that the present recipe makes."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in ("recipe.py", "initrd.py", "image.py"):
        digest.update((here / name).read_bytes())
    return digest.hexdigest()[:12]


def ensure() -> Image:
    """The image of the present recipe, from the cache or built now (about a minute)."""
    cache, name = paths.cache_dir(), f"base-{key()}"
    with paths.locked(cache / "build.lock"):
        where = cache / name
        if not where.exists():
            host.require(host.build_needs())
            _build(where)
            paths.prune(list(cache.glob("base-*")), BASES_KEPT)
        os.utime(where)
    return Image(key(), where / "disk.img", where / "vmlinuz", where / "initrd.img")


def _build(target: Path) -> None:
    started = time.monotonic()
    log = target.with_name("build.log")
    print(f"Building the guest image ({recipe.SUITE}; log: {log}) ...", flush=True)
    # Traversable, not listable: without root, mmdebstrap's hooks run as another user id.
    out = Path(tempfile.mkdtemp(prefix="vsrpc-image-", dir="/var/tmp"))
    try:
        out.chmod(0o711 if os.geteuid() == 0 else 0o733)
        disk = out / "disk.img"
        disk.touch()
        disk.chmod(0o666)
        os.truncate(disk, recipe.DISK_SIZE)
        (out / "files.tar").write_bytes(_tar(recipe.FILES))
        (out / "customize.sh").write_text(_fill(CUSTOMIZE, out))
        (out / "mkfs.sh").write_text(_fill(MKFS, out))
        with log.open("wb") as output:
            code = subprocess.call(
                _mmdebstrap(out), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=host.environment()
            )
        if code:
            raise VMError(f"building the guest image failed ({code}); the end of {log}:\n{_tail(log)}")
        _collect(out, target)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    print(f"Built the guest image in {time.monotonic() - started:.0f} s", flush=True)


def _mmdebstrap(out: Path) -> list[str]:
    quoted = shlex.quote(str(out))
    return [
        "mmdebstrap",
        "--mode=" + ("root" if os.geteuid() == 0 else "unshare"),
        "--variant=apt",
        "--format=null",
        "--include=" + ",".join(recipe.PACKAGES),
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=force-confold",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        *(f"--aptopt={option}" for option in host.apt_options()),
        # The image has its own initramfs; making the package's would take half a minute.
        '--essential-hook=mkdir "$1/etc/initramfs-tools"',
        '--essential-hook=echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"',
        f"--customize-hook=tar-in {quoted}/files.tar /",
        f'--customize-hook=sh {quoted}/customize.sh "$1"',
        f'--customize-hook=unshare --mount sh {quoted}/mkfs.sh "$1"',
        recipe.SUITE,
        "/dev/null",
        *_sources(host.mirrors()),
    ]


def _sources(mirrors: dict[str, str]) -> list[str]:
    """The mirrors that this machine's apt uses; none where it is not Debian's: mmdebstrap then takes its own."""
    suites = (("Debian", ""), ("Debian", "-updates"), ("Debian-Security", "-security"))
    if "Debian" not in mirrors:
        return []
    return [f"deb {mirrors[label]} {recipe.SUITE}{suffix} main" for label, suffix in suites if label in mirrors]


def _collect(out: Path, target: Path) -> None:
    versions = list((out / "boot" / "modules").iterdir())
    if len(versions) != 1:
        raise VMError(f"expected one kernel in the guest image, found {[v.name for v in versions]}")
    stage = target.with_name(target.name + ".new")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    (stage / "initrd.img").write_bytes(initrd.build(versions[0], out / "boot" / "busybox", recipe.MODULES))
    shutil.copyfile(out / "boot" / "vmlinuz", stage / "vmlinuz")
    subprocess.run(["cp", "--sparse=always", out / "disk.img", stage / "disk.img"], check=True)
    stage.rename(target)


def _fill(script: str, out: Path) -> str:
    return script.format(
        out=shlex.quote(str(out)),
        masked=" ".join(recipe.MASKED),
        generators=" ".join(recipe.MASKED_GENERATORS),
        disabled=" ".join(recipe.DISABLED),
    )


def _tar(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo("./" + name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:])
