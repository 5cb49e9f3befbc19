"""The loader of configuration files: each mistake is named with its file, its line and its key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from vsrpc.yamlconfig import (
    ConfigError,
    boolean,
    integer,
    key,
    list_of,
    load_config,
    one_of,
    or_null,
    parse_size,
    seconds,
    section,
    size,
    text,
)


@dataclass(frozen=True)
class Inner:
    count: int = key(integer(1, 10), 3)
    wait: float = key(seconds(0.5, 60), 1.5)
    limit: int = key(size(1, 1024**3), 4096)
    colour: str = key(one_of(("RED", "GREEN")), "RED")
    names: tuple[str, ...] = key(list_of(text), ("a",))
    maybe: str = key(or_null(text), "x")  # type: ignore[arg-type]
    on: bool = key(boolean, False)


@dataclass(frozen=True)
class Outer:
    inner: Inner = section(Inner)
    other: Inner = section(Inner)


def load(tmp_path: Path, content: str | bytes) -> Outer:
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_config(str(path), Outer)


@pytest.mark.parametrize("content", ["", "# nothing\n", "{}", "inner:\n", "inner: {}\nother: ~\n", "---\n"])
def test_what_is_left_out_keeps_its_default(tmp_path: Path, content: str) -> None:
    assert load(tmp_path, content) == Outer()


def test_values(tmp_path: Path) -> None:
    content = "inner: {count: 10, wait: 2, limit: 2K, colour: green, names: [b, c], maybe: null, on: true}\n"
    expected = Inner(10, 2.0, 2048, "GREEN", ("b", "c"), None, True)  # type: ignore[arg-type]
    assert load(tmp_path, content) == Outer(expected, Inner())


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("inner:\n  coutn: 1\n", 2, "inner.coutn: unknown key; did you mean 'count'?"),
        ("inner:\n  zzz: 1\n", 2, "inner.zzz: unknown key; known here: count, wait, limit"),
        ("# x\n\ncount: 1\n", 3, "count: unknown key here; it belongs in the section 'inner'"),
        ("inner:\n  count: 1\n  wait: 1\n  count: 2\n", 4, "inner.count: given twice; the first one is on line 2"),
        ("inner: {}\ninner: {}\n", 2, "inner: given twice"),
        ("inner: 5\n", 1, "inner: a section with keys is expected here, for example 'count: …'"),
        ("inner: [1]\n", 1, "inner: a section with keys"),
        ("- a\n", 1, "a section with keys"),
        ("just text\n", 1, "a section with keys"),
        ("inner:\n  count: ten\n", 2, "inner.count: 'ten' is not a whole number: write one from 1 to 10"),
        ("inner:\n  count: '5'\n", 2, "inner.count: '5' is not a whole number"),
        ("inner:\n  count: true\n", 2, "inner.count: true is not a whole number"),
        ("inner:\n  count: 1.5\n", 2, "inner.count: 1.5 is not a whole number"),
        ("inner:\n  count:\n", 2, "inner.count: null is not a whole number"),
        ("inner:\n  count: 11\n", 2, "inner.count: 11 is out of range: write a whole number from 1 to 10"),
        ("inner:\n  wait: .nan\n", 2, "inner.wait: nan is not a number: write one from 0.5 to 60"),
        ("inner:\n  wait: 0\n", 2, "inner.wait: 0 is out of range"),
        ("inner:\n  limit: ten\n", 2, "inner.limit: 'ten' is not a whole number of bytes: write it as 65536, 512K"),
        ("inner:\n  limit: -1\n", 2, "inner.limit: -1 is out of range"),
        ("inner:\n  limit: 1.5M\n", 2, "inner.limit: '1.5M' is not a whole number of bytes"),
        ("inner:\n  limit: [1]\n", 2, "inner.limit: [1] is not a whole number of bytes"),
        ("inner:\n  colour: blue\n", 2, "inner.colour: 'blue' is not one of RED, GREEN"),
        ("inner:\n  names: a\n", 2, "inner.names: 'a' is not a list: write [a, b] or one '- a' a line"),
        ("inner:\n  names:\n  - a\n  - 5\n", 4, "inner.names: 5 is not a text"),
        ("inner:\n  on: 'yes'\n", 2, "inner.on: 'yes' is not a truth value: write true or false"),
        ("inner:\n  count: 2001-99-99\n", 2, "inner.count: not a YAML value that makes sense"),
        ("inner: {\n", 2, "not valid YAML: "),
        ("inner:\n\tcount: 1\n", 2, "not valid YAML: "),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML: "),
        ("inner: !!python/object/apply:os.system [true]\n", 1, "inner: a section with keys"),
        ("inner:\n  maybe: !!python/name:os.system ''\n", 2, "not valid YAML: could not determine a constructor"),
    ],
)
def test_mistakes(tmp_path: Path, content: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/c.yaml:{line}: {message}")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml: not valid YAML: "):
        load(tmp_path, b"inner: \xff\xfe\n")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, cause in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load_config(str(path), Outer)
        assert str(caught.value) == f"{path}: cannot read this configuration file: {cause}"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0", 0),
        ("65536", 65536),
        ("512K", 512 * 1024),
        ("2MB", 2 * 1024**2),
        ("2mib", 2 * 1024**2),
        ("1 GiB", 1024**3),
        (" 7B ", 7),
        ("1T", 1024**4),
    ],
)
def test_sizes(written: str, meant: int) -> None:
    assert parse_size(written) == meant


@pytest.mark.parametrize("written", ["", "K", "1.5M", "-1", "1 2", "1KK", "1iB", "0x10", "1e3", "\u0663", "9" * 5000])
def test_no_sizes(written: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number of bytes"):
        parse_size(written)
