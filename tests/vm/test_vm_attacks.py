"""The guest's policy against those who try to get around it, on a real system, and what it must not hinder.

What the daemon's descendants do is traced by the guest's kernel: whatever is answered, no program may be executed that
is not listed, no listed one may change anything, no secret may be told, and the guest must be as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import random
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Callable, Iterable, Iterator, Sequence, TypeVar

import pytest
from attacks import generator, guest_setup, legitimate, rows_commands, rows_requests, rows_syntax, rows_system
from attacks.rows import DIRECTORY, HARMLESS, SECRET, Attack
from attacks.tracing import Tracer
from vm_tools import sh

import vsrpc
from guest.policy.commands import DEFAULT_COMMANDS
from guest.policy.environment import SAFE_PATH
from vsrpc.v1 import file_pb2, service_pb2
from vsrpc.v1.file_vsrpc import FileStub
from vsrpc.v1.service_vsrpc import ServiceManagerStub
from vsrpc.v1.shell_pb2 import ExecRequest
from vsrpc.v1.shell_vsrpc import ShellStub

if TYPE_CHECKING:
    from scripts.vm import VM

CONFIG = "/etc/vsrpc/guest.yaml"
AT_A_TIME = 8  # calls in flight: as many as the daemon serves
PATIENCE = 120.0  # seconds for one call, while others run, under emulation
GROWTH = 100_000  # KiB of memory that may stay with the daemon: two large replies for each worker, and fragments

T = TypeVar("T")


@pytest.fixture(scope="module")
def prepared(vm: VM) -> Iterator[VM]:
    guest_setup.set_up(vm)
    with connect(vm) as channel:  # the daemon makes what it keeps of uploads with the first one that replaces a file
        for _ in range(2):
            FileStub(channel).Upload(file_pb2.UploadRequest(path=f"{DIRECTORY}/uploaded", content=b"x"))
    yield vm
    guest_setup.clean_up(vm)


LISTED = [f"{place}/{name}" for place in SAFE_PATH.split(":") for name in DEFAULT_COMMANDS]


@contextlib.contextmanager
def watched(vm: VM, listed: Iterable[str] = LISTED) -> Iterator[None]:
    """Nothing that the block's calls make the daemon do may harm the guest; `listed` are paths of programs."""
    before, costs = guest_setup.state(vm), guest_setup.costs(vm)
    with Tracer(vm) as tracer:
        yield
        trace = tracer.take()
    assert trace.executed, "nothing was traced"
    after = guest_setup.costs(vm)
    harm = {
        "executed": trace.executed - set(listed),
        "changes": trace.changes,
        "state": list(difflib.unified_diff(before.splitlines(), guest_setup.state(vm).splitlines(), n=0)),
        "descriptors": after["descriptors"] - costs["descriptors"],
        "children": after["children"],
        "memory": max(0, after["memory"] - costs["memory"] - GROWTH),
    }
    assert not any(harm.values()), harm


def all_at_once(calls: Iterable[T], make: Callable[[T], str]) -> list[str]:
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(make, calls))


def connect(vm: VM) -> vsrpc.Channel:
    return vsrpc.connect(str(vm.socket), vsrpc.ChannelOptions(connect_timeout=PATIENCE, read_timeout=PATIENCE))


def answer(call: Callable[[], object]) -> str:
    """What a caller learns."""
    try:
        return f"OK {call()}"
    except vsrpc.RpcError as error:
        return f"{error.code().name}: {error.details()} {dict(error.data)}"


def judged(row: Attack, said: str) -> str:
    """What is wrong with what was answered, or nothing."""
    if SECRET in said:
        return f"{row}: tells the secret: {said[:1000]}"
    if said.startswith(("INTERNAL", "UNAVAILABLE")) or (
        row.expected != HARMLESS and (said.startswith("OK") or row.expected not in said)
    ):
        return f"{row}: expected {row.expected!r}, was answered {said[:300]}"
    return ""


def test_exec(prepared: VM) -> None:
    """No command gets around the policy."""
    rows = [*rows_commands.ROWS, *rows_system.ROWS, *rows_syntax.ROWS, *rows_requests.ROWS]
    with watched(prepared), connect(prepared) as channel:
        stub = ShellStub(channel)
        answers = all_at_once(rows, lambda row: answer(lambda: stub.Exec(ExecRequest(**row.fields))))
    wrong = list(filter(None, map(judged, rows, answers)))
    assert not wrong, "\n".join(wrong)


def test_files_and_services(prepared: VM) -> None:
    """Nor does any other call."""
    with watched(prepared), connect(prepared) as channel:
        files, units = FileStub(channel), ServiceManagerStub(channel)
        calls: list[tuple[str, Callable[[], object]]] = []
        for path in rows_requests.READS:
            calls += [
                (f"Download {path}", lambda path=path: files.Download(file_pb2.DownloadRequest(path=path))),
                (
                    f"DownloadChunk {path}",
                    lambda path=path: files.DownloadChunk(file_pb2.DownloadChunkRequest(path=path)),
                ),
            ]
        for path in rows_requests.WRITES:
            fields = {"path": path, "mode": "0777", "owner": "root"}
            calls += [
                (f"Upload {path}", lambda fields=fields: files.Upload(file_pb2.UploadRequest(content=b"x", **fields))),
                (f"InitUpload {path}", lambda fields=fields: files.InitUpload(file_pb2.InitUploadRequest(**fields))),
            ]
        for mode in ("4755", "2755", "06755", "7777"):
            fields = {"path": f"{DIRECTORY}/attacked", "mode": mode}
            calls.append((f"Upload {mode}", lambda fields=fields: files.Upload(file_pb2.UploadRequest(**fields))))
        for path in rows_requests.LOOKS:
            calls.append((f"Stat {path}", lambda path=path: files.Stat(file_pb2.StatRequest(path=path))))
        for name, action in rows_requests.UNITS:
            request = {"name": name, "action": action}
            calls.append(
                (f"Control {request}", lambda request=request: units.Control(service_pb2.ControlRequest(**request)))
            )
        answers = all_at_once(calls, lambda call: answer(call[1]))
        # An upload takes a link's place; what the link led to stays.
        for name in ("replace-out", "replace-shadow", "replace-nowhere"):
            files.Upload(file_pb2.UploadRequest(path=f"{DIRECTORY}/{name}", content=b"x"))
            assert ShellStub(channel).Exec(ExecRequest(argv=["cat", f"{DIRECTORY}/{name}"])).stdout == b"x"
    refusals = ("PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND")
    wrong = [
        f"{name}: {said[:300]}"
        for (name, _), said in zip(calls, answers)
        if not said.startswith(refusals) or SECRET in said
    ]
    assert not wrong, "\n".join(wrong)


HEAD = b"POST /api/v1/shell/exec HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Type: application/json\r\n"
BODIES = [
    rb'{"command": "ls\u0000; attack-canary"}',
    rb'{"command": "ls", "command": "attack-canary"}',
    rb'{"argv": ["ls", "\ud800"]}',
    rb'{"argv": ["attack-canary", "\udcff"]}',
    b'{"argv": ["cat", "/tmp/attack/\xff"]}',
    b'{"argv": "attack-canary"}',
    b'{"argv": {"0": "attack-canary"}}',
    b'{"argv": [["attack-canary"]]}',
    b'{"command": ["attack-canary"]}',
    b'{"command": "ls", "env": {"LD_PRELOAD": "/tmp/attack/evil.so"}}',
    b'{"command": "ls", "env": [["A", "b"]]}',
    b'{"command": "ls", "working_dir": "/root"}',
    b'{"command": "ls", "workingDir": "/root"}',
    b'{"command": "ls", "timeout": 1e999}',
    b'{"command": "attack-canary", "shell": true}',
    b'{"command": "\\u0061ttack-canary"}',
    b"[" * 100_000,
    b'{"command": ' + b'["' * 50_000,
]


def test_plain_clients(prepared: VM) -> None:
    """JSON is read as strictly as protobuf."""
    with watched(prepared):
        for body in (*BODIES, b'{"argv": ["true"]}'):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(str(prepared.socket))
                client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                said = client.recv(1 << 16)
            assert re.match(rb"HTTP/1.1 (200|40[034]) ", said), (body[:80], said[:300])
            assert (b" 200 " in said[:20]) == (body == b'{"argv": ["true"]}'), (body[:80], said[:300])


def generated(vm: VM, count: int, listed: Sequence[str] = generator.LISTED) -> None:
    """Try command lines that were made by chance; a fair part must be accepted."""
    seed = int(os.environ.get("VSRPC_SEED") or random.SystemRandom().randrange(2**32))
    print(f"again with VSRPC_SEED={seed}")
    lines = list(generator.lines(seed, count, listed))
    with connect(vm) as channel:
        stub = ShellStub(channel)
        requests = [
            ExecRequest(command=line, env=generator.VARIABLES, working_dir=DIRECTORY, timeout=2.0) for line in lines
        ]
        answers = all_at_once(requests, lambda request: answer(lambda: stub.Exec(request)))
    wrong = [f"{line!r}: {said[:300]}" for line, said in zip(lines, answers) if SECRET in said or "INTERNAL" in said]
    assert not wrong, "\n".join(wrong)
    assert sum(said.startswith("OK") for said in answers) > count / 10, "too few lines are accepted to say much"


def test_generated_lines(prepared: VM) -> None:
    """No command line that is accepted makes the guest execute a program that is not listed, or change anything."""
    with watched(prepared):
        generated(prepared, 300)


APPLETS = (
    "ls cat echo head tail grep find wc df du free top ps uptime date hostname uname whoami id pwd env which stat "
    "md5sum sha256sum ip netstat ping true false"
)


def test_busybox(prepared: VM) -> None:
    """The same where the listed programs are BusyBox's, which have other options: what is accepted does no harm."""
    vm = prepared
    places = [f"/usr/local/busybox/{name}" for name in APPLETS.split()]
    links = "; ".join(f"ln -s /bin/busybox {place}" for place in places)
    config = vm.ga.read_file(CONFIG)
    sh(vm, f"mkdir /usr/local/busybox; {links}")
    vm.ga.write_file(CONFIG, f"security: {{allowed_commands: [{', '.join(places)}]}}".encode())
    sh(vm, "systemctl restart vsrpc-guest")
    vm.wait_daemon()
    rows = [
        dataclasses.replace(row, fields={**row.fields, "command": f"/usr/local/busybox/{row.fields['command']}"})
        for row in (*rows_commands.ROWS, *rows_system.ROWS)
        if row.fields["command"].split()[0] in APPLETS.split()
    ]
    try:
        with watched(vm, places):
            with connect(vm) as channel:
                stub = ShellStub(channel)
                answers = all_at_once(rows, lambda row: answer(lambda: stub.Exec(ExecRequest(**row.fields))))
            generated(vm, 100, places)
    finally:
        vm.ga.write_file(CONFIG, config)
        sh(vm, "systemctl restart vsrpc-guest; rm -r /usr/local/busybox")
        vm.wait_daemon()
    wrong = list(filter(None, map(judged, rows, answers)))
    assert not wrong, "\n".join(wrong)


def test_what_must_work(prepared: VM) -> None:
    """The policy stands in nobody's way who does what it is for."""

    def work(row: legitimate.Legitimate) -> str:
        request = ExecRequest(command=row.command, env=legitimate.VARIABLES, working_dir=DIRECTORY, timeout=60.0)
        try:
            reply = stub.Exec(request)
        except vsrpc.RpcError as error:
            return f"{row.command!r}: {error}"
        if reply.exit_code == row.code and re.search(row.output, reply.stdout.decode(errors="replace")):
            return ""
        return f"{row.command!r}: {reply.exit_code} {reply.stdout[:300]!r} {reply.stderr[:300]!r}"

    guest_setup.clean_up(prepared)  # command lines by chance may have written where callers may write
    guest_setup.set_up(prepared)
    with connect(prepared) as channel:
        stub = ShellStub(channel)
        wrong = list(filter(None, all_at_once(legitimate.ROWS, work)))
    assert not wrong, "\n".join(wrong)
