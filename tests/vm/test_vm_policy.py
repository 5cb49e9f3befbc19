"""The policy on a real guest: its own secrets, mounts and mount namespaces, systemd's units, and the daemon's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterator

import pytest
from vm_tools import BOOT, sh

import vsrpc
from vsrpc.v1.error_pb2 import ErrorCode, ErrorDetail
from vsrpc.v1.file_pb2 import DownloadRequest, StatRequest, UploadRequest
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.service_pb2 import ControlRequest
from vsrpc.v1.service_vsrpc import ServiceManagerStub
from vsrpc.v1.shell_pb2 import ExecRequest
from vsrpc.v1.shell_vsrpc import ShellStub
from vsrpc.v1.system_pb2 import InfoRequest, PingRequest
from vsrpc.v1.system_vsrpc import SystemStub

if TYPE_CHECKING:
    from scripts.vm import VM

CONFIG = "/etc/vsrpc/guest.yaml"

PLACES = """
security:
  allowed_paths: [/, {path: /srv/ro/, access: read}]
  denied_paths: [/srv/denied]
  allowed_units: [vsrpc-one, vsrpc-alias]
  allowed_unit_actions: [status, start, stop]
audit: {file: /var/log/vsrpc-audit.log}
"""
SWITCHED = "security: {services: {system: false, shell: false, file: read-only, service_manager: read-only}}"

MADE = """
mkdir -p /srv/ro /srv/denied /srv/etc /srv/ns
echo fine | tee /srv/f /srv/ro/f /srv/denied/f > /srv/ns/f
ln -sf /etc/shadow /srv/link; ln -s /srv/denied /srv/way; ln -f /etc/gshadow /srv/hard; ln -f /srv/denied/f /srv/twin
mkfifo /srv/fifo; mknod /srv/disk b 253 0; echo x > /var/log/vsrpc-audit.log.1
mount --bind /etc /srv/etc
other='mount -t tmpfs none /srv/ns; echo > /srv/ns/f; exec sleep 1000'
systemd-run -q --unit other-ns -p PrivateMounts=yes -p Type=exec sh -c "$other"
ln -s /proc/$(systemctl show --value -p MainPID other-ns)/root/srv/ns /srv/other
until test -e /srv/other/f; do sleep 0.1; done
for unit in one two; do
printf '[Service]\\nExecStart=sleep 1000\\n' > /etc/systemd/system/vsrpc-$unit.service
done
ln -s /etc/systemd/system/vsrpc-two.service /etc/systemd/system/vsrpc-alias.service
ln -s /etc/systemd/system/vsrpc-one.service /etc/systemd/system/vsrpc-uno.service
systemctl daemon-reload
"""
UNMADE = """
systemctl stop other-ns vsrpc-one; umount /srv/etc
rm -rf /srv/* /etc/systemd/system/vsrpc-one.service /etc/systemd/system/vsrpc-two.service /var/log/vsrpc-audit.log*
rm /etc/systemd/system/vsrpc-alias.service /etc/systemd/system/vsrpc-uno.service; systemctl daemon-reload
"""

OK = ""
SHADOW = "built-in deny list: password hashes"
OWN = "built-in deny list: the daemon's own files"
OUTSIDE = "built-in deny list: it is mounted outside the daemon's file system"
DENIED = "security.denied_paths: /srv/denied"

# What decides about reading and writing.
PATHS = {
    "/srv/f": (OK, OK),
    "/srv/ro/f": (OK, "security.allowed_paths: /srv/ro/ (read only)"),
    "/srv/ro/new": ("FILE_NOT_FOUND", "security.allowed_paths: /srv/ro/ (read only)"),
    "/srv/denied/f": (DENIED, DENIED),
    "/srv/way/f": (DENIED, DENIED),
    "/etc/shadow": (SHADOW, SHADOW),
    "/srv/link": (SHADOW, OK),  # the link itself is replaced
    "/srv/etc/shadow": (SHADOW, SHADOW),
    "/srv/etc/vsrpc/guest.yaml": (OWN, OWN),
    "/srv/hard": ("built-in deny list: a hard link to a secret", OK),  # so is the name
    "/proc/self/root/etc/shadow": (SHADOW, SHADOW),
    "/proc/self/cwd/etc/shadow": (SHADOW, SHADOW),
    "/proc/1/root/etc/shadow": (SHADOW, SHADOW),
    "/dev/fd/0": ("built-in deny list: kernel and processes", "built-in deny list: kernel and processes"),
    "/srv/other/f": (OUTSIDE, OUTSIDE),
    "/srv/fifo": ("WRONG_FILE_TYPE", "WRONG_FILE_TYPE"),
    "/srv/disk": ("WRONG_FILE_TYPE", "WRONG_FILE_TYPE"),
    CONFIG: (OWN, OWN),
    "/var/log/vsrpc-audit.log": (OWN, OWN),
    "/var/log/vsrpc-audit.log.1": (OWN, OWN),
    "/etc/systemd/system/vsrpc-guest.service": (OWN, OWN),
    "/usr/local/bin/vsrpc-guest": (OWN, OWN),
    "/opt/vsrpc/current": (OWN, OWN),
    "/opt/vsrpc/current/yaml.py": (OWN, OWN),
    "/opt/vsrpc/current/guest/daemon.py": (OWN, OWN),
}


@pytest.fixture(scope="module", autouse=True)
def restored(vm: VM) -> Iterator[None]:
    before = vm.ga.read_file(CONFIG)
    yield
    vm.ga.write_file(CONFIG, before)
    sh(vm, "systemctl restart vsrpc-guest")
    vm.wait_daemon()


def configured(vm: VM, config: str) -> vsrpc.Channel:
    vm.ga.write_file(CONFIG, config.encode())
    sh(vm, "systemctl restart vsrpc-guest")
    vm.wait_daemon()
    return vsrpc.connect(str(vm.socket), vsrpc.ChannelOptions(connect_timeout=BOOT, read_timeout=BOOT))


def decision(call: Callable[[Any], object], request: object) -> str:
    """The rule that refuses a call, or the reason for which it fails; empty when it is served."""
    try:
        call(request)
    except vsrpc.RpcError as failure:
        (detail,) = failure.error_details
        facts = ErrorDetail.FromString(detail.value)
        return facts.data.get("rule") or ErrorCode.Name(facts.code).replace("ERROR_CODE_", "")
    return OK


def test_places_and_units(vm: VM) -> None:
    sh(vm, MADE)
    try:
        with configured(vm, PLACES) as channel:
            files = FileStub(channel)
            found = {
                path: (
                    decision(files.Download, DownloadRequest(path=path)),
                    decision(files.Upload, UploadRequest(path=path, content=b"new")),
                )
                for path in PATHS
            }
            assert found == PATHS
            assert sh(vm, "cat /srv/ro/f /srv/denied/f") == "fine\nfine\n"
            assert decision(files.Stat, StatRequest(path="/srv/denied")) == DENIED
            execute = ShellStub(channel).Exec
            for command, rule in {
                "cat /srv/ro/f": OK,
                "echo x > /srv/ro/f": "security.allowed_paths: /srv/ro/ (read only)",
                "cat /srv/twin": OK,  # what is below a denied directory has no name to be known by
                "cat < /srv/etc/shadow": SHADOW,
                "ls /srv/way/": DENIED,
                "grep -r x /srv/etc/vsrpc": OWN,
            }.items():
                assert decision(execute, ExecRequest(command=command)) == rule, command
            assert decision(execute, ExecRequest(command="ls", working_dir="/srv/way")) == DENIED
            control = ServiceManagerStub(channel).Control
            units = "security.allowed_units"
            for name, action, expected in (
                ("vsrpc-one", "start", OK),
                ("vsrpc-uno", "status", OK),  # an alias of vsrpc-one
                ("vsrpc-one", "restart", "security.allowed_unit_actions"),
                ("vsrpc-two", "start", units),
                ("vsrpc-alias", "start", units),  # is listed, and an alias of vsrpc-two, which is not
                ("vsrpc-guest", "stop", units),
                ("/etc/systemd/system/vsrpc-one.service", "start", "INVALID_PARAMS"),
                ("vsrpc-*", "start", "INVALID_PARAMS"),
                ("--root=/srv", "start", "INVALID_PARAMS"),
            ):
                assert decision(control, ControlRequest(name=name, action=action)) == expected, (name, action)
            assert sh(vm, "systemctl is-active vsrpc-one vsrpc-two || true").split() == ["active", "inactive"]
            told = sh(vm, "vsrpc-guest explain service vsrpc-alias start; vsrpc-guest check-config 2>&1")
            for line in (
                "(vsrpc-alias.service is vsrpc-two.service; security.allowed_units in",
                f"{CONFIG}: warning: security.allowed_paths: / holds /bin: callers who may write there",
                f"{CONFIG}: warning: security.allowed_units: vsrpc-alias matches no unit",
                f"{CONFIG}: valid, with 2 warnings",
            ):
                assert line in told, told
    finally:
        sh(vm, UNMADE)


def test_switches(vm: VM) -> None:
    with configured(vm, SWITCHED) as channel:
        files = FileStub(channel)
        for call, request, expected in (
            (SystemStub(channel).Ping, PingRequest(), OK),
            (SystemStub(channel).Info, InfoRequest(), "security.services.system"),
            (ShellStub(channel).Exec, ExecRequest(command="true"), "security.services.shell"),
            (files.Stat, StatRequest(path="/etc/hosts"), OK),
            (files.Download, DownloadRequest(path="/var/log/dpkg.log"), OK),
            (files.Upload, UploadRequest(path="/tmp/switched"), "security.services.file"),
            (ServiceManagerStub(channel).Control, ControlRequest(name="dbus", action="status"), OK),
            (
                ServiceManagerStub(channel).Control,
                ControlRequest(name="dbus", action="restart"),
                "security.services.service_manager",
            ),
        ):
            assert decision(call, request) == expected, request
        assert sh(vm, "ls /tmp/switched 2>&1 || true").startswith("ls: cannot access")


def test_a_policy_that_everyone_may_write_starts_nothing(vm: VM) -> None:
    try:
        done = sh(vm, f"chmod 666 {CONFIG}; vsrpc-guest --config {CONFIG} --listen unix:/run/x.sock 2>&1; echo $?")
    finally:
        sh(vm, f"chmod 644 {CONFIG}")
    assert done == (f"vsrpc-guest: {CONFIG}: not trusted: every user may write {CONFIG}; run: chmod o-w {CONFIG}\n78\n")
