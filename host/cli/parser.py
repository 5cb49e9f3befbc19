"""The command line's grammar. Options that apply to every command may stand before or after it."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import Any, Collection, NoReturn, Sequence

from host.cli import exits
from host.cli.parser_files import add_copies, add_file_commands
from host.cli.parser_journal import add_journal
from host.cli.parser_provisioning import add_commands
from host.errors import UsageError
from host.transfer_options import CHECKSUMS, DEFAULT_CHUNK_SIZE, MD5, check_chunk_size
from vsrpc._version import __version__

PROG = "vsrpc-host"
ACTIONS = ("status", "start", "stop", "restart", "enable", "disable")

WAIT_SECONDS = 300.0
DOCTOR_SECONDS = 10.0

# What holds when an option is given nowhere; the parsers themselves have no defaults, so that one that stands after the
# command does not undo one before it.
_DEFAULTS = {
    "socket": None,
    "config": None,
    "debug": False,
    "raw": False,
    "json": False,
    "timeout": None,
    "patience": None,
}


class CommandLineError(Exception):
    """A command line that cannot be used; `command` is "" if it went wrong before one was recognised."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.command = command


def line_width() -> int:
    """Columns of the terminal that the output goes to, $COLUMNS where that is set; 80 where there is none."""
    # As shutil.get_terminal_size(), which loads every kind of archive with it.
    try:
        columns = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(sys.__stdout__.fileno()).columns  # type: ignore[union-attr]
        except (AttributeError, ValueError, OSError):  # None, closed, no terminal
            columns = 0
    return columns if columns > 0 else 80


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=line_width() - 2)


class _RawFormatter(_Formatter, argparse.RawDescriptionHelpFormatter):
    pass


class _Parser(argparse.ArgumentParser):
    def __init__(self, *, formatter_class: Any = _Formatter, **settings: Any) -> None:
        super().__init__(formatter_class=formatter_class, **settings)

    def error(self, message: str) -> NoReturn:
        _, _, command = self.prog.partition(" ")
        raise CommandLineError(f"{message} (see {self.prog} --help)", command)


class _MainParser(_Parser):
    """The parser that the commands' belong to; `complete`: whether it has all of them."""

    complete = True

    def format_help(self) -> str:
        return super().format_help() if self.complete else _build().format_help()


class _NotAsked(_Parser):
    """Stands for the parser of a command that is not asked for: what is added to it is forgotten."""

    def __init__(self) -> None:
        pass

    def add_argument(self, *names: Any, **settings: Any) -> Any:
        return None

    def set_defaults(self, **values: Any) -> None:
        pass

    def add_mutually_exclusive_group(self, **settings: Any) -> Any:
        return self

    def add_argument_group(self, *names: Any, **settings: Any) -> Any:
        return self


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments. Raises CommandLineError; --help and --version print and exit."""
    try:
        given, rest = _build(set(argv)).parse_known_args(argv)
    except CommandLineError:  # whose text may name all commands
        given, rest = _build().parse_known_args(argv)
    if rest:
        hint = ""
        if given.command == "exec":
            hint = "; put the whole command in quotes"
        raise CommandLineError(f"unrecognized arguments: {' '.join(rest)}{hint} (see {PROG} --help)", given.command)
    args = argparse.Namespace(**{**_DEFAULTS, **vars(given)})
    if args.patience is not None and args.timeout is not None:
        args.patience = args.timeout
    return args


def _build(asked: Collection[str] | None = None) -> argparse.ArgumentParser:
    """The parser; with no more commands than those whose names are `asked`, where that is given: making the parsers of
    all takes longer than most calls."""
    parser = _MainParser(
        prog=PROG,
        usage=f"{PROG} [OPTIONS] COMMAND [ARGS]",
        description="Calls a KVM guest over its virtio-serial port.",
        epilog=exits.HELP,
        formatter_class=_RawFormatter,
        allow_abbrev=False,
    )
    parser.complete = asked is None
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    _add_common(parser, timeout=True)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser, prog=PROG)

    def command(name: str, help: str, timeout: bool = True) -> argparse.ArgumentParser:
        if asked is not None and name not in asked:
            return _NotAsked()
        # A command's own options may take the short names of common ones (cp -r), which then stand before the command.
        added = commands.add_parser(name, help=help, description=help, allow_abbrev=False, conflict_handler="resolve")
        added.set_defaults(command=name)
        _add_common(added, timeout)
        return added

    command("ping", "see whether the guest answers")
    wait = command("wait", "wait until the guest answers a ping", timeout=False)
    _add_patience(wait, WAIT_SECONDS, "give up after so many seconds")
    doctor = command("doctor", "find out why the guest does not answer, or that it does", timeout=False)
    _add_patience(doctor, DOCTOR_SECONDS, "seconds to wait for others who have the port, and for an answer")
    command("info", "what the guest is: system, hardware, interfaces, file systems")
    command("status", "how the guest does: CPU, memory, disks, load")

    exec_ = command("exec", "run a command in the guest", timeout=False)
    exec_.add_argument("line", metavar="COMMAND", help="the command line, in quotes")
    exec_.add_argument(
        "--timeout",
        dest="exec_timeout",
        type=_seconds_or_none,
        metavar="SEC",
        help="seconds that the command may run, 0 for no limit (default: 30; on a terminal or detached, no limit)",
    )
    _add_process(exec_)
    exec_.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    exec_.add_argument("-n", "--no-stdin", action="store_true", help="give it no input")
    exec_.add_argument("--detach", action="store_true", help="let it run on its own, and print the job's id")

    _add_process(command("shell", "open an interactive login shell in the guest", timeout=False))
    command("jobs", "list the commands that run, and those that have ended")
    attach = command("attach", "go on with a job: its output so far, then live, with input")
    attach.add_argument("job", metavar="JOB", help="its id, as exec --detach and jobs print it")
    attach.add_argument("-n", "--no-stdin", action="store_true", help="give it no input")
    logs = command("logs", "print what a job has written")
    logs.add_argument("job", metavar="JOB", help="its id, as exec --detach and jobs print it")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    kill = command("kill", "send a signal to a job")
    kill.add_argument("job", metavar="JOB", help="its id, as exec --detach and jobs print it")
    kill.add_argument("--signal", default="TERM", metavar="NAME", help="TERM, KILL, HUP … (default: TERM)")

    upload = command("upload", "copy a file to the guest")
    upload.add_argument("local", metavar="LOCAL", help="file to copy")
    upload.add_argument("remote", metavar="REMOTE", help="absolute path in the guest; in a directory, the name is kept")
    upload.add_argument("-m", "--mode", default="0644", help="permission bits, in octal (default: 0644)")
    _add_transfer(upload)

    download = command("download", "copy a file from the guest")
    download.add_argument("remote", metavar="REMOTE", help="absolute path in the guest")
    download.add_argument("local", metavar="LOCAL", help="file to write; in a directory, the name is kept")
    _add_transfer(download)

    add_copies(command, _add_chunk_size)
    add_file_commands(command)

    file_info = command("file-info", "describe a file of the guest")
    file_info.add_argument("path", metavar="PATH", help="absolute path in the guest")

    for name, help in (("shutdown", "shut the guest down"), ("reboot", "reboot the guest")):
        power = command(name, f"{help}, now or later, or call that off")
        power.set_defaults(reboot=name == "reboot")
        if name == "shutdown":
            power.add_argument("--reboot", action="store_true", help="start again afterwards")
        power.add_argument("--delay", type=int, default=0, metavar="SEC", help="seconds until then (default: 0)")
        power.add_argument("--message", default="", metavar="TEXT", help="what users who are logged in are told")
        power.add_argument("--cancel", action="store_true", help="call off what was to come")
    time = command("time", "tell the guest's clock, or set it")
    time.add_argument("--sync", action="store_true", help="set it to this host's clock")
    time.add_argument("--hardware", action="store_true", help="set the hardware clock too")
    hostname = command("hostname", "tell the guest's host name, or set it")
    hostname.add_argument("name", metavar="NAME", nargs="?", help="the new one, for later boots too (default: tell it)")
    freeze = command("freeze", "hold all writes to file systems, for a snapshot")
    freeze.add_argument("mountpoints", metavar="MOUNTPOINT", nargs="*", help="(default: all file systems on disks)")
    freeze.add_argument(
        "--lease", type=int, default=0, metavar="SEC", help="seconds after which they thaw anyway (default: 60)"
    )
    command("thaw", "let writes go on")
    trim = command("trim", "tell the disks which blocks are not used")
    trim.add_argument("mountpoints", metavar="MOUNTPOINT", nargs="*", help="(default: all file systems on disks)")
    trim.add_argument("--minimum", type=int, default=0, metavar="BYTES", help="smallest free range that is told")
    top = command("top", "list the processes that use most")
    top.add_argument("--sort", choices=("cpu", "memory"), default="cpu", help="what comes first (default: cpu)")
    top.add_argument("-n", "--lines", type=int, default=10, metavar="N", help="how many (default: 10)")
    command("users", "list who is logged in")
    command("interfaces", "list network interfaces with their addresses")

    service = command("service", "control a system service of the guest")
    service.add_argument("name", metavar="NAME", help='for example "nginx"')
    service.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    service.add_argument("-v", "--verbose", action="store_true", help="of its status, more than the state alone")
    add_journal(command)
    add_commands(command, _add_patience, _seconds)
    return parser


def _add_common(parser: argparse.ArgumentParser, timeout: bool) -> None:
    group = parser.add_argument_group("options of every command")

    def add(*names: str, **settings: object) -> None:
        group.add_argument(*names, default=argparse.SUPPRESS, **settings)  # type: ignore[arg-type]

    add(
        "-s",
        "--socket",
        metavar="PATH",
        help="UNIX socket of the guest's port, or unix:PATH, vsock:CID:PORT, local: (default: $VIRTIO_SOCKET, "
        "else the configuration file)",
    )
    add("-c", "--config", metavar="FILE", help="configuration file")
    add("-d", "--debug", action="store_true", help="debug output on stderr")
    add("-r", "--raw", action="store_true", help="print the raw JSON, the whole envelope")
    add("--json", action="store_true", help="speak JSON instead of protobuf")
    if timeout:
        add("-t", "--timeout", type=_seconds, metavar="SEC", help="default timeout of a call, in seconds")


def _add_patience(parser: argparse.ArgumentParser, default: float, help: str) -> None:
    parser.set_defaults(patience=default)
    parser.add_argument(
        "-t",
        "--timeout",
        type=_seconds,
        default=argparse.SUPPRESS,
        metavar="SEC",
        help=f"{help} (default: {default:g})",
    )


def _add_transfer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-overwrite", action="store_true", help="fail if the target exists")
    _add_chunk_size(parser)
    parser.add_argument(
        "--checksum",
        choices=CHECKSUMS,
        default=MD5,
        help="what checks the content from end to end: md5, sha256, or crc32, the CRC-32 of each message alone, which "
        "costs a slow guest less (default: md5)",
    )


def _add_chunk_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--chunk-size",
        type=_chunk_size,
        default=DEFAULT_CHUNK_SIZE,
        metavar="SIZE",
        help="bytes per call for large files: up to 5MiB, with suffixes as in 512K or 2MB (default: 2MB)",
    )


def _add_process(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-w", "--workdir", default="", metavar="DIR", help="directory in the guest to run it in")
    parser.add_argument("-u", "--user", default="", metavar="NAME", help="user of the guest to run it as")
    parser.add_argument(
        "-e", "--env", action="append", metavar="NAME=VALUE", help="set a variable; NAME alone takes the one from here"
    )
    parser.add_argument(
        "--memory",
        type=_bytes,
        metavar="SIZE",
        help="most memory for all its processes together, as in 512M; none is swapped",
    )
    parser.add_argument("--processes", type=_count, metavar="N", help="most processes and threads")


def _seconds_or_none(text: str) -> float:
    try:
        return 0.0 if text == "0" else _seconds(text)
    except argparse.ArgumentTypeError as wrong:
        raise argparse.ArgumentTypeError(f"{wrong}, nor 0 for no limit") from None


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _bytes(text: str) -> int:
    from vsrpc.yamlconfig import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _chunk_size(text: str) -> int:
    from vsrpc.yamlconfig import parse_size

    try:
        return check_chunk_size(parse_size(text))
    except (ValueError, UsageError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
