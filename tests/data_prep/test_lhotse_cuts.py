"""Cuts as lhotse writes them: every supervision from its place in the recording, with the word times of the corpus."""

import copy
import gzip
import json
import shutil

import numpy as np
import pytest
import soundfile

import data_prep.lhotse_cuts as module
from data_prep.lhotse_cuts import prepare_lhotse_cuts
from salad_ds.align.run import align_directory
from salad_ds.audio import decode
from salad_ds.config import AlignConfig
from salad_ds.data.shards import ShardSet, Word
from salad_ds.errors import DataError
from tests.data_prep.conftest import RATE, contents, files

pytestmark = pytest.mark.assets
GAP = 0.5


def aligned(text, start, seconds):
    """Even word times, with a pause in front as forced aligners write it: ``["", start, duration, null]``."""
    words, step = text.split(), (seconds - 0.1) / len(text.split())
    return [["", start, 0.1, None]] + [[word.upper(), round(start + 0.1 + i * step, 4), round(0.9 * step, 4), None]
                                       for i, word in enumerate(words)]


@pytest.fixture
def cuts(tmp_path, spoken):
    """``whole``: a recording with all sentences on its second channel, one cut with five supervisions. ``single``: the
    sentences as files of their own, cut as ``trim_to_supervisions`` leaves them. ``Corpus.write()`` writes both."""
    root = tmp_path / "corpus"
    (root / "audio").mkdir(parents=True)
    silence = np.zeros(round(GAP * RATE), np.int16)
    long = np.concatenate([piece for wave, _ in spoken for piece in (silence, wave)])
    noise = np.random.default_rng(0).integers(-90, 90, len(long)).astype(np.int16)
    soundfile.write(root / "audio/long.flac", np.stack([noise, long], 1), RATE, subtype="PCM_16")
    said, at, rows = [], 0.0, []
    for number, (wave, text) in enumerate(spoken):
        at, seconds = at + GAP, len(wave) / RATE
        said.append({"id": f"long-{number}", "recording_id": "long", "start": round(at, 6), "duration": seconds,
                     "channel": 1, "text": text.upper(), "language": "English", "speaker": "austen",
                     "alignment": {"word": aligned(text, at, seconds)}})
        name = f"s{number}"
        soundfile.write(root / f"audio/{name}.flac", wave, RATE, subtype="PCM_16")
        rows.append({"id": name, "start": 0.0, "duration": seconds, "channel": 0, "supervisions": [
            {"id": name, "recording_id": name, "start": 0.0, "duration": seconds, "channel": 0, "text": text,
             "language": "English", "speaker": "austen"}],
            "recording": {"id": name, "sources": [{"type": "file", "channels": [0], "source": f"audio/{name}.flac"}],
                          "sampling_rate": RATE, "num_samples": len(wave), "duration": seconds, "channel_ids": [0]},
            "type": "MonoCut"})
        at += seconds
    whole = {"id": "long-cut", "start": 0, "duration": len(long) / RATE, "channel": 1, "supervisions": said,
             "recording": {"id": "long", "sources": [{"type": "file", "channels": [0, 1],
                                                      "source": "audio/long.flac"}],
                           "sampling_rate": RATE, "num_samples": len(long), "duration": len(long) / RATE,
                           "channel_ids": [0, 1]}, "type": "MonoCut"}

    class Corpus:
        def __init__(self):
            self.root, self.rows = root, [whole, *rows]

        def write(self, extra=b""):
            text = "".join(json.dumps(row) + "\n" for row in self.rows).encode()
            (root / "cuts.jsonl.gz").write_bytes(gzip.compress(text + extra, mtime=0))
            return root

    return Corpus()


def test_supervisions_become_utterances_with_their_word_times(cuts, tmp_path, spoken):
    made = prepare_lhotse_cuts(cuts.write(), tmp_path / "out", samples_per_shard=5)
    assert made["samples"] == 10 and not made["rejected"] and not made["left_out"]
    shards, got = ShardSet.open(tmp_path / "out"), contents(tmp_path / "out")
    for number, (wave, text) in enumerate(spoken):
        part, single = got[f"long-{number}"], got[f"s{number}"]
        np.testing.assert_array_equal(np.rint(decode(part.audio)[0] * 32768), wave)
        assert part.text == text.upper() and (part.meta["speaker"], part.meta["language"]) == ("austen", "en")
        assert single.audio == (cuts.root / f"audio/s{number}.flac").read_bytes()
        words, times = shards.words(number), aligned(text, 0, len(wave) / RATE)[1:]
        assert words == [Word(pytest.approx(begin, abs=2e-4), pytest.approx(begin + length, abs=2e-4), 1.0)
                         for _, begin, length, _ in times]
    times = shards.word_times(0)
    assert times.engine == "corpus" and len(times.words) == 5
    # The shard without any times is aligned; the corpus's own times stay.
    assert [ref.name for ref in shards.unaligned()] == ["000001.tar"]
    before = files(tmp_path / "out")["000000.words.jsonl"]
    report = align_directory(tmp_path / "out", AlignConfig(workers=1, min_score=0.01), quiet=True)
    assert (report.shards_done, report.shards_kept) == (1, 1) and report.aligned == 10
    assert files(tmp_path / "out")["000000.words.jsonl"] == before


def test_a_trimmed_cut_counts_its_words_from_the_recording(cuts, tmp_path, spoken):
    """lhotse shifts a supervision into its cut, but not the alignment in it."""
    whole = cuts.rows[0]
    cuts.rows = []
    for said in whole["supervisions"]:
        cut = copy.deepcopy(whole) | {"id": said["id"], "start": said["start"], "duration": said["duration"]}
        cut["supervisions"] = [copy.deepcopy(said) | {"start": 0.0}]
        cuts.rows.append(cut)
    prepare_lhotse_cuts(cuts.write(), tmp_path / "out", casing="lower")
    shards = ShardSet.open(tmp_path / "out")
    assert [shards.read(i).text for i in range(5)] == [text for _, text in spoken]
    assert all(shards.words(i)[0].start == pytest.approx(0.1, abs=2e-4) for i in range(5))


def test_joined_neighbours_keep_their_times(cuts, tmp_path):
    cuts.rows = cuts.rows[:1]
    prepare_lhotse_cuts(cuts.write(), tmp_path / "out", join_seconds=60)
    shards = ShardSet.open(tmp_path / "out")
    sample, words = shards.read(0), shards.words(0)
    assert len(shards) == 1 and len(words) == len(sample.text.split())
    at = 0
    for _, start, end, text in sample.meta["parts"]:
        own = words[at:at + len(text.split())]
        assert own[0].start == pytest.approx(start + 0.1, abs=1e-3) and own[-1].end <= end + 1e-3
        at += len(own)


def test_times_that_do_not_fit_are_dropped_and_the_utterance_is_kept(cuts, tmp_path):
    cuts.rows = cuts.rows[:1]
    said = cuts.rows[0]["supervisions"]
    said[0]["alignment"]["word"].pop()
    said[1]["alignment"]["word"][2][1] += 100
    said[2]["alignment"]["word"][1] = ["A", "?"]
    made = prepare_lhotse_cuts(cuts.write(), tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out")
    assert [shards.words(i) is None for i in range(5)] == [True, True, True, False, False] and not made["rejected"]
    assert {reason: row["count"] for reason, row in made["left_out"].items()} == {
        "word times left out: not one per word": 1,
        "word times left out: not in order, or outside of the sound": 1,
        "word times left out: not [symbol, start, duration, score]": 1}


def test_every_bad_cut_is_named_and_none_is_fatal(cuts, tmp_path):
    single = cuts.rows[1]

    def also(source=None, recording=None, said=None, **changes):
        row = copy.deepcopy(single) | {"id": f"x{len(cuts.rows)}"}
        row["recording"]["sources"][0] |= source or {}
        row["recording"] |= recording or {}
        row["supervisions"][0] |= said or {}
        cuts.rows.append(row | changes)

    also(type="MixedCut")
    also(channel=3)
    also(supervisions=[])
    also(start=None)
    also(recording={"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]})
    also(source={"source": "audio/none.flac"})
    also(source={"source": "../corpus/audio/s0.flac"})
    also(source={"source": "/etc/hostname"})
    also(source={"type": "command", "source": "touch /tmp/x"})
    also(said={"start": -1.0})
    also(said={"text": ""})
    also()
    cuts.rows[-1]["recording"] = None
    made = prepare_lhotse_cuts(cuts.write(b"{broken\n[]\n"), tmp_path / "out", max_bad_share=1.0)
    assert made["samples"] == 10 and made["left_out"]["no supervision"]["count"] == 1
    assert {reason: row["count"] for reason, row in made["rejected"].items()} == {
        "not a MonoCut": 1, "cut without a recording": 1, "recording lacks the cut's channel": 1,
        "recording is transformed": 1, "no such file": 1, "path leads out of the corpus": 2,
        "source is a command, not a file or URL": 1, "supervision reaches out of its cut": 1, "empty transcript": 1,
        "not a cut": 2, "line does not parse": 1}


def test_recordings_elsewhere_and_parts(cuts, tmp_path):
    root = cuts.write()
    shutil.move(root / "audio", tmp_path / "audio")
    for row in cuts.rows:
        source = row["recording"]["sources"][0]
        source["source"] = str(tmp_path / source["source"])
    cuts.write()
    with pytest.raises(DataError, match="path leads out"):
        prepare_lhotse_cuts(root, tmp_path / "x")
    prepare_lhotse_cuts(root, tmp_path / "1", audio=str(tmp_path))
    for number in (1, 0):
        prepare_lhotse_cuts(root, tmp_path / "2", audio=str(tmp_path), part=f"{number}/2")
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    prepare_lhotse_cuts(root, tmp_path / "w", audio=str(tmp_path), workers=2)
    assert files(tmp_path / "1") == files(tmp_path / "w")


def test_a_recording_behind_a_url(cuts, tmp_path, spoken):
    import fsspec

    with fsspec.open("memory://cuts-test/s0.flac", "wb") as file:
        file.write((cuts.root / "audio/s0.flac").read_bytes())
    cuts.rows = cuts.rows[1:2]
    cuts.rows[0]["recording"]["sources"][0] |= {"type": "url", "source": "memory://cuts-test/s0.flac"}
    prepare_lhotse_cuts(cuts.write(), tmp_path / "out", workers=1)
    wave, _ = decode(contents(tmp_path / "out")["s0"].audio)
    np.testing.assert_array_equal(np.rint(wave * 32768), spoken[0][0])


def test_the_record_of_the_docstring_is_read(tmp_path):
    text = module.__doc__[module.__doc__.index('{"id"'):module.__doc__.index("Each supervision")]
    (tmp_path / "cuts.jsonl").write_text(" ".join(text.split()) + "\n")
    (tmp_path / "audio").mkdir()
    wave = np.random.default_rng(0).normal(0, 0.1, 10 * RATE).clip(-1, 1)
    soundfile.write(tmp_path / "audio/rec.flac", wave, RATE, subtype="PCM_16")
    prepare_lhotse_cuts(tmp_path, tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out")
    assert shards.read(0).text == "HELLO THERE" and shards.words(0) == [Word(0.1, 0.5, 1.0), Word(0.6, 1.1, 0.9)]
    np.testing.assert_allclose(decode(shards.read(0).audio)[0], wave[RATE:3 * RATE], atol=1e-4)


def test_what_lhotse_itself_writes(tmp_path, spoken):
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed")
    from lhotse.supervision import AlignmentItem, SupervisionSegment

    path = tmp_path / "rec.flac"
    soundfile.write(path, spoken[0][0], RATE, subtype="PCM_16")
    seconds = len(spoken[0][0]) / RATE
    items = [AlignmentItem(*item) for item in aligned(spoken[0][1], 1.0, seconds - 2)]
    said = SupervisionSegment("s", "rec", 1.0, seconds - 2, text=spoken[0][1], speaker="a", language="English",
                              alignment={"word": items})
    cuts = lhotse.CutSet.from_manifests(
        recordings=lhotse.RecordingSet.from_recordings([lhotse.Recording.from_file(path)]),
        supervisions=lhotse.SupervisionSet.from_segments([said]))
    cuts.to_file(tmp_path / "cuts_whole.jsonl.gz")
    trimmed = cuts.trim_to_supervisions()
    trimmed.to_file(tmp_path / "cuts_trimmed.jsonl.gz")
    for name in ("whole", "trimmed"):
        prepare_lhotse_cuts(tmp_path / f"cuts_{name}.jsonl.gz", tmp_path / name)
        shards = ShardSet.open(tmp_path / name)
        want = next(iter(trimmed)).load_audio()[0]
        np.testing.assert_allclose(decode(shards.read(0).audio)[0], want, atol=1e-4)
        assert shards.words(0)[0].start == pytest.approx(0.1, abs=2e-4)
