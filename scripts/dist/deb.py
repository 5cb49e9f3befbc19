"""The Debian packages vsrpc-guest and vsrpc-host, each whole by itself, built by dpkg-deb from trees that are made here.

The guest's code is private (/usr/lib/vsrpc-guest); the host's is public, for its Python interface, and holds a guest,
too, for the target `local:`. Both work on Debian 12, Ubuntu 22.04 and later, with the packages of these.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import bundle
from .sources import PROJECT, DistError, epoch, guest_files, package_files, version
from .tree import Tree, add

TEMPLATES = Path(__file__).parent / "debian"
CONTROL = ("preinst", "postinst", "prerm", "postrm")
CLI_DOCS = PROJECT / "scripts" / "cli_docs.py"
UNIT_PROGRAM = "/usr/local/bin/vsrpc-guest"  # where install.sh puts it

LAUNCHER = """\
#!/usr/bin/python3{flags}
import sys
{path}
from {module} import main

sys.exit(main())
"""


def build(target: Path) -> list[Path]:
    """Write both packages into a directory; their paths."""
    if shutil.which("dpkg-deb") is None:
        raise DistError("dpkg-deb is missing; build the Debian packages on Debian or Ubuntu, or install dpkg")
    with tempfile.TemporaryDirectory(prefix="vsrpc-deb-") as directory:
        docs = _cli_docs(Path(directory) / "cli")
        return [
            _package(target, Path(directory), "guest", _guest(docs)),
            _package(target, Path(directory), "host", _host(docs)),
        ]


def debian_version() -> str:
    """The version as dpkg sorts it: before a release come its previews."""
    return re.sub(r"\.?(a|b|rc|dev)(?=\d)", r"~\1", version())


def _guest(docs: Path) -> Tree:
    tree: Tree = {}
    for path in guest_files():
        add(tree, f"usr/lib/vsrpc-guest/{path}", PROJECT / path)
    private = 'sys.path.insert(0, "/usr/lib/vsrpc-guest")'
    _launcher(tree, "vsrpc-guest", "guest.__main__", " -I", f"\n{private}")
    for name in ("vsrpc-guest.service", "vsrpc-jobs.service"):
        unit = (PROJECT / "guest/systemd" / name).read_text(encoding="utf-8")
        if UNIT_PROGRAM not in unit:
            raise DistError(f"guest/systemd/{name} does not start {UNIT_PROGRAM}")
        tree[f"usr/lib/systemd/system/{name}"] = (unit.replace(UNIT_PROGRAM, "/usr/bin/vsrpc-guest").encode(), False)
    add(tree, "usr/lib/udev/rules.d/60-vsrpc.rules", PROJECT / "guest/systemd/60-vsrpc.rules")
    add(tree, "etc/vsrpc/guest.yaml", PROJECT / "guest/config.yaml")
    _documentation(tree, "vsrpc-guest", 8, docs)
    return tree


def _host(docs: Path) -> Tree:
    tree: Tree = {}
    for path in package_files("vsrpc", "host", "guest"):
        add(tree, f"usr/lib/python3/dist-packages/{path}", PROJECT / path)
    for path in sorted((PROJECT / "proto").rglob("*.proto")):
        add(tree, f"usr/share/vsrpc/{path.relative_to(PROJECT)}", path)
    archive = bundle.build(docs)  # what bootstrap and update-guest put into guests
    add(tree, f"usr/share/vsrpc/{archive.name}", archive)
    _launcher(tree, "vsrpc-host", "host.__main__")
    _launcher(tree, "protoc-gen-vsrpc", "vsrpc.codegen.__main__")
    add(tree, "etc/vsrpc/host.yaml", PROJECT / "host/config.yaml")
    _documentation(tree, "vsrpc-host", 1, docs)
    return tree


def _launcher(tree: Tree, name: str, module: str, flags: str = "", path: str = "") -> None:
    tree[f"usr/bin/{name}"] = (LAUNCHER.format(flags=flags, path=path, module=module).encode(), True)


def _cli_docs(directory: Path) -> Path:
    """Manual pages and shell completion, made from the parsers of the command lines."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
    if subprocess.run([sys.executable, str(CLI_DOCS), str(directory)], env=environment).returncode:
        raise DistError(f"{CLI_DOCS.relative_to(PROJECT)} failed; its message is above")
    return directory


def _documentation(tree: Tree, package: str, section: int, docs: Path) -> None:
    places = {
        f"completion/bash/{package}": f"usr/share/bash-completion/completions/{package}",
        f"completion/zsh/_{package}": f"usr/share/zsh/vendor-completions/_{package}",
        f"completion/fish/{package}.fish": f"usr/share/fish/vendor_completions.d/{package}.fish",
    }
    for source, path in places.items():
        add(tree, path, docs / source)
    manual = (docs / f"man/{package}.{section}").read_bytes()
    tree[f"usr/share/man/man{section}/{package}.{section}.gz"] = (_packed(manual), False)
    expat = (PROJECT / "LICENSE").read_text(encoding="utf-8").partition("\n\n")[2].partition("\n\n")[2]
    lines = [f" {line}" if line else " ." for line in expat.rstrip().splitlines()]
    copyright_text = (TEMPLATES / "copyright").read_text(encoding="utf-8") + "\n".join(lines) + "\n"
    tree[f"usr/share/doc/{package}/copyright"] = (copyright_text.encode(), False)
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(epoch()))
    changelog = (
        f"{package} ({debian_version()}) unstable; urgency=medium\n\n  * See CHANGELOG.md of the project.\n\n"
        f" -- The vsrpc authors <vsrpc@packages.invalid>  {date}\n"
    )
    tree[f"usr/share/doc/{package}/changelog.gz"] = (_packed(changelog.encode()), False)


def _packed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


def _package(target: Path, directory: Path, side: str, tree: Tree) -> Path:
    root = directory / side
    for path, (content, program) in tree.items():
        _write(root / path, content, program)
    size = sum(1 + len(content) // 1024 for content, _ in tree.values())
    control = (TEMPLATES / f"{side}.control").read_text(encoding="utf-8").format(version=debian_version(), size=size)
    _write(root / "DEBIAN/control", control.encode())
    configuration = [f"/{path}\n" for path in sorted(tree) if path.startswith("etc/")]
    _write(root / "DEBIAN/conffiles", "".join(configuration).encode())
    digests = [(hashlib.md5(tree[path][0]).hexdigest(), path) for path in sorted(tree) if not path.startswith("etc/")]
    _write(root / "DEBIAN/md5sums", "".join(f"{digest}  {path}\n" for digest, path in digests).encode())
    for script in CONTROL:
        source = TEMPLATES / f"{side}.{script}"
        if source.exists():
            _write(root / "DEBIAN" / script, source.read_bytes(), program=True)
    package = target / f"vsrpc-{side}_{debian_version()}_all.deb"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
    # xz: the default of newer ones cannot be read by older ones.
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(package)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise DistError(f"dpkg-deb failed: {done.stderr.strip()}")
    return package


def _write(path: Path, content: bytes, program: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755 if program else 0o644)
