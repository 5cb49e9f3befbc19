"""The path policy: what may be read, written and looked at, judged on what is really opened."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Iterator

import pytest
from servicer_helpers import as_ordinary_user, refused

from guest.policy import resolve
from guest.policy.denied import DenyList
from guest.policy.paths import PathPolicy
from vsrpc.errors import RpcError


class Places:
    """Two directories that everybody can see: one allowed, one not."""

    def __init__(self, root: Path) -> None:
        self.allowed = root / "allowed"
        self.outside = root / "outside"
        for directory in (root, self.allowed, self.outside):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)
        (self.allowed / "file").write_text("fine")
        self.secret = self.outside / "file"
        self.secret.write_text("secret")
        self.policy = PathPolicy([f"{self.allowed}/"])


@pytest.fixture
def places() -> Iterator[Places]:
    root = Path(tempfile.mkdtemp(prefix="paths-"))  # not tmp_path: only its owner can see that
    try:
        yield Places(root)
    finally:
        shutil.rmtree(root)


def read(policy: PathPolicy, path: object) -> str:
    fd = policy.open_read(str(path)).fd
    try:
        return os.read(fd, 100).decode()
    finally:
        os.close(fd)


def test_content_in_an_allowed_place(places: Places) -> None:
    assert read(places.policy, places.allowed / "file") == "fine"
    assert read(places.policy, f"{places.outside}/../allowed//./file") == "fine"


def test_an_allowed_file_is_allowed_without_its_neighbours(places: Places) -> None:
    policy = PathPolicy([str(places.secret)])
    assert read(policy, places.secret) == "secret"
    neighbour = places.outside / "file2"
    neighbour.write_text("")
    refused("PERMISSION_DENIED", policy.open_read, str(neighbour))
    refused("PERMISSION_DENIED", policy.open_read, str(places.outside))


def test_an_allowed_directory_may_be_a_link(places: Places) -> None:
    (places.outside / "link").symlink_to(places.allowed)
    assert read(PathPolicy([f"{places.outside}/link/"]), places.outside / "link" / "file") == "fine"


@pytest.mark.parametrize("way", ["{outside}/file", "{allowed}/../outside/file", "{allowed}/link", "{allowed}/dir/file"])
def test_no_way_out_of_the_allowed_places(places: Places, way: str) -> None:
    (places.allowed / "link").symlink_to(places.secret)
    (places.allowed / "dir").symlink_to(places.outside)
    path = way.format(allowed=places.allowed, outside=places.outside)
    failure = refused("PERMISSION_DENIED", places.policy.open_read, path)
    assert failure.details().startswith(f"Path not in allowed list: {path} (")
    assert "security.allowed_paths" in failure.details()
    refused("PERMISSION_DENIED", places.policy.check_read, path)
    refused("PERMISSION_DENIED", places.policy.check_write, path)


def test_what_is_not_there_is_judged_by_where_it_would_be(places: Places) -> None:
    places.policy.check_read(f"{places.allowed}/none/none")
    refused("FILE_NOT_FOUND", places.policy.open_read, f"{places.allowed}/none")
    refused("FILE_NOT_FOUND", places.policy.open_read, f"{places.allowed}/file/none")
    for path in (f"{places.outside}/none", f"{places.allowed}/none/../../outside/file", "/no/such/place"):
        refused("PERMISSION_DENIED", places.policy.open_read, path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "MISSING_REQUIRED"),
        ("file", "INVALID_PARAMS"),
        ("./file", "INVALID_PARAMS"),
        ("~/file", "INVALID_PARAMS"),
        ("/tmp/a\0b", "INVALID_PARAMS"),
        ("/" + "a/" * 2048, "INVALID_PARAMS"),
    ],
)
def test_paths_that_cannot_be(path: str, reason: str) -> None:
    policy = PathPolicy(["/tmp/"])
    for method in (policy.open_read, policy.check_read, policy.check_write, policy.check_metadata, policy.open_parent):
        failure = refused(reason, method, path)
        assert len(failure.details()) < 500


def test_a_name_that_is_too_long(places: Places) -> None:
    path = f"{places.allowed}/{'a' * 300}"
    for method in (places.policy.open_read, places.policy.check_write, places.policy.check_metadata):
        assert "longer than its file system allows" in refused("INVALID_PARAMS", method, path).details()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/shadow-",
        "/etc/.shadow.swp",
        "/etc/gshadow",
        "/etc/../etc/./shadow",
        "/var/backups/shadow.bak",
        "/etc/security/opasswd",
        "/etc/sudoers",
        "/etc/sudoers.d/x",
        "/etc/ssh/ssh_host_ed25519_key",
        "/home/someone/.ssh/id_rsa",
        "/srv/app/.ssh/deploy",
        "/home/someone/.gnupg/private-keys-v1.d/x.key",
        "/proc/self/environ",
        "/proc",
        "/sys/kernel/uevent_seqnum",
        "/dev/null",
        "/dev/mem",
        "/etc/vsrpc/guest.yaml",
    ],
)
def test_the_deny_list_wins(path: str) -> None:
    policy = PathPolicy(["/", path])
    for method in (policy.check_read, policy.check_write, policy.check_metadata):
        failure = refused("PERMISSION_DENIED", method, path)
        assert failure.details().startswith(f"Path not in allowed list: {path} (")
        assert "refused always" in failure.details()


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/ssh/ssh_host_rsa_key.pub", "/procfile", "/home/x/.ssh"])
def test_neighbours_of_the_deny_list_may_be_allowed(path: str) -> None:
    PathPolicy(["/"]).check_read(path)


def test_the_public_files_of_ssh_are_not_secret(places: Places) -> None:
    ssh = places.allowed / ".ssh"
    ssh.mkdir()
    for name in ("authorized_keys", "known_hosts", "known_hosts.old", "config", "id_rsa.pub"):
        (ssh / name).write_text("x")
        assert read(places.policy, ssh / name) == "x"
        refused("PERMISSION_DENIED", places.policy.check_write, str(ssh / name))
    for name in ("id_rsa", "github", "id_rsa.pub.key", "config.key", "authorized_keys3"):
        (ssh / name).write_text("x")
        refused("PERMISSION_DENIED", places.policy.open_read, str(ssh / name))


@pytest.mark.parametrize("name", [".profile", ".bashrc", ".config/systemd/user/x.service", ".ssh", ".forward"])
def test_what_runs_at_login_is_read_and_not_written(places: Places, name: str) -> None:
    path = places.allowed / name
    path.parent.mkdir(parents=True, exist_ok=True)
    failure = refused("PERMISSION_DENIED", places.policy.check_write, str(path))
    assert "who may log in, and what runs then" in failure.details()
    places.policy.check_write(str(places.allowed / "bashrc"))
    path.write_text("x")
    assert read(places.policy, path) == "x"


def test_the_daemons_own_files(places: Places) -> None:
    policy = PathPolicy([f"{places.allowed}/"], own=[str(places.allowed / "file"), str(places.allowed / "program")])
    for path in ("file", "program", "program/guest/x.py"):
        refused("PERMISSION_DENIED", policy.check_read, str(places.allowed / path))
        refused("PERMISSION_DENIED", policy.check_write, str(places.allowed / path))
    policy.check_read(str(places.allowed / "program2"))


def test_a_hard_link_to_a_secret(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guest.policy.denied._SECRETS", (str(places.secret),))
    os.link(places.secret, places.allowed / "innocent")
    os.link(places.allowed / "file", places.allowed / "twin")
    refused("PERMISSION_DENIED", places.policy.open_read, str(places.allowed / "innocent"))
    assert read(places.policy, places.allowed / "twin") == "fine"


def test_kernel_state_mounted_elsewhere(places: Places) -> None:
    mounted = places.allowed / "proc"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "proc", "proc", str(mounted)], stderr=subprocess.DEVNULL).returncode == 0:
        try:
            refused("PERMISSION_DENIED", lambda: read(places.policy, f"{mounted}/cpuinfo"))
        finally:
            subprocess.run(["umount", str(mounted)], check=True)
    else:  # mounting is not allowed here: ask about the usual one
        fd = os.open("/proc/cpuinfo", os.O_PATH)
        try:
            refused("PERMISSION_DENIED", DenyList((), ()).judge, "/innocent", "/innocent", fd)
        finally:
            os.close(fd)


def test_a_file_that_is_removed_while_it_is_judged(places: Places) -> None:
    """The kernel then adds " (deleted)" to its path, which the deny list would not know."""
    path = places.allowed / "gone"
    path.write_text("")
    fd = os.open(path, os.O_PATH)
    try:
        assert resolve.where(fd, str(path)) == str(path)
        path.unlink()
        refused("FILE_NOT_FOUND", resolve.where, fd, str(path))
    finally:
        os.close(fd)
    named = places.allowed / "odd (deleted)"
    named.write_text("only its name")
    assert read(places.policy, named) == "only its name"


def test_special_files_are_not_opened(places: Places) -> None:
    fifo = places.allowed / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, places.allowed):  # opening a FIFO would wait for a writer
        refused("WRONG_FILE_TYPE", places.policy.open_read, str(path))
    loop = places.allowed / "loop"
    loop.symlink_to(loop)
    refused("WRONG_FILE_TYPE", places.policy.open_read, str(loop))


def test_a_swapped_file_never_leads_out(places: Places) -> None:
    """Somebody in the guest swaps an allowed file and a link to a secret as fast as possible."""
    target, spare = places.allowed / "swap", places.allowed / "spare"
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            spare.symlink_to(places.secret)
            os.replace(spare, target)
            spare.write_text("fine")
            os.replace(spare, target)

    target.write_text("fine")
    thread = threading.Thread(target=swap)
    thread.start()
    seen = {"fine": 0, "PERMISSION_DENIED": 0}
    try:
        while min(seen.values()) < 200:
            try:
                content = read(places.policy, target)
            except RpcError as failure:
                content = failure.reason
            # Nothing is read of a file that was just created, or taken away meanwhile.
            assert content in ("fine", "", "PERMISSION_DENIED", "FILE_NOT_FOUND")
            if content in seen:
                seen[content] += 1
    finally:
        done.set()
        thread.join()


def test_a_swapped_directory_never_leads_a_write_out(places: Places) -> None:
    real, link = places.allowed / "real", places.allowed / "dir"
    real.mkdir()
    link.symlink_to(real)
    dirfd, name, _ = places.policy.open_parent(f"{link}/new")
    link.unlink()
    link.symlink_to(places.outside)
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=dirfd))
    finally:
        os.close(dirfd)
    assert (real / "new").exists()
    assert not (places.outside / "new").exists()
    refused("PERMISSION_DENIED", places.policy.open_parent, f"{link}/new")


def test_names_that_cannot_be_written(places: Places) -> None:
    for path in (f"{places.allowed}/sub/", f"{places.allowed}/.", f"{places.allowed}/.."):
        refused("WRONG_FILE_TYPE", places.policy.open_parent, path)
    assert (
        "No such directory" in refused("FILE_NOT_FOUND", places.policy.open_parent, f"{places.allowed}/no/x").details()
    )
    assert (
        "Not a directory" in refused("FILE_NOT_FOUND", places.policy.open_parent, f"{places.allowed}/file/x").details()
    )
    (places.allowed / "dangling").symlink_to("/no/such")
    refused("PERMISSION_DENIED", places.policy.check_write, f"{places.allowed}/dangling")
    (places.allowed / "inside").symlink_to(places.allowed / "file")
    places.policy.check_write(f"{places.allowed}/inside")


def test_metadata_of_what_everybody_sees(places: Places) -> None:
    places.policy.check_metadata("/etc/hosts")
    places.policy.check_metadata(str(places.secret))
    places.policy.check_metadata(f"{places.outside}/none")
    (places.allowed / "link").symlink_to(places.secret)
    places.policy.check_metadata(f"{places.allowed}/link")


def test_metadata_of_what_not_everybody_sees(places: Places) -> None:
    places.secret.chmod(0o600)
    private = places.outside / "private"
    private.mkdir(0o700)
    (private / "file").write_text("")
    (private / "back").symlink_to("/")
    (places.outside / "way").symlink_to(private)
    for path in (
        str(places.secret),
        str(private),
        f"{private}/file",
        f"{private}/none",
        f"{private}/back/etc/hosts",
        f"{places.outside}/way/file",
        f"{private}/../file2",
    ):
        refused("PERMISSION_DENIED", places.policy.check_metadata, path)
    # The same in an allowed place is no secret.
    allowed = PathPolicy([f"{places.outside}/"])
    allowed.check_metadata(f"{private}/file")
    allowed.check_metadata(f"{private}/none")


def test_metadata_is_that_of_the_link_itself(places: Places) -> None:
    (places.allowed / "link").symlink_to(places.secret)
    found = places.policy.open_metadata(f"{places.allowed}/link")
    assert found.fd is not None
    try:
        assert found.content_allowed
        assert os.fstat(found.fd).st_ino == os.lstat(places.allowed / "link").st_ino
    finally:
        os.close(found.fd)


def test_what_the_system_refuses_is_said(places: Places) -> None:
    (places.allowed / "file").chmod(0o600)
    if os.geteuid() != 0:
        (places.allowed / "file").chmod(0)
    with as_ordinary_user():
        failure = refused("PERMISSION_DENIED", places.policy.open_read, str(places.allowed / "file"))
    assert "operating system" in failure.details()


def test_no_descriptor_is_left_open(places: Places) -> None:
    (places.allowed / "link").symlink_to(places.secret)
    before = os.listdir("/proc/self/fd")
    for path in (f"{places.allowed}/file", f"{places.allowed}/link", f"{places.allowed}/no/no", "/etc/shadow", "/proc"):
        for method in (places.policy.check_read, places.policy.check_write, places.policy.check_metadata):
            with contextlib.suppress(RpcError):
                method(path)
    assert os.listdir("/proc/self/fd") == before


def test_a_path_that_is_no_text_can_be_shown(places: Places) -> None:
    odd = os.fsencode(places.outside) + b"/\xff\n"
    with open(odd, "wb"):
        pass
    (places.allowed / "odd").symlink_to(os.fsdecode(odd))
    failure = refused("PERMISSION_DENIED", places.policy.open_read, f"{places.allowed}/odd")
    assert f"{places.outside}/\\xff\\n" in failure.details()
    failure.details().encode("utf-8")
