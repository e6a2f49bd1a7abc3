"""The student: built from a real encoder, saved, loaded, heard."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig
from salad_ds.data.collate import Sequence, collate
from salad_ds.data.interleave import Piece
from salad_ds.errors import CheckpointError, DataError, RecipeError
from salad_ds.model.adapter import CausalAdapter
from salad_ds.model.build import build_student, load_tokenizer
from salad_ds.model.processing import SaladProcessor
from salad_ds.model.salad import load_student


def settings(llm) -> ModelConfig:
    return ModelConfig(
        llm=str(llm),
        encoder=EncoderConfig("whisper", "packaged:whisper-tiny.en"),
        adapter=AdapterConfig(layers=2, width=32, mlp=48, heads=4, kv_heads=2, stack=4),
    )


@pytest.fixture(scope="module")
def student(tiny_llm_dir):
    model, tokenizer = build_student(settings(tiny_llm_dir))
    return model.eval(), tokenizer


def clip(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(int(16000 * seconds)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("llm_width, millions", [(2048, 120.5), (3584, 121.9)])
def test_the_default_adapter_is_the_papers(llm_width, millions):
    """SALAD (arXiv 2510.13632): 12 layers, width 960, MLP 2560, 15 heads, 5 KV heads, about 122 M parameters."""
    with torch.device("meta"):
        adapter = CausalAdapter(512, llm_width, **vars(AdapterConfig()))
    assert sum(p.numel() for p in adapter.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_adapter_is_causal_and_spans_do_not_mix():
    torch.manual_seed(0)
    adapter = CausalAdapter(6, 16, layers=2, width=32, mlp=48, heads=4, kv_heads=2, stack=3).eval()
    features = torch.randn(2, 10, 6)
    with torch.no_grad():
        whole = adapter(features)
        later = features.clone()
        later[0, 6:] += 1.0
        changed = adapter(later)
        alone = adapter(features[1:, :7])
    assert whole.shape == (2, 4, 16) and adapter.positions(10) == 4
    torch.testing.assert_close(changed[0, :2], whole[0, :2])
    assert not torch.allclose(changed[0, 2:], whole[0, 2:])
    torch.testing.assert_close(alone[0, :2], whole[1, :2], rtol=1e-5, atol=1e-6)


def test_speech_begins_as_loud_as_text(student):
    model, _ = student
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        speech = model.speech_embeddings(torch.from_numpy(clip(2.0))[None], torch.tensor([32000]))[0]
    assert speech.square().mean().sqrt().item() == pytest.approx(embeddings.square().mean().sqrt().item(), rel=0.1)


def test_building_leaves_the_llm_and_the_encoder_as_they_were(student, tiny_llm_dir):
    model, _ = student
    base = AutoModelForCausalLM.from_pretrained(tiny_llm_dir).state_dict()
    for name, value in model.llm.state_dict().items():
        assert torch.equal(value, base[name]), name
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert not model.train().encoder.training
    model.eval()


def test_the_adapter_depends_on_its_seed_only(tiny_llm_dir):
    torch.manual_seed(1)
    a, _ = build_student(settings(tiny_llm_dir))
    torch.manual_seed(2)
    b, _ = build_student(settings(tiny_llm_dir))
    assert all(torch.equal(x, y) for x, y in zip(a.adapter.parameters(), b.adapter.parameters(), strict=True))


@pytest.mark.parametrize("llm", ["tiny_llm_dir", "tiny_untied_llm_dir"])
def test_save_and_load_give_the_same_student(llm, request, tmp_path):
    model, tokenizer = build_student(settings(request.getfixturevalue(llm)))
    model.save_pretrained(tmp_path)
    SaladProcessor.of(model, tokenizer).save_pretrained(tmp_path)
    again, _ = load_student(str(tmp_path))
    assert type(again) is type(model) and again.config.to_dict()["adapter"] == model.config.to_dict()["adapter"]
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert tied == model.config.text_config.tie_word_embeddings
    processor = SaladProcessor.from_pretrained(str(tmp_path))
    inputs = processor("Hear <|audio|> and answer:", [(clip(1.0), 16000)])
    torch.testing.assert_close(again.embed_prompt(**inputs)[0], model.eval().embed_prompt(**inputs)[0])


def test_a_packed_row_gives_what_each_sequence_gives_alone(student):
    """Two sequences in one row, a third in another: hidden states as if each were alone."""
    model, tokenizer = student
    start = model.config.start_token_id

    def sequence(n: int, seconds: float, seed: int) -> Sequence:
        wave = clip(seconds, seed)
        positions = model.adapter.positions(model.encoder.num_frames(len(wave)))
        ids = (start, *np.random.default_rng(seed).integers(5, 900, n).tolist())
        middle = n // 2
        pieces = [
            Piece(False, 0, 1, 1),
            Piece(True, 1, middle, positions, 0.0, seconds),
            Piece(False, middle, n + 1, n + 1 - middle),
        ]
        return Sequence(f"s{seed}", tuple(ids), pieces, [wave])

    parts = [sequence(12, 1.3, 1), sequence(9, 0.7, 2), sequence(20, 2.1, 3)]
    with torch.no_grad():

        def run(rows, context=None):
            batch = collate(rows, start, context)
            return model(**batch.model_inputs(), features=model.encoder(batch.audio, batch.audio_lengths)).hidden

        packed = run([[parts[0], parts[1]], [parts[2]]], context=160)
        alone = torch.cat([run([[part]]) for part in parts])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_a_prompt_hears_clips_anywhere_and_batched_like_alone(student):
    model, tokenizer = student
    processor = SaladProcessor.of(model, tokenizer)
    first, second = (clip(0.8, 1), 16000), (clip(1.7, 2), 16000)
    both = processor(["A <|audio|> B <|audio|> C", "<|audio|>"], [first, second, second])
    one = processor("<|audio|>", [second])
    together = model.generate(**both, max_new_tokens=5, do_sample=False, pad_token_id=0)
    alone = model.generate(**one, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert together.shape == (2, 5) and torch.equal(together[1], alone[0])
    with pytest.raises(DataError, match="2 <.audio.> marks and 1 clips"):
        processor("<|audio|><|audio|>", [first])


def test_what_cannot_be_loaded_is_named(tmp_path, tiny_llm_dir):
    with pytest.raises(CheckpointError, match="not a SALAD student"):
        load_student(str(tiny_llm_dir))
    with pytest.raises(CheckpointError, match="nowhere"):
        load_student(str(tmp_path / "nowhere"))
    with pytest.raises(RecipeError, match="no-such-llm"):
        load_tokenizer(ModelConfig(llm=str(tmp_path / "no-such-llm")))
