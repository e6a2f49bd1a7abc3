"""Fields of any width at any place come back."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.teacher.bits import WIDEST, Cursor, Reader, pack


@settings(max_examples=100)
@given(fields=st.lists(st.tuples(st.integers(0, WIDEST), st.integers(0, 2**WIDEST - 1), st.integers(0, 40)),
                       max_size=60))
def test_fields_come_back(fields: list[tuple[int, int, int]]) -> None:
    widths = np.array([width for width, _, _ in fields], dtype=np.int64)
    values = np.array([value & ((1 << width) - 1) for width, value, _ in fields], dtype=np.int64)
    gaps = np.array([gap for _, _, gap in fields], dtype=np.int64)
    positions = np.cumsum(widths + gaps) - widths
    size = int((positions[-1] + widths[-1] + 7) // 8) if fields else 0
    data = pack(positions, widths, values, size)
    assert data.dtype == np.uint8 and len(data) == size
    np.testing.assert_array_equal(Reader(data).read(positions, widths), values)
    assert int(np.unpackbits(data).sum()) == sum(int(value).bit_count() for value in values)


def test_bits_stand_least_significant_first_and_zeros_behind_the_end() -> None:
    data = pack(np.array([0, 3]), np.array([3, 10]), np.array([0b110, 0b1000000001]), 2)
    assert data.tolist() == [0b00001110, 0b00010000]
    assert Reader(data).read(np.array([3, 12, 16, 10**6]), 10).tolist() == [0b1000000001, 1, 0, 0]


def test_a_cursor_goes_on_in_each_string() -> None:
    cursor = Cursor(np.array([100, 0, 7]))
    assert cursor.take(np.array([0, 0, 2, 2]), np.array([3, 4, 5, 0])).tolist() == [100, 103, 7, 12]
    assert cursor.take(np.array([1, 2]), np.array([9, 9])).tolist() == [0, 12]
    assert cursor.at.tolist() == [107, 9, 21]
