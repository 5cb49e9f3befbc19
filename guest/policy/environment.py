"""The environment of commands: a clean base, and which variables a request may add.

Nothing of the daemon's own environment is passed on. While an allow list is in force a request may not set variables
that change which program runs, which code is loaded into it, or which files it reads. No list of those can be whole, so
the programs whose arguments are judged, too, get only variables that are known to be harmless; others serve `$NAME`.
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
            r"RESOLV_.*|TZDIR|TMPDIR|TMP|TEMP|NIS_PATH|MUSL_LOCPATH",  # the C library
            r"OPENSSL_.*|SSL_.*|SSLKEYLOGFILE|KRB5.*|P11_KIT_.*|GNUTLS_.*|(?:A|L|M|T|UB)SAN_OPTIONS",  # other libraries
            # Shells and other interpreters.
            r"PATH|IFS|ENV|BASH.*|SHELL|SHELLOPTS|PS[0-9]|CDPATH|PROMPT_COMMAND|ZDOTDIR|FPATH|POSIXLY_CORRECT",
            r"PYTHON.*|PERL.*|RUBY.*|GEM_.*|NODE_.*|LUA_.*|TCL.*|PHP.*|AWK.*|R_.*|(?:_|JDK_)?JAVA_.*|CLASSPATH|GIT_.*",
            # What programs start, and terminals.
            r".*PAGER.*|.*EDITOR|VISUAL|LESS.*|BROWSER|TERMINFO.*|TERMCAP",
            r"HOME|USER|LOGNAME|XDG_.*|DBUS_.*|SYSTEMD_.*|NOTIFY_SOCKET|LISTEN_.*|JOURNAL_.*|SUDO_.*",  # systemd
            # Listed programs: ps (procps), ss, and which, where it is a shell script.
            r"GREP_.*|PS_.*|CMD_ENV|UNIX95|_XPG|I_WANT_A_BROKEN_PS|LIBPROC_.*|PROCPS_.*|MAGIC|IP_LIB_DIR|TC_LIB_DIR",
            r"PROC_.*|TCPDIAG_FILE|KSH_VERSION",
        )
    )
)
# Their values become part of file names in the C library and terminal libraries.
_FILE_LIKE = re.compile(r"LANG|LANGUAGE|LC_.*|TERM|TZ")
_FILE_LIKE_VALUE = re.compile(r"(?!.*\.\.)(?:[A-Za-z0-9<][\w+\-.,:@/<>]*)?")

# Language, time zone, size of the terminal, colours, formats: of what the listed programs read, what only changes how
# they write.
_HARMLESS = re.compile(
    r"LANG|LANGUAGE|LC_[A-Z]+|TZ|TERM|COLORTERM|NO_COLOR|COLUMNS|LINES|LS_COLORS|TIME_STYLE|QUOTING_STYLE|TABSIZE|"
    r"(?:D[FU]_|LS_)?BLOCK_?SIZE"
)

NO_HOME = "/nonexistent"
"""For programs that read configuration at home, where a caller may have put it, or make a directory for it (top)."""


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


def harmless_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an environment that command_environment made with `restricted`, what a program of the argument table gets."""
    base = base_environment()
    known = {name: value for name, value in environment.items() if name in base or _HARMLESS.fullmatch(name)}
    return {**known, "HOME": NO_HOME}


def _denied(name: str, why: str) -> Exception:
    return error(
        "PERMISSION_DENIED",
        f"Environment variable not allowed: {name} ({why}; only security.allowed_commands: null lifts this)",
        field="env",
        name=name,
        rule="environment of commands",
    )
