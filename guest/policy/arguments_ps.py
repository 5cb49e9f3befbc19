"""The argument rule of ps: everything but the environment of processes, which holds secrets."""

from __future__ import annotations

import pwd
import re
from typing import Sequence

from guest.policy.arguments_rows import names
from guest.policy.getopt import ArgumentRefused
from guest.policy.judge import PathJudge

# When the arguments make no sense as UNIX options, procps reads all of them again as BSD ones, in which `e` shows every
# process's environment, and `C` and `u` take no value, so that what was theirs is read as options. So `-e`, `-C` and
# `-u` may only stand beside what always makes sense.
_LONG = names("--sort --format --forest --headers --no-headers --cols --columns --width --rows --lines")
_LONG_ALONE = names("--deselect --info --help --version --cumulative")
_LONG_VALUES = names("--sort --format --cols --columns --width --rows --lines")
_UNIX = re.compile(r"-(?=.)([AadefFjlLTMyZcHVwNm]*)([oOCuUpqg]?)", re.DOTALL)
_BSD = re.compile(r"-?(?=\w)[aAuxwfljvmTShHLrcnXZ]*[oOk]?")
_BSD_MIXED = frozenset("AadfFlLjoOwH")
"""UNIX options that mean no harm when BSD ones make ps read them as such."""
_SENSIBLE = frozenset("AefFjlLTMyZHwCuUp")
_SENSIBLE_WITH_FORMAT = frozenset("AeLTHwoCuUp")
_FORMAT = re.compile(r"[\w%,:=+.-]+")
_NUMBERS = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")
_WHY = "ps could show the environment of processes"


def ps(arguments: Sequence[str], judge: PathJudge) -> None:
    """Everything but the environment of processes."""
    pending = list(reversed(arguments))
    unix = ""
    bsd = ""
    others: list[str] = []
    forest = False
    own_format = False
    while pending:
        argument = pending.pop()
        option = ""
        match = _UNIX.match(argument)
        if argument.startswith("--"):
            name, equals, _ = argument.partition("=")
            if name not in _LONG | _LONG_ALONE:
                raise ArgumentRefused(name, "the option is not one that is known to be safe (write it in full)")
            if name in _LONG_ALONE:
                others.append(name)
            forest = forest or name == "--forest"
            own_format = own_format or name == "--format"
            option = "o" if name in _LONG_VALUES and not equals else ""
        elif _BSD.fullmatch(argument) and (argument[0] != "-" or "x" in argument):
            bsd += argument
            option = "o" if argument[-1] in "oOk" else ""
        elif match and (match.end() == len(argument) or match.group(2)):
            unix += match.group(1) + match.group(2)
            option = match.group(2)
            if option and match.end() < len(argument):
                pending.append(argument[match.end() :])
        elif _NUMBERS.fullmatch(argument):
            others.append(argument)
        else:
            raise ArgumentRefused(argument, f"{_WHY} (use, for example, ps -ef, ps aux, ps -eo pid,args)")
        if option and pending:
            _check_value(option, pending.pop())
    if bsd and not _BSD_MIXED.issuperset(unix):
        raise ArgumentRefused(bsd, f"{_WHY}: with BSD options ({bsd}), of UNIX options only -o is taken")
    if not set(unix).isdisjoint("eCu"):
        own_format = own_format or "o" in unix
        others += sorted(set(unix) - (_SENSIBLE_WITH_FORMAT if own_format else _SENSIBLE))
        threads = len(set("LT").intersection(unix))
        if others or threads > 1 or (threads and (forest or "H" in unix)):
            together = " ".join(others) + (" with -o" if own_format else "") if others else "-L, -T and -H together"
            raise ArgumentRefused(f"-{unix}", f"{_WHY}: with -e, -C and -u it does not take {together}")


def _check_value(option: str, value: str) -> None:
    if option in "oO":
        allowed = bool(_FORMAT.fullmatch(value))
    elif option in "uU":
        allowed = all(name.isdigit() or _is_user(name) for name in value.split(","))
    else:
        allowed = option == "C" or bool(_NUMBERS.fullmatch(value))
    if not allowed:
        raise ArgumentRefused(f"-{option} {value}", "no such user, number or format")


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
