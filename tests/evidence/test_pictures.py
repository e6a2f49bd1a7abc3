"""Pictures of tables: what is held against nothing has none; what is drawn is where the tables say."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.image import imread

from salad_ds.evidence.pictures import changes_picture, relation_picture

NAN = float("nan")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    kept, save = [], matplotlib.figure.Figure.savefig

    def keep(figure, *words, **settings):
        kept.append(figure)
        save(figure, *words, **settings)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return kept


def row(drawn, seed, change, on_new=NAN, error=0.01):
    return {"drawn": drawn, "size": "s", "seed": float(seed), "change": change, "change_se": error,
            "change_on_new": on_new, "change_se_on_new": error}  # fmt: skip


def test_a_panel_for_each_set_a_line_for_each_cell_that_is_held_against_another(tmp_path, figures):
    rows = [row("uniform", 0, NAN), row("active", 0, -0.2, 0.1), row("uniform", 1, NAN), row("active", 1, -0.3)]
    path = changes_picture(rows, ["drawn"], "drawn uniform", tmp_path / "a.png")
    assert path == tmp_path / "a.png" and np.ptp(imread(path)[..., :3]) > 0.5, "something is drawn"
    held, new = figures[0].axes
    assert [held.get_title(), new.get_title()] == ["held-out", "new"]
    assert [text.get_text() for text in held.get_yticklabels()] == ["active"]
    points = [bars.lines[0].get_xydata().tolist() for bars in held.containers]
    assert points == [[[-0.2, -0.1]], [[-0.3, 0.1]]], "a seed beside the other"
    assert [len(bars.lines[0].get_xydata()) for bars in new.containers] == [1, 0]


def test_cells_of_several_axes_are_told_by_all_of_them(tmp_path, figures):
    changes_picture([row("active", 0, 0.1)], ["drawn", "size"], "drawn uniform", tmp_path / "a.png")
    assert [text.get_text() for text in figures[0].axes[0].get_yticklabels()] == ["drawn active, size s"]


def test_what_is_held_against_nothing_has_no_picture(tmp_path):
    assert changes_picture([row("active", 0, NAN)], ["drawn"], "", tmp_path / "a.png") is None
    assert changes_picture([], ["drawn"], "", tmp_path / "a.png") is None
    assert not list(tmp_path.iterdir())


def test_words_against_m_and_f(tmp_path, figures):
    shares = {"heard": 0.2, "heard_se": 0.01, "read": 0.3, "read_se": 0.01}
    rows = [{"experiment": name, "m": m, "f": f, **shares} for name, m, f in (("a", 0.2, 0.0), ("b", 0.5, 1.0))]
    relation_picture(rows, tmp_path / "r.png")
    heard, read = figures[0].axes
    for axis, places in ((heard, [[0.2, 20.0], [0.5, 20.0]]), (read, [[0.0, 30.0], [1.0, 30.0]])):
        assert [bars.lines[0].get_xydata().tolist() for bars in axis.containers] == [[place] for place in places]
    assert heard.get_xscale() == "log" and read.get_xscale() == "linear", "F may be 0"
