"""A student as vLLM runs it: our encoder and adapter, vLLM's own LLM. Imported by vLLM only; see __init__.py for its
state.

A prompt is text with ``<|audio|>`` for each clip. Its token ids become those of SaladProcessor, then each mark as many
as the clip fills positions; the id lies beyond the vocabulary and is never embedded.
"""

# mypy: disable-error-code="operator"
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.config import VllmConfig
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)
from vllm.sequence import IntermediateTensors

from salad_ds.hearing import Hearing
from salad_ds.model.adapter import CausalAdapter
from salad_ds.model.encoder import encoder_from_dict
from salad_ds.model.processing import AUDIO_MARK, SaladProcessor
from salad_ds.model.salad import SaladConfig

LONGEST = 30
"""Seconds of the longest clip that is provided for, where the encoder itself has no limit."""


class Info(BaseProcessingInfo):
    """What a student takes."""

    def get_hf_config(self) -> Any:
        return self.ctx.get_hf_config(SaladConfig)

    def get_hf_processor(self, **_: object) -> SaladProcessor:
        return self.ctx.get_hf_processor(SaladProcessor)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"audio": None}

    def get_data_parser(self) -> MultiModalDataParser:
        return MultiModalDataParser(target_sr=self.get_hf_processor().sample_rate, target_channels=1)

    def hearing(self) -> Hearing:
        config = self.get_hf_config()
        with torch.device("meta"):
            encoder = encoder_from_dict(config.encoder)
        return replace(encoder.hearing, stack=config.adapter["stack"])


class Dummies(BaseDummyInputsBuilder[Info]):
    """The largest input, from which vLLM tells how much memory it needs."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return AUDIO_MARK * mm_counts.get("audio", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, MultiModalDummyOptions]
    ) -> MultiModalDataDict:
        hearing, count = self.info.hearing(), mm_counts.get("audio", 0)
        length = hearing.max_samples or LONGEST * hearing.sample_rate
        return {"audio": self._get_dummy_audios(length=length, num_audios=count, overrides=mm_options.get("audio"))}


class Processor(BaseMultiModalProcessor[Info]):
    """Prompts and clips as SaladProcessor makes them."""

    def _get_hf_mm_text(self, mm_counts: Mapping[str, int]) -> str:
        return self.dummy_inputs.get_dummy_text(mm_counts)

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        """Directly: vLLM would round the samples to the LLM's dtype."""
        out = self.info.get_hf_processor()(**hf_data)
        return BatchFeature({name: out[name] for name in ("audio", "audio_lengths")})

    def _postprocess_prompt(self, prompt: list[int]) -> list[int]:
        """vLLM has read the marks as text, and as one word with what is beside them."""
        processor = self.info.get_hf_processor()
        start = processor.start_token_id
        text = processor.tokenizer.decode(prompt[1:] if prompt[:1] == [start] else prompt)
        return processor.ids(text)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"audio": MultiModalFieldConfig.batched("audio"),
                "audio_lengths": MultiModalFieldConfig.batched("audio", keep_on_cpu=True)}  # fmt: skip

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, Any],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        mark, hearing = self.info.get_hf_config().audio_token_id, self.info.hearing()
        lengths = [int(n) for n in out_mm_kwargs.get_data().get("audio_lengths", ())]

        def positions(item: int) -> list[int]:
            return [mark] * hearing.positions(hearing.frames(lengths[item]))

        return [PromptReplacement(modality="audio", target=[mark], replacement=positions)]


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Dummies)
class SaladForVllm(nn.Module, SupportsMultiModal, SupportsPP):
    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        if modality.startswith("audio"):
            return AUDIO_MARK
        raise ValueError(f"a student hears audio, not {modality}")

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config: Any = vllm_config.model_config.hf_config
        text = config.text_config
        self.config = config
        self.configure_mm_token_handling(text.vocab_size, [config.audio_token_id])
        with self._mark_tower_model(vllm_config, "audio"):
            self.encoder = encoder_from_dict(config.encoder).float()  # as it was when the adapter was trained behind it
            self.adapter = CausalAdapter(self.encoder.hidden_size, text.hidden_size, **config.adapter)
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=text,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=text.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text.model_type]],
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **inputs: Any) -> MultiModalEmbeddings:
        """One [P, H] per clip."""
        if inputs.get("audio") is None:
            return []
        lengths = [int(n) for n in inputs["audio_lengths"]]
        audio = torch.zeros(len(lengths), max(lengths), device=next(self.adapter.parameters()).device)
        for row, clip, length in zip(audio, inputs["audio"], lengths, strict=True):  # as long as their own batch was
            row[:length] = clip.reshape(-1)[:length]
        speech = self.adapter(self.encoder(audio, lengths))
        counts = [self.adapter.positions(self.encoder.num_frames(length)) for length in lengths]
        return [row[:count] for row, count in zip(speech, counts, strict=True)]

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **_: object,
    ) -> Tensor | IntermediateTensors:
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """The LLM's as vLLM loads them; encoder and adapter, which are small, whole: with their buffers."""
        own: dict[str, Tensor] = {}

        def of_the_llm() -> Iterable[tuple[str, Tensor]]:
            for name, value in weights:
                if name.startswith("llm."):
                    yield name.removeprefix("llm."), value
                else:
                    own[name] = value

        loaded = {f"language_model.{name}" for name in self.language_model.load_weights(of_the_llm())}
        for part in ("encoder", "adapter"):
            module = getattr(self, part)
            module.load_state_dict({name.removeprefix(f"{part}."): value for name, value in own.items()
                                    if name.startswith(f"{part}.")})  # fmt: skip
        return loaded | set(own)
