"""The converted models do what they are for: predict text, transcribe real speech, tell sentences apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from salad_ds.assets import resolve

pytestmark = pytest.mark.assets
CLIPS = {"vm-tomakecall": "to place an outgoing call", "all-circuits-busy-now": "all circuits are busy now"}


def recording(name: str) -> np.ndarray:
    """A recording of packaged:asterisk: float32, 16 kHz."""
    import av

    path = next(Path(resolve("packaged:asterisk")).rglob(f"{name}.g722"))
    with av.open(str(path), format="g722") as container:
        pieces = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    return np.concatenate(pieces).astype(np.float32) / 32768


def test_smollm2_is_a_language_model(smollm2_dir):
    tokenizer, model = AutoTokenizer.from_pretrained(smollm2_dir), AutoModelForCausalLM.from_pretrained(smollm2_dir)
    assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    assert model.lm_head.weight is model.model.embed_tokens.weight, "tied, as published"
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()).strip() == "Paris"
    text = "In 1984, don't  panic:\n\n3.14 is naïve."
    encoded = tokenizer(text)
    assert tokenizer.decode(encoded.input_ids) == text, "byte-level: nothing is lost"
    assert {"1", "9", "8", "4"} <= set(encoded.tokens()), "digits stand alone"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 2, model.config.vocab_size)


@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base"])
def test_whisper_transcribes_real_speech(name):
    directory = resolve(f"packaged:{name}")
    processor = WhisperProcessor.from_pretrained(directory)
    model = WhisperForConditionalGeneration.from_pretrained(directory)
    assert len(processor.tokenizer) == model.config.vocab_size
    for clip, words in CLIPS.items():
        features = processor(recording(clip), sampling_rate=16_000, return_tensors="pt").input_features
        with torch.no_grad():
            heard = processor.batch_decode(model.generate(features, max_new_tokens=24), skip_special_tokens=True)[0]
        assert words in heard.lower(), heard


def test_minilm_tells_sentences_apart():
    directory = resolve("packaged:minilm")
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory)
    batch = tokenizer(["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The share price fell sharply."],
                      padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model(**batch).last_hidden_state, batch.attention_mask[..., None]
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.5 > 0.3 > similarity[0, 2]


def test_corpora_hold_speech_transcripts_and_glosses():
    sounds, wordnet = Path(resolve("packaged:asterisk")), Path(resolve("packaged:wordnet"))
    assert len(list(sounds.rglob("*.g722"))) > 500 and len(list(sounds.rglob("core-sounds-en.txt.gz"))) == 1
    assert 2 < len(recording("vm-tomakecall")) / 16_000 < 4
    assert any("|" in line for line in (wordnet / "usr/share/wordnet/data.noun").read_text().splitlines()[29:40])


@pytest.mark.parametrize("name", ["smollm2-135m", "whisper-tiny.en", "asterisk"])
def test_every_asset_says_what_it_was_made_from(name):
    record = json.loads((Path(resolve(f"packaged:{name}")) / "asset.json").read_text())
    assert record["name"] == name and record["licence"]
    for file in record["made_from"]["files"]:
        assert file["package"] and file["version"] and len(file["sha256"]) == 64
