"""Command lines made by chance, of pieces that are likely to break out. The same seed makes the same lines."""

from __future__ import annotations

import random
from typing import Iterator, Sequence

from .rows import words

LISTED = words(
    "ls cat echo head grep find wc df du free ps date hostname uname id pwd env which file stat md5sum ip ss netstat "
    "systemctl journalctl true false /bin/ls /usr/bin/env 'l's $CMD ${CMD}"
)
_UNLISTED = words(
    "attack-canary /usr/local/bin/attack-canary ./canary.sh ./ls sh bash /bin/sh busybox python3 perl xargs rm mv cp "
    "tee touch dd chmod ln sudo eval exec command . $BAD $EMPTY nice timeout setsid"
)
_DANGEROUS = words(
    "-exec -execdir -ok -delete -fprint -fls -printf -name ; + {} -S -i -u --split-string=attack-canary -s -f -F -C -z "
    "-m -r -R -c --check --files0-from=list --file=file -batch netns exec set add show dev lo softdog -K -D -b -n1 "
    "--root=/tmp start restart status cat --vacuum-size=1 --rotate --file=/root/secret -D/root -e aux axe -eTH -C "
    '-o args -d TZ="/root/secret" --set=0 010112002001 +%s -- - --help --version -x -a -l'
)
_PATHS = words(
    "file . .. / /root/secret link-shadow link-root link-root/secret hard /etc/shadow /etc/passwd fifo names/* * ?ile "
    "*/ [a-z]* /proc/self/environ /proc/self/cwd/file /dev/null /tmp/attack/out $A \"$A\" '' x list"
)
_SHELL = words(
    "| || && ; & |& > >> < 2> 2>&1 >/dev/null >out >/root/attacked <file <link-shadow << <( >( $( ) ( ` ' \" \\ { } "
    "! # ~ $ ${ $(( * ? [ ] = A=b if then fi for do done"
) + ["\n", " "]

VARIABLES = {"CMD": "echo", "BAD": "attack-canary", "EMPTY": "", "A": "x;attack-canary $(attack-canary)"}
"""What the lines' variables are set to."""


def lines(seed: int, count: int, listed: Sequence[str] = LISTED) -> Iterator[str]:
    """So many lines, of which a fair part is accepted; `listed` are the programs that may be executed."""
    source = random.Random(seed)
    for _ in range(count):
        wild = source.random() < 0.6
        words = [source.choice(listed)]
        for _ in range(source.randint(0, 7)):
            kind = source.random()
            if wild and kind < 0.35:
                words.append(source.choice(_SHELL))
            elif wild and kind < 0.45:
                words.append(source.choice(_UNLISTED))
            elif kind < 0.55:
                words.append(source.choice(_DANGEROUS))
            elif kind < 0.7:
                words += [source.choice(("|", "&&", "||", ";", "\n")), source.choice(listed)]
            else:
                words.append(source.choice(_PATHS))
        glue = " " if source.random() < 0.85 else ""
        yield _mutated(source, glue.join(words))


def _mutated(source: random.Random, line: str) -> str:
    """The line, now and then with one character too many, too few, or in another place."""
    if line and source.random() < 0.2:
        at = source.randrange(len(line))
        line = source.choice(
            (line[:at] + line[at + 1 :], line[:at] + source.choice("'\"\\$;|&<> \n\t`(){}*") + line[at:], line[::-1])
        )
    return line
