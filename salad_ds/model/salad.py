"""The student as a Hugging Face model: frozen speech encoder → causal adapter → LLM → distribution over *text* tokens.

Shape letters: B rows, T positions of a row, S speech spans, F encoder frames, P adapter positions, H LLM width, N
positions whose next token is text.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import ModelOutput

from salad_ds import onednn
from salad_ds.distill import DistillOutput, Targets
from salad_ds.errors import CheckpointError, DataError
from salad_ds.hearing import Hearing
from salad_ds.model.adapter import CausalAdapter
from salad_ds.model.attention import packing
from salad_ds.model.configuration import SaladConfig
from salad_ds.model.encoder import SpeechEncoder, encoder_from_dict
from salad_ds.model.head import DistillHead, install_distill_head
from salad_ds.model.remote import write_remote_code


@dataclass
class SaladOutput(ModelOutput):
    """``loss``: sum over the N targets of the step's objective, times nothing. ``kl``, ``nll``, ``entropy``: [N], nats,
    detached. ``hidden``: [N, H], when no targets and no labels were given."""

    loss: Tensor | None = None
    kl: Tensor | None = None
    nll: Tensor | None = None
    entropy: Tensor | None = None
    hidden: Tensor | None = None


class SaladForConditionalGeneration(PreTrainedModel):
    config_class = SaladConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _no_split_modules: list[str] = []
    _keep_in_fp32_modules_strict = ["encoder"]  # as it was when the adapter was trained behind it

    def __init__(
        self, config: SaladConfig, llm: PreTrainedModel | None = None, encoder: SpeechEncoder | None = None
    ) -> None:
        super().__init__(config)
        assert config.encoder is not None and config.adapter is not None
        self.encoder = encoder if encoder is not None else encoder_from_dict(config.encoder)
        self.encoder.requires_grad_(False).eval()
        self.adapter = CausalAdapter(
            self.encoder.hidden_size,
            config.text_config.hidden_size,  # type: ignore[union-attr]
            attention="eager" if config._attn_implementation == "eager" else "sdpa",  # spans are rows, never packed
            **config.adapter,
        )
        self.llm = llm if llm is not None else AutoModelForCausalLM.from_config(config.text_config)
        install_distill_head(self.llm)
        self.sample_rate = self.encoder.sample_rate
        self.hearing: Hearing = replace(self.encoder.hearing, stack=self.adapter.stack)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing of ours needs more than torch's own initialisation; the parts initialise themselves."""

    def train(self, mode: bool = True) -> SaladForConditionalGeneration:
        super().train(mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing, as in SaladConfig."""

    def save_pretrained(self, save_directory: str | Path, *arguments: Any, **settings: Any) -> None:
        """Weights and config, the token ids that end the LLM's answers, and the thin file that remote loading wants."""
        super().save_pretrained(save_directory, *arguments, **settings)
        self.save_description(Path(save_directory))

    def save_description(self, directory: Path) -> None:
        """All but the weights and the processor."""
        directory.mkdir(parents=True, exist_ok=True)
        self.config.dtype = str(self.dtype).removeprefix("torch.")
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(directory)
        ending = self.llm.generation_config
        # Ids only: the sampling that a chat LLM recommends may be what transformers refuses to save.
        GenerationConfig(
            bos_token_id=ending.bos_token_id, eos_token_id=ending.eos_token_id, pad_token_id=ending.pad_token_id
        ).save_pretrained(directory)
        write_remote_code(directory)

    @classmethod
    def from_pretrained(cls, name: str | Path, *arguments: Any, **settings: Any) -> Any:
        """As transformers has it; the LLM's answers end where they did."""
        loaded = super().from_pretrained(name, *arguments, **settings)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        with contextlib.suppress(OSError):  # students saved by earlier versions have none
            where = {key: settings[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in settings}
            ending = GenerationConfig.from_pretrained(name, **where)
            model.llm.generation_config.eos_token_id = ending.eos_token_id
            model.llm.generation_config.pad_token_id = ending.pad_token_id
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> DistillHead:
        return self.llm.get_output_embeddings()

    def detach_encoder(self) -> SpeechEncoder:
        """Take the frozen encoder out, to be run beside the model: a sharded engine then neither gathers nor stores
        it."""
        encoder, self.encoder = self.encoder, None  # type: ignore[assignment]
        return encoder

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        target_positions: Tensor,
        features: Tensor | None = None,
        speech_lengths: Tensor | None = None,
        speech_positions: Tensor | None = None,
        targets: Targets | None = None,
        labels: Tensor | None = None,
        alpha: float = 1.0,
        temperature: float = 1.0,
    ) -> SaladOutput:
        """Loss (or hidden states) at the N positions whose next token is text.

        input_ids, position_ids [B, T]: packed rows; ``position_ids`` start at 0 for every sequence, and no sequence
        attends to another. features [S, F, E] are encoder frames; the first ``speech_lengths[s]`` adapter positions of
        span s go, span after span, to the flat positions ``speech_positions`` of B·T. target_positions [N]: flat
        positions to predict from; targets, labels: what comes next there. The loss is a *sum*: the caller divides by
        what its step counts.
        """
        embeddings = self.llm.get_input_embeddings()(input_ids)
        idle: Tensor | float = 0.0
        if features is not None:
            assert speech_lengths is not None and speech_positions is not None
            speech = self.adapter(features)
            inside = torch.arange(speech.shape[1], device=speech.device) < speech_lengths[:, None]
            flat = embeddings.reshape(-1, embeddings.shape[-1])
            embeddings = flat.index_copy(0, speech_positions, speech[inside].to(flat.dtype)).view_as(embeddings)
            # A span of length 0 is a dummy: it ties the adapter to the loss, so that every rank reduces the same
            # gradients.
            idle = speech.sum() * 0.0
        decoder = self.llm.get_decoder()
        apart = packing(decoder.config._attn_implementation, position_ids)
        hidden = decoder(
            inputs_embeds=embeddings, position_ids=position_ids, use_cache=False, **apart
        ).last_hidden_state
        hidden = hidden.reshape(-1, hidden.shape[-1])[target_positions]
        if targets is None and labels is None:
            return SaladOutput(hidden=hidden)
        out = self.llm.get_output_embeddings()(
            hidden, targets=targets, labels=labels, alpha=alpha, temperature=temperature
        )
        assert isinstance(out, DistillOutput)
        return SaladOutput(loss=out.loss + idle, kl=out.kl, nll=out.nll, entropy=out.entropy)

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, H] hidden states → [N, V] float32 logits, scaled and capped as the LLM does."""
        head = self.llm.get_output_embeddings()
        logits = head(hidden).float() * head.logit_scale
        return logits if head.logit_softcap is None else head.logit_softcap * torch.tanh(logits / head.logit_softcap)

    def speech_embeddings(self, audio: Tensor, lengths: Tensor) -> list[Tensor]:
        """Clips [S, samples] at the encoder's rate, with their lengths, as LLM embeddings: one [P, H] per clip."""
        features = self.encoder(audio, lengths)
        speech = self.adapter(features)
        counts = [self.adapter.positions(self.encoder.num_frames(int(n))) for n in lengths]
        return [row[:count] for row, count in zip(speech, counts, strict=True)]

    def embed_prompt(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        audio: Tensor | None = None,
        audio_lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Prompts [B, T] with ``audio_token_id`` wherever a clip is heard → left-padded embeddings [B, T', H] and mask
        [B, T'].

        Clips are taken in reading order, row by row. Raises DataError when their number is not that of the marks.
        """
        mark = self.config.audio_token_id
        marks = int((input_ids == mark).sum())
        clips = [] if audio is None or not len(audio) else self.speech_embeddings(audio, audio_lengths)  # type: ignore[arg-type]
        if marks != len(clips):
            raise DataError(
                f"the prompt has {marks} audio marks and {len(clips)} clips were given", "give one clip per mark"
            )
        words = self.get_input_embeddings()(input_ids.masked_fill(input_ids == mark, self.config.start_token_id))
        rows, following = [], iter(clips)
        for row, ids in enumerate(input_ids):
            keep = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask[row].bool()
            parts = [
                next(following).to(words.dtype) if ids[t] == mark else words[row, t : t + 1]
                for t in keep.nonzero()[:, 0].tolist()
            ]
            rows.append(torch.cat(parts))
        longest = max(len(row) for row in rows)
        embeddings = torch.stack([nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
        mask = torch.stack(
            [torch.arange(longest, device=input_ids.device) >= longest - len(row) for row in rows]
        ).long()
        return embeddings, mask

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        audio: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        **settings: Any,
    ) -> Tensor:
        """New tokens [B, ≤ max_new_tokens] after prompts made by SaladProcessor; ``settings`` are those of HF
        ``generate``."""
        embeddings, mask = self.embed_prompt(input_ids, attention_mask, audio, audio_lengths)
        return self.llm.generate(inputs_embeds=embeddings, attention_mask=mask, **settings)


AutoModel.register(SaladConfig, SaladForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(SaladConfig, SaladForConditionalGeneration, exist_ok=True)


def load_student(directory: str) -> tuple[SaladForConditionalGeneration, PreTrainedTokenizerBase]:
    """A saved student and its tokenizer, in eval mode; float32 without an accelerator.

    Raises CheckpointError for anything else, such as a student that lacks some of its weights.
    """
    onednn.use()
    try:
        config = AutoConfig.from_pretrained(directory)
        if config.model_type != "salad":
            raise CheckpointError(
                f"{directory} holds a {config.model_type} model, not a SALAD student",
                "give a directory written by train",
            )
        if None in (config.text_config, config.encoder, config.adapter):
            raise ValueError("its config.json names no LLM, no encoder or no adapter")
        dtype = "auto" if torch.cuda.is_available() else torch.float32
        model, loaded = SaladForConditionalGeneration.from_pretrained(directory, dtype=dtype, output_loading_info=True)
        if absent := sorted(loaded["missing_keys"]):  # they would be random numbers
            raise ValueError(f"it lacks {len(absent)} weights, such as {absent[0]}")
        return model.eval(), AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200] if Path(directory).is_dir() else "there is no such directory"
        raise CheckpointError(
            f"{directory} is not a saved student: {reason}",
            "give a directory written by train, such as WORKDIR/stage1/model",
        ) from None
