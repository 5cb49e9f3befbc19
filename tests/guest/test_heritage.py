"""What a process does not inherit from the daemon that starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A process of its own: it keeps what it is told.
SCRIPT = """
import subprocess, sys, threading
from guest.jobs.heritage import HUGE_PAGES

def own():
    with open("/proc/self/status") as status:
        return next(line.split()[1] for line in status if line.startswith("THP_enabled"))

def start(found):
    for _ in range(10):
        with HUGE_PAGES:
            process = subprocess.Popen(["grep", "THP_enabled", "/proc/self/status"], stdout=subprocess.PIPE)
        found.append(process.communicate()[0].split()[1].decode())

before, found = own(), []
HUGE_PAGES.refuse()
while_refused = own()
threads = [threading.Thread(target=start, args=(found,)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(before, while_refused, own(), len(found), *sorted(set(found)))
"""


def test_commands_have_huge_pages_and_the_daemon_has_none() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    before, while_refused, after, count, *of_commands = done.stdout.split()
    assert (while_refused, after, count) == ("0", "0", "40")
    assert of_commands == [before], "as if the daemon might have them"
