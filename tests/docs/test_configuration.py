"""docs/configuration.md has every key of both configurations, and what it says of each is so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Iterator

import manual
import pytest
import yaml

from guest.config import GuestConfig
from host.configfile import HostConfig
from vsrpc.yamlconfig import load_config, parse_size

PAGES = ("docs/configuration.md", "docs/zh/configuration.md")

CONFIGS = {"guest": GuestConfig, "host": HostConfig}


def keys(cls: Any, where: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    for field in dataclasses.fields(cls):
        nested = field.metadata.get("section")
        if nested is not None:
            yield from keys(nested, f"{where}{field.name}.")
        else:
            yield where + field.name, field


def tables(page: str, end: str) -> dict[str, list[str]]:
    """The rows of a page's tables of keys, by key: those before its heading for the host, or after it."""
    text = manual.page(page)
    heading = re.search(r"^## (?:The host|宿主机).*$", text, re.MULTILINE)
    assert heading, page
    part = text[: heading.start()] if end == "guest" else text[heading.start() :]
    rows = [line for line in part.splitlines() if re.match(r"\| `[a-z]+\.[a-z_.]+` \|", line)]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    found = {row[0].strip("`"): row[1:] for row in cells}
    assert len(found) == len(rows), "a key stands there twice"
    return found


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("end", CONFIGS)
def test_every_key_is_there_with_its_default_and_range(page: str, end: str) -> None:
    rows = tables(page, end)
    expected = dict(keys(CONFIGS[end]))
    assert list(rows) == list(expected)
    for name, field in expected.items():
        value, default, meaning = rows[name]
        assert meaning, name
        parse = field.metadata["parse"]
        stated = yaml.safe_load(default.strip("`").replace("`", ""))
        assert parse(stated) == field.default, name
        accepts = {word: accepted(parse, yaml.safe_load(word)) for word in ("null", "true", "false", "read-only")}
        switch = value in ("switch", "开关")
        assert accepts["true"] == accepts["false"] == (switch or "`true`" in value), name
        assert accepts["read-only"] or not switch, name
        assert accepts["null"] == ("`null`" in value), name
        check_range(name, value, parse)


def check_range(name: str, value: str, parse: Any) -> None:
    """The range that the cell states, each end in it and nothing beyond; where it states none, there is none."""
    stated = re.search(r"([\d.]+(?:[KMGT]B)?)\u2013([\d.]+(?:[KMGT]B)?)", value)
    if stated is None:
        assert not accepted(parse, 5), f"{name}: a number without a range"
        return
    least, most = (parse_size(end) if "B" in end else float(end) for end in stated.groups())
    step = 1 if (least == int(least) and "B" in value) or float(least).is_integer() else 0.001
    for number, good in ((least, True), (most, True), (least - step, False), (most + 1, False)):
        tried = int(number) if float(number).is_integer() else number
        assert accepted(parse, tried) is good, f"{name}: {tried}"


def accepted(parse: Any, value: object) -> bool:
    try:
        parse(value)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("page", PAGES)
def test_words_that_are_listed_are_those_that_are_taken(page: str) -> None:
    for end, config in CONFIGS.items():
        rows = tables(page, end)
        for name, field in keys(config):
            if name in ("logging.level", "security.allowed_unit_actions"):
                words = re.findall(r"`(\w+)`", rows[name][0])
                parse = field.metadata["parse"]
                assert all(accepted(parse, [word] if "actions" in name else word) for word in words)
                assert len(words) == {"logging.level": 4, "security.allowed_unit_actions": 6}[name]


@pytest.mark.parametrize("page", PAGES)
def test_examples_are_valid(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", manual.page(page), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        (tmp_path / "example.yaml").write_text(block, encoding="utf-8")
        end = "host" if "host.yaml" in block else "guest"
        config: Any = load_config(str(tmp_path / "example.yaml"), CONFIGS[end])  # type: ignore[arg-type]
        assert config != CONFIGS[end]()
