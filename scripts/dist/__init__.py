"""What is given to users: wheel and sdist, the guest bundle, Debian packages. `make dist` builds all into dist/.

Built twice from the same sources, each is the same byte by byte: entries are sorted, owned by root, and no newer than
SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch), by default the time of the last commit.
"""

from __future__ import annotations
