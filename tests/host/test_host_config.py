"""Where the host's settings come from, which one wins, and how a wrong file is told."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from host import config
from host.config import Settings
from host.errors import UsageError


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_every_key_of_the_packaged_file_shows_its_default(tmp_path: Path) -> None:
    """The file is all comments, so what it says is checked by taking them away."""
    packaged = Path(config.PACKAGED_FILE).read_text()
    assert config.load(config.PACKAGED_FILE) == Settings()
    uncommented = re.sub(r"^( *)#(?! )", r"\1", packaged, flags=re.MULTILINE)
    settings = config.load(write(tmp_path / "all.yaml", uncommented))
    assert settings == Settings(target=settings.target)
    assert settings.target.startswith("/var/lib/libvirt/")
    assert len(re.findall(r"^ +#[a-z_]+:", packaged, flags=re.MULTILINE)) == len(Settings._fields)


def test_file_with_everything(tmp_path: Path) -> None:
    text = """
connection:
  socket_path: /run/port.sock
  connect_timeout: 1
  read_timeout: 2.5
  write_timeout: 3
  lock_dir: /run/locks
  key_file: /etc/vsrpc/keys
retry:
  max_retries: 0
  retry_interval: 0.5
  backoff_factor: 1.5
logging:
  level: debug
  file: /tmp/host.log
  max_size: 1MB
  backup_count: 2
"""
    assert config.load(write(tmp_path / "host.yaml", text)) == Settings(
        target="/run/port.sock",
        connect_timeout=1.0,
        read_timeout=2.5,
        write_timeout=3.0,
        lock_dir="/run/locks",
        key_file="/etc/vsrpc/keys",
        max_retries=0,
        retry_interval=0.5,
        backoff_factor=1.5,
        log_level="DEBUG",
        log_file="/tmp/host.log",
        log_max_size=1 << 20,
        log_backup_count=2,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conection:\n  x: 1\n", "host.yaml:1: conection: unknown key; did you mean 'connection'?"),
        ("\nconnection:\n  sockets: /x\n", "host.yaml:3: connection.sockets: unknown key"),
        ("connection:\n  read_timeout: soon\n", "host.yaml:2: connection.read_timeout: 'soon' is not a number"),
        ("connection:\n  connect_timeout: 0\n", "host.yaml:2: connection.connect_timeout: 0 is out of range"),
        ("connection:\n  socket_path: 7\n", "host.yaml:2: connection.socket_path: 7 is not a text"),
        ("connection:\n  lock_dir: locks\n", "host.yaml:2: connection.lock_dir: 'locks' is not an absolute path"),
        ("connection:\n  key_file: keys\n", "host.yaml:2: connection.key_file: 'keys' is not an absolute path"),
        ("retry:\n  max_retries: -1\n", "host.yaml:2: retry.max_retries: -1 is out of range"),
        ("retry: {max_retries: 1.5}\n", "host.yaml:1: retry.max_retries: 1.5 is not a whole number"),
        ("logging:\n  level: LOUD\n", "host.yaml:2: logging.level: 'LOUD' is not one of"),
        ("retry: [1\n", "host.yaml:2: not valid YAML"),
        ("just text\n", "host.yaml:1: a section with keys is expected"),
    ],
)
def test_wrong_files_name_the_line_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.load(write(tmp_path / "host.yaml", text))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n\n  # at all\n", "connection:\n", "---\n"])
def test_files_that_say_nothing_give_the_defaults(tmp_path: Path, text: str) -> None:
    assert config.load(write(tmp_path / "host.yaml", text)) == Settings()


def test_without_a_yaml_parser_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "host.yaml", "retry: {max_retries: 0}\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    for name in ("host.configfile", "vsrpc.yamlconfig"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UsageError, match=r"host\.yaml: PyYAML is needed to read it"):
        config.load(path)


def test_a_directory_is_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read this configuration file: Is a directory"):
        config.load(str(tmp_path))


def test_places_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = str(tmp_path / "etc" / "host.yaml")
    monkeypatch.setattr(config, "SYSTEM_FILE", system)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert config.find(None, environ) == config.PACKAGED_FILE
    write(Path(system), "")
    assert config.find(None, environ) == system
    own = write(tmp_path / "xdg" / "vsrpc" / "host.yaml", "")
    assert config.find(None, environ) == own
    asked = write(tmp_path / "mine.yaml", "")
    assert config.find(asked, environ) == asked
    with pytest.raises(UsageError, match=r"missing\.yaml: no such configuration file"):
        config.find(str(tmp_path / "missing.yaml"), environ)


def test_option_wins_over_environment_over_file() -> None:
    settings = Settings(target="/from/file")
    environ = {"VIRTIO_SOCKET": "/from/environment", "VSRPC_LOCK_DIR": "/locks/environment"}
    locks = Settings(lock_dir="/locks/file")
    assert config.lock_dir(environ, locks) == "/locks/environment"
    assert [config.lock_dir({}, each) for each in (locks, Settings())] == ["/locks/file", None]
    assert config.target("/from/option", environ, settings) == "/from/option"
    assert config.target(None, environ, settings) == "/from/environment"
    with pytest.raises(UsageError, match="no socket given"):
        config.target("", environ, settings)  # a script's empty variable must not reach another guest
    assert config.target(None, {"VIRTIO_SOCKET": ""}, settings) == "/from/file"
    with pytest.raises(UsageError) as caught:
        config.target(None, {}, Settings())
    for way in ("-s PATH", "VIRTIO_SOCKET", "connection.socket_path"):
        assert way in str(caught.value)
