import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from salad_ds.audio import decode
from salad_ds.config import Recipe, SynthConfig, SynthesizeConfig
from salad_ds.data.shards import Sample, ShardSet, ShardWriter
from salad_ds.errors import DataError, RecipeError
from salad_ds.synth import synthesize as module
from salad_ds.synth.synthesize import synthesize, synthesize_shards

TEXTS = ["a small boat drifted across the lake", "北京 大学 学生 生活", "In 1999, 20% of people left.", "...",
         "someone who loves pizza", "word " * 301]


def items(count=18):
    return [(f"t{i:03d}", TEXTS[i % len(TEXTS)], {"domain": "test"}) for i in range(count)]


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def speak(directory, texts=None, workers=1, **settings):
    return synthesize_shards(texts or items(), directory, SynthConfig(workers=workers, **settings), made_from={"x": 1},
                             samples_per_shard=4, max_bad_share=0.9, quiet=True)


def test_every_item_carries_what_it_was_made_from(tmp_path):
    manifest = speak(tmp_path / "a")
    assert manifest["samples"] == 9 and manifest["kind"] == "speech"
    assert {reason: row["count"] for reason, row in manifest["rejected"].items()} == \
        {"cannot be spoken": 6, "too long": 3}
    shards = ShardSet.open(tmp_path / "a")
    shards.verify()
    meta = shards.read(1).meta
    assert meta["text"] == TEXTS[2] and meta["domain"] == "test" and meta["language"] == "en"
    assert meta["spoken"] == "In nineteen ninety-nine, twenty percent of people left."
    assert (meta["engine"], meta["engine_version"], meta["voice"]) == ("hibari", "0.2.1", "heart") and meta["seed"] >= 0
    for i in range(len(shards)):
        wave, rate = decode(shards.read(i).audio)
        words = shards.words(i)
        assert rate == shards.read(i).meta["sample_rate"] and len(words) == len(shards.read(i).text.split())
        assert words[-1].end <= len(wave) / rate == pytest.approx(shards.entry(i).duration, abs=1e-3)


def test_workers_do_not_change_a_byte_and_what_is_done_is_not_done_again(tmp_path):
    speak(tmp_path / "one")
    speak(tmp_path / "two", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}
    speak(tmp_path / "one")
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}


def test_as_many_workers_as_cores_that_may_be_used(monkeypatch, tmp_path):
    """On a machine of many cores a process that may use one of them speaks by itself."""
    def no_pool(*_, **__):
        raise AssertionError("one core, and yet a pool")

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    monkeypatch.setattr(module, "ProcessPoolExecutor", no_pool)
    texts = [("k", TEXTS[4], {})]
    synthesize_shards(texts, tmp_path / "a", SynthConfig(workers=0), made_from={}, quiet=True)
    assert len(ShardSet.open(tmp_path / "a")) == 1


def test_the_voice_is_drawn_by_key_and_seed(tmp_path):
    pytest.importorskip("espeakng_loader")
    voices = ["en-us", "en-gb-scotland"]
    texts = [(f"k{i}", TEXTS[4], {}) for i in range(24)]

    def drawn(name, **settings):
        speak(tmp_path / name, texts, engine="espeak", voices=voices, **settings)
        shards = ShardSet.open(tmp_path / name)
        return [shards.read(i).meta["voice"] for i in range(len(shards))]

    first = drawn("a")
    assert set(first) == set(voices) and 5 <= first.count("en-us") <= 19
    assert drawn("b") == first and drawn("c", seed=1) != first


def test_a_killed_run_goes_on_at_the_next_shard(tmp_path):
    script = (
        "import sys, time\n"
        "from salad_ds.config import SynthConfig\n"
        "from salad_ds.synth.synthesize import synthesize_shards\n"
        "def texts():\n"
        "    for i in range(40):\n"
        "        if i == 19: print('here', flush=True); time.sleep(60)\n"
        "        yield f'k{i}', f'this is sentence number {i}', {}\n"
        "synthesize_shards(texts(), sys.argv[1], SynthConfig(workers=1), made_from={'x': 1}, samples_per_shard=8)\n")
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "killed")], stdout=subprocess.PIPE)
    assert process.stdout.readline().strip() == b"here"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    state = json.loads((tmp_path / "killed" / "writing.json").read_text())
    assert [row["samples"] for row in state["shards"]] == [8, 8]
    before = (tmp_path / "killed" / "000001.tar").stat().st_mtime_ns
    texts = [(f"k{i}", f"this is sentence number {i}", {}) for i in range(40)]
    for name in ("killed", "whole"):
        synthesize_shards(texts, tmp_path / name, SynthConfig(workers=1), made_from={"x": 1}, samples_per_shard=8,
                          quiet=True)
    assert (tmp_path / "killed" / "000001.tar").stat().st_mtime_ns == before
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_wrong_settings_and_other_products_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="heart"):
        speak(tmp_path / "a", voices=["emily"])
    with pytest.raises(RecipeError, match="hibari"):
        speak(tmp_path / "a", engine="kokorro")
    assert not (tmp_path / "a").exists()
    speak(tmp_path / "a")
    with pytest.raises(DataError, match="something else"):
        speak(tmp_path / "a", seed=9)
    with pytest.raises(DataError, match="cannot be used"):
        synthesize_shards(items(), tmp_path / "b", SynthConfig(workers=1), made_from={}, max_bad_share=0.1, quiet=True)


def test_plain_synthesis_by_recipe(tmp_path):
    with ShardWriter(tmp_path / "text" / "few", source="few") as writer:
        for i in range(5):
            writer.add(Sample(f"t{i}", {"text": f"this is text {i}", "domain": "numbers"}))
    recipe = Recipe(name="t", workdir=str(tmp_path), synth=SynthConfig(workers=1),
                    synthesize=SynthesizeConfig(text="text/few", out="speech/few", limit=3))
    started = time.monotonic()
    assert synthesize(recipe)["samples"] == 3
    shards = ShardSet.open(tmp_path / "speech" / "few")
    assert [shards.entry(i).key for i in range(3)] == ["t0", "t1", "t2"]
    assert shards.read(0).meta["text_source"] == "few" and shards.read(0).meta["domain"] == "numbers"
    assert np.isfinite(shards.seconds) and time.monotonic() - started < 30
    recipe.synthesize.text = ""
    assert synthesize(recipe) is None
