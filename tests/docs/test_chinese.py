"""The manual in Chinese says what the English one says: the same pages, sections, code, options, keys and links."""

from __future__ import annotations

import posixpath
import re

import manual
import pytest

PAIRS = [(f"docs/{name}.md", f"docs/zh/{name}.md") for name in manual.NAMES]

# English words that stand in the running text of a page in Chinese are names, or none of ours.
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n.*?^```$|(?:^    [^\n]*\n)+", text, re.DOTALL | re.MULTILINE)


def links(page: str) -> list[str]:
    """Where the links of a page lead, from the root of the tree and without the place in the page; those within the
    manual by their page's name."""
    targets = re.findall(r"\]\(([^)\s]+)\)", manual.without_code(manual.page(page)))
    found = []
    for target in targets:
        name = target.partition("#")[0]
        if "://" in target or not name:
            found.append(target if "://" in target else "#")
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), name))
        found.append(path.replace("docs/zh/", "docs/"))
    return sorted(found)


def test_each_page_is_there_in_both_languages() -> None:
    chinese = {path.stem for path in (manual.ROOT / "docs/zh").glob("*.md")}
    assert {*manual.NAMES, "README", "protocol"} <= chinese


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_structure(english: str, chinese: str) -> None:
    one, other = manual.page(english), manual.page(chinese)
    assert [level for level, _ in manual.headings(one)] == [level for level, _ in manual.headings(other)]
    assert code_blocks(one) == code_blocks(other)
    assert [len(row) for row in manual.rows(one)] == [len(row) for row in manual.rows(other)]
    assert links(english) == links(chinese)


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_words_of_code(english: str, chinese: str) -> None:
    """Commands, options, keys, values and messages."""
    assert set(manual.code_words(manual.page(english))) == set(manual.code_words(manual.page(chinese)))


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_tables_are_about_the_same(english: str, chinese: str) -> None:
    for one, other in zip(manual.rows(manual.page(english)), manual.rows(manual.page(chinese))):
        assert re.findall(r"`[^`]+`", one[0]) == re.findall(r"`[^`]+`", other[0])
        for cell, translated in zip(one, other):
            numbers = re.findall(r"\d[\d.,]*\d|\d", cell)
            assert sorted(numbers) == sorted(re.findall(r"\d[\d.,]*\d|\d", translated)), (cell, translated)


@pytest.mark.parametrize("page", [chinese for _, chinese in PAIRS])
def test_text_is_translated(page: str) -> None:
    """Every paragraph and every last cell of more than a name."""
    text = manual.without_code(manual.page(page))
    for paragraph in re.split(r"\n\n", text):
        plain = re.sub(r"`[^`]*`|\]\([^)]*\)|\|?---\|?", "", paragraph)
        if len(re.findall(r"[A-Za-z]{2,}", plain)) > 4:
            assert _CHINESE.search(plain), paragraph
