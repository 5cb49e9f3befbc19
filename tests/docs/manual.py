"""Reads the manual's pages: sections, code blocks, tables, links."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

NAMES = tuple(sorted({path.stem for path in (ROOT / "docs").glob("*.md")} - {"architecture"}))
"""The manual's pages in docs/, each of which docs/zh/ has too; what is for contributors is in English only."""


_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def source(name: str) -> str:
    """What is in a page's file, by its path from the root of the tree."""
    return (ROOT / name).read_text(encoding="utf-8")


def page(name: str) -> str:
    """The text of a page, as readers see it: without comments."""
    return _COMMENT.sub("", source(name))


def fences(text: str, language: str | None = None) -> list[str]:
    """The fenced code blocks of a page, of one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if language in (None, name)]


def without_code(text: str) -> str:
    """The text without code blocks, fenced or indented."""
    return re.sub(
        r"^    .*$", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), flags=re.MULTILINE
    )


def headings(text: str) -> list[tuple[int, str]]:
    """Level and text of each heading."""
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", without_code(text), re.MULTILINE)]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, but for their heads and rules."""
    found = []
    lines = without_code(text).splitlines()
    for above, line, below in zip(["", *lines], lines, [*lines[1:], ""]):
        if line.startswith("|") and not line.startswith("|---") and not below.startswith("|---"):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        assert not line.startswith("|---") or above.startswith("|"), f"a rule without a head: {line}"
    return found


def code_words(text: str) -> list[str]:
    """What stands in backticks outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", without_code(text))
