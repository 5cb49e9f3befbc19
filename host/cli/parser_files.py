"""The part of the command line's grammar that is about files."""

from __future__ import annotations

import argparse
from typing import Callable

from host.transfer_options import CHECKSUMS, MD5

PROGRESS = ("bar", "json", "none")
_PATHS = "absolute paths in the guest"


MakeCommand = Callable[[str, str], argparse.ArgumentParser]
"""Adds a command of that name, with that help."""


def add_copies(command: MakeCommand, chunk_size: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add cp and sync; `chunk_size` adds that option."""
    cp = command("cp", "copy files and directories to or from the guest, whose paths are guest:/path")
    cp.add_argument("sources", nargs="+", metavar="SOURCE", help="guest:/path or a path here; - for standard input")
    cp.add_argument("dest", metavar="DEST", help="the other side; a directory gets the sources in it; - for output")
    cp.add_argument("-r", "--recursive", action="store_true", help="copy directories with all in them")
    cp.add_argument("-p", "--preserve", action="store_true", help="keep times, owners and all bits of the mode")
    cp.add_argument("-n", "--no-overwrite", action="store_true", help="fail for files that exist")
    cp.add_argument(
        "--no-resume", action="store_true", help="leave nothing of a transfer that is interrupted, nor go on with one"
    )
    _add_checksum(cp, f"what checks each chunk: {', '.join(CHECKSUMS)} (default: {MD5})")
    chunk_size(cp)
    _add_progress(cp)

    sync = command("sync", "make a directory what another one is, to or from the guest")
    sync.add_argument("source", metavar="SOURCE", help="directory: guest:/path or a path here")
    sync.add_argument("dest", metavar="DEST", help="directory on the other side, which becomes what SOURCE is")
    sync.add_argument("--delete", action="store_true", help="remove what is not in SOURCE")
    sync.add_argument("-n", "--dry-run", action="store_true", help="only print what would be done, a line each")
    sync.add_argument("-p", "--owner", action="store_true", help="keep owners, too (times and modes always are)")
    sync.add_argument(
        "--checksum", action="store_true", help="compare the content of files of the same size, not their times"
    )
    _add_progress(sync)


def add_file_commands(command: MakeCommand) -> None:
    """Add the commands for files of the guest."""
    ls = command("ls", "list directories of the guest")
    _add_paths(ls)
    ls.add_argument("-l", "--long", action="store_true", help="with mode, links, owner, group, size and time")
    ls.add_argument("-R", "--recursive", action="store_true", help="with all that is below")
    ls.add_argument("-d", "--directory", dest="itself", action="store_true", help="the directory itself")
    _add_json(ls)

    stat = command("stat", "describe files of the guest")
    _add_paths(stat)
    _add_json(stat)

    mkdir = command("mkdir", "make directories in the guest")
    _add_paths(mkdir)
    mkdir.add_argument("-p", "--parents", action="store_true", help="with those above; no error if it is there")
    mkdir.add_argument("-m", "--mode", default="0755", help="permission bits, in octal (default: 0755)")

    rm = command("rm", "remove files of the guest")
    _add_paths(rm)
    rm.add_argument("-r", "--recursive", action="store_true", help="directories with all in them")
    rm.add_argument("-f", "--force", action="store_true", help="no error for what is not there")

    mv = command("mv", "rename or move files within a file system of the guest")
    mv.add_argument("sources", nargs="+", metavar="SOURCE", help=_PATHS)
    mv.add_argument("dest", metavar="DEST", help="new path; a directory gets the sources in it")
    mv.add_argument("-n", "--no-overwrite", action="store_true", help="fail if the target exists")

    chmod = command("chmod", "change permission bits of files of the guest")
    chmod.add_argument("mode", metavar="MODE", help="octal, or as in u+x,go-w (write a=r, not -w, to begin with)")
    _add_paths(chmod)
    chmod.add_argument("-R", "--recursive", action="store_true", help="with all that is below")

    chown = command("chown", "change owners of files of the guest")
    chown.add_argument("owner", metavar="OWNER[:GROUP]", help="names or numbers; :GROUP for the group alone")
    _add_paths(chown)
    chown.add_argument("-R", "--recursive", action="store_true", help="with all that is below")

    ln = command("ln", "make a link in the guest")
    ln.add_argument("target", metavar="TARGET", help="what it leads to")
    ln.add_argument("link", metavar="LINK", help="absolute path of the link")
    ln.add_argument("-s", "--symbolic", action="store_true", help="a symbolic link")
    ln.add_argument("-f", "--force", action="store_true", help="in place of a file that exists")

    touch = command("touch", "set the time of files of the guest to now, making them if need be")
    _add_paths(touch)
    touch.add_argument("-c", "--no-create", action="store_true", help="do not make what is not there")

    df = command("df", "space on file systems of the guest")
    df.add_argument("paths", nargs="*", metavar="PATH", help="only the file systems of these (default: all)")
    _add_json(df)

    checksum = command("checksum", "digests of files of the guest, as md5sum or sha256sum prints them")
    _add_paths(checksum)
    checksum.add_argument("-a", "--algorithm", choices=(MD5, "sha256"), default="sha256", help="default: sha256")
    _add_json(checksum)

    tail = command("tail", "print the end of a file of the guest")
    tail.add_argument("path", metavar="PATH", help="absolute path in the guest")
    tail.add_argument("-n", "--lines", type=_count, default=10, metavar="N", help="lines (default: 10)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on as it grows, or is replaced")


def _add_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help=_PATHS)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", dest="print_json", action="store_true", help="print JSON")


def _add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--progress",
        choices=PROGRESS,
        help="on standard error: a bar, or a JSON object a line (default: a bar on a terminal)",
    )


def _add_checksum(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--checksum", choices=CHECKSUMS, default=MD5, help=help)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)
