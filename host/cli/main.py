"""From the arguments to the exit code: settings, one command, and every failure as one line on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Sequence

from host import config
from host.cli import exits
from host.cli.output import complain, printable, write_bytes
from host.cli.parser import CommandLineError, parse
from host.errors import RPCError, UsageError

# Commands that make no call to a guest, and so need no target.
_WITHOUT_GUEST = ("channel", "bootstrap")


def main(argv: Sequence[str]) -> int:
    """Run a command line (without the program's name); the exit code. --help and --version raise SystemExit."""
    try:
        args = parse(argv)
    except CommandLineError as error:
        complain("error", str(error))
        return exits.USAGE + (exits.EXEC_BASE if error.command in exits.LIKE_EXEC else 0)
    try:
        code = _run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _explain(args, "interrupted")
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return exits.BROKEN_PIPE
    except (UsageError, RPCError, OSError) as error:
        _explain(args, _text_of(error))
        return _code_of(error) + (exits.EXEC_BASE if args.command in exits.LIKE_EXEC else 0)
    except Exception as error:
        _explain(args, f"this is a defect of vsrpc-host, please report it: {error!r} (the traceback: run it with -d)")
        return exits.LOCAL_FAULT + (exits.EXEC_BASE if args.command in exits.LIKE_EXEC else 0)


def _run(args: argparse.Namespace) -> int:
    path = config.find(args.config, os.environ)
    settings = config.load(path)
    if args.command in _WITHOUT_GUEST:
        from host.cli.provisioning import WITHOUT_GUEST

        return WITHOUT_GUEST[args.command](args)
    target = config.target(args.socket, os.environ, settings)
    if args.debug or settings != config.Settings():
        from host.cli.logs import set_up_logging

        set_up_logging(settings, path, args.debug)
    from host.cli.commands import COMMANDS
    from host.client import VirtioRPCClient

    client = VirtioRPCClient(
        target,
        json=args.json,
        connect_timeout=args.patience or min(settings.connect_timeout, args.timeout or settings.connect_timeout),
        read_timeout=args.timeout or settings.read_timeout,
        write_timeout=args.timeout or settings.write_timeout,
        max_retries=settings.max_retries,
        retry_interval=settings.retry_interval,
        backoff_factor=settings.backoff_factor,
        lock_dir=config.lock_dir(os.environ, settings),
        on_wait=lambda holder: complain("waiting", f"the port is held by {holder}"),
        key=config.key(os.environ, settings),
    )
    # Not `with`: that connects at once, and a wrong local file should be told without a guest.
    try:
        return COMMANDS[args.command](client, args)
    finally:
        client.disconnect()


def _explain(args: argparse.Namespace, message: str) -> None:
    if args.debug:
        import traceback

        write_bytes(sys.stderr, printable(traceback.format_exc(), keep="\n\t").encode("utf-8", "backslashreplace"))
    complain("error", message)


def _text_of(error: Exception) -> str:
    if isinstance(error, RPCError):
        if error.reason == "UNAUTHENTICATED":
            return f"{error.message}; {config.KEY_SOURCES}"
        return error.message
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            return f"cannot write the output: {error.strerror}"
        return f"{error.filename or repr('')}: {error.strerror}"
    return str(error)


def _code_of(error: Exception) -> int:
    if isinstance(error, RPCError):
        return exits.of_error(error)
    if isinstance(error, OSError) and error.filename is None:
        return exits.LOCAL_FAULT
    return exits.USAGE
