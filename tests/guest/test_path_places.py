"""Which of several places decides about a path, what is refused always, and the rule that each decision names."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator

import pytest
from servicer_helpers import refused

from guest.policy import mounts
from guest.policy.mounts import Mount, MountTable
from guest.policy.paths import VISIBLE, PathPolicy
from vsrpc.errors import RpcError


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="places-"))  # not tmp_path: only its owner can see that
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def make(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)


def decisions(policy: PathPolicy, path: object) -> list[str]:
    """The rules that decide about reading, writing and metadata; "no: " before those that refuse."""
    rules = []
    for check in (policy.check_read, policy.check_write, policy.check_metadata):
        try:
            rules.append(check(str(path)))
        except RpcError as failure:
            rules.append(f"no: {failure.data['rule']}" if failure.reason == "PERMISSION_DENIED" else failure.reason)
    return rules


def test_the_deepest_place_decides(root: Path) -> None:
    make(root, "f", "ro/f", "ro/rw/f", "ro/rw/ro/f", "other/f")
    policy = PathPolicy([f"{root}/", f"{root}/ro/rw"], read_only=[f"{root}/ro/", f"{root}/ro/rw/ro/f"])
    all_of, ro, rw, deepest = (f"security.allowed_paths: {root}/{end}" for end in ("", "ro/", "ro/rw", "ro/rw/ro/f"))
    for path, expected in {
        "f": [all_of, all_of, all_of],
        "other/new": [all_of, all_of, all_of],
        "ro/f": [ro, f"no: {ro} (read only)", ro],
        "ro/new": [ro, f"no: {ro} (read only)", ro],
        "ro/rw/f": [rw, rw, rw],
        "ro/rw/ro/f": [deepest, f"no: {deepest} (read only)", deepest],
        "ro/rw/ro/new": [rw, rw, rw],
    }.items():
        assert decisions(policy, root / path) == expected, path


def test_a_refusal_to_write_says_that_reading_is_allowed(root: Path) -> None:
    make(root, "ro/f")
    failure = refused("PERMISSION_DENIED", PathPolicy([], read_only=[f"{root}/ro/"]).open_parent, f"{root}/ro/f")
    assert f"(read only there: {root}/ro/; security.allowed_paths in the guest's configuration" in failure.details()
    failure = refused("PERMISSION_DENIED", PathPolicy([], read_only=[f"{root}/ro/"]).check_read, f"{root}/x")
    assert f"allowed: {root}/ro/ (read only); security.allowed_paths" in failure.details()


def test_of_two_entries_for_one_place_the_stricter_counts(root: Path) -> None:
    make(root, "d/f")
    (root / "link").symlink_to(root / "d")
    for policy in (
        PathPolicy([f"{root}/d"], read_only=[f"{root}/d/"]),
        PathPolicy([f"{root}/d"], read_only=[f"{root}/link"]),
    ):
        refused("PERMISSION_DENIED", policy.check_write, f"{root}/d/f")
        policy.check_read(f"{root}/d/f")


def test_a_link_does_not_make_a_read_only_place_writable(root: Path) -> None:
    make(root, "ro/f", "rw/f")
    (root / "rw" / "dir").symlink_to(root / "ro")
    (root / "rw" / "file").symlink_to(root / "ro" / "f")
    policy = PathPolicy([f"{root}/rw"], read_only=[f"{root}/ro"])
    for path in ("rw/dir/f", "rw/dir/new", "rw/file"):
        assert decisions(policy, root / path)[1].endswith(f"{root}/ro (read only)")


def test_denied_places_win_also_for_metadata(root: Path) -> None:
    make(root, "f", "secret/f", "secret/open/f", "one", "real/f")
    (root / "link").symlink_to(root / "real")
    (root / "way").symlink_to(root / "secret")
    denied = [f"{root}/secret/", f"{root}/one", f"{root}/link", f"{root}/later"]
    policy = PathPolicy([f"{root}/", f"{root}/secret/open/"], denied=denied)
    for path, entry in {
        "secret": denied[0],
        "secret/f": denied[0],
        "secret/new": denied[0],
        "secret/open/f": denied[0],
        "way/f": denied[0],
        "one": denied[1],
        "link": denied[2],
        "real/f": denied[2],  # what a link leads to is meant by it
        "later": denied[3],
    }.items():
        assert decisions(policy, root / path) == [f"no: security.denied_paths: {entry}"] * 3, path
    assert "secret2" not in " ".join(decisions(policy, root / "secret2"))
    policy.check_write(f"{root}/secret2")
    # A denied link that is made, or changed, later protects what it leads to then.
    (root / "later").symlink_to(root / "f")
    assert decisions(policy, root / "f") == [f"no: security.denied_paths: {denied[3]}"] * 3
    failure = refused("PERMISSION_DENIED", policy.open_read, f"{root}/one")
    assert f"refused always by security.denied_paths: {root}/one in the guest's configuration" in failure.details()


def test_the_rule_says_what_is_public(root: Path) -> None:
    make(root, "f")
    assert decisions(PathPolicy([]), root / "f") == ["no: security.allowed_paths"] * 2 + [VISIBLE]


@pytest.mark.parametrize(
    "path",
    [
        "/srv/chroot/etc/shadow",
        "/home/backup/etc/gshadow-",
        "/opt/disk/etc/ssh/ssh_host_rsa_key",
        "/etc/shadow.12345",
        "/etc/shadow+",
        "/etc/sudoers.tmp",
        "/etc/ssl/private/server.key",
        "/etc/pki/tls/private/server.key",
        "/etc/letsencrypt/live/example.org/privkey.pem",
        "/etc/letsencrypt/archive/example.org/privkey3.pem",
        "/etc/krb5.keytab",
        "/etc/wireguard/wg0.conf",
        "/etc/NetworkManager/system-connections/home.nmconnection",
        "/etc/ppp/chap-secrets",
        "/var/lib/samba/private/passdb.tdb",
        "/run/credentials/x.service/token",
        "/etc/cryptsetup-keys.d/root.key",
        "/etc/systemd/system/vsrpc-guest.service",
        "/etc/systemd/system/vsrpc-guest.service.d/override.conf",
        "/usr/lib/systemd/system/vsrpc-guest.service",
        "/etc/udev/rules.d/60-vsrpc.rules",
    ],
)
def test_built_in_secrets(path: str) -> None:
    rules = decisions(PathPolicy(["/", path]), path)
    assert all(rule.startswith("no: built-in deny list: ") for rule in rules), rules


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadowsocks/config.json",
        "/etc/ssl/certs/x.pem",
        "/etc/letsencrypt/live/example.org/fullchain.pem",
        "/home/x/playbook/etc/sudoers",
        "/etc/systemd/system/vsrpc-guest-check.service",
        "/srv/etc/ssh/ssh_host_rsa_key.pub",
    ],
)
def test_what_is_no_secret(path: str) -> None:
    policy = PathPolicy(["/"])
    assert policy.check_read(path) == policy.check_metadata(path) == "security.allowed_paths: /"


def test_copies_beside_the_daemons_own_files(root: Path) -> None:
    make(root, "guest.yaml", "log", "log.1", "logs", "guest.yaml~", "guest.yaml.dpkg-old", "prog/x", "prog.old/x")
    policy = PathPolicy([str(root)], own=[f"{root}/guest.yaml", f"{root}/log", f"{root}/prog"])
    for path in ("guest.yaml", "guest.yaml~", "guest.yaml.dpkg-old", "log", "log.1", "log.2.gz", "prog/x"):
        assert decisions(policy, root / path) == ["no: built-in deny list: the daemon's own files"] * 3, path
    for path in ("logs", "prog.old/x"):
        assert decisions(policy, root / path) == [f"security.allowed_paths: {root}"] * 3, path


def test_where_the_daemons_modules_are_is_never_written(root: Path) -> None:
    make(root, "releases/1/lib/yaml.py", "conf/guest.yaml")
    (root / "current").symlink_to("releases/1")
    (root / "etc").symlink_to("conf")
    policy = PathPolicy([str(root)], own=[f"{root}/etc/guest.yaml"], program=[f"{root}/current/lib"])
    allowed = f"security.allowed_paths: {root}"
    for path in ("current/lib/yaml.py", "releases/1/lib/new.py", "current", "etc"):
        expected = [allowed, "no: built-in deny list: the daemon's own files", allowed]
        assert decisions(policy, root / path) == expected, path
    assert decisions(policy, root / "current/other")[1] == allowed


def test_hard_links_to_what_is_refused(root: Path) -> None:
    make(root, "denied/f", "own", "public")
    for name in ("denied/f", "own", "public"):
        os.link(root / name, root / f"{Path(name).parts[0]}-twin")
    policy = PathPolicy([str(root)], own=[f"{root}/own"], denied=[f"{root}/denied/f"])
    assert decisions(policy, root / "own-twin")[0] == "no: built-in deny list: a hard link to a secret"
    assert decisions(policy, root / "denied-twin")[0] == f"no: security.denied_paths: {root}/denied/f"
    assert decisions(policy, root / "public-twin")[0] == f"security.allowed_paths: {root}"


def test_writing_into_an_existing_file(root: Path) -> None:
    make(root, "in/f", "out/f")
    policy = PathPolicy([f"{root}/in"])
    os.link(root / "out/f", root / "in/hard")
    (root / "in/soft").symlink_to(root / "out/f")
    os.mkfifo(root / "in/fifo")
    for name, reason in {"hard": "PERMISSION_DENIED", "soft": "WRONG_FILE_TYPE", "fifo": "WRONG_FILE_TYPE"}.items():
        for append in (False, True):
            with pytest.raises(RpcError) as caught:
                policy.open_write(f"{root}/in/{name}", append=append, mode=0o600)
            assert caught.value.reason == reason
    assert (root / "out/f").read_text() == "out/f"
    for append, expected in ((True, "in/f+"), (False, "+")):
        opened = policy.open_write(f"{root}/in/f", append=append, mode=0o600)
        os.write(opened.fd, b"+")
        os.close(opened.fd)
        assert (root / "in/f").read_text() == expected
        assert opened.rule == f"security.allowed_paths: {root}/in"


# -- mounts


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
