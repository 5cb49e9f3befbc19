"""Which parts of a command are secrets, and the command without them.

Hidden, whole and without a trace of their length, are

- the value of an option whose name says so: `--password=…`, `--password …`, `-storepass …`;
- the value of an assignment or setting whose name says so: `PGPASSWORD=…`, `api_key=…`;
- the value of a header whose name says so: `Authorization: …`;
- the password in a URL: `https://user:…@host/`;
- the values of options by which some well-known programs take a password: `mysql -p…`, `sshpass -p …`, `curl -u …`;
- all of that in a word that is itself a command line: `sh -c '…'`.

It errs on the side of hiding, so that who may run a shell can also hide what it does. What has no name cannot be
recognised: `echo WORD | passwd --stdin` is written as it is.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Sequence

HIDDEN = "***"

_WORDS = "password|passwd|passphrase|passcode|storepass|keypass|sshpass|secret|token|credential|cookie|authorization"
_KEYS = "(?:api|access|private|secret|auth|account|encryption|signing)[-_.]?key"
_SECRET = re.compile(rf"{_WORDS}|{_KEYS}|(?:^|[-_.])pass(?:in|out)?$|[a-z][-_.]?pwd$|^pw$", re.IGNORECASE)
# Options with such a name that take no value.
_NO_VALUE = re.compile(r"-+(?:no|ask|prompt|show|get|need)[-_]|.*[-_]stdin\Z", re.IGNORECASE)

_OPTION = re.compile(r"(--?[A-Za-z][\w.-]*)(=.*)?\Z", re.DOTALL)
_SETTING = re.compile(r"([A-Za-z_][\w.\[\]-]*)=", re.DOTALL)
_HEADER = re.compile(r"\s*([A-Za-z][\w-]*)\s*:\s*\S")
_COMMAND = re.compile(r"-[a-z]*c\Z")  # sh -c, bash -lc, su -c: a command line follows
_URL_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)")

_MYSQL = ("-p",), ()
_PROGRAMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # program: options whose value is in the same word, options whose value is the next word or in the same one
    "mysql": _MYSQL,
    "mysqldump": _MYSQL,
    "mysqladmin": _MYSQL,
    "mariadb": _MYSQL,
    "mariadb-dump": _MYSQL,
    "mariadb-admin": _MYSQL,
    "7z": _MYSQL,
    "sshpass": ((), ("-p",)),
    "redis-cli": ((), ("-a",)),
    "curl": ((), ("-u", "--user", "-U", "--proxy-user", "-b")),
    "useradd": ((), ("-p",)),
    "usermod": ((), ("-p",)),
    "openssl": ((), ("-k", "-K")),
    "ldapsearch": ((), ("-w",)),
    "ldapmodify": ((), ("-w",)),
    "ldapadd": ((), ("-w",)),
    "smbclient": ((), ("-U",)),
    "ipmitool": ((), ("-P",)),
    "zip": ((), ("-P",)),
    "unzip": ((), ("-P",)),
}

# A word of a command line as a shell would take it: what is quoted is part of it. An unclosed quote goes to the end.
_WORD = re.compile(r"""(?:[^\s"'\\;|&<>()]+|"(?:[^"\\]|\\.)*(?:"|\\?\Z)|'[^']*(?:'|\Z)|\\(?:.|\Z))+""", re.DOTALL)
_QUOTED = re.compile(r"""'([^']*)'?|"((?:[^"\\]|\\.)*)["\\]?|\\(.|\Z)|([^'"\\]+)""", re.DOTALL)
_ESCAPED = re.compile(r"""\\(["\\$`])""")
_NEW_COMMAND = re.compile(r"[;|&\n()]")

_DEEPEST = 3  # command lines in command lines


def hide_in_line(line: str, depth: int = 0) -> str:
    """A command line without its secrets."""
    shown: list[str] = []
    words: list[re.Match[str]] = []
    end = 0

    def show() -> None:
        nonlocal end
        plain = [_unquoted(word.group()) for word in words]
        for word, old, new in zip(words, plain, hide_in_words(plain, depth)):
            quoted = shlex.quote(new) if any(char.isspace() for char in new) else new
            shown.append(line[end : word.start()] + (word.group() if new == old else quoted))
            end = word.end()
        words.clear()

    for word in _WORD.finditer(line):
        if words and _NEW_COMMAND.search(line, words[-1].end(), word.start()):
            show()
        words.append(word)
    show()
    return "".join(shown) + line[end:]


def hide_in_words(words: Sequence[str], depth: int = 0) -> list[str]:
    """A program and its arguments without their secrets."""
    shown: list[str] = []
    attached: tuple[str, ...] = ()
    separate: tuple[str, ...] = ()
    hide_next = is_line = False
    for word in words:
        program = _PROGRAMS.get(os.path.basename(word))
        if is_line and depth < _DEEPEST:
            is_line = False
            shown.append(hide_in_line(word, depth + 1))
        elif hide_next:
            hide_next = False
            shown.append(HIDDEN)
        elif program is not None:
            attached, separate = program
            shown.append(word)
        elif word in separate:
            hide_next = True
            shown.append(word)
        else:
            short = next((option for option in (*attached, *separate) if word.startswith(option)), "")
            if short and not word.startswith("--"):
                shown.append(short + (HIDDEN if len(word) > len(short) else ""))
            else:
                new, hide_next = _hide_in_word(word, depth)
                is_line = not hide_next and _COMMAND.match(word) is not None
                shown.append(new)
    return shown


def _unquoted(word: str) -> str:
    """A word of a command line as the program gets it."""

    def plain(match: re.Match[str]) -> str:
        single, double, escaped, bare = match.groups()
        return _ESCAPED.sub(r"\1", double) if double is not None else single or escaped or bare or ""

    return _QUOTED.sub(plain, word)


def is_secret_name(name: str) -> bool:
    """Whether what has this name is not to be shown."""
    return _SECRET.search(name) is not None


def _hide_in_word(word: str, depth: int) -> tuple[str, bool]:
    """The word, and whether the next one is the value of the option that it is."""
    option = _OPTION.match(word)
    if option is not None and is_secret_name(option.group(1)):
        if option.group(2) is not None:
            return f"{option.group(1)}={HIDDEN}", False
        return word, _NO_VALUE.match(word) is None
    setting = _SETTING.match(word)
    if setting is not None and is_secret_name(setting.group(1)):
        return f"{setting.group()}{HIDDEN}", False
    header = _HEADER.match(word)
    if header is not None and is_secret_name(header.group(1)):
        return f"{header.group(1)}: {HIDDEN}", False
    if depth < _DEEPEST and len(word.split(None, 1)) > 1:
        word = hide_in_line(word, depth + 1)
    return _URL_PASSWORD.sub(rf"\g<1>{HIDDEN}", word), False
