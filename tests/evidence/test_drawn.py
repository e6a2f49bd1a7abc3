"""How a draw is spread, in numbers whose values are known."""

from __future__ import annotations

import pyarrow as pa
import pytest

from salad_ds.evidence.drawn import spread
from salad_ds.table import write_table


@pytest.mark.parametrize("drawn, effective, largest", [
    ([5, 5, 5, 5], 4.0, 0.25), ([20, 0, 0, 0], 1.0, 1.0), ([10, 10, 0, 0], 2.0, 0.5), ([2, 1, 1], 2.828, 0.5),
])
def test_equal_clusters_count_as_many_as_they_are(tmp_path, drawn, effective, largest):
    write_table(tmp_path / "clusters.parquet", {"drawn": (pa.int64(), drawn)}, {})
    told = spread(tmp_path / "clusters.parquet")
    assert told == pytest.approx({"clusters": len(drawn), "effective": effective, "largest": largest}, rel=1e-3)


def test_a_run_without_a_selection_says_nothing(tmp_path):
    assert spread(tmp_path / "clusters.parquet") == {}
