"""What the documentation states as a fact is so: its tables are compared with the code that they describe.

That the packaged configuration files show every key with its default is tested beside their readers.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from guest.config import GuestConfig, LimitsConfig, SecurityConfig, ServerConfig
from guest.jobs import job, memory, store, terminal
from guest.jobs.live import TIMED_OUT
from guest.policy.commands import DEFAULT_COMMANDS
from guest.services import file, shell
from guest.services import job as job_service
from host.cli import exits, parser
from scripts.clidoc.model import read
from vsrpc import (
    auth,
    authenticator,
    client_session,
    hello,
    link,
    metadata,
    outbox,
    reply_cache,
    server,
    server_session,
)
from vsrpc.status import Code
from vsrpc.v1 import (
    error_tables,
    file_tables,
    job_tables,
    machine_tables,
    service_tables,
    shell_tables,
    system_tables,
)
from vsrpc.wire import Limits
from vsrpc.wire import sync as wire_sync

ROOT = Path(__file__).resolve().parents[2]
KIB, MIB = 1024, 1024 * 1024
WIRE = Limits()
SERVER: Any = {name: p.default for name, p in inspect.signature(server.Server).parameters.items()}


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(name: str, header: str) -> list[list[str]]:
    """The cells of a page's only table whose first line is `header`."""
    parts = page(name).split(f"\n{header}\n")
    assert len(parts) == 2, f"{name} has no table, or two, under {header}"
    rows = parts[1].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def code_words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# -- PROTOCOL.md


def test_routes() -> None:
    tables = (system_tables, shell_tables, job_tables, file_tables, service_tables, machine_tables)
    expected = [
        [f"`{route.rpc_path.rpartition('.')[2].replace('/', '.')}`", f"`{route.http_method} {route.template}`"]
        for module in tables
        for route in module.ROUTES
    ]
    assert table("PROTOCOL.md", "| rpc | route |") == expected


def test_error_codes() -> None:
    success = ["0", "SUCCESS", "200", "OK"]
    rows = [
        [str(entry.number), entry.reason, str(entry.http_status or "\u2013 (client side)"), entry.rpc_code]
        for entry in error_tables.ERROR_CODES
    ]
    assert table("PROTOCOL.md", "| code | name | HTTP on REST routes | rpc status |") == [success, *rows]


def test_http_statuses_of_rpc_statuses() -> None:
    line = re.search(r"as Connect says: (.*?)\. Exceptions:", page("PROTOCOL.md"), re.DOTALL)
    assert line
    said = {name: int(entry.split()[0]) for entry in line.group(1).split("·") for name in re.findall(r"[A-Z_]+", entry)}
    assert said == {code.name: code.http_status for code in Code}


LIMITS = {
    "request body, compressed or not": [f", {ServerConfig.max_request_size // MIB} MiB by default"],
    "`content` of a `Download` or `DownloadChunk`": [
        f"`server.max_request_size` less {file._REPLY_OVERHEAD // KIB} KiB"
    ],
    "`DownloadChunk` `size`": [f"{file.CHUNK_SIZE // MIB} MiB by default, {file.MAX_CHUNK_SIZE // MIB} MiB at most"],
    "`stdout`, `stderr` of an `Exec`": [
        f"the first {job.MAX_OUTPUT // MIB} MiB of each",
        f"{shell._ERROR_OUTPUT // KIB} KiB of each in the facts",
    ],
    "`Exec` `timeout`": [f"{shell.DEFAULT_TIMEOUT:g} s by default, {shell.MAX_TIMEOUT / 3600:g} h at most"],
    "jobs": [f"`limits.jobs`, {LimitsConfig.jobs} by default"],
    "a `Job.Read`": [
        f"{job_service.READ_SIZE // MIB} MiB of each output by default",
        f"of stderr {job_service.MAX_STDERR // MIB} MiB at most",
    ],
    "`Job` `timeout`, `wait`": [
        f"{job_service.MAX_TIMEOUT / 86400:g} days at most",
        f"{job_service._MAX_WAIT:g} s at most",
    ],
    "uploads in chunks": [
        f"`limits.uploads`, {LimitsConfig.uploads} by default",
        f"`limits.upload_idle`, {LimitsConfig.upload_idle / 60:g} min",
    ],
    "bytes of a command line, or of `argv`; of `env`": [
        f"{LimitsConfig.argument_size // KIB} KiB",
        f"{LimitsConfig.environment_size // KIB} KiB by default",
    ],
    "a call without a deadline": [f", {ServerConfig.request_timeout:g} s by default"],
    "first line · head · number of fields": [
        f"{WIRE.max_line // KIB} KiB · {WIRE.max_head // KIB} KiB · {WIRE.max_headers}"
    ],
    "silence in the middle of a request": [f"{SERVER['stall_timeout']:g} s, then"],
    "a client that does not read": [f"{SERVER['write_timeout']:g} s for a response"],
    "requests at a time": [
        f"`server.workers`, {ServerConfig.workers} by default, run and `server.queue`, {ServerConfig.queue}, wait"
    ],
    "bytes of requests that are not done": [f"`limits.buffered`, {LimitsConfig.buffered // MIB} MiB by default"],
    "calls in a second": ["`limits.requests_per_second`, without limit by default"],
    "responses that wait to be written": [f"{outbox._MAX_QUEUED // MIB} MiB; more"],
}


def test_limits() -> None:
    limits = dict(table("PROTOCOL.md", "| what | limit |"))
    assert list(limits) == list(LIMITS)
    for what, phrases in LIMITS.items():
        for phrase in phrases:
            assert phrase in limits[what], what


@pytest.mark.parametrize(
    "sentence",
    [
        f"# The vsrpc protocol, version {hello.VERSION}",
        f"up to {server_session._MAX_PIPELINED} pipelined requests wait",
        f"first line over {WIRE.max_line} bytes",
        f"fields over {WIRE.max_head // KIB} KiB with the first line; more than {WIRE.max_headers} of them",
        f"({WIRE.max_body:,} bytes by default)",
        f"({authenticator.MAX_NONCES} are kept)",
        f"`security.replay_window`, {SecurityConfig.replay_window / 60:g} min by default",
        "\n".join(f"    {name}: VALUE" for name in auth.SIGNED_FIELDS),
        f"a secret of at least {auth.MIN_SECRET} bytes",
        f"replies of {reply_cache.MAX_BYTES // MIB} MiB in all, none larger than {reply_cache.MAX_BYTES // 2 // MIB}",
        f"{reply_cache.MAX_CALLS} calls; {reply_cache.MAX_AGE / 60:g} min after their end",
        f"runs on for {reply_cache.ORPHAN_TIME:g} s, or",
        f"after {link._FIRST_WINDOW:g} s at first and twice as long each time up to {link._LONGEST_WINDOW:g} s",
        f"({link._LEAVE_TIME * 1000:g} ms at first, twice",
        f"waited for {client_session._PROBE_AFTER:g} s without a byte",
        f"give it up after {client_session._SILENT_AFTER:g} s",
        f"and {hello.MESSAGE_COST} more after each message",
        f"the 16 bytes `{wire_sync.MAGIC.hex(' ')}`",
        f"`server.max_request_size` and {server._BODY_ROOM // KIB} KiB",
        f"{job_service.LOG_SIZE // MIB} MiB by default, {job_service.LOG_SIZES.start // KIB} KiB to "
        f"{job_service.LOG_SIZES[-1] // MIB} MiB.",
        f"Without a `Read` for {memory.ATTENTION:g} s the log drops",
        f"up to {job_service._MAX_WAIT:g} s, and within its deadline",
        f"at most {memory.MAX_AHEAD // MIB} MiB ahead of the job",
        f"a size of 0 is {terminal.DEFAULT_ROWS} rows, {terminal.DEFAULT_COLUMNS} columns",
        f"after their end, {store.KEPT_JOBS} of them and {store.KEPT_BYTES // MIB} MiB of their output",
    ],
)
def test_other_constants(sentence: str) -> None:
    assert sentence in page("PROTOCOL.md")


def test_headers_that_are_no_metadata() -> None:
    text = re.search(r"Request headers are metadata, but for (.*?)\. A key", page("PROTOCOL.md"), re.DOTALL)
    assert text
    names = {name.lower() for name in code_words(text.group(1))}
    assert names == {*metadata._RESERVED, *metadata._RESERVED_PREFIXES}


# -- the command line: docs/cli.md is made from the parser, which test_cli_docs.py sees to


def test_exit_codes() -> None:
    codes = {name: value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    own = {value for name, value in codes.items() if name not in ("EXEC_BASE", "LOST_OUTPUT")}
    command = read(parser._build())
    assert {int(code) for code, _ in command.codes} == own
    # What exec, shell and attach say themselves.
    of_exec = {str(exits.EXEC_BASE + value) for value in codes.values() if 0 < value < 100}
    assert {word for word in re.findall(r"\b2\d\d\b", command.notes) if word != "200"} == of_exec


@pytest.mark.parametrize(("name", "header"), [("usage", "| exit code | meaning |"), ("zh/usage", "| 退出码 | 含义 |")])
def test_exit_codes_of_exec(name: str, header: str) -> None:
    notes = read(parser._build()).notes
    said = [row[0] for row in table(f"docs/{name}.md", header)]
    assert said == [str(TIMED_OUT), *re.findall(r"\b20[1-9]\b", notes)]


# -- docs/security.md


@pytest.mark.parametrize(
    ("name", "header", "yes"), [("security", "| | default | key |", "yes"), ("zh/security", "| | 默认 | 键 |", "是")]
)
def test_default_policy(name: str, header: str, yes: str) -> None:
    security = GuestConfig().security
    rows = [(default, code_words(key)) for _, default, key in table(f"docs/{name}.md", header)]
    said = {key.partition("security.")[2]: default for default, keys in rows for key in keys}
    assert set(said["allowed_commands"].strip("`").split()) == DEFAULT_COMMANDS
    assert code_words(said["allowed_paths"])[0].split() == [each.path for each in security.allowed_paths]
    assert security.allowed_units is None
    operations = {f"operations.{each}": value for each, value in vars(security.operations).items()}
    flags = {"login_shell": security.login_shell, "allow_update": security.allow_update, **operations}
    assert {key: said[key] == yes for key in flags} == flags


# -- README.md


def test_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE))
    said = set(re.findall(r"\bmake ([a-z-]+)", page("README.md") + page("docs/architecture.md")))
    assert said
    assert said <= targets


# -- every page


def anchors(text: str) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "path",
    sorted(
        path.relative_to(ROOT).as_posix()
        for folder in (".", "docs", "examples", "proto")
        for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
    ),
)
def test_links_lead_somewhere(path: str) -> None:
    text = re.sub(r"^    .*$|`[^`\n]*`(?!\])", "", page(path), flags=re.MULTILINE)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (ROOT / path).parent / name if name else ROOT / path
        assert there.exists(), f"{path} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{path} links to {target}: no such heading"


def test_files_that_the_architecture_names() -> None:
    names = re.findall(r"`((?:vsrpc|guest|host|proto|scripts|tests|docs)/[\w/.-]+)`", page("docs/architecture.md"))
    assert names
    for name in names:
        assert (ROOT / name).exists(), f"docs/architecture.md names {name}, which is not there"
