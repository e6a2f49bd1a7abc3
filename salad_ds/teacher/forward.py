"""The frozen teacher, running: token sequences in, the rows that predict their next tokens out.

Sequences of a batch are padded on the right and no mask is given: under causal attention what stands to the right of a
position cannot reach it, so a row is the same with and without padding, up to rounding.

The head is applied to a few rows at a time, so that [tokens, V] logits never lie in memory at once. That is only right
where logits are ``hidden @ head.T``; whether they are is measured on a short sequence when the teacher is loaded
(models that cap or scale their logits, or have a bias, are then served through their whole forward).

A teacher that fits no single device (ZeRO-3, pipeline, device_map) belongs in ``load_teacher``: everything else here
and in ``precompute`` only calls ``TeacherForward``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from salad_ds.errors import AssetError, RecipeError
from salad_ds.teacher.identity import model_directory
from salad_ds.text import tokenizer_identity


class TeacherForward:
    """A causal LM that only runs forward. (No inference mode here: autograd refuses such tensors in a student's loss.)

    ``vocab``: width of its softmax. ``head``: [V, H] if logits are ``hidden @ head.T``, else None.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device, offload: bool = False) -> None:
        self.model, self.device = model.eval().requires_grad_(False), device
        self.decoder = model.get_decoder()
        self.vocab = int(model.get_output_embeddings().weight.shape[0])
        self.head: Tensor | None = model.get_output_embeddings().weight.detach()
        if offload:
            self.head = self.head.to(device)
            stream_layers(self.decoder, device)
        else:
            model.to(device)
            self.head = model.get_output_embeddings().weight.detach()
        self.dtype = self.head.dtype
        self._probe(offload)

    @torch.no_grad()
    def _probe(self, offload: bool) -> None:
        """Ask the model itself what this class assumes: causal, and a head that is a plain product."""
        ids = torch.arange(8, device=self.device)[None] % self.vocab
        if offload:
            self.model.get_output_embeddings().to(self.device)
        logits = self.model(input_ids=ids, use_cache=False).logits.float()
        error = 1e-3 if self.dtype == torch.float32 else 3e-2  # what rounding may do, and nothing real stays below
        close = {"rtol": error, "atol": error * float(logits.std())}
        if not torch.allclose(self.model(input_ids=ids[:, :4], use_cache=False).logits.float(), logits[:, :4], **close):
            raise AssetError(f"{type(self.model).__name__} is not causal: its rows depend on the tokens after them",
                             "use a causal language model as teacher")
        hidden = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        assert self.head is not None
        product = (hidden @ self.head.T).float()
        if product.shape != logits.shape or not torch.allclose(product, logits, **close):
            self.head = None

    @torch.no_grad()
    def rows(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """For each text of L ids its rows 0..L-2: [L - 1, H] hidden states, or [L - 1, V] logits if ``head`` is
        None."""
        width = max(len(ids) for ids in texts)
        padded = torch.zeros(len(texts), width, dtype=torch.long)
        for row, ids in enumerate(texts):
            padded[row, :len(ids)] = torch.as_tensor(ids, dtype=torch.long)
        padded = padded.to(self.device)
        if self.head is None:
            states = self.model(input_ids=padded, use_cache=False).logits
        else:
            states = self.decoder(input_ids=padded, use_cache=False).last_hidden_state
        return [states[row, :len(ids) - 1] for row, ids in enumerate(texts)]

    @torch.no_grad()
    def logits(self, rows: Tensor) -> Tensor:
        """[N, V] logits of ``rows`` as ``rows`` gives them."""
        return rows if self.head is None else rows @ self.head.T


def load_teacher(reference: str, device: torch.device | str, dtype: torch.dtype | None = None,
                 offload: bool = False) -> TeacherForward:
    """Load a teacher: hub name, directory or ``packaged:<asset>``.

    ``dtype``: by default float32 on CPU (bfloat16 is 20-100 times slower there) and bfloat16 elsewhere. ``offload``:
    the layers stay in host memory and visit the device one by one. Raises AssetError for a model that cannot be
    loaded.
    """
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    directory = model_directory(reference)
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(f"{reference} cannot be loaded as a causal language model ({str(error).splitlines()[0]})",
                         "give a saved Hugging Face causal LM") from error
    if absent := sorted(map(str, loaded["missing_keys"])):  # they would be random numbers
        what = f"{len(absent)} weights of a {type(model).__name__}: {', '.join(absent[:3])}"
        raise AssetError(f"{reference} lacks {what}", "give the complete causal LM")
    return TeacherForward(model, device, offload and device.type != "cpu")


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


def stream_layers(decoder: torch.nn.Module, device: torch.device) -> None:
    """Keep ``decoder`` in host memory; each module is copied to ``device`` for its own forward and dropped after it."""
    from accelerate import cpu_offload  # only needed where a device is short of memory

    cpu_offload(decoder, execution_device=device)


def default_device(local_rank: int = 0) -> torch.device:
    """The accelerator of this rank, else the CPU."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
