"""The speech encoders behind one protocol, built from a recipe or from what a saved student says about its own.

One file each: encoder_base.py (the protocol and what it promises), encoder_mimi.py, encoder_whisper.py, encoder_hf.py.
"""

from __future__ import annotations

from typing import Any

import torch

from salad_ds import onednn
from salad_ds.assets import resolve
from salad_ds.config import EncoderConfig
from salad_ds.errors import AssetError, CheckpointError, RecipeError
from salad_ds.model.encoder_base import SpeechEncoder

__all__ = ["SpeechEncoder", "build_encoder", "encoder_from_dict"]


def build_encoder(config: EncoderConfig, from_pretrained: bool = True) -> SpeechEncoder:
    """The encoder that a recipe names, frozen, fp32, on the CPU.

    With ``from_pretrained=False`` its weights are random: only its config is read. Raises RecipeError for a kind that
    does not fit the checkpoint, AssetError for a checkpoint that cannot be loaded.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, MimiModel, WhisperModel
    from transformers.models.mimi.modeling_mimi import MimiEncoderModel

    onednn.use()
    source = resolve(config.name, "speech encoder")
    try:
        settings = AutoConfig.from_pretrained(source)
        found = {"whisper": "whisper", "mimi": "mimi"}.get(settings.model_type, "hf")
        if found != config.kind:
            raise RecipeError(f"model.encoder.kind is {config.kind}, but {config.name} is a {settings.model_type}",
                              f"set model.encoder.kind={found}")
        described: dict[str, Any] = {"kind": found, "name": config.name, "config": settings.to_dict(),
                                     "features": config.features}
        if found == "hf":
            extractor = AutoFeatureExtractor.from_pretrained(source)
            described |= {"sample_rate": extractor.sampling_rate, "normalize": bool(extractor.do_normalize)}
        encoder = encoder_from_dict(described)
        if from_pretrained:
            if found == "whisper":
                state = WhisperModel.from_pretrained(source, dtype=torch.float32).encoder.state_dict()
            elif found == "mimi":
                state = MimiEncoderModel.from_pretrained(source, dtype=torch.float32).state_dict()
                if config.features == "codes":
                    whole = MimiModel.from_pretrained(source, dtype=torch.float32)
                    encoder.quantizer.load_state_dict(whole.quantizer.state_dict())  # type: ignore[union-attr]
            else:
                state = AutoModel.from_pretrained(source, dtype=torch.float32).state_dict()
            getattr(encoder, {"whisper": "whisper", "mimi": "mimi", "hf": "model"}[found]).load_state_dict(state)
    except (OSError, ValueError) as error:
        raise AssetError(f"the speech encoder {config.name} cannot be loaded: {' '.join(str(error).split())[:300]}",
                         "check model.encoder.name and the access to the model hub, or use packaged:whisper-base"
                         ) from error
    return encoder.freeze()


def encoder_from_dict(description: dict[str, Any]) -> SpeechEncoder:
    """The architecture that ``SpeechEncoder.to_dict`` describes, with random weights, ready for a state dict.

    Needs no hub and no file. Raises CheckpointError for a description that this version cannot build.
    """
    from transformers import AutoConfig

    from salad_ds.model.encoder_hf import HFSpeechEncoder
    from salad_ds.model.encoder_mimi import MimiSpeechEncoder
    from salad_ds.model.encoder_whisper import WhisperSpeechEncoder

    try:
        kind, name, settings = description["kind"], description.get("name", ""), dict(description["config"])
        model_type = settings.pop("model_type", None) or kind
        config = AutoConfig.for_model(model_type, **settings)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"this is no description of a speech encoder: {type(error).__name__}: {error}",
                              "build the student again with this version") from None
    if kind == "whisper":
        return WhisperSpeechEncoder(config, name)
    if kind == "mimi":
        return MimiSpeechEncoder(config, name, description.get("features", "latents"))
    if kind == "hf":
        return HFSpeechEncoder(config, description["sample_rate"], description["normalize"], name)
    raise CheckpointError(f"speech encoder kind {kind!r} is not mimi, whisper or hf", "build the student again")
