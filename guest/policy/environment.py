"""The environment of commands: a clean base, and which variables a request may add.

Nothing of the daemon's own environment is passed on. While an allow list is in force a request may not set variables
that change which program runs, which code is loaded into it, or which files it reads.
"""

from __future__ import annotations

import os
import pwd
import re
from typing import Mapping

from guest.errors import error
from guest.policy.commands_words import NAME

SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for, always."""

MAX_VALUE = 128 * 1024 - 1
"""Bytes of NAME=VALUE: MAX_ARG_STRLEN less its NUL (fs/exec.c)."""

_REFUSED = re.compile(
    "|".join(
        (
            r"LD_.*|GLIBC_TUNABLES|MALLOC_.*|GCONV_PATH|LOCPATH|NLSPATH|GETCONF_DIR|LOCALDOMAIN|HOSTALIASES|RES_OPTIONS",
            r"RESOLV_.*|TZDIR|TMPDIR|TMP|TEMP",  # the C library
            r"PATH|IFS|ENV|BASH.*|SHELL|SHELLOPTS|PS[0-9]|CDPATH|PROMPT_COMMAND|ZDOTDIR|POSIXLY_CORRECT",  # shells
            r"PYTHON.*|PERL.*|RUBY.*|NODE_.*|LUA_.*|JAVA_.*|_JAVA_.*|GIT_.*",  # interpreters
            r".*PAGER.*|.*EDITOR|VISUAL|LESS.*|BROWSER|TERMINFO.*|TERMCAP",  # what programs start, and terminals
            r"HOME|USER|LOGNAME|XDG_.*|DBUS_.*|SYSTEMD_.*|NOTIFY_SOCKET|LISTEN_.*|JOURNAL_.*|SUDO_.*",  # systemd
            r"GREP_.*|PS_.*|LIBPROC_.*|PROCPS_.*|MAGIC|IP_LIB_DIR|TC_LIB_DIR|PROC_.*",  # listed programs
        )
    )
)
# Their values become part of file names in the C library and terminal libraries.
_FILE_LIKE = re.compile(r"LANG|LANGUAGE|LC_.*|TERM|TZ")
_FILE_LIKE_VALUE = re.compile(r"(?!.*\.\.)(?:[A-Za-z0-9<][\w+\-.,:@/<>]*)?")


def base_environment() -> dict[str, str]:
    """What every command starts with: the daemon's user, UTF-8, no terminal, no pager, no colours."""
    try:
        entry = pwd.getpwuid(os.geteuid())
        user, home = entry.pw_name, entry.pw_dir
    except KeyError:  # a user id without a name, as in some containers
        user, home = str(os.geteuid()), "/"
    return {
        "PATH": SAFE_PATH,
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        "SYSTEMD_PAGER": "cat",
        "SYSTEMD_COLORS": "0",
    }


def command_environment(requested: Mapping[str, str], restricted: bool) -> dict[str, str]:
    """The base with a request's variables; `restricted` while an allow list is in force.

    Raises INVALID_PARAMS for what is no variable, PERMISSION_DENIED for one that may not be set.
    """
    for name, value in requested.items():
        if not NAME.fullmatch(name):
            raise error(
                "INVALID_PARAMS", f"env: {name!r} is not a variable's name (letters, digits and _)", field="env"
            )
        if "\0" in value:
            raise error("INVALID_PARAMS", f"env: the value of {name} has a NUL character", field="env")
        if len(name) + 1 + len(os.fsencode(value)) > MAX_VALUE:
            raise error("INVALID_PARAMS", f"env: {name} is longer than {MAX_VALUE} bytes", field="env")
        if restricted and _REFUSED.fullmatch(name):
            raise _denied(name, "it can change which program or code runs, or which files are read")
        if restricted and _FILE_LIKE.fullmatch(name) and not _FILE_LIKE_VALUE.fullmatch(value):
            raise _denied(name, f"its value {value!r} is not a plain name")
    return {**base_environment(), **requested}


def _denied(name: str, why: str) -> Exception:
    return error(
        "PERMISSION_DENIED",
        f"Environment variable not allowed: {name} ({why}; only security.allowed_commands: null lifts this)",
        field="env",
        name=name,
        rule="environment of commands",
    )
