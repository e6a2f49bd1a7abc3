"""Bytes on disks against what was written: benchmarks' shards of a store, and recordings of real shards."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from salad_ds.config import TeacherConfig, load_recipe
from salad_ds.data.shards import Sample, ShardWriter, make_key
from salad_ds.plan.rows import TOKENS_PER_WORD, WORDS_PER_SECOND, rows_of
from salad_ds.plan.shapes import encoder_of
from salad_ds.plan.storage import bytes_per_token, kept_tokens, recordings
from salad_ds.teacher.precompute import precompute
from salad_ds.text import tokenize

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "salad_ds/recipes"


@pytest.mark.parametrize(("rule", "teacher"), [
    ("topk, k = 128, 12 draws", TeacherConfig(keep="topk", top_k=128, samples=12)),
    ("topk, k = 128, no draws", TeacherConfig(keep="topk", top_k=128, samples=0)),
    ("sampled, 1/50", TeacherConfig(keep="sampled", resolution=50)),
])  # fmt: skip
def test_bytes_per_token_are_those_of_measured_stores(rule, teacher):
    page = (ROOT / "docs/bench/store.md").read_text()
    line = re.search(rf"\| {re.escape(rule)} \| 151,936 embedded \| ([\d.]+) \|.*\*\*([\d.]+)\*\*", page)
    assert line is not None
    assert bytes_per_token(teacher) == pytest.approx(float(line[2]), rel=0.05)
    assert kept_tokens(teacher) == pytest.approx(float(line[1]), rel=0.05)


@pytest.mark.assets
def test_a_written_store_is_about_as_large(tmp_path, tokenizer):
    """SmolLM2 on glosses of WordNet, in one shard: small, and of another vocabulary, so a fifth is allowed."""
    from salad_ds.assets import resolve

    glosses = next(Path(resolve("packaged:wordnet")).rglob("data.noun")).read_text().splitlines()
    lines = [line.split(" | ", 1)[1].strip() for line in glosses[60:4000:140]]
    with ShardWriter(tmp_path / "text", source="WordNet", samples_per_shard=100) as writer:
        for number, text in enumerate(lines):
            writer.add(Sample(make_key(f"{number:03d}"), {"schema": 1, "id": str(number), "text": text}))
    wanted = [f"workdir={tmp_path}", "teacher.keep=sampled", "teacher.resolution=50"]
    recipe = load_recipe(RECIPES / "tiny.yaml", wanted)
    told = precompute(recipe, ["text"])
    assert told.texts == len(lines)
    assert told.bytes_per_token == pytest.approx(bytes_per_token(recipe.teacher), rel=0.2)
    words = sum(len(re.findall(r"\w+", text)) for text in lines)
    tokens = sum(len(tokenize(tokenizer, text, 0, 10_000).ids) - 1 for text in lines)
    assert tokens / words == pytest.approx(TOKENS_PER_WORD, rel=0.25)


def test_recordings_are_counted_where_they_are(tmp_path):
    import io

    import soundfile

    with ShardWriter(tmp_path / "speech/natural", source="noise", samples_per_shard=4) as writer:
        for number in range(6):
            sound = io.BytesIO()
            noise = np.random.default_rng(number).standard_normal(16000 * 2) * 0.1
            soundfile.write(sound, noise, 16000, format="FLAC")
            meta = {"schema": 1, "id": str(number), "text": "a b c", "duration": 2.0}
            writer.add(Sample(make_key(f"{number:03d}"), meta, sound.getvalue(), "flac"))
    recipe = load_recipe(RECIPES / "tiny.yaml", [f"workdir={tmp_path}"])
    found = recordings(recipe, recipe.stages["stage1"])
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.tar"))
    assert found.counted and found.hours == pytest.approx(12 / 3600) and found.bytes_per_second == size / 12
    assert recordings(recipe, recipe.stages["stage1"], 100.0).hours == 100
    published = load_recipe(RECIPES / "salad-3b.yaml", [f"workdir={tmp_path / 'nothing'}"])
    assert recordings(published, published.stages["stage1"]).hours == 141_612


def test_rows_hold_what_the_recipe_says():
    recipe = load_recipe(RECIPES / "salad-3b.yaml")
    rows = rows_of(recipe, recipe.stages["stage1"], encoder_of(recipe).hearing)
    assert rows.spoken + rows.read == pytest.approx(1) and rows.speech_share == pytest.approx(2 / 3)
    # 20 words read, 10 heard: per second of a recording 2.7 words, a third of them for 12.5 frames each second
    frames, tokens = 12.5 / 3, WORDS_PER_SECOND * TOKENS_PER_WORD * 2 / 3
    assert rows.spoken == pytest.approx(2 / 3 * frames / (frames + tokens))
    assert rows.heard == pytest.approx(rows.recorded / 3)
