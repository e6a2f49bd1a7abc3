"""Our checkpoints as a model of lm-evaluation-harness (``lm_eval`` 0.4.13): ``--model salad``.

    python -m salad_ds.evaluate.harness --model salad --model_args pretrained=runs/demo/stage1/model \\
        --tasks arc_easy --batch_size 8
    python -m salad_ds.evaluate.harness --model salad --model_args pretrained=DIR --include_path MY_TASKS --tasks MINE
    accelerate launch -m salad_ds.evaluate.harness ...   # a share of the items on every GPU

The command is ``lm_eval``'s own with one more model: version 0.4.13 looks for models in its own package only, so ours
has to be registered before its command line is read. In Python, ``import salad_ds.evaluate.harness`` does that.

What is *written* goes through the harness's own ``hf`` model, with the student's LLM in it: tokens, truncation, batches
and ranks are the same, and so are the figures of a student that has not been trained. What is *heard* are tasks with
``doc_to_audio``, as log-likelihood (``multiple_choice``, ``loglikelihood``; the harness's own audio model has none) and
as generation. ``<audio>`` in the prompt stands for one clip; a blank in front of it is dropped, as in training speech
takes the place of whole words with their blanks (``<|audio|>`` keeps it). A clip is a path, ``{"path"}``,
``{"bytes"}``, ``{"array", "sampling_rate"}``, or ``(wave, Hz)``. A spoken prompt opens with the start token, as in
training; a written one is tokenised as ``hf`` does (``add_bos_token=True`` in ``--model_args`` where the tokenizer has
one).

The harness gives worked examples no audio: spoken tasks are asked without any. An item that cannot be heard is an
error, as the harness has no way to leave one out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from salad_ds.audio import decode
from salad_ds.environment import hush, prepare_environment
from salad_ds.errors import AssetError, DataError, RecipeError, SaladError
from salad_ds.evaluate.prompts import option_ids
from salad_ds.model.processing import AUDIO_MARK, Clip, SaladProcessor
from salad_ds.model.salad import load_student
from salad_ds.teacher.forward import default_device

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import model_registry
    from lm_eval.models.huggingface import HFLM, eval_logger
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.models.utils_hf import get_dtype, stop_sequences_criteria
except ImportError as error:
    raise AssetError(f"lm-evaluation-harness cannot be imported ({error})", "pip install 'salad_ds[eval]'") from None

PLACEHOLDER = "<audio>"
"""Where a clip is heard in a prompt of the harness."""
NO_MATTER = {"revision", "trust_remote_code", "gpus", "max_memory_per_gpu", "max_cpu_memory", "offload_folder"}
"""What HFLM says about loading that is of no account for a directory on one device."""
SPOKEN_BATCH = 8
"""Spoken requests of one forward pass where ``batch_size`` is ``auto``."""

model_registry.register("salad", target="salad_ds.evaluate.harness:SaladLM")


@dataclass(frozen=True, eq=False)
class Spoken:
    """A request with something to hear. ``text``: its prompt, with AUDIO_MARK for each of ``clips`` (as the task gives
    them); ``rest``: the continuation, or the settings of generation."""

    request: Instance
    text: str
    clips: list[Any]
    rest: Any

    @classmethod
    def of(cls, request: Instance) -> Spoken | None:
        """None for a request that is only read. Raises RecipeError for one with pictures, DataError where its clips do
        not match the prompt."""
        prompt, rest, *more = request.args
        given, task = more[0] if more else {}, request.task_name
        if others := set(given) - {"audio"}:
            raise RecipeError(f"{task} shows a model {', '.join(sorted(others))}", "a student reads and hears")
        clips = given.get("audio")
        clips = clips if isinstance(clips, list) else [] if clips is None else [clips]
        if not clips or not prompt:  # acc_mutual_info also asks for options without a prompt
            return None
        text = prompt.replace(f" {PLACEHOLDER}", AUDIO_MARK).replace(PLACEHOLDER, AUDIO_MARK)
        if text.count(AUDIO_MARK) != len(clips):
            raise DataError(
                f"a prompt of {task} has {text.count(AUDIO_MARK)} {PLACEHOLDER} and {len(clips)} clips",
                f"write one {PLACEHOLDER} per clip, and ask with --num_fewshot 0",
            )
        if isinstance(rest, str):  # as in what is written, blanks at the end belong to the word that follows
            text, rest = text.rstrip(), text[len(text.rstrip()) :] + rest
        return cls(request, text, clips, rest)


class SaladLM(HFLM):
    """A directory written by train (``pretrained``). The other arguments are those of ``hf`` that do not concern how a
    model is loaded; ``dtype``: ``auto`` is that of the files, float32 on a CPU.

    Raises CheckpointError for a directory without a student, RecipeError for arguments that a student cannot have.
    """

    MULTIMODAL = True

    def __init__(self, pretrained: str, device: str | None = None, **settings: Any) -> None:
        self.student, _ = load_student(str(pretrained))
        super().__init__(str(pretrained), device=str(device or default_device()), **settings)
        self.processor = SaladProcessor.of(self.student, self.tokenizer)
        if hasattr(self, "accelerator"):  # HFLM counts them only where there is a GPU for each, and on one machine
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes

    def _get_config(self, pretrained: str, **_: Any) -> None:
        self._config = self.student.config.text_config

    def _create_model(self, pretrained: str, dtype: Any = "auto", **others: Any) -> None:
        if strange := sorted(name for name, value in others.items() if value and name not in NO_MATTER):
            raise RecipeError(f"--model_args {', '.join(strange)}: a student is loaded whole, from a directory",
                              "leave it out; several GPUs: accelerate launch")
        if dtype != "auto":
            for part in (self.student.adapter, self.student.llm):
                part.to(get_dtype(dtype))
        self._model = self.student.to(self.device).llm

    # ---- requests

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(sum of log-probabilities of the continuation's tokens, whether they are the likeliest) of each request."""
        return self._apart(requests, super().loglikelihood, self._heard_loglikelihood, disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self._apart(requests, super().generate_until, self._heard_generation, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        for request in requests:
            if len(request.args) > 1:
                raise RecipeError(f"{request.task_name} wants the log-likelihood of a whole text, with audio",
                                  "take the output type loglikelihood, whose prompt has a place for it")
        return super().loglikelihood_rolling(requests, disable_tqdm)

    def _apart(self, requests: Sequence[Instance], read: Callable[..., list[Any]],
               hear: Callable[[list[Spoken], bool], list[Any]], disable_tqdm: bool) -> list[Any]:
        """Answers to all requests: the harness puts those of all tasks to a model at once."""
        spoken = [Spoken.of(request) for request in requests]
        written = [replace(request, arguments=request.args[:2])
                   for request, one in zip(requests, spoken, strict=True) if one is None]  # fmt: skip
        read_answers = iter(read(written, disable_tqdm=disable_tqdm) if written else [])
        heard_answers = iter(hear([one for one in spoken if one is not None], disable_tqdm))
        return [next(read_answers if one is None else heard_answers) for one in spoken]

    def _batches(self, spoken: list[Spoken], disable_tqdm: bool, what: str) -> Any:
        """In their own order, in which the options of a question stand side by side and share its sound."""
        size = self.batch_size if isinstance(self.batch_size, int) else SPOKEN_BATCH
        parts = [spoken[i : i + size] for i in range(0, len(spoken), size)]
        return tqdm(parts, desc=f"Running spoken {what} requests", disable=disable_tqdm or self.rank != 0 or not parts)

    # ---- heard

    @torch.no_grad()
    def _heard_loglikelihood(self, spoken: list[Spoken], disable_tqdm: bool) -> list[tuple[float, bool]]:
        answers = []
        table, decoder = self.model.get_input_embeddings(), self.model.get_decoder()
        for batch in self._batches(spoken, disable_tqdm, "loglikelihood"):
            prompts, rows, tokens = self._embedded(batch), [], []
            for one, prompt in zip(batch, prompts, strict=True):
                ids = torch.tensor(self._continuation(one), device=self.device)
                row = torch.cat([prompt, table(ids[:-1]).to(prompt)])
                if len(row) > self.max_length:
                    eval_logger.warning(f"{len(row)} positions of {one.request.task_name} exceed the model's "
                                        f"{self.max_length}: the first of them are cut off")
                    row = row[-self.max_length :]
                rows.append(row)
                tokens.append(ids)
            embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(row) for row in rows], device=self.device)
            mask = (torch.arange(embeddings.shape[1], device=self.device) < lengths[:, None]).long()
            with torch.autocast(self.device.type, self.mixed_precision_dtype, self.mixed_precision_dtype is not None):
                hidden = decoder(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).last_hidden_state
            for one, states, length, ids in zip(batch, hidden, lengths.tolist(), tokens, strict=True):
                logits = self.student.logits(states[length - len(ids) : length]).double()
                found = logits.log_softmax(-1).gather(1, ids[:, None]).sum()
                answers.append((float(found), bool((logits.argmax(-1) == ids).all())))
                self.cache_hook.add_partial("loglikelihood", one.request.args, answers[-1])
        return answers

    def _heard_generation(self, spoken: list[Spoken], disable_tqdm: bool) -> list[str]:
        alike: dict[str, list[int]] = {}
        for i, one in enumerate(spoken):
            alike.setdefault(repr(one.rest), []).append(i)
        answers = [""] * len(spoken)
        for members in alike.values():
            at = 0
            for batch in self._batches([spoken[i] for i in members], disable_tqdm, "generate_until"):
                for one, text in zip(batch, self._generated(batch), strict=True):
                    answers[members[at]] = text
                    self.cache_hook.add_partial("generate_until", one.request.args, text)
                    at += 1
        return answers

    def _generated(self, batch: list[Spoken]) -> list[str]:
        """Continuations of prompts with the same settings, cut before the first of the words that end one."""
        settings: dict[str, Any] = dict(normalize_gen_kwargs(batch[0].rest, self.max_gen_toks))
        until = handle_stop_sequences(settings.pop("until", None),
                                      eos=self.tok_decode(self.eot_token_id, skip_special_tokens=False))  # fmt: skip
        if not settings.get("do_sample"):
            settings |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        clips = [clip_of(clip) for one in batch for clip in one.clips]
        inputs = self.processor([one.text for one in batch], clips)
        tokens = self.student.generate(
            **{name: value.to(self.device) for name, value in inputs.items()},
            max_new_tokens=settings.pop("max_gen_toks"),
            stopping_criteria=stop_sequences_criteria(self.tokenizer, until, 0, len(batch)),
            pad_token_id=self.tokenizer.pad_token_id,
            **settings,
        )
        return [postprocess_generated_text(self.tok_decode(row), until, None) for row in tokens.tolist()]

    def _embedded(self, batch: list[Spoken]) -> list[Tensor]:
        """[P, H] of each request's prompt; options of one question share an encoding."""
        keys = [(one.text, *map(id, one.clips)) for one in batch]
        prompts: dict[tuple[Any, ...], Spoken] = {}
        for key, one in zip(keys, batch, strict=True):
            prompts.setdefault(key, one)
        clips = [clip_of(clip) for one in prompts.values() for clip in one.clips]
        inputs = self.processor([one.text for one in prompts.values()], clips)
        rows, mask = self.student.embed_prompt(**{name: value.to(self.device) for name, value in inputs.items()})
        found = {key: row[seen.bool()] for key, row, seen in zip(prompts, rows, mask, strict=True)}
        return [found[key] for key in keys]

    def _continuation(self, one: Spoken) -> list[int]:
        """Token ids of the continuation, as they are behind the prompt with a word in the place of each clip."""
        read = one.text.replace(AUDIO_MARK, " speech")
        ids = option_ids(self.tokenizer, read, [one.rest])[0] if one.rest else []
        if not ids:
            raise DataError(f"a continuation of {one.request.task_name} is empty", "mend what its options are made of")
        return ids


def clip_of(given: Any) -> Clip:
    """A clip as tasks give it. Raises DataError for what is none, or does not decode."""
    if isinstance(given, str | Path | bytes):
        return decode(given)
    if isinstance(given, tuple) and len(given) == 2:
        return given
    if isinstance(given, Mapping) and "array" not in given and (source := given.get("bytes") or given.get("path")):
        return decode(source)
    try:
        return given["array"], int(given["sampling_rate"])  # of the package datasets, decoded
    except (TypeError, KeyError, IndexError, ValueError):
        raise DataError(f"doc_to_audio gives a {type(given).__name__} that is no clip",
                        "give paths, or {'bytes': ...}, or {'array': ..., 'sampling_rate': ...}") from None


def main() -> int:
    """``lm_eval``'s command line; 1 for an error of ours, which is named."""
    from lm_eval.__main__ import cli_evaluate

    prepare_environment()
    hush()
    try:
        cli_evaluate()
    except SaladError as error:
        print(f"salad: {error.what}" + (f"\n  mend: {error.mend}" if error.mend else ""), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
