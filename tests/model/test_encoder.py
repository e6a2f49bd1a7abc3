"""Every speech encoder: exact frame counts, clips that do not see each other, frozen, rebuilt from a description."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    HubertConfig,
    MimiConfig,
    MimiModel,
    PretrainedConfig,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from salad_ds.assets import resolve
from salad_ds.config import EncoderConfig
from salad_ds.data.collate import MicroBatch, Sequence, collate
from salad_ds.data.interleave import Piece
from salad_ds.errors import AssetError, CheckpointError, DataError, RecipeError
from salad_ds.model.encoder import build_encoder, encoder_from_dict
from salad_ds.model.encoder_base import SpeechEncoder, fit
from salad_ds.model.encoder_hf import HFSpeechEncoder
from salad_ds.model.encoder_mimi import MimiSpeechEncoder
from salad_ds.model.encoder_whisper import WhisperSpeechEncoder, log_mel

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
MIMI = {**SMALL, "num_key_value_heads": 2, "num_filters": 4, "codebook_size": 16, "codebook_dim": 8,
        "num_quantizers": 2, "vector_quantization_hidden_dimension": 8, "upsample_groups": 16, "head_dim": 8}
CONV = {"conv_dim": (8, 8, 8), "conv_kernel": (10, 3, 2), "conv_stride": (5, 2, 2), "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}


def whisper() -> WhisperSpeechEncoder:
    return WhisperSpeechEncoder(WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=32, num_mel_bins=20, max_source_positions=100, vocab_size=64,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1), "small")


MAKERS = {
    "whisper": whisper,
    "mimi": lambda: MimiSpeechEncoder(MimiConfig(**MIMI), "small"),
    "wav2vec2-group": lambda: HFSpeechEncoder(Wav2Vec2Config(**SMALL, **CONV), normalize=True),
    "wav2vec2-layer": lambda: HFSpeechEncoder(Wav2Vec2Config(
        **SMALL, **CONV, feat_extract_norm="layer", do_stable_layer_norm=True), normalize=True),
    "hubert": lambda: HFSpeechEncoder(HubertConfig(**SMALL, **CONV), normalize=False),
    "wavlm": lambda: HFSpeechEncoder(WavLMConfig(**SMALL, **CONV, num_buckets=8), normalize=False),
}


@pytest.fixture(params=list(MAKERS))
def encoder(request) -> SpeechEncoder:
    torch.manual_seed(0)
    made = MAKERS[request.param]()
    # Random weights of a transformer are nearly zero: enlarged, so that mistakes show.
    for value in made.parameters():
        if value.dim() > 1:
            value.data.mul_(3.0)
    return made


def clips(lengths: list[int], seed: int = 0) -> torch.Tensor:
    wave = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed)) * 0.1
    return wave + 0.05  # an offset: normalisation has something to do


def g722(path: Path) -> torch.Tensor:
    """A recording of packaged:asterisk, 16 kHz."""
    with av.open(str(path), format="g722") as container:
        pieces = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    return torch.from_numpy(np.concatenate(pieces).astype(np.float32) / 32768)


def test_is_frozen_and_stays_in_eval_mode(encoder):
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(value.requires_grad for value in encoder.parameters())
    assert not encoder(clips([4000]), [4000]).requires_grad


def test_frames_are_counted_exactly(encoder):
    lengths = [4000, 3999, 1921, 1920, 640, 321, 320, 57, 1]
    features = encoder(clips(lengths), torch.tensor(lengths))
    counts = [encoder.num_frames(n) for n in lengths]
    assert features.shape == (len(lengths), max(counts), encoder.hidden_size)
    assert features.dtype == torch.float32 and features.isfinite().all()
    for row, count in zip(features, counts, strict=True):
        assert (row[count:] == 0).all() and (count == 0 or row[count - 1].abs().sum() > 0)
    assert encoder.num_frames(0) == 0
    assert abs(encoder.num_frames(30_000) / 30_000 * encoder.sample_rate - encoder.frame_rate) < 1


def test_a_clip_does_not_see_its_neighbours(encoder):
    """In float64, so that what is left is a dependence and not rounding."""
    encoder.double()
    lengths = [9000, 5003, 2400, 700, 0]
    audio = clips(lengths)
    together = encoder(audio, lengths)
    audio[1, 5003:] = 7.0  # beyond the clip's end: to be ignored
    assert torch.equal(encoder(audio, lengths), together)
    for i, n in enumerate(lengths[:4]):
        alone = encoder(clips(lengths)[i:i + 1, :n], [n])[0]
        assert torch.allclose(together[i, :len(alone)], alone, rtol=1e-5, atol=1e-6), (i, n)


def test_waveforms_matter(encoder):
    assert not torch.allclose(encoder(clips([4000]), [4000]), encoder(clips([4000], seed=1), [4000]), atol=1e-3)


def test_is_built_again_from_its_description(encoder):
    description = json.loads(json.dumps(encoder.to_dict()))
    again = encoder_from_dict(description)
    again.load_state_dict(encoder.state_dict())
    audio = clips([4000, 2000])
    assert torch.equal(again(audio, [4000, 2000]), encoder(audio, [4000, 2000]))
    assert again.to_dict() == encoder.to_dict()
    for name in ("sample_rate", "frame_rate", "hidden_size", "causal", "max_samples"):
        assert getattr(again, name) == getattr(encoder, name)


def test_survives_being_built_on_the_meta_device(encoder, tmp_path):
    """``from_pretrained`` of a student builds everything on meta and fills in what was saved."""
    class Config(PretrainedConfig):
        model_type = "holder"
        encoder: dict | None = None

    class Holder(PreTrainedModel):
        config_class = Config

        def __init__(self, config):
            super().__init__(config)
            self.encoder = encoder_from_dict(config.encoder)
            self.post_init()

    holder = Holder(Config(encoder=encoder.to_dict()))
    holder.encoder.load_state_dict(encoder.state_dict())
    holder.save_pretrained(tmp_path)
    loaded = Holder.from_pretrained(tmp_path)
    audio = clips([4000, 1000])
    loaded, own = loaded.encoder(audio, [4000, 1000]), encoder(audio, [4000, 1000])
    assert torch.allclose(loaded, own, rtol=1e-5, atol=1e-6), (loaded - own).abs().max()


def test_runs_in_bfloat16_when_cast(encoder):
    encoder.to(torch.bfloat16)
    features = encoder(clips([4000, 2000]), [4000, 2000])
    assert features.dtype == torch.bfloat16 and features.isfinite().all()


def test_lengths_that_do_not_fit_are_refused(encoder):
    for lengths in ([5000], [-1], [100, 100]):
        with pytest.raises(DataError, match="cannot hold"):
            encoder(torch.zeros(1, 4000), lengths)


@settings(max_examples=40)
@given(st.integers(0, 200_000))
def test_hf_frame_arithmetic_is_the_models_own(n):
    made = HF
    own = int(made.model._get_feat_extract_output_lengths(torch.tensor(n)))
    assert made.num_frames(n) == max(0, own)


HF = MAKERS["hubert"]()


# Mimi

def test_mimi_hears_no_future():
    torch.manual_seed(0)
    encoder = MAKERS["mimi"]().double()
    assert encoder.causal and (encoder.sample_rate, encoder.frame_rate) == (24_000, 12.5)
    audio = clips([9 * 1920])
    before = encoder(audio, [9 * 1920])
    changed = audio.clone()
    changed[:, 5 * 1920:] += 0.5
    after = encoder(changed, [9 * 1920])
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-9)
    assert not torch.allclose(before[:, 5], after[:, 5], atol=1e-4)


def test_mimi_is_the_checkpoints_own_latents(tmp_path):
    """On whole frames our features are those of the full model, loaded from a checkpoint in Mimi's flat layout."""
    torch.manual_seed(0)
    full = MimiModel(MimiConfig(**MIMI)).eval()
    full.save_pretrained(tmp_path)
    encoder = build_encoder(EncoderConfig("mimi", str(tmp_path)))
    assert not hasattr(encoder.mimi, "decoder")
    audio = clips([6 * 1920])
    with torch.no_grad():
        latents = full.encoder(audio[:, None]).latents.transpose(1, 2)
    assert torch.allclose(encoder(audio, [6 * 1920]), latents, atol=1e-6)
    random = build_encoder(EncoderConfig("mimi", str(tmp_path)), from_pretrained=False)
    assert not torch.allclose(random(audio, [6 * 1920]), latents, atol=1e-3)


def mimi_checkpoint(directory: Path) -> MimiModel:
    """A small random Mimi, saved, whose codebooks are random too (transformers leaves them at zero)."""
    torch.manual_seed(0)
    full = MimiModel(MimiConfig(**MIMI)).eval()
    for name, value in full.named_buffers():
        if name.endswith("embed_sum"):
            value.normal_(0, 3.0)
    full.save_pretrained(directory)
    return full


def test_mimi_codes_are_the_checkpoints_own(tmp_path):
    """Codes and the features rebuilt from them are those of the full model, loaded from its flat checkpoint."""
    full = mimi_checkpoint(tmp_path)
    encoder = build_encoder(EncoderConfig("mimi", str(tmp_path), features="codes"))
    audio, lengths = clips([6 * 1920, 6 * 1920]), [6 * 1920, 3 * 1920 + 1]
    audio[1, lengths[1] :] = 0
    codes = encoder.frames(audio, lengths)
    assert codes.shape == (2, 6, 2) and codes.dtype == torch.int16
    assert (encoder.codebooks, encoder.code_bits) == (2, 4)
    with torch.no_grad():
        for i, n in enumerate((6, 4)):
            own = full.encode(audio[i:i + 1, None, : n * 1920]).audio_codes
            assert torch.equal(codes[i, :n].T.long(), own[0]) and own.unique().numel() > 2
            rebuilt = full.quantizer.decode(own).transpose(1, 2)[0]
            assert torch.allclose(encoder(audio, lengths)[i, :n], rebuilt, atol=1e-6)
    assert (codes[1, 4:] == -1).all() and not encoder(audio, lengths)[1, 4:].any()
    assert torch.equal(encoder.restore(codes), encoder(audio, lengths)), "features are a function of the codes alone"
    latents = build_encoder(EncoderConfig("mimi", str(tmp_path)))
    assert latents.codebooks == 0 and not torch.allclose(latents(audio, lengths), encoder(audio, lengths), atol=1e-2)


def test_mimi_codes_survive_being_saved_moved_and_cast(tmp_path):
    mimi_checkpoint(tmp_path)
    encoder = build_encoder(EncoderConfig("mimi", str(tmp_path), features="codes"))
    again = encoder_from_dict(json.loads(json.dumps(encoder.to_dict())))
    again.load_state_dict(encoder.state_dict())
    audio = clips([5 * 1920])
    assert torch.equal(again(audio, [5 * 1920]), encoder(audio, [5 * 1920]))
    assert again.double()(audio, [5 * 1920]).dtype == torch.float64, "vectors that were computed before are not kept"


# A name for what an encoder computes, and its features in a micro-batch

def test_identity_is_that_of_every_weight_and_setting(encoder, tmp_path):
    name = encoder.identity()
    again = encoder_from_dict(json.loads(json.dumps(encoder.to_dict() | {"name": "elsewhere"})))
    assert again.identity() != name, "random weights of its own"
    again.load_state_dict(encoder.state_dict())
    assert again.identity() == name
    list(again.parameters())[-1].data.view(-1)[-1] += 1e-3
    assert again.identity() != name
    if isinstance(encoder, HFSpeechEncoder):
        other = encoder_from_dict(encoder.to_dict() | {"normalize": not encoder.normalize})
        other.load_state_dict(encoder.state_dict())
        assert other.identity() != name


def test_latents_and_codes_have_different_names(tmp_path):
    mimi_checkpoint(tmp_path)
    names = {build_encoder(EncoderConfig("mimi", str(tmp_path), features=f)).identity() for f in ("latents", "codes")}
    assert len(names) == 2


def test_what_a_batch_hears(encoder):
    """Clips encoded alone; slices of recordings; cached frames: the same frames whatever way they came."""
    def wave(seed: int, n: int) -> np.ndarray:
        return clips([n], seed)[0].numpy()

    def batch(**spans) -> MicroBatch:
        ids = (1, 2, 3, 4)
        pieces = [Piece(False, 0, 1, 1), Piece(True, 1, 2, 2), Piece(False, 2, 3, 1), Piece(True, 3, 4, 1)]
        return collate([[Sequence("a", ids, pieces, **spans)], [Sequence("t", ids, [Piece(False, 0, 4, 4)])]], 0)

    waves = [wave(0, 9600), wave(1, 5000)]
    alone = encoder.hear(batch(waves=waves))
    assert torch.equal(alone, encoder(batch(waves=waves).audio, [9600, 5000]))
    whole = encoder(torch.from_numpy(waves[0])[None], [9600])[0]
    spans = [np.arange(1, 4), np.arange(4, 5)]
    sliced = encoder.hear(batch(waves=waves[:1], slices=spans))
    assert sliced.shape == (2, 3, encoder.hidden_size)
    assert torch.equal(sliced[0], whole[1:4]) and torch.equal(sliced[1, :1], whole[4:5]) and not sliced[1, 1:].any()
    kept = encoder.frames(torch.from_numpy(waves[0])[None], [9600])[0].numpy()
    cached = batch(frames=[kept[span] for span in spans], slices=spans, samples=9600)
    assert len(cached.audio) == 0 and torch.equal(encoder.hear(cached), sliced)
    size = np.abs(kept).max()  # enlarged weights make features that float16 cannot hold
    half = encoder.hear(batch(frames=[(kept[span] / size).astype(np.float16) for span in spans]))
    assert half.dtype == torch.float32 and torch.allclose(half, sliced / size, atol=1e-3)
    text = [[Sequence("t", (1, 2), [Piece(False, 0, 2, 2)])]]
    assert encoder.hear(collate(text, 0)) is None
    silence = np.zeros(encoder.hearing.shortest, np.float32)
    assert encoder.hear(collate(text, 0, dummy=silence)).shape == (1, 1, encoder.hidden_size)
    empty = np.zeros((1, encoder.hidden_size), np.float16)
    assert not encoder.hear(collate(text, 0, dummy=empty)).any()


# Whisper

def test_whisper_refuses_more_than_its_window():
    encoder = whisper()
    assert encoder.num_frames(100 * 320) == 100
    with pytest.raises(DataError, match=r"32001 samples .* 32000 \(2 s\) this encoder hears"):
        encoder.num_frames(100 * 320 + 1)
    with pytest.raises(DataError):
        encoder(torch.zeros(1, 40_000), [40_000])


@pytest.mark.parametrize("samples", [16_000, 46_268, 5_000, 640])
def test_log_mel_has_the_numbers_of_the_feature_extractor(samples):
    wave = clips([samples])[0]
    wave[:samples // 2] *= 0.001  # 60 dB between the halves: the dynamic range matters
    reference = WhisperFeatureExtractor()(wave.numpy(), sampling_rate=16_000, return_tensors="np").input_features[0]
    frames = -(-samples // 320)
    mel = log_mel(fit(wave[None], frames * 320), torch.tensor([frames]), 80)[0]
    assert mel.shape == (80, 2 * frames)
    assert np.abs(mel.numpy() - reference[:, :2 * frames]).max() < 1e-5


@pytest.mark.assets
def test_real_whisper_on_real_speech(whisper_dir):
    """At the full window our encoder is Hugging Face's; on a short clip it stays close to the padded features."""
    sounds = sorted(Path(resolve("packaged:asterisk")).rglob("vm-*.g722"))
    voice = torch.cat([g722(path) for path in sounds[:30]])[:480_000]
    assert len(voice) == 480_000
    encoder = build_encoder(EncoderConfig("whisper", "packaged:whisper-tiny.en"))
    assert (encoder.sample_rate, encoder.frame_rate, encoder.hidden_size, encoder.causal) == (16_000, 50.0, 384, False)
    reference = WhisperModel.from_pretrained(whisper_dir).encoder.eval()
    extract = WhisperFeatureExtractor.from_pretrained(whisper_dir)

    def padded(wave: torch.Tensor) -> torch.Tensor:
        features = extract(wave.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        with torch.no_grad():
            return reference(features).last_hidden_state[0]

    full = encoder(voice[None], [480_000])[0]
    assert torch.nn.functional.cosine_similarity(full, padded(voice), dim=-1).min() > 0.999
    short = encoder(voice[None, :64_000], [64_000])[0]
    assert torch.nn.functional.cosine_similarity(short, padded(voice[:64_000])[:200], dim=-1).mean() > 0.9


# The Hugging Face families

def test_hf_alone_is_the_models_own_forward(tmp_path):
    """A single clip, so that padding plays no part: our norm and normalisation are the reference's."""
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**SMALL, **CONV)).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    encoder = build_encoder(EncoderConfig("hf", str(tmp_path)))
    reference, wave = Wav2Vec2Model.from_pretrained(tmp_path).eval(), clips([5000])
    values = Wav2Vec2FeatureExtractor(do_normalize=True)(wave[0].numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = reference(values.input_values).last_hidden_state
    assert torch.allclose(encoder(wave, [5000]), expected, atol=1e-5)
    assert "norm.weight" not in encoder.state_dict(), "the replaced norm must not be saved twice"


# Errors

def test_wrong_kind_and_missing_checkpoint_are_named(tmp_path, whisper_dir):
    with pytest.raises(RecipeError, match="is a whisper.*kind=whisper"):
        build_encoder(EncoderConfig("mimi", str(whisper_dir)))
    with pytest.raises(AssetError, match="cannot be loaded"):
        build_encoder(EncoderConfig("mimi", str(tmp_path / "nothing")))
    with pytest.raises(AssetError, match="no packaged asset"):
        build_encoder(EncoderConfig("whisper", "packaged:whisper-bas"))
    with pytest.raises(RecipeError, match="is a llama"):
        encoder_from_dict({"kind": "hf", "sample_rate": 16_000, "normalize": True, "config": {"model_type": "llama"}})
    for broken in ({}, {"kind": "mimi"}, {"kind": "x", "config": {"model_type": "no-such-model"}}):
        with pytest.raises(CheckpointError):
            encoder_from_dict(broken)
