"""Which arguments the listed commands may be given: one row of RULES for each.

The rule behind the rows:

- Nothing runs another program, changes the system, or writes a file.
- An operand or option of which a command reads the file's *content* (cat, grep, digests, `file` …) must pass
  the path policy for reading: with the defaults, `cat /etc/os-release` is refused as a download of it would be.
- An operand of which only *metadata* is read (ls, stat, du, df, find, `date -r`) must pass it for metadata. `ls -R`,
  `du` and `find` are judged by where they start; below that they show names and metadata, never content.
- A file whose content is a list of further files (`--files0-from`, `md5sum -c`) is refused: those would not be judged.
- What a program shows because that is its job (ip, ss, journalctl, systemctl, ps) is allowed. Changes to services
  go through ServiceManager, so systemctl only queries.
- An option that is not in the table is refused, so that a new version's new option is not a hole.

A command that the configuration adds and that has no row takes any arguments: who lists it, trusts it.
To add a row, write `Row(Options(…), operand)` for a program that uses getopt, or a function for one that does not
(arguments_special.py, arguments_network.py, arguments_ps.py). Option lists are those of GNU coreutils 9.1, grep 3.8,
file 5.44, iproute2 6.1, procps 4.0, systemd 252; what they let pass does no harm with BusyBox either.
A file could be swapped by another user of the guest between the check and the program's open(2); a caller of the daemon
cannot do that alone, as no listed command makes links.
"""

from __future__ import annotations

from typing import Mapping

from guest.policy import arguments_network as network
from guest.policy import arguments_special as special
from guest.policy.arguments_ps import ps
from guest.policy.arguments_rows import (
    Row,
    Rule,
    anything,
    content,
    matching,
    metadata,
    metadata_if_absolute,
    moment,
    nothing,
    program,
)
from guest.policy.getopt import Options

_LISTS_FILES = "it names further files, which could not be judged; name them as arguments"
_SETS = "it would change the guest"
_RUNS = "it runs another program"
_REMOTE = "it leads to another system or root directory"

_DIGEST = Row(
    Options(
        flags="btz", long_flags="binary text tag zero help version", refused={"c": _LISTS_FILES, "check": _LISTS_FILES}
    ),
    content,
)

RULES: Mapping[str, Rule] = {
    "cat": Row(
        Options(
            flags="AbeEnstTuv",
            long_flags="show-all number-nonblank show-ends number squeeze-blank show-tabs show-nonprinting "
            "help version",
        ),
        content,
    ),
    "date": Row(
        Options(
            flags="uR",
            values="dr",
            optional="I",
            long_flags="utc universal rfc-email rfc-2822 debug resolution help version",
            long_values="date reference rfc-3339",
            long_optional="iso-8601",
            refused={
                **dict.fromkeys(("s", "set"), _SETS),
                **dict.fromkeys(("f", "file"), "its lines could name time zones, which are files; give one date by -d"),
            },
        ),
        matching(r"\+.*", "date without '+FORMAT' sets the clock"),
        values={"d": moment, "date": moment, "r": metadata, "reference": metadata},
    ),
    "df": Row(
        Options(
            flags="ahHiklPTv",
            values="Btx",
            long_flags="all human-readable si inodes local no-sync portability print-type sync total help version",
            long_values="block-size type exclude-type",
            long_optional="output",
        ),
        metadata,
    ),
    "du": Row(
        Options(
            flags="0abcDhHklLmPsSx",
            values="BdtX",
            long_flags="null all apparent-size bytes total dereference-args human-readable inodes si dereference "
            "no-dereference separate-dirs summarize one-file-system count-links help version",
            long_values="block-size max-depth threshold exclude exclude-from time-style",
            long_optional="time",
            refused={"files0-from": _LISTS_FILES},
        ),
        metadata,
        values={"X": content, "exclude-from": content},
    ),
    "echo": anything,
    "env": Row(
        Options(
            flags="0i",
            values="u",
            long_flags="null ignore-environment help version",
            long_values="unset",
            refused={"S": _RUNS, "split-string": _RUNS},
        ),
        nothing("env runs other programs; give the command itself, and variables in `env` of the request"),
    ),
    "false": anything,
    "file": Row(
        Options(
            flags="bchiklLnNprsv0dE",
            values="eFP",
            long_flags="brief checking-printout keep-going dereference no-dereference mime mime-type mime-encoding "
            "no-buffer no-pad preserve-date raw special-files print0 version help extension apple list "
            "debug",
            long_values="exclude exclude-quiet separator parameter",
            refused={
                "f": _LISTS_FILES,
                "files-from": _LISTS_FILES,
                "C": "it writes a file",
                "compile": "it writes a file",
                "z": "it runs other programs",
                "Z": "it runs other programs",
                "uncompress": "it runs other programs",
                "uncompress-noreport": "it runs other programs",
                **dict.fromkeys(("S", "no-sandbox"), "it reads files of strangers with nothing to hold it"),
            },
        ),
        content,
    ),
    "find": special.find,
    "free": anything,
    "grep": special.grep,
    "head": Row(
        Options(
            flags="qvz",
            values="nc",
            long_flags="quiet silent verbose zero-terminated help version",
            long_values="lines bytes",
            numbers=True,
        ),
        content,
    ),
    "hostname": Row(
        Options(
            flags="aAdfiIsyVh",
            long_flags="alias all-fqdns all-ip-addresses fqdn long ip-address short domain yp nis help version",
            refused={"F": _SETS, "file": _SETS, "b": _SETS, "boot": _SETS},
        ),
        nothing("hostname with a name sets it"),
    ),
    "id": anything,
    "ip": network.ip,
    "journalctl": Row(
        Options(
            flags="aefhklmNqrx",
            values="cFgopStuU",
            optional="bn",
            long_flags="all catalog disk-usage dmesg fields follow full header help list-boots merge no-full "
            "no-hostname no-pager no-tail pager-end quiet reverse show-cursor system truncate-newline user utc version",
            long_values="after-cursor cursor facility field grep identifier output output-fields priority since until "
            "unit user-unit",
            long_optional="boot case-sensitive lines",
            numbers=True,
            refused={
                **dict.fromkeys(("D", "directory", "i", "file", "root", "image", "M", "machine"), _REMOTE),
                **dict.fromkeys(("flush", "rotate", "sync", "relinquish-var", "smart-relinquish-var"), _SETS),
                **dict.fromkeys(("vacuum-size", "vacuum-time", "vacuum-files"), _SETS),
                **dict.fromkeys(("setup-keys", "update-catalog", "cursor-file"), "it writes files"),
            },
        ),
        metadata_if_absolute,
    ),
    "ls": Row(
        Options(
            flags="aAbBcCdDfFgGhHiklLmnNopqQrRsStuUvxXZ1",
            values="ITw",
            long_flags="all almost-all author escape ignore-backups directory dired dereference "
            "dereference-command-line dereference-command-line-symlink-to-dir file-type full-time "
            "group-directories-first no-group human-readable si inode kibibytes literal numeric-uid-gid "
            "hide-control-chars show-control-chars quote-name recursive reverse size context zero help version",
            long_values="block-size hide indicator-style ignore format quoting-style sort tabsize time time-style "
            "width",
            long_optional="color classify hyperlink",
        ),
        metadata,
    ),
    "md5sum": _DIGEST,
    "netstat": network.netstat,
    "ping": network.ping,
    "ps": ps,
    "pwd": anything,
    "sha256sum": _DIGEST,
    "sleep": anything,
    "ss": network.ss,
    "stat": Row(
        Options(
            flags="Lft",
            values="c",
            long_flags="dereference file-system terse help version",
            long_values="format printf cached",
        ),
        metadata,
    ),
    "systemctl": special.systemctl,
    "tail": Row(
        Options(
            flags="fFqvz",
            values="cns",
            long_flags="quiet silent verbose retry zero-terminated help version",
            long_values="bytes lines pid sleep-interval max-unchanged-stats",
            long_optional="follow",
            numbers=True,
        ),
        content,
    ),
    "top": special.top,
    "true": anything,
    "uname": anything,
    "uptime": Row(
        Options(flags="cphrsV", long_flags="container pretty help raw since version"),
        nothing("it would read the file"),  # that of GNU coreutils
    ),
    "wc": Row(
        Options(
            flags="clmLw",
            long_flags="bytes chars lines max-line-length words help version",
            long_values="total",
            refused={"files0-from": _LISTS_FILES},
        ),
        content,
    ),
    "which": Row(Options(flags="as", long_flags="all"), program),
    "whoami": anything,
}
"""Every command of the default list has a row; a test holds that."""
