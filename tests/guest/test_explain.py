"""check-config and explain, as the programs that they are, and the rules that calls carry for the audit log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from exec_helpers import Guest, new_context
from servicer_helpers import context, refused

from guest.__main__ import main
from guest.files.sessions import UploadSessions
from guest.policy.paths import VISIBLE, PathPolicy
from guest.services.file import FileService
from vsrpc.errors import RpcError
from vsrpc.v1 import file_pb2 as pb


class Program:
    """vsrpc-guest with a configuration."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = tmp_path / "guest.yaml"
        self._capsys = capsys

    def run(self, *arguments: str, config: str = "") -> tuple[int, str, str]:
        """The exit code, standard output and standard error."""
        self.file.write_text(config)
        try:
            code = main(["--config", str(self.file), *arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = self._capsys.readouterr()
        return code, out, err


@pytest.fixture
def program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(tmp_path, capsys)


LISTED = "security.allowed_commands"
EXEC = [
    (
        "ls -l '/tmp' | head -3",
        "",
        0,
        "allowed by security.allowed_commands: built-in list",
        ["ls: ls -l /tmp", "head -3"],
    ),
    (
        "ls && nosuch",
        "allowed_commands: [ls, nosuch]",
        0,
        "allowed by security.allowed_commands",
        ["not installed: nosuch"],
    ),
    ("nosuch", "allowed_commands: [nosuch]", 5, "would fail", ["Command not found: nosuch"]),
    ("rm -rf /x", "", 4, f"refused by {LISTED}", ["Command not allowed: rm"]),
    ("ls; rm x", "", 4, f"refused by {LISTED}", ["Command not allowed: rm"]),
    ("find / -delete", "", 4, "refused by arguments of find", ["find -delete (it deletes files"]),
    ("cat /etc/shadow", "", 4, "refused by built-in deny list: password hashes", ["/etc/shadow"]),
    ("cat /etc/passwd", "", 4, "refused by security.allowed_paths", ["/etc/passwd"]),
    ("echo > /etc/x", "", 4, "refused by security.allowed_paths", ["/etc/x"]),
    ("echo $(id)", "", 4, f"refused by {LISTED}", ["Command not allowed"]),
    ("echo 'x", "", 2, "invalid", ["never closed"]),
    ("", "", 2, "invalid", ["command is missing"]),
    ("ls", "services: {shell: false}", 4, "refused by security.services.shell", ["Service switched off: Shell"]),
    (
        "id; $(x)",
        "allowed_commands: null",
        0,
        "allowed by security.allowed_commands: null",
        ["/bin/sh -c -- 'id; $(x)'"],
    ),
]


@pytest.mark.parametrize(("line", "security", "code", "decision", "details"), EXEC)
def test_explain_exec(program: Program, line: str, security: str, code: int, decision: str, details: list[str]) -> None:
    found, out, _ = program.run("explain", "exec", line, config=f"security: {{{security}}}")
    assert (found, out.splitlines()[0]) == (code, decision)
    for detail in details:
        assert detail in out


def test_explaining_runs_and_changes_nothing(program: Program, tmp_path: Path) -> None:
    config = f"security: {{allowed_paths: ['{tmp_path}'], allowed_commands: [touch, sh]}}"
    assert (
        program.run("explain", "exec", f"touch {tmp_path}/a > {tmp_path}/b && sh -c 'echo > c'", config=config)[0] == 0
    )
    assert program.run("explain", "path", f"{tmp_path}/d", config=config)[0] == 0
    assert os.listdir(tmp_path) == ["guest.yaml"]


def test_explain_exec_in_a_directory(program: Program, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    config = f"security: {{allowed_paths: ['{tmp_path}']}}"
    code, out, _ = program.run("explain", "exec", "cat f*", "--workdir", str(tmp_path), config=config)
    assert code == 0
    assert out.endswith("/cat: cat f\n")
    # The configuration is the daemon's own.
    assert program.run("explain", "exec", "cat *", "--workdir", str(tmp_path), config=config)[0] == 4


@pytest.mark.parametrize(
    ("arguments", "security", "code", "expected"),
    [
        (["/tmp/x"], "", 0, ["read: allowed by security.allowed_paths: /tmp/", "write: allowed", "metadata: allowed"]),
        (
            ["/etc/hosts"],
            "",
            4,
            ["read: refused by security.allowed_paths", "write: refused", f"metadata: allowed by {VISIBLE}"],
        ),
        (["/etc/hosts", "metadata"], "", 0, [f"metadata: allowed by {VISIBLE}"]),
        (["/etc/hosts", "read"], "allowed_paths: [{path: /etc/, access: read}]", 0, ["read: allowed by"]),
        (["/etc/hosts", "write"], "allowed_paths: [{path: /etc/, access: read}]", 4, ["read only there: /etc/"]),
        (["/tmp/x"], "denied_paths: [/tmp/x]", 4, ["metadata: refused by security.denied_paths: /tmp/x"]),
        (["/tmp/x", "write"], "services: {file: read-only}", 4, ["write: refused by security.services.file"]),
        (["/tmp/x", "read"], "services: {file: read-only}", 0, ["read: allowed"]),
        (["tmp"], "", 2, ["read: invalid", "path is not absolute: tmp"]),
        (["/tmp/no/such/x", "write"], "", 5, ["write: would fail", "No such directory: /tmp/no/such"]),
    ],
)
def test_explain_path(program: Program, arguments: list[str], security: str, code: int, expected: list[str]) -> None:
    found, out, _ = program.run("explain", "path", *arguments, config=f"security: {{{security}}}")
    assert found == code, out
    for each in expected:
        assert each in out


@pytest.mark.parametrize(
    ("arguments", "security", "code", "expected"),
    [
        (["vsrpc-x", "stop"], "allowed_units: [nginx]", 4, "refused by security.allowed_units"),
        (["nginx", "stop"], "allowed_unit_actions: [status]", 4, "refused by security.allowed_unit_actions"),
        (
            ["nginx", "stop"],
            "services: {service_manager: read-only}",
            4,
            "refused by security.services.service_manager",
        ),
        (["../x", "stop"], "", 2, "invalid"),
    ],
)
def test_explain_service(program: Program, arguments: list[str], security: str, code: int, expected: str) -> None:
    found, out, _ = program.run("explain", "service", *arguments, config=f"security: {{{security}}}")
    assert (found, out.splitlines()[0]) == (code, expected)


@pytest.mark.parametrize(
    "arguments", [["explain"], ["explain", "exec"], ["explain", "service", "x", "kill"], ["examine"]]
)
def test_wrong_usage(program: Program, arguments: list[str]) -> None:
    code, out, err = program.run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: vsrpc-guest")


def test_the_configuration_may_be_named_after_the_command(program: Program, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("security: {allowed_commands: [nosuch]}")
    for arguments in (["explain", "--config", "{}", "exec", "ls"], ["explain", "exec", "ls", "--config", "{}"]):
        assert program.run(*(each.format(tmp_path / "other.yaml") for each in arguments))[0] == 4
    assert program.run("explain", "exec", "ls")[0] == 0


@pytest.mark.parametrize("arguments", [["check-config"], ["explain", "exec", "ls"]])
def test_a_wrong_configuration(program: Program, arguments: list[str]) -> None:
    code, out, err = program.run(*arguments, config="security:\n  allowed_command: []\n")
    assert (code, out) == (78, "")
    assert err == (
        f"vsrpc-guest: {program.file}:2: security.allowed_command: unknown key; did you mean 'allowed_commands'?\n"
    )
    code, _, err = program.run("check-config", "/no/such/file")
    assert (code, "/no/such/file: cannot read this configuration file" in err) == (78, True)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("security: {allowed_paths: [/tmp/]}", []),
        (
            "security: {allowed_commands: null, allowed_paths: []}",
            ["security.allowed_commands is null: callers"],
        ),
        (
            "security: {allowed_commands: [ls, nosuch, sh], allowed_paths: []}",
            [
                "security.allowed_commands: nosuch is not installed",
                "security.allowed_commands: nosuch has no argument rule: callers may give it any arguments",
                "security.allowed_commands: sh has no argument rule",
            ],
        ),
        ("security: {allowed_paths: [/]}", ["security.allowed_paths: / holds /bin: callers who may write there"]),
        (
            "security: {allowed_paths: [/etc]}",
            ["security.allowed_paths: /etc holds /etc: callers who may write there"],
        ),
        (
            "security: {allowed_paths: [{path: /etc/, access: read}]}",
            ["security.allowed_paths: /etc/ holds /etc: callers may read passwords"],
        ),
        (
            "security: {allowed_paths: [/proc/, /no/such], denied_paths: [/no/either]}",
            [
                "security.allowed_paths: /proc/ has no effect: refused by built-in deny list: kernel and processes",
                "security.allowed_paths: /no/such does not exist",
                "security.denied_paths: /no/either does not exist",
            ],
        ),
        (
            "security: {allowed_paths: [], services: {shell: read-only}}\naudit: {enabled: false, file: /no/such/log}",
            [
                "security.services.shell: read-only leaves only what reads of jobs",
                "audit.enabled is false",
                "audit.file: /no/such does not exist",
            ],
        ),
    ],
)
def test_check_config_warns(program: Program, config: str, expected: list[str]) -> None:
    code, out, err = program.run("check-config", config=config)
    assert code == 0
    lines = err.splitlines()
    assert len(lines) == len(expected), lines
    for line, message in zip(lines, expected):
        assert line.startswith(f"{program.file}: warning: {message}")
    assert out.startswith(f"{program.file}: valid" + (f", with {len(expected)} warning" if expected else "\n"))


# -- what calls carry


def test_allowed_calls_note_their_rule(tmp_path: Path) -> None:
    files = FileService(PathPolicy([], read_only=["/etc/hosts"]), 1 << 20, UploadSessions())
    place = FileService(PathPolicy([f"{tmp_path}/"]), 1 << 20, UploadSessions())
    try:
        for servicer, rpc, request, rule in (
            (files, "Download", pb.DownloadRequest(path="/etc/hosts"), "security.allowed_paths: /etc/hosts"),
            (files, "DownloadChunk", pb.DownloadChunkRequest(path="/etc/hosts"), "security.allowed_paths: /etc/hosts"),
            (files, "Stat", pb.StatRequest(path="/etc/hosts"), "security.allowed_paths: /etc/hosts"),
            (files, "Stat", pb.StatRequest(path="/etc/group"), VISIBLE),
            (files, "Stat", pb.StatRequest(path="/etc/no-such"), VISIBLE),
            (place, "Upload", pb.UploadRequest(path=f"{tmp_path}/f"), f"security.allowed_paths: {tmp_path}/"),
            (place, "InitUpload", pb.InitUploadRequest(path=f"{tmp_path}/f"), f"security.allowed_paths: {tmp_path}/"),
        ):
            call = context()
            reply = getattr(servicer, rpc)(request, call)
            assert call.notes == {"rule": rule}, rpc
        call = context()
        place.FinishUpload(pb.FinishUploadRequest(session_id=reply.session_id), call)
        assert call.notes == {"rule": f"security.allowed_paths: {tmp_path}/"}
    finally:
        files.stop()
        place.stop()


@pytest.mark.parametrize(("allowed", "rule"), [((), ": built-in list"), (("true",), ""), (None, ": null")])
def test_commands_note_their_rule(tmp_path: Path, allowed: tuple[str, ...] | None, rule: str) -> None:
    call = new_context()
    Guest(str(tmp_path), allowed).exec("true", context=call)
    assert call.notes == {"rule": f"security.allowed_commands{rule}"}


def test_refused_calls_carry_their_rule(tmp_path: Path) -> None:
    guest = Guest(str(tmp_path))
    for fields, rule in (
        ({"command": "rm x"}, "security.allowed_commands"),
        ({"command": "find . -delete"}, "arguments of find"),
        ({"command": "ls", "env": {"LD_PRELOAD": "x"}}, "environment of commands"),
        ({"command": "ls", "working_dir": "/proc"}, "built-in deny list: kernel and processes"),
        ({"argv": ["cat", "/etc/passwd"]}, "security.allowed_paths"),
    ):
        with pytest.raises(RpcError) as caught:
            guest.exec(**fields)
        assert caught.value.data["rule"] == rule
    files = FileService(PathPolicy([]), 1 << 20, UploadSessions())
    try:
        failure = refused("PERMISSION_DENIED", files.Download, pb.DownloadRequest(path="/etc/shadow"), context())
        assert failure.data == {"path": "/etc/shadow", "rule": "built-in deny list: password hashes"}
    finally:
        files.stop()
