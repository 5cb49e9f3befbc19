"""What System.Update has systemd run, as root:

begin   start what was prepared, in a unit of its own
run     that unit: do it, or undo what was interrupted
"""

from __future__ import annotations

import sys
from typing import Sequence

from guest.update import state
from guest.update.layout import Layout
from guest.update.service import Service
from guest.update.state import ROLLED_BACK
from guest.update.transaction import Transaction


def main(argv: Sequence[str] | None = None, layout: Layout | None = None, service: Service | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    layout = layout or Layout()
    service = service or Service(layout)
    if words == ["begin"]:
        service.begin_update()
        return 0
    if words != ["run"]:
        print(__doc__, file=sys.stderr)
        return 2
    update = state.load(layout.work)
    if update is None or update.phase in state.ENDED:
        service.end_update()
        return 0
    Transaction(layout, service).go_on(update)
    if update.phase == ROLLED_BACK:
        print(f"{update.version} was rolled back: {update.message}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
