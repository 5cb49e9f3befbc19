"""docs/python-api.md: its examples run as they are written, and its tables say what the code has."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Iterator

import manual
import pytest

from host.client import VirtioRPCClient
from host.errors import NUMBERS
from host.local import LocalGuest
from vsrpc import ChannelOptions
from vsrpc.v1 import file_vsrpc, job_vsrpc, machine_vsrpc, service_vsrpc, shell_vsrpc, system_vsrpc

PAGE = manual.page("docs/python-api.md")
EXAMPLES = manual.fences(PAGE, "python")
SOCKET = "/run/vm1-vsrpc.sock"


@pytest.fixture(scope="module")
def guest() -> Iterator[str]:
    with LocalGuest() as local:
        yield local.target[len("unix:") :]


# Words of an example, and what is printed by it.
PRINTED = {
    "get_system_status": "pong\n",
    "chunked_upload_file": "3000000 of 3000000 bytes\n",
    '"Machine", "GetTime"': "True ",
    '"command": "cat"': "stdout b'one\\ntwo\\n' 0\n0\n",
    '["sleep", "600"]': "JOB_STATE_RUNNING",
    "JobReadRequest(": "hello\n",
    'argv=["uname", "-r"]': "0 ",
    "client.channel": ".",
    "connect_timeout=10.0": "pong\n",
    'client.download_file("/tmp/no-such-file': "3002 FILE_NOT_FOUND No such file",
    "/etc/shadow": "True Path not in allowed list: /etc/shadow",
    "future(": "file\nfile\ndirectory\n",
    "with_call": "pong ",
    "interceptors=[timed]": "/vsrpc.v1.System/Ping: 0.",
    "BulkMethod(": "100000 65536\n",
    "channel.http": "200 pong\n",
}


def test_each_example_is_run() -> None:
    assert len(EXAMPLES) == len(PRINTED)


@pytest.mark.parametrize("words", PRINTED)
def test_examples(
    words: str, guest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = tmp_path / "guest"
    remote.mkdir()
    (remote / "big.bin").write_bytes(bytes(100_000))
    (tmp_path / "local.txt").write_text("hello\n")
    (tmp_path / "big.bin").write_bytes(bytes(3_000_000))
    monkeypatch.chdir(tmp_path)
    (example,) = (each for each in EXAMPLES if words in each)
    assert SOCKET in example
    program = example.replace('"/tmp/', f'"{remote}/').replace(SOCKET, guest)
    exec(compile(program, f"docs/python-api.md: {words}", "exec"), {"__name__": "__main__"})
    assert PRINTED[words] in capsys.readouterr().out


def test_channel_options() -> None:
    said = {row[0]: row[1].strip("`") for row in manual.rows(PAGE) if len(row) == 3}
    for name, parameter in inspect.signature(ChannelOptions).parameters.items():
        default = parameter.default
        shown = f'"{default}"' if isinstance(default, str) else repr(default)
        assert said[f"`{name}`"] == shown, name
        assert getattr(ChannelOptions(), name) == default


def test_methods_of_the_client() -> None:
    said = {word.partition("(")[0] for row in manual.rows(PAGE) for word in manual.code_words(row[0]) if "(" in word}
    public = {name for name in vars(VirtioRPCClient) if not name.startswith("_") and name not in ("channel", "calls")}
    assert public <= said
    for row in manual.rows(PAGE):
        for word in manual.code_words(row[0]):
            name, _, arguments = word.partition("(")
            if name in public and "=" in arguments:
                known = inspect.signature(getattr(VirtioRPCClient, name)).parameters
                for each in arguments.rstrip(")").split(", "):
                    key, _, default = each.partition("=")
                    assert key in known or key == "…", word
                    assert not default or repr(known[key].default).replace("'", '"') == default, word


def test_stubs_and_their_methods() -> None:
    rows = {row[0]: row for row in manual.rows(PAGE)}
    for module, service in (
        (system_vsrpc, system_vsrpc.SYSTEM_SERVICE),
        (shell_vsrpc, shell_vsrpc.SHELL_SERVICE),
        (job_vsrpc, job_vsrpc.JOB_SERVICE),
        (machine_vsrpc, machine_vsrpc.MACHINE_SERVICE),
        (file_vsrpc, file_vsrpc.FILE_SERVICE),
        (service_vsrpc, service_vsrpc.SERVICE_MANAGER_SERVICE),
    ):
        name = service.name.rpartition(".")[2]
        _, stub, methods = rows[name]
        assert stub == f"`{module.__name__}.{name}Stub`"
        assert manual.code_words(methods) == [method.name for method in service.methods]


def test_reasons() -> None:
    said = {row[0].strip("`") for row in manual.rows(PAGE) if row[0].strip("`").isupper()}
    assert said
    assert said <= NUMBERS.keys()
