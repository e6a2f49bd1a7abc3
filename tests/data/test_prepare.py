"""``prepare`` of a recipe: every corpus by its kind; mistakes stop before anything is written."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from salad_ds.config import CorpusConfig, Recipe
from salad_ds.data.prepare import can_divide, kinds, prepare, preparer, settings_of
from salad_ds.data.shard_set import ShardSet
from salad_ds.errors import RecipeError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "a.txt").write_text("One paragraph.\n\nAnother paragraph.\n\nA third.")
    return str(tmp_path / "a.txt")


def recipe(tmp_path, *corpora):
    return Recipe(name="test", workdir=str(tmp_path / "work"), corpora=[CorpusConfig(**corpus) for corpus in corpora])


def test_every_kind_has_its_function():
    assert {"asterisk", "emilia", "fineweb_edu", "hf_dataset", "lhotse_cuts", "libriheavy", "librispeech", "libritts",
            "manifest", "smollm_corpus", "text", "wordnet"} <= set(kinds())
    for kind in kinds():
        takes = list(inspect.signature(preparer(kind)).parameters)
        assert takes[:2] == ["corpus_dir", "output_dir"], kind
        in_place = kind == "emilia"
        assert {"max_bad_share", *(() if in_place else ("limit", "samples_per_shard"))} <= set(takes), kind


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
    ({"kind": "text", "out": "b", "join_seconds": 20.0}, "has no join_seconds"),
    ({"kind": "text", "out": "b", "settings": {"min_word": 3}}, "did you mean 'min_words'"),
    ({"kind": "text", "out": "b", "settings": {"gap": 3}}, "kind 'text' has min_words, max_words, column"),
    ({"kind": "text", "out": "b", "settings": {"limit": 3}}, "beside kind, not in settings: limit"),
    ({"kind": "text", "out": "b", "settings": {"part": "0/2"}}, "settings.part is no setting"),
    ({"kind": "text", "out": "b", "settings": {"max_words": "many"}}, "'many', not of type int")])
def test_mistakes_stop_before_anything_is_written(tmp_path, source, second, fault):
    with pytest.raises(RecipeError, match=fault):
        prepare(recipe(tmp_path, {"kind": "text", "source": source, "out": "text/a"}, {"source": source, **second}))
    assert not (tmp_path / "work").exists()


def test_what_a_kind_alone_has_stands_in_settings(tmp_path, source):
    wanted = recipe(tmp_path, {"kind": "text", "source": source, "out": "a",
                               "settings": {"min_words": 2, "max_words": 2}})
    assert prepare(wanted)["a"]["left_out"] == {} and prepare(wanted)["a"]["samples"] == 3
    cuts = CorpusConfig(kind="libriheavy", source="x", out="y", settings={"gap_seconds": 2, "subset": "small"})
    assert settings_of(cuts) == {"limit": 0, "join_seconds": 0.0, "workers": 0, "gap_seconds": 2.0, "subset": "small"}


@pytest.mark.assets
def test_ranks_divide_what_can_be_divided(tmp_path, source):
    """Two processes as a launcher starts them, with the same recipe."""
    rows = "".join(json.dumps({"audio": f"{n}.wav", "text": "quite a few words"}) + "\n" for n in range(5))
    (tmp_path / "manifest.jsonl").write_text(rows)
    for number in range(5):
        wave = np.random.default_rng(number).normal(0, 0.1, 16000)
        soundfile.write(tmp_path / f"{number}.wav", wave.clip(-1, 1), 16000)
    path = tmp_path / "recipe.yaml"
    path.write_text(f"""
name: ranks
workdir: {tmp_path / "work"}
model: {{llm: none}}
corpora:
  - {{kind: manifest, source: {tmp_path}, out: speech}}
  - {{kind: text, source: {source}, out: text}}
  - {{kind: wordnet, source: "packaged:wordnet", out: wordnet, limit: 3}}
""")
    ranks = [subprocess.Popen([sys.executable, "-m", "salad_ds", "prepare", str(path)], cwd=ROOT, text=True,
                              stdout=subprocess.PIPE, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"})
             for rank in range(2)]
    told = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert "wordnet: kind 'wordnet' is not divided; part 0 prepares it" in told[1]
    assert "wordnet: 3 samples in 1" in told[0] and any("text: 3 samples in 2" in one for one in told)
    manifest = ShardSet.open(tmp_path / "work/speech").manifest
    assert [row["samples"] for row in manifest["shards"]] == [3, 2] and manifest["parts"] == 2


def test_every_kind_runs_from_another_directory(tmp_path, source):
    """Each file names itself by its own --help, with its own settings."""
    for kind in kinds():
        command = [sys.executable, str(ROOT / f"data_prep/{kind}.py"), "--help"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and "--max-bad-share" in done.stdout, (kind, done.stderr)
        assert ("--part" in done.stdout) == can_divide(CorpusConfig(kind=kind)), kind
    command = [sys.executable, str(ROOT / "data_prep/text.py"), source, "out", "--part", "0/2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "out: part 0 of 2: 1 samples in 1 shards" in done.stdout and (tmp_path / "out").is_dir()


def test_a_file_of_data_prep_runs_by_itself(tmp_path, source):
    def run(limit):
        command = [sys.executable, "data_prep/text.py", source, str(tmp_path / "out"), "--limit", str(limit)]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                              text=True)

    first, second = run(2), run(3)
    assert first.returncode == 0 and "2 samples in 1 shards" in first.stdout
    assert second.returncode == 1 and "limit: 2 there, 3 wanted" in second.stderr
    assert second.stderr.strip().splitlines()[-1].startswith("error: ")
