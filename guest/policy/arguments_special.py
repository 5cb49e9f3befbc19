"""Argument rules of find, grep, systemctl and top: several arguments must be seen together, or getopt is not used.

Each rule is an `arguments_rows.Rule`; their purpose is said in arguments.py. All are allow lists.
"""

from __future__ import annotations

import os
import re
from typing import Sequence

from guest.policy.arguments_rows import metadata, moment, names, text
from guest.policy.getopt import ArgumentRefused, Options, read
from guest.policy.judge import PathJudge

# find(1) of findutils 4.9. The action of a name in _FIND_REFUSED is refused wherever the name stands, so that a
# mistake about how many arguments another predicate takes cannot let it through.
_FIND_REFUSED = {
    **dict.fromkeys(("-exec", "-execdir", "-ok", "-okdir"), "it runs other programs"),
    **dict.fromkeys(("-fprint", "-fprint0", "-fprintf", "-fls"), "it writes files"),
    "-delete": "it deletes files",
    "-files0-from": "it names further files, which could not be judged; name them as arguments",
}
_FIND_OPERATORS = names("( ) ! ,")
_FIND_PLAIN = names(
    "-a -and -o -or -not -daystart -depth -d -noleaf -mount -xdev -warn -nowarn -ignore_readdir_race "
    "-noignore_readdir_race -empty -true -false -nouser -nogroup -readable -writable -executable -print -print0 -ls "
    "-prune -quit -follow -help --help -version --version"
)
_FIND_VALUE = {
    **dict.fromkeys(
        names(
            "-maxdepth -mindepth -regextype -amin -atime -cmin -ctime -mmin -mtime -fstype -gid -group -ilname -iname "
            "-inum -ipath -iregex -iwholename -links -lname -name -path -perm -regex -size -type -uid -used -user "
            "-wholename -xtype -context -printf"
        ),
        text,
    ),
    **dict.fromkeys(["-anewer", "-cnewer", "-newer", "-samefile"], metadata),
    **dict.fromkeys([f"-newer{x}{y}" for x in "aBcm" for y in "aBcm"], metadata),
    **dict.fromkeys([f"-newer{x}t" for x in "aBcm"], moment),
}


def find(arguments: Sequence[str], judge: PathJudge) -> None:
    """Starting points are looked at; the expression only tests and prints."""
    for argument in arguments:
        if argument in _FIND_REFUSED:
            raise ArgumentRefused(argument, _FIND_REFUSED[argument])
    pending = list(reversed(arguments))
    while pending and re.fullmatch(r"-[HLP]|-O[0-3]", pending[-1]):
        pending.pop()
    while pending and not pending[-1].startswith("-") and pending[-1] not in _FIND_OPERATORS:
        judge.metadata(pending.pop())
    while pending:
        argument = pending.pop()
        if argument in _FIND_VALUE:
            if pending:
                _FIND_VALUE[argument](pending.pop(), judge)
        elif argument not in _FIND_PLAIN and argument not in _FIND_OPERATORS:
            raise ArgumentRefused(argument, "find's test or action is not one that is known to be safe")


_GREP = Options(
    flags="EFGPIiyvwxzcLlobqsHhnTUZarV0123456789",
    values="efmABCdD",
    long_flags="extended-regexp fixed-strings basic-regexp perl-regexp ignore-case no-ignore-case word-regexp "
    "line-regexp null-data no-messages invert-match version help byte-offset line-number line-buffered with-filename "
    "no-filename only-matching quiet silent text recursive files-without-match files-with-matches count initial-tab "
    "null binary unix-byte-offsets",
    long_values="regexp file max-count label binary-files directories devices include exclude exclude-from exclude-dir "
    "after-context before-context context",
    long_optional="color colour",
    refused=dict.fromkeys(["R", "dereference-recursive"], "it follows links out of the directory; use -r"),
)


def grep(arguments: Sequence[str], judge: PathJudge) -> None:
    """The first operand is the pattern, unless -e or -f gives one; the others are read, with -r all below them."""
    given = read(arguments, _GREP)
    for name, value in given.options:
        if name in ("f", "file", "exclude-from") and value not in (None, "-"):
            judge.read(str(value))
        if name in ("d", "directories") and value not in ("read", "skip"):
            raise ArgumentRefused(f"-{name} {value}", "use -r to search directories")
    files = given.operands if given.has("e", "f", "regexp", "file") else given.operands[1:]
    recursive = given.has("r", "recursive")
    for file in files or (["."] if recursive else []):
        if file != "-":
            judge.read_tree(file) if recursive else judge.read(file)


_SYSTEMCTL = Options(
    flags="alqrhT",
    values="tpPno",
    long_flags="all full quiet no-pager no-legend plain recursive reverse after before value failed system help "
    "version show-types no-ask-password",
    long_values="type state property lines output timestamp",
    long_optional="legend with-dependencies",
    refused=dict.fromkeys(
        ["H", "host", "M", "machine", "root", "image", "user"], "it leads to another system or service manager"
    ),
)
_SYSTEMCTL_VERBS = names(
    "status show cat is-active is-enabled is-failed is-system-running get-default list-units list-unit-files "
    "list-sockets list-timers list-paths list-automounts list-jobs list-dependencies"
)

_INIT_SCRIPTS = ("/etc/init.d", "/etc/rc.d/init.d")
_UNITS = tuple(f"{place}/systemd/system" for place in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"))


def systemctl(arguments: Sequence[str], judge: PathJudge) -> None:
    """Queries only; changes go through ServiceManager."""
    operands = read(arguments, _SYSTEMCTL).operands
    if operands and operands[0] not in _SYSTEMCTL_VERBS:
        way_out = "use ServiceManager.Control (vsrpc-host service NAME ACTION) to control a service"
        raise ArgumentRefused(operands[0], f"systemctl only queries here; {way_out}")
    for unit in operands[1:]:
        if "/" in unit:
            raise ArgumentRefused(unit, "name the unit, not a path")
        if operands[0] == "is-enabled" and _is_only_script(re.sub(r"\.service\Z", "", unit)):
            raise ArgumentRefused(f"is-enabled {unit}", "systemctl runs systemd-sysv-install to tell of an init script")


def _is_only_script(name: str) -> bool:
    """Whether there is an init script of that name and no unit that would be looked at instead."""
    if not any(os.path.exists(f"{directory}/{name}") for directory in _INIT_SCRIPTS):
        return False
    return not any(os.path.exists(f"{directory}/{name}.service") for directory in _UNITS)


_TOP = Options(
    flags="bcHiOSs1hvVA",
    values="dnopuUeE",
    optional="w",
    long_flags="batch-mode cmdline-toggle help idle-toggle list-fields only-user-processes secure-mode "
    "accum-time-toggle threads-show version",
    long_values="delay scale-summary-mem scale-task-mem iterations sort-override pid filter-only-euser filter-any-user",
    long_optional="width",
)


def top(arguments: Sequence[str], judge: PathJudge) -> None:
    """Batch mode only: on a terminal it takes commands, such as to kill."""
    given = read(arguments, _TOP)
    if not given.has("b", "batch-mode", "O", "list-fields", "h", "help", "v", "V", "version"):
        raise ArgumentRefused("without -b", "on a terminal it takes commands; use top -b -n 1")
