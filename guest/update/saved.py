"""What an installation replaces, kept so that it can be put back: the link to the release and the files beside it."""

from __future__ import annotations

import json
import os
import shutil

from guest.update.layout import Layout


def save(layout: Layout) -> None:
    """Keep what is installed now. Raises OSError."""
    directory = os.path.join(layout.work, "saved")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    there = [path for path in layout.replaced if os.path.lexists(path)]
    for path in there:
        shutil.copy2(path, _kept(layout, path), follow_symlinks=False)
    with open(os.path.join(directory, "manifest.json"), "w", encoding="utf-8") as stream:
        json.dump({"release": os.readlink(layout.current), "files": there}, stream)
    os.sync()


def restore(layout: Layout) -> bool:
    """Put back what was kept; whether another release was installed. Can be repeated, and interrupted anywhere.

    Raises OSError.
    """
    with open(os.path.join(layout.work, "saved", "manifest.json"), encoding="utf-8") as stream:
        manifest = json.load(stream)
    for path in layout.replaced:
        if path not in manifest["files"]:
            _remove(path)
            continue
        _remove(path + ".vsrpc-old")
        shutil.copy2(_kept(layout, path), path + ".vsrpc-old", follow_symlinks=False)
        os.rename(path + ".vsrpc-old", path)
    changed: bool = os.readlink(layout.current) != manifest["release"]
    _remove(layout.current + ".old")
    os.symlink(manifest["release"], layout.current + ".old")
    os.rename(layout.current + ".old", layout.current)
    os.sync()
    return changed


def _kept(layout: Layout, path: str) -> str:
    return os.path.join(layout.work, "saved", os.path.basename(path))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
