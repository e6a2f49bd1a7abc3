"""Alignment of real (synthetic) speech with known word times; what a run writes, keeps, drops and survives."""

import numpy as np
import pytest

from salad_ds.align.pocketsphinx_engine import RATE, PocketsphinxAligner, segment
from salad_ds.align.run import align_directory
from salad_ds.align.segments import to_words
from salad_ds.audio import encode_flac, resample
from salad_ds.config import AlignConfig, SynthConfig
from salad_ds.data.shards import Sample, ShardSet, ShardWriter, Word, words_path, write_words
from salad_ds.errors import DataError, RecipeError
from salad_ds.pool import spread
from salad_ds.synth.engine import load_engine

TEXTS = ["Photosynthesis turns light into sugar, and most of life depends on it.",
         "She paid $12 for 3 tickets in 1999 and never went - not once.",
         "A lane is a narrow way or road between the hedges of a zorblaxian farm.",
         "The committee met on Monday to talk about the bakery at the corner."]


@pytest.fixture(scope="module")
def spoken():
    """(text, wave at 16 kHz, the engine's own word times) of hibari, the clearest packaged voice."""
    engine = load_engine(SynthConfig(engine="hibari"))
    out = []
    for number, text in enumerate(TEXTS):
        speech = engine.say(text, engine.voices[0], number)
        out.append((text, resample(speech.wave, speech.rate, RATE), speech.words))
    return out


@pytest.fixture(scope="module")
def aligner():
    return PocketsphinxAligner()


def corpus(directory, spoken, per_shard=2, extra=()):
    with ShardWriter(directory, "spoken", per_shard) as writer:
        for number, (text, wave, _) in enumerate(spoken):
            writer.add(sample(f"s{number}", text, wave))
        for row in extra:
            writer.add(sample(*row))
    return directory


def sample(key, text, wave, language="en"):
    meta = {"text": text, "duration": len(wave) / RATE, "sample_rate": RATE, "language": language}
    return Sample(key, meta, encode_flac(wave, RATE))


def test_word_starts_are_near_the_known_ones(spoken, aligner):
    errors = []
    for text, wave, known in spoken:
        words = aligner.align_wave(wave, text, seed=text)
        assert len(words) == len(text.split()) and words[-1].end <= len(wave) / RATE
        errors += [abs(w.start - k.start) for w, k in zip(words, known, strict=True) if k.end > k.start]
        assert np.mean([word.score for word in words]) > 0.15
    assert np.median(errors) < 0.03 and np.percentile(errors, 90) < 0.1


def test_times_do_not_depend_on_what_came_before(spoken, aligner):
    (text, wave, _), (other, other_wave, _) = spoken[0], spoken[3]
    first = aligner.align_wave(wave, text, seed="a")
    aligner.align_wave(other_wave, other, seed="b")
    assert aligner.align_wave(wave, text, seed="a") == first == PocketsphinxAligner().align_wave(wave, text, seed="a")


def test_a_wrong_transcript_fails_or_scores_low(spoken, aligner):
    for text, wave in ((TEXTS[3], spoken[0][1]), (TEXTS[0], spoken[3][1])):
        try:
            words = aligner.align_wave(wave, text)
        except DataError as error:
            assert "do not align" in error.what
        else:
            assert np.mean([word.score for word in words]) < 0.1


def test_segments_become_words_of_the_text():
    # padded by 0.25 s; "-" is not spoken, the last word follows a pause of a second
    segments = [segment(25, 44, 1.0), segment(45, 64, 0.5**20), segment(165, 184, 1.0)]
    words = to_words([["a", "b"], [], ["c"]], segments, 1.65)
    assert [(round(w.start, 3), round(w.end, 3)) for w in words] == [(0.0, 0.5), (0.5, 0.5), (1.4, 1.65)]
    assert words[0].score == pytest.approx(0.5 ** 0.5) and words[1].score == 1.0


def test_a_run_writes_sidecars_drops_by_name_and_goes_on(tmp_path, spoken):
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype(np.float32)
    extra = [("noise", "These are words that nobody ever said here at all.", noise),
             ("german", "Guten Tag, wie geht es?", noise, "de"), ("long", "Too long.", np.zeros(9 * RATE, np.float32)),
             ("dots", "...", noise)]
    corpus(tmp_path, spoken, 2, extra)
    config = AlignConfig(workers=2, max_seconds=8.0, min_score=0.05)
    report = align_directory(tmp_path, config, quiet=True)
    shards = ShardSet.open(tmp_path)
    assert report.aligned == 4 and report.shards_done == 4 and shards.unaligned() == []
    dropped = {key for keys in report.dropped.keys.values() for key in keys}
    assert dropped == {"noise", "german", "long", "dots"}
    assert set(report.dropped.keys) > {"longer than max_seconds", "nothing is spoken",
                                       "language de has no acoustic model"}
    assert [shards.words(i) is not None for i in range(8)] == [True] * 4 + [False] * 4
    assert shards.word_times(3).dropped == {"longer than max_seconds": ["long"], "nothing is spoken": ["dots"]}

    # a killed run: one sidecar is missing, the others are kept as they are
    kept = {path: path.stat().st_mtime_ns for path in map(words_path, shards.shards)}
    content = words_path(shards.shards[1]).read_bytes()
    words_path(shards.shards[1]).unlink()
    report = align_directory(tmp_path, config, quiet=True)
    assert (report.shards_done, report.shards_kept, report.aligned) == (1, 3, 4)
    assert words_path(shards.shards[1]).read_bytes() == content
    del kept[words_path(shards.shards[1])]
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())


def test_too_many_dropped_utterances_stop_the_run_once_all_is_written(tmp_path, spoken):
    extra = [(f"dots{n}", "...", spoken[0][1][:RATE]) for n in range(5)]
    corpus(tmp_path, spoken[:1], 64, extra)
    with pytest.raises(DataError, match="5 of 6 utterances have no word times.*nothing is spoken"):
        align_directory(tmp_path, AlignConfig(workers=1), max_bad_share=0.05, quiet=True)
    assert len(ShardSet.open(tmp_path).words(0)) == len(TEXTS[0].split())


def test_word_times_of_another_engine_are_left_alone(tmp_path, spoken):
    corpus(tmp_path, spoken[:1])
    shard = ShardSet.open(tmp_path).shards[0]
    write_words(shard, "tts", {"s0": [Word(0, 1, 1.0)] * len(TEXTS[0].split())})
    before = words_path(shard).read_bytes()
    assert align_directory(tmp_path, AlignConfig(), quiet=True).shards_kept == 1
    assert words_path(shard).read_bytes() == before


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="align.engine"):
        align_directory(tmp_path, AlignConfig(engine="mfa"))
    with ShardWriter(tmp_path, "texts") as writer:
        writer.add(Sample("a", {"text": "a"}))
    with pytest.raises(DataError, match="holds texts"):
        align_directory(tmp_path, AlignConfig())


def test_an_item_that_kills_its_process_costs_only_itself():
    tasks = {f"{number} ** 2": number ** 2 for number in range(12)} | {"__import__('os')._exit(3)": None, "1 + 1": 2}
    assert dict(spread(eval, tasks, 2)) == tasks


def test_an_error_of_the_work_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        dict(spread(eval, ["1 / 1", "1 / 0"], 1))
