"""Which of several places decides about a path, what is refused always, and the rule that each decision names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest
from path_helpers import decisions, make, visible_directory
from servicer_helpers import refused

from guest.policy.paths import VISIBLE, PathPolicy
from vsrpc.errors import RpcError


@pytest.fixture
def root() -> Iterator[Path]:
    with visible_directory() as path:
        yield path


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
