"""The frozen teacher, running: token sequences in, the rows that predict their next tokens out.

Sequences of a batch are padded on the right and no mask is given: under causal attention what stands to the right of a
position cannot reach it, so a row is the same with and without padding, up to rounding.

The head is applied to a few rows at a time, so that [tokens, V] logits never lie in memory at once. That is only right
where logits are ``cap(scale · hidden @ head.T)``; whether they are is measured on a short sequence when the teacher is
loaded (a model with a bias, say, is then served through its whole forward).

Where the weights lie is the teacher's *placement* (config.TeacherConfig): whole on the device, or in host memory and
streamed layer by layer, or sharded over all ranks (sharded.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from salad_ds import onednn
from salad_ds.config import Recipe
from salad_ds.errors import AssetError, RecipeError
from salad_ds.model.head import logit_transform
from salad_ds.teacher.identity import model_directory
from salad_ds.teacher.sharded import IDLE_TOKENS, sharded_engine, together, whole, zero3_config
from salad_ds.text import tokenizer_identity
from salad_ds.zero import PATIENCE, sharded_loading


class TeacherForward:
    """A causal LM that only runs forward. (No inference mode here: autograd refuses such tensors in a student's loss.)

    ``vocab``: width of its softmax. ``head``: [V, H] if logits are ``cap(logit_scale · hidden @ head.T)``, else None;
    it lies whole on the device whatever the placement. ``logit_scale``, ``logit_softcap``: 1 and None for most models.
    ``sharded``: every rank must run the same number of forward passes.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device, placement: str = "device") -> None:
        self.device, self.sharded = device, placement.startswith("sharded")
        output = model.get_output_embeddings()
        self.dtype: torch.dtype = output.weight.dtype
        self.ask: nn.Module = _Ask(model.eval().requires_grad_(False))
        self.group = None
        if self.sharded:
            self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
            self.ask = sharded_engine(self.ask, zero3_config(self.dtype, device, placement == "sharded_offload"))
            self.head: Tensor | None = whole(output.weight, device)
        else:
            if placement == "offload":
                output.to(device)
                stream_layers(model.get_decoder(), device)
            else:
                model.to(device)
            self.head = output.weight.detach()
        self.vocab = int(self.head.shape[0])
        self.logit_scale = 1.0
        self.logit_softcap: float | None = None
        self._probe(type(model).__name__, logit_transform(model.config.get_text_config()))

    @torch.no_grad()
    def _probe(self, name: str, transform: tuple[float, float | None]) -> None:
        """Ask the model itself what this class assumes: causal, and a head that is a product, scaled and capped."""
        ids = torch.arange(8, device=self.device)[None] % self.vocab
        logits = self.ask(ids, True).float()
        error = 1e-3 if self.dtype == torch.float32 else 3e-2  # what rounding may do, and nothing real stays below
        close = partial(torch.allclose, rtol=error, atol=error * float(logits.std()))
        if not close(self.ask(ids[:, :4], True).float(), logits[:, :4]):
            raise AssetError(f"{name} is not causal: its rows depend on the tokens after them",
                             "use a causal language model as teacher")
        hidden = self.ask(ids, False)
        for self.logit_scale, self.logit_softcap in dict.fromkeys([transform, (1.0, None)]):
            product = self.logits(hidden).float()
            if product.shape == logits.shape and close(product, logits):
                return
        self.head = None

    @torch.no_grad()
    def rows(self, texts: Sequence[Sequence[int] | np.ndarray]) -> list[Tensor]:
        """For each text of L ids its rows 0..L-2: [L - 1, H] hidden states, or [L - 1, V] logits if ``head`` is
        None. One forward pass."""
        width = max(len(ids) for ids in texts)
        padded = torch.zeros(len(texts), width, dtype=torch.long)
        for row, ids in enumerate(texts):
            padded[row, :len(ids)] = torch.as_tensor(ids, dtype=torch.long)
        states = self.ask(padded.to(self.device), self.head is None)
        return [states[row, :len(ids) - 1] for row, ids in enumerate(texts)]

    @torch.no_grad()
    def logits(self, rows: Tensor) -> Tensor:
        """[N, V] logits of ``rows`` as ``rows`` gives them."""
        if self.head is None:
            return rows
        logits = rows @ self.head.T
        if self.logit_scale != 1.0:
            logits *= self.logit_scale
        return logits if self.logit_softcap is None else (logits / self.logit_softcap).tanh() * self.logit_softcap

    def together(self, passes: int) -> int:
        """How many forward passes this rank must make when it has texts for ``passes``. A sharded teacher's ranks all
        call this, and ``idle`` for the difference."""
        return together(passes, self.group) if self.sharded else passes

    @torch.no_grad()
    def idle(self, passes: int) -> None:
        """Forward passes that the other ranks need and this one has no text for."""
        for _ in range(passes):
            self.ask(torch.zeros(1, IDLE_TOKENS, dtype=torch.long, device=self.device), self.head is None)


class _Ask(nn.Module):
    """The two questions to the model, with one module at the root: there ZeRO-3 notices that a pass begins."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, logits: bool) -> Tensor:
        """ids [B, T] → logits [B, T, V], or last hidden states [B, T, H]."""
        if logits:
            return self.model(input_ids=ids, use_cache=False).logits
        return self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state


def load_teacher(reference: str, device: torch.device | str, dtype: torch.dtype | None = None,
                 placement: str = "device") -> TeacherForward:
    """Load a teacher: hub name, directory or ``packaged:<asset>``.

    ``dtype``: by default float32 on CPU (bfloat16 is 20-100 times slower there) and bfloat16 elsewhere. ``placement``:
    as in ``TeacherConfig``; for a sharded one every rank calls this, after ``zero.start_processes``. Raises AssetError
    for a model that cannot be loaded.
    """
    onednn.use()
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    if placement == "offload" and device.type == "cpu":
        placement = "device"  # where it would be streamed to is where it lies
    directory = model_directory(reference)
    loading = (sharded_loading(zero3_config(dtype, device, placement == "sharded_offload"))
               if placement.startswith("sharded") else contextlib.nullcontext())
    try:
        with loading:
            model, loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(f"{reference} cannot be loaded as a causal language model ({str(error).splitlines()[0]})",
                         "give a saved Hugging Face causal LM") from error
    if absent := sorted(map(str, loaded["missing_keys"])):  # they would be random numbers
        what = f"{len(absent)} weights of a {type(model).__name__}: {', '.join(absent[:3])}"
        raise AssetError(f"{reference} lacks {what}", "give the complete causal LM")
    return TeacherForward(model, device, placement)


def load_tokenizer(reference: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises AssetError naming the model where there is none."""
    try:
        return AutoTokenizer.from_pretrained(model_directory(reference))
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(f"{reference} has no tokenizer that can be loaded ({str(error).splitlines()[0]})",
                         "set model.tokenizer") from error


def check_tokenizer(reference: str, identity: str) -> None:
    """Refuse a teacher that comes with another tokenizer than the student's: its ids would mean other words."""
    try:
        own = tokenizer_identity(load_tokenizer(reference))
    except AssetError:
        return  # a teacher saved without a tokenizer takes the student's
    if own != identity:
        raise RecipeError(f"the teacher {reference} has tokenizer {own}, the student {identity}",
                          "use a teacher with the student's tokenizer")


def vocabulary(reference: str) -> int:
    """Width of the softmax, from the model's configuration alone."""
    try:
        return int(AutoConfig.from_pretrained(model_directory(reference)).get_text_config().vocab_size)
    except (OSError, ValueError, AttributeError) as error:
        raise AssetError(f"{reference} is not a language model ({str(error).splitlines()[0]})",
                         "give a saved Hugging Face causal LM") from error


def shared_vocabulary(recipe: Recipe) -> int:
    """Rows of the student's head: what a teacher says is cut to them, for the rows of a wider one are padding that no
    text can contain. Raises RecipeError for a narrower teacher, which is silent about tokens the student has."""
    student = vocabulary(recipe.model.llm)
    reference = recipe.teacher.llm or recipe.model.llm
    if (own := vocabulary(reference)) < student:
        raise RecipeError(f"the teacher {reference} has {own} tokens in its head, the student {student}",
                          "use a teacher with at least as many")
    return student


def stream_layers(decoder: torch.nn.Module, device: torch.device) -> None:
    """Keep ``decoder`` in host memory; each module is copied to ``device`` for its own forward and dropped after it."""
    from accelerate import cpu_offload  # only needed where a device is short of memory

    cpu_offload(decoder, execution_device=device)


def default_device(local_rank: int = 0) -> torch.device:
    """The accelerator of this rank, else the CPU."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
