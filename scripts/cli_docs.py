#!/usr/bin/env python3
"""Makes what users read of the command lines from their parsers.

    cli_docs.py OUTDIR      manual pages and shell completion, below OUTDIR:
                            man/vsrpc-host.1 man/vsrpc-guest.8
                            completion/bash/NAME completion/zsh/_NAME completion/fish/NAME.fish
    cli_docs.py --pages     docs/cli.md and docs/zh/cli.md, which are committed (`make docs`)

The date of the manual pages is that of SOURCE_DATE_EPOCH, where it is set, else today's.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for scripts, which is not installed

import yaml  # noqa: E402

from scripts.clidoc import bash, fish, man, markdown, zsh  # noqa: E402
from scripts.clidoc.about import PROGRAMS  # noqa: E402
from scripts.clidoc.model import read  # noqa: E402
from vsrpc._version import __version__  # noqa: E402

TRANSLATIONS = {"docs/zh/cli.md": ROOT / "scripts/clidoc/zh.yaml"}


class NoTranslationError(Exception):
    """Texts of the command lines that a table of translations lacks."""


def artefacts() -> Iterator[tuple[str, str]]:
    """What packages install: paths below OUTDIR, and contents."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.now(datetime.timezone.utc)
    date = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc) if epoch else now
    for program in PROGRAMS:
        command = read(program.parser())
        name = command.name
        yield f"man/{name}.{program.section}", man.page(program, command, __version__, f"{date:%Y-%m-%d}")
        yield f"completion/bash/{name}", bash.script(command)
        yield f"completion/zsh/_{name}", zsh.script(command)
        yield f"completion/fish/{name}.fish", fish.script(command)


def pages() -> Iterator[tuple[str, str]]:
    """What is committed: paths from the root of the tree, and contents. Raises NoTranslationError."""
    programs = [(program, read(program.parser())) for program in PROGRAMS]
    yield "docs/cli.md", markdown.page(programs, lambda text: text)
    for path, table in TRANSLATIONS.items():
        texts = yaml.safe_load(table.read_text(encoding="utf-8")) or {}
        asked: dict[str, None] = {}

        def translate(text: str, texts: dict[str, str] = texts, asked: dict[str, None] = asked) -> str:
            asked[text] = None
            return texts.get(text, "")

        page = markdown.page(programs, translate)
        missing = "".join(f"\n  {text!r}" for text in asked if text not in texts)
        if missing:
            raise NoTranslationError(f"{table.relative_to(ROOT)} lacks:{missing}")
        yield path, page


def write(root: Path, files: Iterator[tuple[str, str]]) -> None:
    """Write the files below a directory."""
    for name, content in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def main(argv: list[str]) -> int:
    """Run the command line; the exit code."""
    if len(argv) != 1 or argv[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    if argv[0] != "--pages":
        write(Path(argv[0]), artefacts())
        return 0
    try:
        write(ROOT, pages())
    except NoTranslationError as error:
        print(f"cli_docs.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
