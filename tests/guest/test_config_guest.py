"""The daemon's own keys: defaults, limits, and which file counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from guest import config
from guest.config import ConfigError, GuestConfig


def write(tmp_path: Path, content: str) -> str:
    path = tmp_path / "guest.yaml"
    path.write_text(content)
    return str(path)


def test_packaged_file_shows_every_key_with_its_default() -> None:
    assert config.load(config.PACKAGED_FILE) == GuestConfig()
    shown = yaml.safe_load(Path(config.PACKAGED_FILE).read_text())
    keys = {
        section.name: {key.name for key in dataclasses.fields(section.metadata["section"])}
        for section in dataclasses.fields(GuestConfig)
    }
    assert {section: set(content) for section, content in shown.items()} == keys


def test_every_key_is_read(tmp_path: Path) -> None:
    content = """
device: {path: /dev/virtio-ports/x, buffer_size: 128K}
server: {max_request_size: 1MB, request_timeout: 5.5, workers: 2}
security: {enable_auth: false, allowed_commands: [ls, /usr/bin/id], allowed_paths: [/srv/]}
logging: {level: debug, file: /var/log/x.log, max_size: 1M, backup_count: 0}
"""
    assert config.load(write(tmp_path, content)) == GuestConfig(
        config.DeviceConfig("/dev/virtio-ports/x", 131072),
        config.ServerConfig(1048576, 5.5, 2),
        config.SecurityConfig(False, ("ls", "/usr/bin/id"), ("/srv/",)),
        config.LoggingConfig("DEBUG", "/var/log/x.log", 1048576, 0),
    )


def test_null_commands_mean_any_and_an_empty_list_the_built_in_one(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, "security: {allowed_commands: null}")).security.allowed_commands is None
    assert config.load(write(tmp_path, "security: {allowed_commands: []}")).security.allowed_commands == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("security:\n  enable_auth: true\n", "2: security.enable_auth: this version cannot authenticate callers"),
        ("security:\n  enable_auth: maybe\n", "2: security.enable_auth: 'maybe' is not a truth value"),
        ("security:\n  allowed_paths: null\n", "2: security.allowed_paths: null is not a list"),
        (
            "security:\n  allowed_paths:\n  - /tmp\n  - var\n",
            "4: security.allowed_paths: 'var' is not an absolute path",
        ),
        ("security:\n  allowed_commands: ls\n", "2: security.allowed_commands: 'ls' is not a list"),
        ("security:\n  allowed_commands: [ls -l]\n", "2: security.allowed_commands: 'ls -l' is not a command"),
        ("security:\n  allowed_commands: [bin/ls]\n", "2: security.allowed_commands: 'bin/ls' is not a command"),
        (
            "security:\n  allow_commands: []\n",
            "2: security.allow_commands: unknown key; did you mean 'allowed_commands'",
        ),
        ("server:\n  max_request_size: ten\n", "2: server.max_request_size: 'ten' is not a whole number of bytes"),
        ("server:\n  max_request_size: 1K\n", "2: server.max_request_size: '1K' is out of range"),
        ("server:\n  request_timeout: 0\n", "2: server.request_timeout: 0 is out of range"),
        ("device:\n  path: vport\n", "2: device.path: 'vport' is not an absolute path"),
        ("logging:\n  level: LOUD\n", "2: logging.level: 'LOUD' is not one of DEBUG, INFO, WARNING, ERROR"),
        ("max_request_size: 5\n", "1: max_request_size: unknown key here; it belongs in the section 'server'"),
    ],
)
def test_mistakes(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value).startswith(f"{path}:{message}")


def test_which_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "system.yaml"
    monkeypatch.setattr(config, "SYSTEM_FILE", str(system))
    assert config.find(None) == config.PACKAGED_FILE
    system.write_text("")
    assert config.find(None) == str(system)
    assert config.find("/given.yaml") == "/given.yaml"
