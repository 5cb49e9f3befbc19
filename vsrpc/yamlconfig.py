"""Configuration files: YAML into frozen dataclasses, every key validated, every error with its line.

A dataclass is the schema. Its fields are made with `key` (one setting) or `section` (a nested dataclass); what a file
leaves out keeps the field's default. Nothing here knows a particular setting, and only yaml is imported beyond
the standard library. Both ends use this module.

    @dataclass(frozen=True)
    class Server:
        workers: int = key(integer(1, 64), 8)

    @dataclass(frozen=True)
    class Config:
        server: Server = section(Server)

    config = load_config("/etc/vsrpc/guest.yaml", Config)
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from typing import Any, Callable, Sequence, TypeVar

import yaml

T = TypeVar("T")
Parser = Callable[[object], T]
"""Turns a YAML value into a setting, or raises ValueError with the value, the cause and what to write instead."""


class ConfigError(ValueError):
    """A configuration file that cannot be used: "FILE:LINE: section.key: what is wrong and what to write"."""


class _ItemError(ValueError):
    """An error in one item of a list, so that the line named is the item's."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


def key(parse: Parser[T], default: T) -> T:
    """A field of a config dataclass: how its value is read, and what holds when the file does not say."""
    return dataclasses.field(default=default, metadata={"parse": parse})


def section(cls: type[T]) -> T:
    """A field of a config dataclass that is itself a config dataclass, a mapping in the file."""
    return dataclasses.field(default_factory=cls, metadata={"section": cls})


def load_config(path: str, cls: type[T]) -> T:
    """Read a file into the config dataclass `cls`; an empty file gives the defaults.

    Raises ConfigError for a file that cannot be read, is no YAML, or has an unknown, repeated or wrong key.
    """
    try:
        with open(path, "rb") as stream:
            loader = yaml.SafeLoader(stream)
            try:
                return _Reader(path, loader).section(loader.get_single_node(), cls, ())
            finally:
                loader.dispose()
    except OSError as failure:
        raise ConfigError(f"{path}: cannot read this configuration file: {failure.strerror}") from None
    except yaml.MarkedYAMLError as failure:
        line = failure.problem_mark.line + 1 if failure.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {failure.problem}") from None
    except yaml.YAMLError as failure:
        raise ConfigError(f"{path}: not valid YAML: {failure}") from None


class _Reader:
    def __init__(self, path: str, loader: yaml.SafeLoader) -> None:
        self._path = path
        self._loader = loader

    def section(self, node: yaml.Node | None, cls: type[T], where: tuple[str, ...]) -> T:
        if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
            return cls()
        if not isinstance(node, yaml.MappingNode):
            sample = next(iter(_fields(cls)))
            raise self._error(node, where, f"a section with keys is expected here, for example '{sample}: …' below it")
        fields = _fields(cls)
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            here = (*where, name)
            if name in values:
                raise self._error(key_node, here, f"given twice; the first one is on line {lines[name]}: keep one")
            if name not in fields:
                raise self._error(key_node, here, _unknown(name, cls))
            lines[name] = key_node.start_mark.line + 1
            values[name] = self._field(fields[name], value_node, here)
        return cls(**values)

    def _field(self, field: dataclasses.Field[Any], node: yaml.Node, where: tuple[str, ...]) -> object:
        nested = field.metadata.get("section")
        if nested is not None:
            return self.section(node, nested, where)
        try:
            value = self._loader.construct_object(node, deep=True)
        except (ValueError, TypeError) as failure:  # for example a date that does not exist, an unhashable key
            raise self._error(node, where, f"not a YAML value that makes sense: {failure}") from None
        try:
            return field.metadata["parse"](value)
        except _ItemError as failure:
            raise self._error(node.value[failure.index], where, str(failure)) from None
        except ValueError as failure:
            raise self._error(node, where, str(failure)) from None

    def _error(self, node: yaml.Node, where: tuple[str, ...], message: str) -> ConfigError:
        name = ".".join(where)
        return ConfigError(f"{self._path}:{node.start_mark.line + 1}: {name + ': ' if name else ''}{message}")


def _fields(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


def _unknown(name: str, cls: type[Any]) -> str:
    fields = _fields(cls)
    close = difflib.get_close_matches(name, fields, n=1)
    if close:
        return f"unknown key; did you mean '{close[0]}'?"
    homes = [n for n, f in fields.items() if "section" in f.metadata and name in _fields(f.metadata["section"])]
    if homes:
        return f"unknown key here; it belongs in the section '{homes[0]}'"
    return f"unknown key; known here: {', '.join(fields)}"


# Parsers. Each says in its message what would be right.


def boolean(value: object) -> bool:
    """`true` or `false`."""
    if isinstance(value, bool):
        return value
    raise ValueError(f"{show(value)} is not a truth value: write true or false")


def integer(least: int, most: int) -> Parser[int]:
    """A whole number within the limits, both included."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{show(value)} is not a whole number: write one from {least} to {most}")
        if not least <= value <= most:
            raise ValueError(f"{value} is out of range: write a whole number from {least} to {most}")
        return value

    return parse


def seconds(least: float, most: float) -> Parser[float]:
    """A number of seconds within the limits, both included; also fits other plain numbers."""

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{show(value)} is not a number: write one from {least:g} to {most:g}")
        if not least <= value <= most:
            raise ValueError(f"{value} is out of range: write a number from {least:g} to {most:g}")
        return float(value)

    return parse


def size(least: int, most: int) -> Parser[int]:
    """Bytes as `parse_size` reads them, within the limits, both included."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError(f"{show(value)} is not {_SIZE_HELP}")
        number = value if isinstance(value, int) else parse_size(value)
        if not least <= number <= most:
            raise ValueError(f"{show(value)} is out of range: write a size from {least} to {most} bytes")
        return number

    return parse


_SIZE = re.compile(r"([0-9]{1,15})\s*(?:([KMGT])(?:i?B)?|B)?\Z", re.IGNORECASE)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE_HELP = "a whole number of bytes: write it as 65536, 512K, 10MB or 1GiB (K, KB and KiB all mean 1024 bytes)"


def parse_size(text: str) -> int:
    """Bytes of "65536", "512K", "10MB" or "1GiB"; K, KB and KiB all mean 1024, and so on up to T.

    Raises ValueError for anything else.
    """
    match = _SIZE.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not {_SIZE_HELP}")
    return int(match.group(1)) << _SHIFTS[(match.group(2) or "").upper()]


def text(value: object) -> str:
    """Text, not empty."""
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"{show(value)} is not a text: write one in quotes")


def absolute_path(value: object) -> str:
    """An absolute path."""
    if isinstance(value, str) and value.startswith("/") and "\0" not in value:
        return value
    raise ValueError(f"{show(value)} is not an absolute path: write one that begins with '/'")


def one_of(choices: Sequence[str]) -> Parser[str]:
    """One of some words, in any case; gives the word as `choices` writes it."""

    def parse(value: object) -> str:
        for choice in choices:
            if isinstance(value, str) and value.lower() == choice.lower():
                return choice
        raise ValueError(f"{show(value)} is not one of {', '.join(choices)}")

    return parse


def list_of(item: Parser[T]) -> Parser[tuple[T, ...]]:
    """A list, each item read by `item`."""

    def parse(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{show(value)} is not a list: write [a, b] or one '- a' a line")
        items = []
        for index, each in enumerate(value):
            try:
                items.append(item(each))
            except ValueError as failure:
                raise _ItemError(index, str(failure)) from None
        return tuple(items)

    return parse


def or_null(parse: Parser[T]) -> Parser[T | None]:
    """What `parse` reads, or `null`."""
    return lambda value: None if value is None else parse(value)


def show(value: object) -> str:
    """A YAML value as an error message shows it: as the file would write it, cut when long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"
