"""The Asterisk prompts: transcripts as they are said, no sentence on both sides of the split; the real corpus."""

import gzip

import pytest

from data_prep.asterisk import clean, is_test, prepare_asterisk
from salad_ds.assets import resolve
from salad_ds.audio import decode
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError


@pytest.mark.parametrize("raw, said", [
    ("That agent is on.  Please enter your number.", "That agent is on. Please enter your number."),
    ("[this is a simple beep tone]", ""), ("(10 seconds of silence)", ""),
    ("...to leave the conference.", "To leave the conference."),
    ("To exit the menu...", "To exit the menu."),
    ("press * to toggle pause, press # to enter a name",
     "Press star to toggle pause, press pound to enter a name."),
    ("letters of your ...", "Letters of your."),
    ("hang up or press the pound key. (simple tone sound plays)", "Hang up or press the pound key."),
    ("I have a caller waiting, who introduces themselves as:",
     "I have a caller waiting, who introduces themselves as."),
    ("Change to which folder?", "Change to which folder?"), ("mute or umute all", "Mute or unmute all."),
])
def test_transcripts_are_cleaned(raw, said):
    assert clean(raw) == said


def test_the_split_goes_by_the_words():
    assert is_test("To leave, the conference.") == is_test("to leave the conference")


@pytest.mark.assets
def test_the_real_corpus(tmp_path):
    source = resolve("packaged:asterisk")
    train = prepare_asterisk(source, tmp_path / "train", split="train", join_seconds=20)
    test = prepare_asterisk(source, tmp_path / "test", split="test")
    assert train["rejected"] == test["rejected"] == {}
    assert 900 < train["seconds"] < 1150 and 60 < test["seconds"] < 240

    def sentences(directory):
        shards = ShardSet.open(directory)
        rows = [shards.read(i).meta for i in range(len(shards))]
        return {part[3] for row in rows for part in row.get("parts", [[0, 0, 0, row["text"]]])}

    assert not sentences(tmp_path / "train") & sentences(tmp_path / "test")
    shards = ShardSet.open(tmp_path / "train")
    assert max(entry.duration for i, entry in enumerate(shards.entries()) if "parts" in shards.read(i).meta) <= 20
    sample = shards.read(0)
    wave, rate = decode(sample.audio)
    assert rate == 16000 and len(wave) / rate == pytest.approx(sample.meta["duration"], abs=1e-4)


def test_a_damaged_recording_costs_one_sample(tmp_path):
    sounds = tmp_path / "in" / "sounds"
    sounds.mkdir(parents=True)
    (sounds / "good.g722").write_bytes(bytes(range(256)) * 70)
    (sounds / "empty.g722").write_bytes(b"")
    (tmp_path / "in" / "core-sounds-en.txt.gz").write_bytes(gzip.compress(
        b"good: this is quite a good prompt\nempty: there is no sound here\n"))
    made = prepare_asterisk(tmp_path / "in", tmp_path / "out")
    assert made["samples"] == 1
    assert made["rejected"]["no sound"]["examples"] == ["empty: 0.00 s for 'There is no sound here.'"]
    with pytest.raises(DataError, match="unpack Debian's"):
        prepare_asterisk(sounds, tmp_path / "x")
    with pytest.raises(DataError, match="split"):
        prepare_asterisk(tmp_path / "in", tmp_path / "x", split="dev")
