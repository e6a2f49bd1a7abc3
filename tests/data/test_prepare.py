"""``prepare`` of a recipe: every corpus by its kind; mistakes stop before anything is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from salad_ds.config import CorpusConfig, Recipe
from salad_ds.data.prepare import kinds, prepare
from salad_ds.errors import RecipeError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "a.txt").write_text("One paragraph.\n\nAnother paragraph.\n\nA third.")
    return str(tmp_path / "a.txt")


def recipe(tmp_path, *corpora):
    return Recipe(name="test", workdir=str(tmp_path / "work"), corpora=[CorpusConfig(**corpus) for corpus in corpora])


def test_every_kind_has_its_function():
    assert kinds() == ["asterisk", "manifest", "text", "wordnet"]


def test_corpora_are_prepared_once(tmp_path, source, capsys):
    wanted = recipe(tmp_path, {"kind": "text", "source": source, "out": "text/a"},
                    {"kind": "text", "source": source, "out": "text/b", "limit": 2})
    manifests = prepare(wanted)
    assert [manifests[out]["samples"] for out in ("text/a", "text/b")] == [3, 2]
    assert "text/a: 3 samples in 1 shards" in capsys.readouterr().out
    at = (tmp_path / "work/text/a/000000.tar").stat().st_mtime_ns
    assert prepare(wanted) == manifests
    assert (tmp_path / "work/text/a/000000.tar").stat().st_mtime_ns == at


@pytest.mark.parametrize("second, fault", [
    ({"kind": "wordnett", "out": "b"}, "did you mean 'wordnet'"), ({"kind": "text", "out": "text/a"}, "two corpora"),
    ({"kind": "text", "out": "b", "join_seconds": 20.0}, "has no join_seconds")])
def test_mistakes_stop_before_anything_is_written(tmp_path, source, second, fault):
    with pytest.raises(RecipeError, match=fault):
        prepare(recipe(tmp_path, {"kind": "text", "source": source, "out": "text/a"}, {"source": source, **second}))
    assert not (tmp_path / "work").exists()


def test_a_file_of_data_prep_runs_by_itself(tmp_path, source):
    def run(limit):
        command = [sys.executable, "data_prep/text.py", source, str(tmp_path / "out"), "--limit", str(limit)]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                              text=True)

    first, second = run(2), run(3)
    assert first.returncode == 0 and "2 samples in 1 shards" in first.stdout
    assert second.returncode == 1 and "limit: 2 there, 3 wanted" in second.stderr
    assert second.stderr.strip().splitlines()[-1].startswith("error: ")
