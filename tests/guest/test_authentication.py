"""Whether the daemon's callers must sign, and a daemon whose callers must."""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import Callable, Iterator

import pytest

import vsrpc
from guest.authentication import authenticator
from guest.config import AllowedPath, ConfigError, GuestConfig, SecurityConfig
from guest.daemon import Daemon
from vsrpc.transports import listener
from vsrpc.v1 import file_pb2
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.system_vsrpc import SystemStub

SECRET = "00112233445566778899aabbccddeeff"
PORT = "/dev/virtio-ports/test.vserial.0"


def keys(path: Path, text: str = f"host1 {SECRET}\n", mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("enabled", "address", "needed"),
    [
        (None, PORT, False),
        (None, "unix:/run/x", False),
        (None, "vsock:7000", True),
        (True, PORT, True),
        (True, "unix:/run/x", True),
        (True, "vsock:7000", True),
        (False, PORT, False),
        (False, "vsock:7000", False),
    ],
)
def test_who_must_sign(tmp_path: Path, enabled: bool | None, address: str, needed: bool) -> None:
    security = SecurityConfig(enable_auth=enabled, key_file=keys(tmp_path / "keys"))
    assert (authenticator(security, address) is not None) is needed


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (None, 0, "No such file or directory; to make one: (umask 077;"),
        ("", 0o600, "there is no key in it: write one a line, as NAME SECRET"),
        ("host1 secret", 0o600, "line 1: not of the form NAME SECRET"),
        (f"host1 {SECRET}", 0o644, "mode 0644 lets others at the keys: chmod 600"),
    ],
)
@pytest.mark.parametrize(
    ("enabled", "address", "why"), [(True, PORT, "enable_auth says"), (None, "vsock:1", "any program of the host")]
)
def test_no_daemon_without_keys(
    tmp_path: Path, text: str | None, mode: int, says: str, enabled: bool | None, address: str, why: str
) -> None:
    path = tmp_path / "keys"
    if text is not None:
        keys(path, text, mode)
    settings = GuestConfig(security=SecurityConfig(enable_auth=enabled, key_file=str(path)))
    with pytest.raises(ConfigError) as caught:
        Daemon(settings, "/no/such/file", address)
    assert str(caught.value).startswith(f"security.key_file: {path}: ")
    assert says in str(caught.value)
    assert why in str(caught.value)


def test_a_daemon_serves_no_shared_place_that_it_was_not_made_for() -> None:
    """A program of somebody's own may forget to name it."""

    class Vsock:
        address = "vsock:7000"
        closed = False

        def close(self) -> None:
            self.closed = True

    ear = Vsock()
    daemon = Daemon(GuestConfig(), "/no/such/file")
    with pytest.raises(ConfigError, match="callers at vsock:7000 must sign"):
        daemon.serve(ear)  # type: ignore[arg-type]
    daemon.stop()
    assert ear.closed


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Callable[[vsrpc.Key | None], vsrpc.Channel]]:
    """A daemon that wants signatures, may do everything with files, and has the key host1; makes channels to it."""
    security = SecurityConfig(
        enable_auth=True, key_file=keys(tmp_path / "keys"), allowed_paths=(AllowedPath(f"{tmp_path}/"),)
    )
    daemon = Daemon(GuestConfig(security=security), "/no/such/file", f"unix:{tmp_path}/sock")
    thread = threading.Thread(target=daemon.serve, args=(listener(f"unix:{tmp_path}/sock"),))
    thread.start()
    channels: list[vsrpc.Channel] = []

    def make(key: vsrpc.Key | None) -> vsrpc.Channel:
        options = vsrpc.ChannelOptions(key=key, retry_interval=0.1, lock_dir=str(tmp_path / "locks"))
        channels.append(vsrpc.connect(f"unix:{tmp_path}/sock", options))
        return channels[-1]

    yield make
    for channel in channels:
        channel.close()
    daemon.stop()
    thread.join()


Guarded = Callable[["vsrpc.Key | None"], vsrpc.Channel]


def test_only_holders_of_a_key_are_served(guarded: Guarded) -> None:
    assert SystemStub(guarded(vsrpc.Key("host1", bytes.fromhex(SECRET)))).Ping().message == "pong"
    for key in (None, vsrpc.Key("host1", bytes(16)), vsrpc.Key("host2", bytes.fromhex(SECRET))):
        with pytest.raises(vsrpc.RpcError) as caught:
            SystemStub(guarded(key)).Ping()
        assert caught.value.code() is vsrpc.Code.UNAUTHENTICATED


@pytest.mark.parametrize("name", ["keys", "./keys", "locks/../keys"])
def test_callers_cannot_touch_the_keys(guarded: Guarded, tmp_path: Path, name: str) -> None:
    files = FileStub(guarded(vsrpc.Key("host1", bytes.fromhex(SECRET))))
    for call in (
        lambda path: files.Download(file_pb2.DownloadRequest(path=path)),
        lambda path: files.Upload(file_pb2.UploadRequest(path=path, content=b"x")),
    ):
        with pytest.raises(vsrpc.RpcError) as caught:
            call(f"{tmp_path}/{name}")
        assert caught.value.code() is vsrpc.Code.PERMISSION_DENIED
    assert (tmp_path / "keys").read_text() == f"host1 {SECRET}\n"


def test_keys_are_changed_while_it_runs(guarded: Guarded, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    new = vsrpc.Key("new", bytes(16))
    old, both = guarded(vsrpc.Key("host1", bytes.fromhex(SECRET))), guarded(new)
    SystemStub(old).Ping()
    with caplog.at_level(logging.INFO, "vsrpc.keyfile"):
        for text, channels in ((f"host1 {SECRET}\nnew {'00' * 16}\n", (old, both)), (f"new {'00' * 16}\n", (both,))):
            keys(tmp_path / "keys", text)
            told = len(caplog.records)
            while len(caplog.records) == told:  # it looks once a second, when somebody calls
                with contextlib.suppress(vsrpc.RpcError):
                    SystemStub(old).Ping()
            for channel in channels:
                assert SystemStub(channel).Ping().message == "pong"
    with pytest.raises(vsrpc.RpcError, match="knows no key host1"):
        SystemStub(old).Ping()
