"""vsrpc-guest: the command line of the daemon."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
from typing import Callable, Protocol, Sequence

from guest import config, logging_setup, subcommands
from guest.jobs.heritage import HUGE_PAGES, allow_many_files
from guest.machine.freeze import thaw_leftovers
from guest.memory import settle
from vsrpc._version import __version__
from vsrpc.transports import Listener, listener

_M_ARENA_MAX = -8  # malloc.h

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CONFIG = subcommands.EXIT_CONFIG

_EXIT_CODES = f"""\
exit codes:
  0   stopped by SIGTERM or SIGINT
  {EXIT_FAILED}   the port or socket cannot be used
  {EXIT_USAGE}   wrong option
  {EXIT_CONFIG}  the configuration is wrong; the message names the file, the key and what to write instead
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until a signal ends it, or a command of guest.subcommands; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.listen is not None and not options.listen.startswith(("unix:", "vsock:")):
        parser.error(f"argument --listen: {options.listen!r} is not unix:PATH or vsock:PORT")
    if options.run is not None:
        return int(options.run(options))
    _share_memory()
    HUGE_PAGES.refuse()
    thawed = thaw_leftovers()  # before anything is written
    try:
        path = config.find(options.config)
        settings = config.load(path)
    except config.ConfigError as failure:
        print(f"vsrpc-guest: {failure}", file=sys.stderr)
        return EXIT_CONFIG
    try:
        logging_setup.setup(settings.logging, options.debug)
    except config.ConfigError as failure:
        print(f"vsrpc-guest: {path}: {failure}; name another file there", file=sys.stderr)
        return EXIT_CONFIG
    allow_many_files()
    address = options.listen or options.device or settings.device.path
    if options.keep_jobs:
        from guest.keeper import SOCKET, Keeper

        return _run(lambda: Keeper(settings, path), f"unix:{SOCKET}", settings, path, options.exit_with_stdin)
    log = logging.getLogger("guest")
    log.info("configuration: %s", path)
    if thawed:
        log.warning("%s: thawed, a daemon that has died left them frozen", ", ".join(thawed))
    if settings.security.allowed_commands is None:
        log.warning("security.allowed_commands is null: callers may run any command")
    from guest.daemon import Daemon  # most of the program: once it can have no huge pages

    return _run(
        lambda: Daemon(settings, path, address, job_keeper=options.job_keeper),
        address,
        settings,
        path,
        options.exit_with_stdin,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vsrpc-guest",
        description="Serve this guest to its host over a virtio-serial port, or examine its policy (COMMAND --help).",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", metavar="PATH", help="the virtio-serial port (default: device.path of the file)")
    where.add_argument("--listen", metavar="TARGET", help="serve unix:PATH or vsock:PORT instead of a port")
    parser.add_argument(
        "--config", metavar="FILE", help=f"configuration (default: {config.SYSTEM_FILE}, else the packaged defaults)"
    )
    parser.add_argument("--debug", action="store_true", help="log everything, also on standard error")
    # For a daemon in its parent's hands (the host's `local:` target): a pipe tells of its end, whatever that was.
    parser.add_argument("--exit-with-stdin", action="store_true", help=argparse.SUPPRESS)
    # For the units: jobs are run by a keeper, and this process is one (guest.keeper).
    parser.add_argument("--job-keeper", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep-jobs", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"vsrpc-guest {__version__}")
    subcommands.add(parser)
    return parser


def _share_memory() -> None:
    """Have all threads allocate from one heap: glibc gives each its own, and after a few transfers those keep half as
    much again as is used. The interpreter's lock lets only one allocate at a time anyway."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have no such heaps
        mallopt(_M_ARENA_MAX, 1)


class _Serving(Protocol):
    """What runs until it is stopped: a Daemon, or a Keeper."""

    def serve(self, listener: Listener) -> None:
        """Serve the listener's peers."""

    def stop(self) -> None:
        """Make serve() return."""


def _run(
    make: Callable[[], _Serving], address: str, settings: config.GuestConfig, path: str, exit_with_stdin: bool
) -> int:
    log = logging.getLogger("guest")
    try:
        daemon = make()  # before anybody can connect
    except config.ConfigError as failure:
        log.error("%s: %s", path, failure)
        return EXIT_CONFIG
    try:
        where = listener(address, settings.device.buffer_size, settings.device.allow_rebind)
    except (OSError, ValueError) as failure:
        daemon.stop()
        if isinstance(failure, OSError):
            log.error("cannot serve %s: %s", address, failure.strerror or failure)
            return EXIT_FAILED
        log.error("%s", failure)
        return EXIT_USAGE
    ended: list[int] = []
    read_end, write_end = os.pipe()

    def serve() -> None:
        try:
            daemon.serve(where)
        except OSError as failure:
            log.error("cannot serve %s: %s", address, failure.strerror or failure)
            ended.append(EXIT_FAILED)
        except Exception:
            log.exception("serving %s failed", address)
            ended.append(EXIT_FAILED)
        finally:
            os.write(write_end, b"x")

    def on_signal(number: int, frame: object) -> None:
        # A second signal ends the daemon at once.
        signal.signal(number, signal.SIG_DFL)

    def wait_for_stdin() -> None:
        while os.read(0, 4096):
            pass
        os.write(write_end, b"x")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    # The interpreter writes there at once, whichever thread gets the signal: on_signal itself runs only when the main
    # thread does, which waits for just that.
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    if exit_with_stdin:
        threading.Thread(target=wait_for_stdin, name="vsrpc-stdin", daemon=True).start()
    settle()
    thread = threading.Thread(target=serve, name="vsrpc-serve")
    thread.start()
    os.read(read_end, 1)
    log.info("stopping")
    daemon.stop()
    thread.join()
    return ended[0] if ended else 0


if __name__ == "__main__":
    sys.exit(main())
