"""What is mounted at several places, or elsewhere: a rule about one path of a file is a rule about the file."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Iterator

import pytest
from path_helpers import decisions, make, visible_directory
from servicer_helpers import refused

from guest.policy import mounts
from guest.policy.mounts import Mount, MountTable
from guest.policy.paths import PathPolicy


@pytest.fixture
def root() -> Iterator[Path]:
    with visible_directory() as path:
        yield path


@contextlib.contextmanager
def mounted(*options: object) -> Iterator[None]:
    """A mount for a while; the last argument is where."""
    place = str(options[-1])
    done = subprocess.run(["mount", *map(str, options)], stderr=subprocess.PIPE)
    if done.returncode:
        pytest.skip(f"no mounts here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.host_feature
def test_a_second_mount_of_a_secret_is_the_secret(root: Path) -> None:
    make(root, "real/secret/f", "real/file", "in/file", "in/deep/x", "in/sub/x")
    policy = PathPolicy([f"{root}/in", f"{root}/real"], denied=[f"{root}/real/secret", f"{root}/real/file"])
    denied = f"no: security.denied_paths: {root}/real/"
    assert decisions(policy, root / "in/deep/x")[0] == f"security.allowed_paths: {root}/in"
    with mounted("--bind", root / "real", root / "in/deep"):
        assert decisions(policy, root / "in/deep/secret/f") == [f"{denied}secret"] * 3
        assert decisions(policy, root / "in/deep/secret/new") == [f"{denied}secret"] * 3
        assert decisions(policy, root / "in/deep/file") == [f"{denied}file"] * 3
    with mounted("--bind", root / "real/secret", root / "in/sub"):
        assert decisions(policy, root / "in/sub/f") == [f"{denied}secret"] * 3
    with mounted("--bind", root / "real/file", root / "in/file"):
        assert decisions(policy, root / "in/file")[0] == f"{denied}file"
        for append in (False, True):
            refused(
                "PERMISSION_DENIED", lambda append=append: policy.open_write(f"{root}/in/file", append=append, mode=0)
            )
    assert (root / "real/file").read_text() == "real/file"
    assert decisions(policy, root / "in/file")[0] == f"security.allowed_paths: {root}/in"


@pytest.mark.host_feature
def test_the_layers_of_an_overlay(root: Path) -> None:
    make(root, "in/upper/x", "work/x", "in/lower/secret", "merged/x")
    options = f"lowerdir={root}/in/lower,upperdir={root}/in/upper,workdir={root}/work"
    policy = PathPolicy([f"{root}/in"], denied=[f"{root}/merged/secret"])
    with mounted("-t", "overlay", "overlay", "-o", options, root / "merged"):
        assert decisions(policy, root / "in/lower/secret")[0] == f"no: security.denied_paths: {root}/merged/secret"


@pytest.mark.host_feature
def test_another_mount_namespace_is_out_of_reach(root: Path) -> None:
    """Its paths look like ours and mean other files: what is allowed here may be mounted from anywhere there."""
    make(root, "in/d/f")
    script = f"mount -t tmpfs none {root}/in/d && echo hidden > {root}/in/d/f && echo ready && read done"
    other = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with other:
        assert other.stdout is not None
        assert other.stdin is not None
        try:
            if other.stdout.readline() != b"ready\n":
                pytest.skip("no mount namespaces here")
            (root / "in/link").symlink_to(f"/proc/{other.pid}/root{root}/in/d")
            policy = PathPolicy([f"{root}/in"])
            for path in (f"{root}/in/link/f", f"/proc/{other.pid}/root{root}/in/d/f"):
                failure = refused("PERMISSION_DENIED", policy.open_read, path)
                assert "it is mounted outside the daemon's file system" in failure.details()
                refused("PERMISSION_DENIED", policy.open_parent, path)
                refused("PERMISSION_DENIED", policy.check_metadata, path)
            os.close(policy.open_read(f"/proc/{os.getpid()}/root{root}/in/d/f").fd)
        finally:
            other.stdin.close()


MOUNTINFO = r"""22 27 0:21 / /proc rw - proc proc rw
27 1 254:0 / / rw - ext4 /dev/vda rw
40 27 254:0 /srv/a\040b /mnt/bind rw shared:1 - ext4 /dev/vda rw
41 27 0:30 /@ /pool rw - btrfs /dev/vdb rw,subvol=/@
42 27 0:30 / /pool/all rw - btrfs /dev/vdb rw
43 27 0:31 / /merged rw - overlay overlay rw,lowerdir=/low/1:/low/2,upperdir=/up,workdir=/w
"""


@pytest.mark.parametrize(
    ("number", "real", "others"),
    [
        (27, "/srv/a b/x", ["/mnt/bind/x"]),
        (27, "/srv/a b", ["/mnt/bind"]),
        (27, "/srv/a bc", []),
        (40, "/mnt/bind/x", ["/srv/a b/x"]),
        (40, "/mnt/bind", ["/srv/a b"]),
        (41, "/pool/x", ["/pool/all/@/x"]),
        (42, "/pool/all/@/x", ["/pool/x"]),
        (42, "/pool/all/@b/x", []),
        (27, "/low/2/x", ["/merged/x"]),
        (27, "/up", ["/merged"]),
        (43, "/merged/x", []),
    ],
)
def test_other_paths_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, real: str, others: list[str]
) -> None:
    made = tmp_path / "mountinfo"
    made.write_text(MOUNTINFO)
    monkeypatch.setattr(mounts, "_MOUNTINFO", str(made))
    table = MountTable()
    try:
        mount = table.mounts().by_number[number]
        assert list(table.others(mount, real)) == others
    finally:
        os.close(table._events)


def test_a_kernel_that_does_not_number_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    table = mounts.mount_table()
    with open("/proc/self/mountinfo") as stream:
        known = table.of(stream.fileno(), "/proc/self/mountinfo")
        monkeypatch.setattr(mounts, "_number", lambda fd: None)
        assert isinstance(known, Mount)
        assert known.type == "proc"
        assert table.of(stream.fileno(), "/proc/self/mountinfo") == known
