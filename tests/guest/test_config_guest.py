"""The daemon's own keys: defaults, limits, and which file counts."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml

from guest import config
from guest.config import OFF, ON, READ_ONLY, AllowedPath, ConfigError, GuestConfig


def write(tmp_path: Path, content: str) -> str:
    path = tmp_path / "guest.yaml"
    path.write_text(content)
    return str(path)


def test_packaged_file_shows_every_key_with_its_default() -> None:
    assert config.load(config.PACKAGED_FILE) == GuestConfig()
    shown = yaml.safe_load(Path(config.PACKAGED_FILE).read_text())
    assert shape(shown) == keys(GuestConfig)


def keys(section: type[Any]) -> dict[str, Any]:
    """The keys of a section; each with those below it, or None."""
    fields = dataclasses.fields(section)
    return {each.name: keys(each.metadata["section"]) if "section" in each.metadata else None for each in fields}


def shape(content: dict[str, Any]) -> dict[str, Any]:
    return {name: shape(value) if isinstance(value, dict) else None for name, value in content.items()}


def test_every_key_is_read(tmp_path: Path) -> None:
    content = """
device: {path: /dev/virtio-ports/x, buffer_size: 128K, allow_rebind: true}
server: {max_request_size: 1MB, request_timeout: 5.5, workers: 2, queue: 0}
security:
  enable_auth: false
  key_file: /k
  replay_window: 60
  allowed_commands: [ls, /usr/bin/id]
  allowed_paths: [/srv/, {path: /srv/x, access: read}, {path: /srv/x/y, access: write}]
  denied_paths: [/srv/secret]
  allowed_units: [nginx, php*.service]
  allowed_unit_actions: [status, restart]
  login_shell: true
  operations: {power: true, freeze: true, trim: false, set_time: false, set_hostname: false}
  allow_update: true
  services: {system: read-only, shell: false, file: read-only, service_manager: true}
limits:
  requests_per_second: 100
  commands: 4
  jobs: 6
  job_memory: 1GB
  job_processes: 100
  uploads: 5
  upload_idle: 60
  upload_space: 1GB
  free_space: 1MB
  buffered: 16MB
  argument_size: 2K
  environment_size: 0
audit: {enabled: false, file: /var/log/a, max_size: 1M, backup_count: 0}
logging: {level: debug, file: /var/log/x.log, max_size: 1M, backup_count: 0}
"""
    paths = (AllowedPath("/srv/"), AllowedPath("/srv/x", False), AllowedPath("/srv/x/y"))
    services = config.ServicesConfig(READ_ONLY, OFF, READ_ONLY, ON)
    assert config.load(write(tmp_path, content)) == GuestConfig(
        config.DeviceConfig("/dev/virtio-ports/x", 131072, True),
        config.ServerConfig(1048576, 5.5, 2, 0),
        config.SecurityConfig(
            enable_auth=False,
            key_file="/k",
            replay_window=60.0,
            allowed_commands=("ls", "/usr/bin/id"),
            allowed_paths=paths,
            denied_paths=("/srv/secret",),
            allowed_units=("nginx", "php*.service"),
            allowed_unit_actions=("status", "restart"),
            login_shell=True,
            operations=config.OperationsConfig(True, True, False, False, False),
            allow_update=True,
            services=services,
        ),
        config.LimitsConfig(100.0, 4, 6, 1 << 30, 100, 5, 60.0, 1 << 30, 1 << 20, 16 << 20, 2048, 0),
        config.AuditConfig(False, "/var/log/a", 1 << 20, 0),
        config.LoggingConfig("DEBUG", "/var/log/x.log", 1 << 20, 0),
    )


def test_null_commands_mean_any_and_an_empty_list_the_built_in_one(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, "security: {allowed_commands: null}")).security.allowed_commands is None
    assert config.load(write(tmp_path, "security: {allowed_commands: []}")).security.allowed_commands == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("security:\n  enable_auth: maybe\n", "2: security.enable_auth: 'maybe' is not a truth value"),
        ("security:\n  allowed_paths: null\n", "2: security.allowed_paths: null is not a list"),
        (
            "security:\n  allowed_paths:\n  - /tmp\n  - var\n",
            "4: security.allowed_paths: 'var' is not an absolute path",
        ),
        (
            "security:\n  allowed_paths: [{path: /x}]\n",
            "2: security.allowed_paths: {'path': '/x'} is no entry: write a",
        ),
        (
            "security:\n  allowed_paths:\n  - {path: /x, access: all}\n",
            "3: security.allowed_paths: {'path': '/x', 'access': 'all'} is no entry",
        ),
        (
            "security:\n  allowed_paths: [{path: x, access: read}]\n",
            "2: security.allowed_paths: 'x' is not an absolute path",
        ),
        ("security:\n  allowed_units: [../x]\n", "2: security.allowed_units: '../x' is not a unit's name"),
        (
            "security:\n  allowed_unit_actions: [kill]\n",
            "2: security.allowed_unit_actions: 'kill' is not one of status, start",
        ),
        ("security:\n  services:\n    shell: maybe\n", "3: security.services.shell: 'maybe' is no switch: write true"),
        ("security:\n  services:\n    shel: false\n", "3: security.services.shel: unknown key; did you mean 'shell'"),
        ("limits:\n  commands: 0\n", "2: limits.commands: 0 is out of range"),
        ("limits:\n  requests_per_second: fast\n", "2: limits.requests_per_second: 'fast' is not a number"),
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


def test_a_system_file_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote a policy must not get the packaged one because its file cannot be reached."""
    system = tmp_path / "guest.yaml"
    monkeypatch.setattr(config, "SYSTEM_FILE", str(system))
    system.symlink_to(tmp_path / "gone")
    for cause in ("No such file", "Too many levels of symbolic links"):
        assert config.find(None) == str(system)
        with pytest.raises(ConfigError, match=cause):
            config.load(str(system))
        system.unlink()
        system.symlink_to(system)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.chmod(0o666), "every user may write {file}; run: chmod o-w {file}"),
        (lambda file: file.parent.chmod(0o777), "every user may write {file.parent}; run: chmod o-w {file.parent}"),
        (lambda file: (file.unlink(), file.mkdir()), "it is not a regular file"),
        (lambda file: (file.unlink(), os.mkfifo(file)), "it is not a regular file"),
    ],
)
def test_a_file_that_cannot_be_trusted(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    file = tmp_path / "own" / "guest.yaml"
    file.parent.mkdir()
    file.write_text("")
    assert config.load(str(file)) == GuestConfig()
    change(file)
    with pytest.raises(ConfigError) as caught:
        config.load(str(file))
    assert message.format(file=file) in str(caught.value)


def test_a_link_to_a_file_that_everyone_may_replace(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "x.yaml").write_text("")
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link.yaml").symlink_to(tmp_path / "open" / "x.yaml")
    with pytest.raises(ConfigError, match=f"every user may write {tmp_path}/open"):
        config.load(str(tmp_path / "link.yaml"))


@pytest.mark.host_feature
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_systems_file_is_roots_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(write(tmp_path, ""))
    os.chown(file, 65534, 0)
    assert config.load(str(file)) == GuestConfig()  # a file that its starter names may be anyone's
    monkeypatch.setattr(config, "SYSTEM_FILE", str(file))
    with pytest.raises(ConfigError, match="belongs to user 65534; run: chown root"):
        config.load(str(file))
    os.chown(file, 0, 65534)
    file.chmod(0o664)
    with pytest.raises(ConfigError, match="group 65534 may write "):
        config.load(str(file))
