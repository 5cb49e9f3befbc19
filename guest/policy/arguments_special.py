"""Argument rules of the programs that do not use getopt, or where several arguments must be seen together.

Each rule is an `arguments_rows.Rule`; their purpose is said in arguments.py. All are allow lists.
"""

from __future__ import annotations

import pwd
import re
from typing import Sequence

from guest.policy.arguments_rows import metadata, names, text
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
            "-wholename -xtype -context -printf -newerat -newerBt -newerct -newermt"
        ),
        text,
    ),
    **dict.fromkeys(["-anewer", "-cnewer", "-newer", "-samefile"], metadata),
    **dict.fromkeys([f"-newer{x}{y}" for x in "aBcm" for y in "aBcm"], metadata),
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


# ip(8) takes any beginning of a word, and which word that is depends on the order in its sources: only
# beginnings that have meant one thing in every version are listed.
_IP_FLAGS = names(
    "-4 -6 -0 -B -M -s -stats -statistics -d -details -h -human -human-readable -iec -o -oneline -r -resolve -t "
    "-timestamp -ts -tshort -j -json -p -pretty -c -color -br -brief -N -Numeric -V -Version -help"
)
_IP_OBJECTS = names(
    "a addr address addrlabel l li link maddr maddress mroute n neigh neighbor neighbour netconf netns nexthop ntable "
    "r ro route ru rule stats tcp_metrics tunnel vrf help"
)
_IP_VERBS = names("show sh list ls lst get help")
_IP_SHORT_SHOW = names("a addr address r ro route n neigh neighbor neighbour")  # `ip link s` is `set`
_IP_WORD = re.compile(r"[\w.:@%+-]+|[0-9A-Fa-f.:]+/[0-9]+")


def ip(arguments: Sequence[str], judge: PathJudge) -> None:
    """Objects that hold no secrets may be listed, in this network namespace."""
    pending = list(reversed(arguments))
    while pending and pending[-1].startswith("-"):
        option = pending.pop()
        option = option[1:] if option.startswith("--") else option
        if option in ("-f", "-family") and pending:
            pending.pop()
        elif option.partition("=")[0] not in _IP_FLAGS:
            raise ArgumentRefused(option, "the option is not one that is known to be safe")
    if not pending:
        return
    kind = pending.pop()
    if kind not in _IP_OBJECTS:
        raise ArgumentRefused(kind, "ip's object is not one that may be listed (address, link, route, rule, neigh …)")
    if pending:
        verb = pending.pop()
        if verb not in _IP_VERBS and not (verb == "s" and kind in _IP_SHORT_SHOW):
            raise ArgumentRefused(f"{kind} {verb}", "ip may only show, list and get here")
    for word in pending:
        if not _IP_WORD.fullmatch(word):
            raise ArgumentRefused(word, "not a name, a number or an address")


_PING = Options(
    flags="346aBDhLnOqRUvVrbHCd",
    values="cIiMmQSsTtWwpeFN",
    refused={"f": "it floods the network", "A": "it floods the network", "l": "it floods the network"},
)
_PING_INTERVAL = 0.2  # seconds: the least that ping grants users who are not root


def ping(arguments: Sequence[str], judge: PathJudge) -> None:
    """As a user who is not root may ping. It ends by -c, -w or the command's timeout."""
    for name, value in read(arguments, _PING).options:
        if name == "i":
            try:
                allowed = float(value or "") >= _PING_INTERVAL
            except ValueError:
                allowed = False
            if not allowed:
                raise ArgumentRefused(f"-i {value}", f"the interval must be a number of at least {_PING_INTERVAL}")


# ps(1): when the arguments make no sense as UNIX options, procps reads all of them again as BSD ones, in which `e`
# shows every process's environment, secrets included. So `-e` may only stand beside what always makes sense.
_PS_LONG = names(
    "--sort --format --forest --headers --no-headers --cols --columns --width --rows --lines --deselect --info --help "
    "--version --cumulative"
)
_PS_LONG_VALUES = names("--sort --format --cols --columns --width --rows --lines")
_PS_UNIX = re.compile(r"-(?=.)([AadefFjlLTMyZcHVwNm]*)([oOCuUpqg]?)", re.DOTALL)
_PS_BSD = re.compile(r"-?[aAuxwfljvmTShHLrcnXZ]+[oOk]?")
_PS_MIXED = frozenset("AadfFlLjoOwH")
_PS_FORMAT = re.compile(r"[\w%,:=+.-]+")
_PS_NUMBERS = re.compile(r"[0-9]+(,[0-9]+)*")
_ENVIRONMENT = "ps could show the environment of processes"


def ps(arguments: Sequence[str], judge: PathJudge) -> None:
    """Everything but the environment of processes."""
    pending = list(reversed(arguments))
    unix = ""
    bsd = ""
    while pending:
        argument = pending.pop()
        option = ""
        match = _PS_UNIX.match(argument)
        if argument.startswith("--"):
            name, equals, _ = argument.partition("=")
            if name not in _PS_LONG:
                raise ArgumentRefused(name, "the option is not one that is known to be safe (write it in full)")
            option = "o" if name in _PS_LONG_VALUES and not equals else ""
        elif _PS_BSD.fullmatch(argument) and (argument[0] != "-" or "x" in argument):
            bsd += argument
            option = "o" if argument[-1] in "oOk" else ""
        elif match and (match.end() == len(argument) or match.group(2)):
            unix += match.group(1) + match.group(2)
            option = match.group(2)
            if option and match.end() < len(argument):
                pending.append(argument[match.end() :])
        elif not _PS_NUMBERS.fullmatch(argument):
            raise ArgumentRefused(argument, f"{_ENVIRONMENT} (use, for example, ps -ef, ps aux, ps -eo pid,args)")
        if option and pending:
            _check_ps_value(option, pending.pop())
    if bsd and not _PS_MIXED.issuperset(unix):
        raise ArgumentRefused(bsd, f"{_ENVIRONMENT}: with BSD options ({bsd}), of UNIX options only -o is taken")


def _check_ps_value(option: str, value: str) -> None:
    if option in "oO":
        allowed = bool(_PS_FORMAT.fullmatch(value))
    elif option in "uU":
        allowed = all(name.isdigit() or _is_user(name) for name in value.split(","))
    else:
        allowed = option == "C" or bool(_PS_NUMBERS.fullmatch(value))
    if not allowed:
        raise ArgumentRefused(f"-{option} {value}", "no such user, number or format")


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


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


def systemctl(arguments: Sequence[str], judge: PathJudge) -> None:
    """Queries only; changes go through ServiceManager."""
    operands = read(arguments, _SYSTEMCTL).operands
    if operands and operands[0] not in _SYSTEMCTL_VERBS:
        way_out = "use ServiceManager.Control (vsrpc-host service NAME ACTION) to control a service"
        raise ArgumentRefused(operands[0], f"systemctl only queries here; {way_out}")
    for unit in operands[1:]:
        if "/" in unit:
            raise ArgumentRefused(unit, "name the unit, not a path")


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
    """Batch mode only: there is no terminal."""
    given = read(arguments, _TOP)
    if not given.has("b", "batch-mode", "O", "list-fields", "h", "help", "v", "V", "version"):
        raise ArgumentRefused("without -b", "there is no terminal; use top -b -n 1")
