"""Copies over a guest that is reset in the middle of them: what its disk did not have yet is sent again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from vm_tools import sh

from host.client import VirtioRPCClient

if TYPE_CHECKING:
    from scripts.vm import VM

SIZE = 64 * 1024 * 1024
PLACE = "/home/vsrpc-copy"  # on the disk: /tmp is emptied by a boot


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_copy_goes_on_after_a_reset(vm: VM, tmp_path: Path, direction: str) -> None:
    content = os.urandom(SIZE)
    here, there = tmp_path / "file", f"{PLACE}/file"
    here.write_bytes(content)
    sh(vm, f"rm -rf {PLACE}; mkdir {PLACE}; sync")
    resets: list[str] = []

    def progress(done: Any) -> None:
        if not resets and done.bytes >= SIZE // 2:
            resets.append(vm.boot_id())
            vm.qmp("system_reset")

    with VirtioRPCClient(str(vm.socket)) as client:
        if direction == "down":
            client.copy(str(here), f"guest:{there}")
            sh(vm, "sync")
            here.unlink()
            client.copy(f"guest:{there}", str(here), progress=progress)
        else:
            client.copy(str(here), f"guest:{there}", progress=progress)
    vm.wait_boot(resets[0])
    vm.wait_daemon()
    assert hashlib.md5(here.read_bytes()).digest() == hashlib.md5(content).digest()
    assert sh(vm, f"md5sum < {there}").split()[0] == hashlib.md5(content).hexdigest()
    assert sh(vm, f"ls -A {PLACE}") == "file\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]
    sh(vm, f"rm -r {PLACE}")
