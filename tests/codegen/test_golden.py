"""Golden files: exactly what the generator writes for a tricky schema, and that it works once written."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from codegen_driver import GOLDEN, ROOT, golden_texts
from google.protobuf.internal import api_implementation
from openapi_spec_validator import validate

PROBE = ROOT / "tests" / "matrix" / "probe_roundtrip.py"
EXPECTED = sorted(
    str(path.relative_to(GOLDEN / "out")) for path in (GOLDEN / "out").rglob("*.*") if path.suffix != ".pyc"
)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return golden_texts()


def test_the_same_files(texts: dict[str, str]) -> None:
    assert sorted(texts) == EXPECTED


@pytest.mark.parametrize("path", EXPECTED)
def test_text(path: str, texts: dict[str, str]) -> None:
    """After a wanted change: run tests/codegen/codegen_driver.py, read the difference, commit it."""
    assert texts[path] == (GOLDEN / "out" / path).read_text(encoding="utf-8")


def test_generation_is_deterministic(texts: dict[str, str]) -> None:
    assert golden_texts() == texts


def test_generated_code_works() -> None:
    """What the version matrix runs everywhere, on the protobuf of this environment."""
    from google.protobuf import __version__

    site = str(Path(api_implementation.__file__).parents[3])
    arguments = [str(PROBE), __version__, api_implementation.Type(), site, str(ROOT), str(GOLDEN / "out")]
    subprocess.run([sys.executable, "-I", "-S", "-B", *arguments], check=True)


DOCSTRINGS = {
    "": "Everything that a generator may trip over, in one file.\n"
    "Quotes: \" ' ` \"\"\" ''', backslashes: \\ \\\\ \\n \\u0041,"
    " other scripts: Grüße, 日本, 🙂, and a % {brace}.",
    "ShapesStub": "First of two services. Ends in a backslash \\",
    "ShapesServicer.Draw": 'Says """hello""" to C:\\temp\\new, and ends in a quote: "',
    "ShapesServicer.Silent": "Has no route.\n\nAnd a second paragraph.",
    "MoreShapesServicer.patch_it": None,
}


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_docstrings_are_the_comments(name: str, texts: dict[str, str]) -> None:
    node: ast.AST = ast.parse(texts["tricky/v1/shapes_vsrpc.py"])
    for part in filter(None, name.split(".")):
        assert isinstance(node, (ast.Module, ast.ClassDef))
        node = next(child for child in node.body if getattr(child, "name", None) == part)
    assert isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
    assert ast.get_docstring(node) == DOCSTRINGS[name]


@pytest.mark.parametrize("path", ["tests/golden/out/openapi.json", "vsrpc/v1/openapi.json"])
def test_openapi_is_valid(path: str) -> None:
    validate(json.loads((ROOT / path).read_text(encoding="utf-8")))
