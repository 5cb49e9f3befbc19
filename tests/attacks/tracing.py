"""What the daemon's descendants do in the guest, as the kernel saw it (tracefs): which programs they execute, and which
files these open to write, remove or change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .rows import words

if TYPE_CHECKING:
    from types import TracebackType

    from scripts.vm import VM

# System calls that a program that only looks never makes.
_CHANGES = words(
    "unlink unlinkat rmdir rename renameat renameat2 mkdir mkdirat mknod mknodat symlink symlinkat link linkat chmod "
    "fchmod fchmodat chown fchown lchown fchownat truncate ftruncate setxattr mount umount pivot_root sethostname "
    "setdomainname settimeofday clock_settime adjtimex clock_adjtime reboot init_module finit_module delete_module "
    "kexec_load ptrace bpf swapon swapoff unshare setns chroot"
)

# An instance of its own, so that nothing else of the guest's tracing changes. event-fork: children are traced, too;
# of the daemon every thread is listed. open_flag: O_WRONLY, O_RDWR, O_CREAT or O_TRUNC.
_START = """
set -eu
mountpoint -q /sys/kernel/tracing || mount -t tracefs nodev /sys/kernel/tracing
cd /sys/kernel/tracing
echo 'p:vsrpc/opened do_filp_open name=+0(+0($arg2)):string flags=+0($arg3):x32' >>kprobe_events
mkdir instances/vsrpc
cd instances/vsrpc
echo 0 >tracing_on
echo 8192 >buffer_size_kb
echo 1 >options/event-fork
ls /proc/$(systemctl show --value -p MainPID vsrpc-guest)/task >set_event_pid
echo 'flags & 0x243' >events/vsrpc/opened/filter
for event in vsrpc/opened sched/sched_process_exec {changes}; do echo 1 >events/$event/enable; done
echo 1 >tracing_on
"""
_READ = "cat /sys/kernel/tracing/instances/vsrpc/trace"
_CLEAR = "echo >/sys/kernel/tracing/instances/vsrpc/trace"
_STOP = """
cd /sys/kernel/tracing
rmdir instances/vsrpc
echo '-:vsrpc/opened' >>kprobe_events
cd /
umount /sys/kernel/tracing
"""
# top makes a directory for its configuration in its home, which is not there.
_TRIED_IN_VAIN = (("/usr/bin/top", "sys_mkdir"),)
_COUNTS = re.compile(r"entries-in-buffer/entries-written: (\d+)/(\d+)")
_EVENT = re.compile(r"\s*.{1,16}-(\d+)\s+\[\d+\]\s+\S+\s+[\d.]+: (\w+)(?:: |\()(.*)")


@dataclass(frozen=True)
class Trace:
    """Programs that were executed, and what they did that could change something, each once."""

    executed: frozenset[str]
    changes: frozenset[str]


class Tracer:
    """Traces while its block runs; the daemon must be the same all the time."""

    def __init__(self, vm: VM) -> None:
        self._vm = vm

    def __enter__(self) -> Tracer:
        self._run("cd /sys/kernel/tracing 2>/dev/null && rmdir instances/vsrpc 2>/dev/null; true")
        changes = " ".join(f"syscalls/sys_enter_{name}" for name in _CHANGES)
        self._run(_START.format(changes=changes))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._run(_STOP)

    def take(self) -> Trace:
        """What was seen since the last time."""
        text = self._run(_READ)
        self._run(_CLEAR)
        counts = _COUNTS.search(text)
        assert counts, text[:500]
        assert counts[1] == counts[2], "events were lost: enlarge the buffer"
        programs: dict[str, str] = {}  # by process
        executed = set()
        changes = set()
        for line in text.splitlines():
            event = _EVENT.match(line)
            if not event:
                assert line.startswith("#"), line
                continue
            pid, name, facts = event.groups()
            if name == "sched_process_exec":
                programs[pid] = re.sub(r"filename=(.*) pid=\d+ old_pid=\d+", r"\1", facts)
                executed.add(programs[pid])
            elif pid not in programs or 'name="/dev/null"' in facts:  # the daemon itself, or nothing
                continue
            elif (programs[pid], name) not in _TRIED_IN_VAIN:
                changes.add(f"{programs[pid]}: {name} {facts}")
        return Trace(frozenset(executed), frozenset(changes))

    def _run(self, script: str) -> str:
        return self._vm.ga.check(["/bin/sh", "-c", script], timeout=120).decode(errors="replace")
