"""The set of what has arrived, against a plain set of positions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from guest.files.ranges import Ranges

SIZE = 40
ranges = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(ranges, max_size=12), ranges)
def test_it_is_a_set(parts: list[tuple[int, int]], probe: tuple[int, int]) -> None:
    tested, model = Ranges(), set()
    for start, end in parts:
        tested.add(start, end)
        model.update(range(start, end))
        assert tested.total == len(model)
    assert tested.contains(*probe) == model.issuperset(range(*probe))
    end = probe[0]
    while end in model:
        end += 1
    assert tested.end_from(probe[0]) == end
    missing = sorted(set(range(SIZE)) - model)
    gap = tested.first_gap(SIZE)
    if not missing:
        assert gap is None
    else:
        assert gap is not None
        assert gap[0] == missing[0]
        assert set(range(*gap)) <= set(missing)
        assert gap[1] == SIZE or gap[1] in model
