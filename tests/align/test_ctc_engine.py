"""CTC alignment with a real phoneme model, and with a Hugging Face checkpoint made for the test."""

import json

import numpy as np
import pytest
import torch

from salad_ds.align.ctc_engine import CtcAligner
from salad_ds.align.ctc_models import HfCtc, load_ctc
from salad_ds.align.run import align_directory
from salad_ds.audio import encode_flac, resample
from salad_ds.config import AlignConfig, SynthConfig
from salad_ds.data.shards import Sample, ShardSet, ShardWriter, Word, write_words
from salad_ds.errors import AssetError, DataError
from salad_ds.synth.engine import load_engine

RATE = 16000
TEXTS = ["Photosynthesis turns light into sugar, and most of life depends on it.",
         "She paid $12 for 3 tickets in 1999 and never went - not once."]


@pytest.fixture(scope="module")
def spoken():
    engine = load_engine(SynthConfig(engine="espeak"))
    speech = [engine.say(text, engine.voices[0], number) for number, text in enumerate(TEXTS)]
    return [(text, resample(s.wave, s.rate, RATE), s.words) for text, s in zip(TEXTS, speech, strict=True)]


@pytest.fixture(scope="module")
def hama():
    pytest.importorskip("hama", reason="the phoneme model comes with the package hama")
    return CtcAligner("hama")


def test_word_starts_are_near_the_known_ones(spoken, hama):
    for text, wave, known in spoken:
        words = hama.align_wave(wave, text)
        errors = [abs(w.start - k.start) for w, k in zip(words, known, strict=True) if k.end > k.start]
        assert np.median(errors) < 0.04 and np.percentile(errors, 95) < 0.15
        assert np.mean([word.score for word in words]) > 0.3


def test_a_wrong_transcript_scores_low(spoken, hama):
    words = hama.align_wave(spoken[1][1], TEXTS[0])
    assert np.mean([word.score for word in words]) < 0.2


def test_more_words_than_frames_do_not_align(hama):
    with pytest.raises(DataError, match="do not align"):
        hama.align_wave(np.zeros(RATE // 4, np.float32), TEXTS[0])


def test_a_run_with_ctc_in_parts_redoes_what_another_aligner_wrote(tmp_path, spoken):
    pytest.importorskip("hama", reason="the phoneme model comes with the package hama")
    from salad_ds.data.parts import Part

    with ShardWriter(tmp_path, "spoken", 1) as writer:
        for number, (text, wave, _) in enumerate([*spoken, spoken[0]]):
            meta = {"text": text, "duration": len(wave) / RATE, "sample_rate": RATE, "language": "en"}
            writer.add(Sample(f"s{number}", meta, encode_flac(wave, RATE)))
    shards = ShardSet.open(tmp_path)
    write_words(shards.shards[0], "pocketsphinx", {"s0": [Word(0, 0, 1)] * len(TEXTS[0].split())})
    by_the_voice = {"s2": [Word(0, 0, 1)] * len(TEXTS[0].split())}
    write_words(shards.shards[2], "espeak", by_the_voice)
    config = AlignConfig(engine="ctc", model="hama", workers=1)
    first = align_directory(tmp_path, config, quiet=True, part=Part(0, 2))
    assert (first.shards_done, first.shards_kept) == (1, 1)  # 0 again, 2 kept; 1 belongs to the other part
    second = align_directory(tmp_path, config, quiet=True, part=Part(1, 2))
    assert (second.shards_done, second.shards_kept) == (1, 0)
    shards = ShardSet.open(tmp_path)
    assert [shards.word_times(n).engine for n in range(3)] == ["ctc", "ctc", "espeak"]
    assert shards.words(2) == by_the_voice["s2"] and shards.words(0)[-1].end > 2
    assert align_directory(tmp_path, config, quiet=True).shards_done == 0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A Wav2Vec2ForCTC with random weights and a tokenizer of letters, saved as such checkpoints are."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    directory = tmp_path_factory.mktemp("ctc")
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'", *"äöüß"]
    (directory / "vocab.json").write_text(json.dumps({symbol: n for n, symbol in enumerate(symbols)}))
    Wav2Vec2CTCTokenizer(str(directory / "vocab.json")).save_pretrained(directory)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(directory)
    torch.manual_seed(0)
    config = Wav2Vec2Config(vocab_size=len(symbols), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=16, conv_dim=(16,) * 7, num_conv_pos_embeddings=16,
                            num_conv_pos_embedding_groups=2)
    Wav2Vec2ForCTC(config).save_pretrained(directory)
    return str(directory)


def test_any_hugging_face_ctc_checkpoint_serves(checkpoint, spoken):
    model = load_ctc(checkpoint, torch.device("cpu"))
    assert isinstance(model, HfCtc) and model.rate == RATE and model.blank == 0 and model.boundary == 4
    assert model.tokens("ab'c") == [5, 6, 31, 7] and model.tokens("größe")[2:] == [33, 35, 9]
    text, wave, _ = spoken[0]
    words = CtcAligner(checkpoint).align_wave(wave, text)
    assert len(words) == len(text.split())
    assert all(a.start <= a.end <= b.start + 1e-9 for a, b in zip(words, words[1:], strict=False))


@pytest.mark.parametrize("samples", [0, 1, 399, 799])
def test_a_clip_too_short_for_the_model_costs_itself_alone(checkpoint, samples):
    with pytest.raises(DataError, match="do not align"):
        CtcAligner(checkpoint).align_wave(np.zeros(samples, np.float32), "a")


def test_other_languages_are_aligned_in_their_letters(checkpoint):
    aligner, wave = CtcAligner(checkpoint), np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype(np.float32)
    words = aligner.align_wave(wave, "Die Größe - 1990 - war nötig.", language="de")
    assert len(words) == 7 and words[2].start == words[2].end  # a dash is not said; a year is said, no one knows how
    with pytest.raises(DataError, match="no word can be written"):
        aligner.align_wave(wave, "Это было давно", language="ru")


def test_what_is_no_ctc_model_is_refused_by_name(tiny_llm_dir):
    with pytest.raises(AssetError, match="is not a CTC model"):
        load_ctc(str(tiny_llm_dir), torch.device("cpu"))
