"""What the tests of places and mounts share: a directory that everybody can see, and the rules that decide in it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Iterator

from guest.policy.paths import PathPolicy
from vsrpc.errors import RpcError


@contextlib.contextmanager
def visible_directory() -> Iterator[Path]:
    """Not tmp_path: only its owner can see that."""
    path = Path(tempfile.mkdtemp(prefix="places-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def make(root: Path, *files: str) -> None:
    """Files whose content is their name."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)


def decisions(policy: PathPolicy, path: object) -> list[str]:
    """The rules that decide about reading, writing and metadata; "no: " before those that refuse."""
    rules = []
    for check in (policy.check_read, policy.check_write, policy.check_metadata):
        try:
            rules.append(check(str(path)))
        except RpcError as failure:
            rules.append(f"no: {failure.data['rule']}" if failure.reason == "PERMISSION_DENIED" else failure.reason)
    return rules
