import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from salad_ds.align.run import align, speech_directories
from salad_ds.audio import decode
from salad_ds.config import Recipe, SynthConfig, SynthesizeConfig, load_recipe
from salad_ds.data.parts import Part
from salad_ds.data.shards import Sample, ShardSet, ShardWriter
from salad_ds.errors import DataError, RecipeError
from salad_ds.synth import synthesize as module
from salad_ds.synth.hibari import Hibari
from salad_ds.synth.normalize import speakable
from salad_ds.synth.synthesize import synthesize, synthesize_shards
from salad_ds.table import read_table
from tests.processes import gone

TINY = "packaged:whisper-tiny.en"
TEXTS = ["a small boat drifted across the lake", "北京 大学 学生 生活", "In 1999, 20% of people left.", "...",
         "someone who loves pizza", "word " * 301]


def items(count=18):
    return [(f"t{i:03d}", TEXTS[i % len(TEXTS)], {"domain": "test"}) for i in range(count)]


def sentences(count):
    return [(f"k{i}", f"this is sentence number {i}", {}) for i in range(count)]


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def table(directory):
    return read_table(directory / "items.parquet")[0].to_pylist()


def speak(directory, texts=None, workers=1, asr="", max_cer=None, part=None, **settings):
    return synthesize_shards(texts or items(), directory, SynthConfig(workers=workers, asr=asr, **settings),
                             made_from={"x": 1}, samples_per_shard=4, max_bad_share=0.9, max_cer=max_cer, quiet=True,
                             part=part or Part())


def test_every_item_carries_what_it_was_made_from(tmp_path):
    manifest = speak(tmp_path / "a")
    assert manifest["samples"] == 9 and manifest["kind"] == "speech"
    assert {reason: row["count"] for reason, row in manifest["rejected"].items()} == \
        {"cannot be spoken": 6, "too long": 3}
    shards = ShardSet.open(tmp_path / "a")
    shards.verify()
    meta = shards.read(1).meta
    assert meta["text"] == TEXTS[2] and meta["domain"] == "test" and meta["language"] == "en"
    assert meta["spoken"] == speakable(TEXTS[2]).text != TEXTS[2]
    assert (meta["engine"], meta["engine_version"], meta["voice"]) == ("hibari", Hibari().version, "heart")
    assert meta["seed"] >= 0 and not {"cer", "heard", "asr"} & set(meta)
    for i in range(len(shards)):
        wave, rate = decode(shards.read(i).audio)
        words = shards.words(i)
        assert rate == shards.read(i).meta["sample_rate"] and len(words) == len(shards.read(i).text.split())
        assert words[-1].end <= len(wave) / rate == pytest.approx(shards.entry(i).duration, abs=1e-3)


@pytest.mark.assets
def test_every_item_is_heard_and_what_says_something_else_is_rejected(tmp_path):
    odd = "Zyzzyva qoph xylyl, Przewalski phthisic syzygy."
    texts = [("good", TEXTS[0], {}), ("odd", odd, {}), ("mute", "...", {})]
    speak(tmp_path / "all", texts, asr=TINY)
    shards = ShardSet.open(tmp_path / "all")
    good, odd = (shards.read(i).meta for i in range(2))
    assert good["cer"] == 0 and good["heard"].lower().startswith("a small boat") and good["asr"] == TINY
    assert odd["cer"] > 0.2
    manifest = speak(tmp_path / "sound", texts, asr=TINY, max_cer=0.2)
    assert {reason: row["count"] for reason, row in manifest["rejected"].items()} == \
        {"cannot be spoken": 1, "character error rate": 1}
    rows = table(tmp_path / "sound")
    assert [row["rejected"] for row in rows] == ["", "character error rate", "cannot be spoken"]
    assert rows[1]["heard"] == odd["heard"] and rows[1]["cer"] == odd["cer"] and rows[1]["heard"] in rows[1]["detail"]
    assert rows[1]["seconds"] == odd["duration"] and rows[1]["shard"] is None and rows[2]["heard"] is None
    for settings in ({"asr": TINY, "max_cer": 0.3}, {"asr": "packaged:whisper-base", "max_cer": 0.2}, {"asr": ""}):
        with pytest.raises(DataError, match="something else"):
            speak(tmp_path / "sound", texts, **settings)


def test_the_table_tells_where_each_item_is_and_why_others_are_not(tmp_path):
    texts = [*items(), ("t002", "said twice", {})]
    speak(tmp_path / "a", texts)
    rows = table(tmp_path / "a")
    assert [(row["order"], row["key"]) for row in rows] == [(i, key) for i, (key, _, _) in enumerate(texts)]
    assert [row["text"] for row in rows] == [text.strip() for _, text, _ in texts]
    assert [row["rejected"] for row in rows[:6]] == ["", "cannot be spoken", "", "cannot be spoken", "", "too long"]
    assert rows[-1]["rejected"] == "duplicate key"
    shards = ShardSet.open(tmp_path / "a")
    accepted = [row for row in rows if not row["rejected"]]
    assert [(row["shard"], row["row"]) for row in accepted] == [(f"{i // 4:06d}.tar", i % 4) for i in range(9)]
    for i, row in enumerate(accepted):
        meta = shards.read(shards.samples_in(int(row["shard"][:6]))[row["row"]]).meta
        assert shards.entry(i).key == row["key"] and meta["duration"] == row["seconds"] and row["cer"] is None
        assert all(meta[name] == row[name] for name in ("text", "spoken", "voice", "seed", "engine", "engine_version"))


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
    monkeypatch.setattr(module, "spread", no_pool)
    synthesize_shards([("k", TEXTS[4], {})], tmp_path / "a", SynthConfig(workers=0, asr=""), made_from={}, quiet=True)
    assert len(ShardSet.open(tmp_path / "a")) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [module.default_workers(total) for total in (None, 10, 90, 10_000)] == [4, 1, 2, 4]


def test_the_voice_is_drawn_by_key_and_seed(tmp_path):
    pytest.importorskip("espeakng_loader")
    voices = ["en-us", "en-gb-scotland"]
    texts = [(f"k{i}", TEXTS[4], {}) for i in range(24)]

    def drawn(name, **settings):
        speak(tmp_path / name, texts, engine="espeak", voices=voices, **settings)
        return [row["voice"] for row in table(tmp_path / name)]

    first = drawn("a")
    assert set(first) == set(voices) and 5 <= first.count("en-us") <= 19
    assert drawn("b") == first and drawn("c", seed=1) != first


class Killed(BaseException):
    pass


@pytest.mark.parametrize("seed", range(6))
def test_any_number_of_interruptions_and_damages_leaves_the_same_bytes(tmp_path, seed):
    chance, texts = random.Random(seed), [*items(30), ("t002", "said twice", {})]
    speak(tmp_path / "whole", texts)

    def until(last):
        yield from texts[:last]
        raise Killed

    for _ in range(4):
        with pytest.raises(Killed):
            speak(tmp_path / "killed", until(chance.randrange(len(texts))))
        if chance.random() < 0.6:
            path = chance.choice([path for path in (tmp_path / "killed").iterdir() if path.name.startswith("writing.")
                                  and path.suffix in (".log", ".spool")])
            raw = path.read_bytes()
            at = chance.randrange(len(raw))
            path.write_bytes(raw[:at] if chance.random() < 0.5 else raw[:at] + b"?" + raw[at + 1:])
    speak(tmp_path / "killed", texts)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_killed_run_goes_on_at_the_next_item(tmp_path, monkeypatch):
    script = (
        "import sys, time\n"
        "from salad_ds.config import SynthConfig\n"
        "from salad_ds.synth.synthesize import synthesize_shards\n"
        "def texts():\n"
        "    for i in range(40):\n"
        "        if i == 21: print('here', flush=True); time.sleep(60)\n"
        "        yield f'k{i}', f'this is sentence number {i}', {}\n"
        "synthesize_shards(texts(), sys.argv[1], SynthConfig(workers=1, asr=''), made_from={'x': 1},\n"
        "                  samples_per_shard=4)\n")
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "killed")], stdout=subprocess.PIPE)
    assert process.stdout.readline().strip() == b"here"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    state = json.loads((tmp_path / "killed" / "writing.json").read_text())
    assert [row["samples"] for row in state["shards"]] == [4] * 5
    said, say = [], Hibari.say
    monkeypatch.setattr(Hibari, "say", lambda self, text, *how: said.append(text) or say(self, text, *how))
    speak(tmp_path / "killed", sentences(40))
    assert said == [text for _, text, _ in sentences(40)[21:]], "the 21st lay in no shard, and yet it was finished"
    speak(tmp_path / "whole", sentences(40))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


COUNTED = """
import json, os, sys
from salad_ds import asr
from salad_ds.synth.hibari import Hibari

def counted(what, function, text):
    def call(*given, **named):
        result = function(*given, **named)
        row = json.dumps([what, os.getpid(), text(given, result)]) + "\\n"
        file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, row.encode())
        os.close(file)
        return result
    return call

Hibari.say = counted("say", Hibari.say, lambda given, _: given[1])
asr.hear = counted("hear", asr.hear, lambda _, result: result[0])

if __name__ == "__main__":
    from salad_ds.cli import main
    sys.exit(main(["synthesize", sys.argv[1]]))
"""


def recipe_file(directory, workers, asr):
    with ShardWriter(directory / "text", source="few") as writer:
        for key, text, _ in sentences(24):
            writer.add(Sample(key, {"text": text}))
    (directory / "recipe.yaml").write_text(json.dumps({
        "name": "t", "workdir": str(directory), "model": {"llm": "none"}, "synth": {"workers": workers, "asr": asr},
        "synthesize": {"text": "text", "out": "speech"}}))
    (directory / "counted.py").write_text(COUNTED)
    return directory / "recipe.yaml"


@pytest.mark.assets
@pytest.mark.slow
def test_killing_the_command_costs_what_was_in_flight(tmp_path):
    """kill -9 of ``salad-ds synthesize`` with two workers: real processes, real speech, a real recogniser."""
    (tmp_path / "killed").mkdir()
    recipe, notes = recipe_file(tmp_path / "killed", 2, TINY), tmp_path / "notes"

    def start():
        return subprocess.Popen([sys.executable, str(recipe.parent / "counted.py"), str(recipe)],
                                env={**os.environ, "NOTES": str(notes)}, stderr=subprocess.PIPE, text=True)

    def noted():
        return [json.loads(line) for line in notes.read_text().splitlines()] if notes.is_file() else []

    process, end = start(), time.monotonic() + 120
    while len([row for row in noted() if row[0] == "hear"]) < 10:
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert gone({pid for _, pid, _ in noted()}, 120), "a worker outlives its parent"
    process = start()
    assert process.wait(timeout=180) == 0, process.stderr.read()
    said = [text for what, _, text in noted() if what == "say"]
    assert set(said) == {text for _, text, _ in sentences(24)}
    in_flight = 2 * 2  # two workers, each with one item in hand and one on its way back
    assert len(said) - 24 <= in_flight and len([row for row in noted() if row[0] == "hear"]) - 24 <= in_flight
    (tmp_path / "whole").mkdir()
    synthesize(load_recipe(recipe_file(tmp_path / "whole", 1, TINY)))
    assert files(tmp_path / "killed" / "speech") == files(tmp_path / "whole" / "speech")


DEADLY = """
import os, sys
from salad_ds.config import SynthConfig
from salad_ds.synth.hibari import Hibari
from salad_ds.synth.synthesize import synthesize_shards

say = Hibari.say
Hibari.say = lambda self, text, *how: os._exit(9) if "number 5" in text else say(self, text, *how)

if __name__ == "__main__":
    texts = [(f"k{i}", f"this is sentence number {i}", {}) for i in range(9)]
    synthesize_shards(texts, sys.argv[1], SynthConfig(workers=2, asr=""), made_from={})
"""


def test_an_item_that_kills_its_worker_costs_that_item(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    subprocess.run([sys.executable, str(tmp_path / "deadly.py"), str(tmp_path / "a")], check=True, timeout=120)
    assert [row["rejected"] for row in table(tmp_path / "a")] == [""] * 5 + ["kills its process"] + [""] * 3


def test_parts_share_a_list(tmp_path):
    texts = items(21)
    for name, numbers in (("a", (0, 1, 2)), ("b", (2, 0, 1))):
        for number in numbers:
            assert not (tmp_path / name / "items.parquet").is_file()
            manifest = speak(tmp_path / name, texts, part=Part(number, 3))
        assert manifest["parts"] == 3
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert not list((tmp_path / "a").glob("items.part*")) and not list((tmp_path / "a").glob("writing.*"))
    rows, shards = table(tmp_path / "a"), ShardSet.open(tmp_path / "a")
    assert [row["key"] for row in rows] == [key for key, _, _ in texts]
    names = [shard.name for shard in shards.shards]
    for row in rows:
        if not row["rejected"]:
            sample = shards.read(shards.samples_in(names.index(row["shard"]))[row["row"]])
            assert sample.key == row["key"] and row["shard"].startswith(f"{row['order'] % 3:05d}-")
    speak(tmp_path / "whole", texts)
    whole = [{**row, "shard": None, "row": None} for row in table(tmp_path / "whole")]
    assert [{**row, "shard": None, "row": None} for row in rows] == whole


def test_a_merge_that_was_killed_is_made_up_for(tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    for name in ("a", "b"):
        speak(tmp_path / name, sentences(9), part=Part(1, 2))
        if name == "b":
            monkeypatch.setattr(module, "merge_items", killed)
            with pytest.raises(Killed):
                speak(tmp_path / name, sentences(9), part=Part(0, 2))
            monkeypatch.undo()
            assert (tmp_path / name / "manifest.json").is_file() and not (tmp_path / name / "items.parquet").is_file()
        speak(tmp_path / name, sentences(9), part=Part(0, 2))
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed (Debian: flite)")
def test_speech_of_an_engine_without_word_times_is_aligned(tmp_path):
    recipe = Recipe(name="t", workdir=str(tmp_path), synthesize=SynthesizeConfig(text="text", out="speech"),
                    synth=SynthConfig(engine="command", command="flite -voice slt -o {out}", workers=1, asr=""))
    recipe.align.workers = 1
    with ShardWriter(tmp_path / "text", source="few") as writer:
        for key, text, _ in sentences(3):
            writer.add(Sample(key, {"text": text}))
    assert speech_directories(recipe) == []
    synthesize(recipe)
    assert not list((tmp_path / "speech").glob("*.words.jsonl"))
    assert speech_directories(recipe) == [tmp_path / "speech"]
    align(recipe)
    shards = ShardSet.open(tmp_path / "speech")
    assert [len(shards.words(i)) for i in range(3)] == [5, 5, 5]


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
        synthesize_shards(items(), tmp_path / "b", SynthConfig(workers=1, asr=""), made_from={}, max_bad_share=0.1,
                          quiet=True)
    assert len(table(tmp_path / "b")) == 18, "the table is there to see why"


def test_plain_synthesis_by_recipe(tmp_path, capfd):
    with ShardWriter(tmp_path / "text" / "few", source="few") as writer:
        for i in range(5):
            writer.add(Sample(f"t{i}", {"text": f"this is text {i}", "domain": "numbers"}))
    recipe = Recipe(name="t", workdir=str(tmp_path), synth=SynthConfig(workers=1, asr=""),
                    synthesize=SynthesizeConfig(text="text/few", out="speech/few", limit=3))
    assert synthesize(recipe)["samples"] == 3
    told = capfd.readouterr()
    assert "3 samples in 1 shards" in told.out
    assert "synthesize: 3/3 texts" in told.err and "real-time factor" in told.err and "0 rejected" in told.err
    shards = ShardSet.open(tmp_path / "speech" / "few")
    assert [shards.entry(i).key for i in range(3)] == ["t0", "t1", "t2"]
    assert shards.read(0).meta["text_source"] == "few" and shards.read(0).meta["domain"] == "numbers"
    assert np.isfinite(shards.seconds)
    recipe.synthesize.text = ""
    assert synthesize(recipe) is None
