"""What forward and backward of one micro-batch hold at their peak, counted by running them on fake tensors.

Fake tensors have shapes, dtypes and a life, but no numbers: the real modules run forward and backward, and every
storage that appears is added until it is freed. That counts what autograd keeps, with gradient checkpointing or
without, of any LLM that transformers has. It is done for two small numbers of layers, phase by phase; a layer more
costs each phase the difference. Parameters are not counted, and the gradient of each is dropped as soon as it is
complete, as ZeRO does it (where it goes is memory.py's).
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig

from salad_ds.distill.chunks import chunk_rows
from salad_ds.model.adapter import CausalAdapter
from salad_ds.model.encoder import SpeechEncoder, encoder_from_dict
from salad_ds.plan.shapes import causal_lm


@dataclass(frozen=True)
class Work:
    """One micro-batch. ``rows`` × ``width`` positions; ``spans`` of ``frames`` encoder frames that become ``spoken``
    positions in all; ``targets`` of the loss. ``kept``: tokens of a stored target; ``live_width``: hidden size of a
    live teacher, 0 without one. ``masked``: attention with a mask [rows, 1, width, width] (sdpa) or without (varlen).
    ``cuda``: for a GPU rather than a CPU."""

    rows: int
    width: int
    spans: int
    frames: int
    spoken: int
    targets: int
    kept: int
    live_width: int
    checkpointing: bool
    masked: bool
    dtype: torch.dtype
    cuda: bool


class Held(TorchDispatchMode):
    """Within it, the bytes of all storages that appeared and are alive: ``now``, and at most in every ``phase``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peaks: dict[str, int] = {}
        self.phase = "forward"
        self.seen: set[int] = set()

    @property
    def peak(self) -> int:
        return max(self.peaks.values(), default=0)

    def begin(self, phase: str) -> None:
        self.phase = phase
        if phase == "loss":
            self.peaks["kept"] = self.now
        self.peaks[phase] = max(self.peaks.get(phase, 0), self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value.untyped_storage())
        return out

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """What was there before is not counted."""
        self.seen.update(value.untyped_storage()._cdata for value in tensors)

    def add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.now += size
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self.now)
        weakref.finalize(storage, self.free, key, size)

    def free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


class LossLike(torch.autograd.Function):
    """Allocates what distill/loss.py allocates, in the same order, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, work: Work) -> Tensor:  # type: ignore[override]
        device = torch.device("cuda" if work.cuda else "cpu")
        chunk = chunk_rows(work.targets, weight.shape[0], hidden.dtype, device)
        several = work.targets > chunk
        losses = hidden.new_empty(5, work.targets, dtype=torch.float32)
        dx = torch.empty_like(hidden)
        total = torch.empty(weight.shape, dtype=torch.float32 if several else hidden.dtype)
        logits = torch.empty(min(chunk, work.targets), weight.shape[0], dtype=hidden.dtype)
        teacher = torch.empty_like(logits) if work.live_width else torch.empty(work.targets, work.kept)
        del logits, teacher
        dw = total.to(hidden.dtype)
        del total
        ctx.save_for_backward(dx, dw)
        return losses[0].sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        dx, dw = ctx.saved_tensors
        return dx, dw, None


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def cut(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The same LLM with fewer layers."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return config


def measured(config: PretrainedConfig, layers: int, adapter: dict[str, Any], frame_width: int, work: Work,
             ) -> dict[str, int]:
    """Peak bytes of the adapter and an LLM of so many layers, by phase: ``forward``, ``loss``, ``layers`` (their
    backward) and ``embeddings`` (what comes behind); and what is ``kept`` from forward when the loss begins."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        with default_dtype(work.dtype):
            llm = causal_lm(cut(config, layers))
            heard = CausalAdapter(frame_width, config.hidden_size, **adapter)
        llm.train()
        if work.checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # as train/loop.py calls it
                llm.gradient_checkpointing_enable({"use_reentrant": False})
        held = Held()
        trained = nn.ModuleList([llm, heard])
        held.ignore([*trained.parameters(), *trained.buffers()])
        hooks = [p.register_post_accumulate_grad_hook(drop_gradient) for p in trained.parameters()]
        with held:
            forward(llm, heard, frame_width, work, held.begin).backward()
        for hook in hooks:
            hook.remove()
        return held.peaks


def drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def forward(llm: Any, adapter: CausalAdapter, frame_width: int, work: Work, begin: Callable[[str], None]) -> Tensor:
    """As model/salad.py does it, up to what depends on numbers. ``begin`` is told of every phase."""
    ids = torch.zeros(work.rows, work.width, dtype=torch.long)
    embeddings = llm.get_input_embeddings()(ids)
    speech = adapter(torch.empty(work.spans, work.frames, frame_width))
    flat = embeddings.reshape(-1, embeddings.shape[-1])
    places = torch.zeros(work.spoken, dtype=torch.long)
    spoken = speech.reshape(-1, speech.shape[-1])[places]
    embeddings = flat.index_copy(0, places, spoken.to(flat.dtype)).view_as(embeddings)
    del flat, spoken
    embeddings.register_hook(lambda _: begin("embeddings"))
    idle = speech.sum() * 0.0
    mask = torch.ones(work.rows, 1, work.width, work.width, dtype=torch.bool) if work.masked else None
    # Without positions of its own transformers sees no packed sequences, and makes no mask.
    position_ids = torch.arange(work.width)[None].expand(work.rows, -1) if work.masked else None
    hidden = llm.get_decoder()(
        inputs_embeds=embeddings, position_ids=position_ids, attention_mask=mask, use_cache=False
    ).last_hidden_state
    del embeddings, mask
    hidden.register_hook(lambda _: begin("layers"))
    begin("loss")
    hidden = hidden.reshape(-1, hidden.shape[-1])[torch.zeros(work.targets, dtype=torch.long)]
    return LossLike.apply(hidden, llm.get_output_embeddings().weight, work) + idle


FEW = (2, 3)
"""Layers that are run."""


def activation_bytes(config: PretrainedConfig, adapter: dict[str, Any], frame_width: int, work: Work) -> dict[str, int]:
    """Peak bytes that one micro-batch holds beside parameters and finished gradients, by phase (see ``measured``)."""
    config = config.get_text_config()
    layers = config.num_hidden_layers
    if layers <= FEW[-1]:
        return measured(config, layers, adapter, frame_width, work)
    few, more = (measured(config, some, adapter, frame_width, work) for some in FEW)
    return {phase: more[phase] + (more[phase] - few[phase]) * (layers - FEW[1]) // (FEW[1] - FEW[0]) for phase in more}


def hearing_bytes(encoder: SpeechEncoder, spans: int, samples: int) -> int:
    """Peak bytes while a frozen encoder hears ``spans`` clips of ``samples`` samples, beside its weights."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        fake = encoder_from_dict(encoder.to_dict())
        held = Held()
        held.ignore([*fake.parameters(), *fake.buffers()])
        with held:
            fake(torch.empty(spans, samples), [samples] * spans)
        return held.peak


def teaching_bytes(config: PretrainedConfig, tokens: int, width: int, dtype: torch.dtype) -> int:
    """Peak bytes while a live teacher reads ``tokens`` tokens in rows of ``width``, beside its weights."""
    config = config.get_text_config()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        with default_dtype(dtype):
            llm = causal_lm(cut(config, FEW[0]))
        held = Held()
        held.ignore([*llm.parameters(), *llm.buffers()])
        with held:
            llm.get_decoder()(input_ids=torch.zeros(max(tokens // width, 1), width, dtype=torch.long), use_cache=False)
        return held.peak
