"""What a saved student says about itself in config.json."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from salad_ds.model.remote import AUTO_MAP


class SaladConfig(PretrainedConfig):
    """``text_config``: the LLM's; ``encoder``: the dictionary of a speech encoder (model/encoder.py); ``adapter``:
    keyword arguments of CausalAdapter without the widths; ``start_token_id``: opens every sequence; ``sampling_rate``:
    the encoder's, Hz."""

    model_type = "salad"
    sub_configs = {"text_config": AutoConfig}

    text_config: dict[str, Any] | PretrainedConfig | None = None
    encoder: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None
    start_token_id: int = 0
    sampling_rate: int = 16000
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.text_config, dict):
            fields = dict(self.text_config)
            self.text_config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        super().__post_init__(**kwargs)
        if self.text_config is not None:
            self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)  # type: ignore[union-attr]
        self.auto_map = dict(AUTO_MAP)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing: transformers would copy this module into every student saved from then on (model/remote.py)."""

    @property
    def audio_token_id(self) -> int:
        """Stands for one whole clip in a prompt; lies beyond the vocabulary, so that no text can contain it."""
        return int(self.text_config.vocab_size)  # type: ignore[union-attr]


AutoConfig.register("salad", SaladConfig, exist_ok=True)
