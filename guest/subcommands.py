"""The commands of vsrpc-guest that examine the policy instead of serving.

What they do stands in modules that are loaded only then, so that the daemon does not carry them.
"""

from __future__ import annotations

import argparse
import sys
from typing import Callable

from guest import config

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_REFUSED = 4
EXIT_IMPOSSIBLE = 5
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h, which systemd shows by name

ACCESSES = ("read", "write", "metadata")

_CHECK_CODES = f"""\
exit codes:
  {EXIT_OK}   the daemon would start with it; there may be warnings
  {EXIT_CONFIG}  it is wrong; the message names the file, the line, the key and what to write instead
"""

_EXPLAIN_CODES = f"""\
No command is run, and nothing is changed. Ask as the daemon's user (root), who sees what the daemon sees.

exit codes:
  {EXIT_OK}   allowed
  {EXIT_USAGE}   the question itself is wrong (an unclosed quote, a relative path, no such action)
  {EXIT_REFUSED}   refused; of a path: one of the accesses asked about
  {EXIT_IMPOSSIBLE}   not refused, but it would fail: no such command, directory or service
  {EXIT_CONFIG}  the configuration is wrong
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the commands to the daemon's parser; `run` of what it parses is the command's function, or None."""
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    check = _command(commands, "check-config", "validate a configuration file, and warn of what is risky", _CHECK_CODES)
    check.add_argument("file", metavar="FILE", nargs="?", help="the file (default: the one that the daemon would read)")
    check.set_defaults(run=_check_config)
    explain = _command(commands, "explain", "say what the policy would decide, and by which rule", _EXPLAIN_CODES)
    questions = explain.add_subparsers(title="questions", metavar="QUESTION", required=True)
    command = _command(questions, "exec", "whether a command line may run, and what would be executed", _EXPLAIN_CODES)
    command.add_argument("command", metavar="COMMAND", help="the command line, as one argument")
    command.add_argument("-w", "--workdir", metavar="DIR", default="", help="the directory that it would run in")
    command.set_defaults(run=_explain("command"))
    path = _command(questions, "path", "whether a file may be read, written, looked at", _EXPLAIN_CODES)
    path.add_argument("path", metavar="PATH", help="an absolute path")
    path.add_argument("access", nargs="?", choices=ACCESSES, help="ask about one access only")
    path.set_defaults(run=_explain("path"))
    service = _command(questions, "service", "whether a service may be controlled", _EXPLAIN_CODES)
    service.add_argument("name", metavar="NAME", help="the service, for example nginx")
    service.add_argument("action", metavar="ACTION", choices=config.UNIT_ACTIONS, help=", ".join(config.UNIT_ACTIONS))
    service.set_defaults(run=_explain("service"))


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, does: str, epilog: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Also taken before the command; what is not given here must not undo that.
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="the configuration")
    return parser


def _check_config(options: argparse.Namespace) -> int:
    from guest.check_config import warnings

    try:
        path = config.find(options.file or options.config)
        found = warnings(config.load(path), path)
    except config.ConfigError as failure:
        return _wrong(failure)
    for each in found:
        print(f"{path}: warning: {each}", file=sys.stderr)
    print(f"{path}: valid" + (f", with {len(found)} warning{'s' * (len(found) > 1)}" if found else ""))
    return EXIT_OK


def _explain(question: str) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        from guest import explain

        try:
            path = config.find(options.config)
            settings = config.load(path)
        except config.ConfigError as failure:
            return _wrong(failure)
        explainer = explain.Explainer(settings, path)
        if question == "command":
            return explainer.command(options.command, options.workdir)
        if question == "path":
            return explainer.path(options.path, [options.access] if options.access else ACCESSES)
        return explainer.service(options.name, options.action)

    return run


def _wrong(failure: config.ConfigError) -> int:
    print(f"vsrpc-guest: {failure}", file=sys.stderr)
    return EXIT_CONFIG
