"""`python3 scripts/dist [ARTEFACT...]`: runs the package from the checkout it lies in, wherever it is called from."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from scripts.dist.cli import main  # noqa: E402  (the path above is what makes it importable)

sys.exit(main())
