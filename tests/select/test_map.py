"""The map: a fair sample of the texts, flattened the same way every time, with neighbours kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.errors import DataError
from salad_ds.select.map import CENTRE, flatten, project, shown_rows
from salad_ds.table import read_table


@settings(max_examples=60)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(20, 300), st.integers(0, 3))
def test_every_cluster_is_shown_by_its_share(sizes, points, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = shown_rows(labels, len(sizes), points, seed)
    assert (np.diff(rows) > 0).all() and len(rows) <= max(points, len(sizes)) + len(sizes)
    shown = np.bincount(labels[rows], minlength=len(sizes))
    assert (shown >= 1).all()
    if len(labels) > points:
        fair = np.array(sizes) * points / len(labels)
        assert (np.abs(shown - fair) < 1 + 1e-9).all()
    assert np.array_equal(rows, shown_rows(labels, len(sizes), points, seed))


def groups(each: int = 40, dim: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Three groups far apart: (vectors, group of each)."""
    random = np.random.default_rng(1)
    own = np.repeat(np.arange(3), each)
    return (random.normal(size=(3, dim))[own] * 3 + random.normal(size=(len(own), dim))).astype(np.float32), own


def test_what_is_near_stays_near():
    vectors, own = groups()
    places = flatten(vectors, 0)
    assert places.shape == (120, 2) and places.min() == 0 and places.max() == 1
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (own[np.argsort(distance, axis=1)[:, :5]] == own[:, None]).mean() > 0.97
    assert np.array_equal(places, flatten(vectors, 0))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_handful_of_texts_has_a_map_too(count):
    places = flatten(groups()[0][:count], 0)
    assert places.shape == (count, 2) and np.isfinite(places).all() and places.min() >= 0 and places.max() <= 1


@pytest.mark.assets
def test_the_map_of_a_selection(unmeasured):
    room = unmeasured.path("stage2/selection")
    table = project(unmeasured).to_pylist()
    texts = read_table(room / "texts.parquet")[0].to_pylist()
    centres, points = [[row for row in table if (row["row"] == CENTRE) is kind] for kind in (True, False)]
    assert [row["row"] for row in points] == [row["row"] for row in texts]
    assert [row["cluster"] for row in points] == [row["cluster"] for row in texts]
    for centre in centres:
        own = [(row["x"], row["y"]) for row in points if row["cluster"] == centre["cluster"]]
        assert (centre["x"], centre["y"]) == pytest.approx(tuple(np.median(own, axis=0)), abs=1e-4)
    before, path = (room / "map.parquet").read_bytes(), room / "map.parquet"
    stamp = path.stat().st_mtime_ns
    project(unmeasured)
    assert path.stat().st_mtime_ns == stamp, "it is not made again"
    path.unlink()
    project(unmeasured)
    assert path.read_bytes() == before


@pytest.mark.assets
def test_embeddings_of_other_texts_are_refused(unmeasured, tmp_path):
    import shutil
    from dataclasses import replace

    other = replace(unmeasured, workdir=str(tmp_path))
    shutil.copytree(unmeasured.path("stage2/selection"), tmp_path / "stage2/selection")
    note = tmp_path / "stage2/selection/embeddings.npy.json"
    note.write_text(note.read_text().replace('"texts": "', '"texts": "x'))
    (tmp_path / "stage2/selection/map.parquet").unlink(missing_ok=True)
    with pytest.raises(DataError, match="not what the clusters were made from"):
        project(other)
