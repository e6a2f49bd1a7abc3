"""What types cannot express: choices, bounds and contradictions between keys."""

from __future__ import annotations

import dataclasses
import operator
import re
from pathlib import Path
from typing import Any

from salad_ds.config.recipe import Recipe
from salad_ds.errors import RecipeError

AT_LEAST_ONE = {
    "layers", "width", "mlp", "heads", "kv_heads", "stack", "context", "samples_per_shard", "steps", "ranks",
    "micro_batch", "global_batch", "checkpoint_every", "keep", "bad_steps", "log_every", "batch", "batch_tokens",
    "top_k", "resolution", "clusters", "probe_items", "prefetch", "shuffle_shards", "echo_tokens",
}  # fmt: skip
"""Numbers below 1 make no sense here; every other number but a seed must not be negative."""

MOST_KEPT = 1024
"""Tokens of a position that a store may keep: as many as the Triton backend holds in registers."""

CHOICES = (
    ("model", "dtype", ["float32", "bfloat16"]),
    ("model", "attention", ["auto", "sdpa", "eager", "varlen", "flash_attention_2", "flex_attention"]),
    ("model.encoder", "kind", ["mimi", "whisper", "hf"]),
    ("model.encoder", "features", ["latents", "codes"]),
    ("data", "span_encoding", ["separate", "slice", "words"]),
    ("data", "features", ["audio", "cache"]),
    ("data", "cache_dtype", ["float16", "float32"]),
    ("align", "engine", ["pocketsphinx", "ctc"]),
    ("teacher", "mode", ["store", "live"]),
    ("teacher", "keep", ["topk", "sampled"]),
    ("teacher", "tail", ["draws", "ghost", "renormalise"]),
    ("teacher", "placement", ["device", "offload", "sharded", "sharded_offload"]),
    ("synth", "engine", ["hibari", "kokoro", "espeak", "piper", "command"]),
    ("select", "policy", ["active", "uniform"]),
    ("select", "embed_dtype", ["float32", "float16"]),
)
"""(section, field, values it may have)."""


def bounded(settings: Any, prefix: str = "") -> list[tuple[str, int, float]]:
    """(dotted key, least value, value) of every number of the settings."""
    found = []
    for item in dataclasses.fields(settings):
        value, key = getattr(settings, item.name), prefix + item.name
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, entry in [*inner, (None, value)]:
            if dataclasses.is_dataclass(entry):
                found += bounded(entry, f"{key}." if name is None else f"{key}.{name}.")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and item.name != "seed":
            found.append((key, 1 if item.name in AT_LEAST_ONE else 0, value))
    return found


def not_a_start(recipe: Recipe, init_from: str | None, earlier: list[str]) -> tuple[str, str] | None:
    """What is wrong with ``init_from`` of a stage behind the stages ``earlier``, and how to mend it; None if nothing
    is."""
    if init_from is None or init_from in earlier:
        return None
    if init_from in recipe.stages:
        return "a stage that does not come before it", "name an earlier stage, or the directory of a saved student"
    if init_from in ("", "init"):
        return "which is neither a stage nor a directory", "remove it: without it a stage starts from a fresh student"
    if (recipe.path(init_from) / "model").is_dir() or Path(init_from).is_dir():
        return None
    return "which is neither an earlier stage nor a directory", (
        f"name one of {', '.join(earlier)}, or the directory of a saved student" if earlier
        else "give the directory of a saved student, or remove it: without it a stage starts from a fresh student"
    )  # fmt: skip


def check(recipe: Recipe, path: Path) -> None:
    """Refuse contradictions that types cannot express."""

    def refuse(condition: bool, key: str, why: str, mend: str = "mend the recipe or the override") -> None:
        if condition:
            raise RecipeError(f"{path}: {key} {why}", mend)

    for name in ("text_words", "speech_words"):
        span = getattr(recipe.data, name)
        refuse(
            len(span) != 2 or not 1 <= span[0] <= span[1], f"data.{name}", f"must be [shortest, longest], not {span}"
        )
    for section, name, choices in CHOICES:
        value = getattr(operator.attrgetter(section)(recipe), name)
        listed = " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
        refuse(value not in choices, f"{section}.{name}", f"is {value!r}, not {listed}")
    for key, least, value in bounded(recipe):
        refuse(value < least, key, f"is {value}, must be at least {least}")
    teacher = recipe.teacher
    if teacher.mode == "store":
        refuse(teacher.keep == "sampled" and teacher.tail != "draws", "teacher.tail",
               f"is {teacher.tail}, which needs the top", "set teacher.keep=topk, or teacher.tail=draws")  # fmt: skip
        refuse(teacher.keep == "topk" and teacher.tail == "draws" and teacher.samples == 0, "teacher.samples",
               "is 0, and teacher.tail is draws", "set teacher.samples, or teacher.tail=ghost")  # fmt: skip
        kept, most = (("top_k + samples", teacher.top_k + teacher.samples) if teacher.keep == "topk"
                      else ("resolution", teacher.resolution))  # fmt: skip
        refuse(most > MOST_KEPT, f"teacher.{kept}", f"is {most}: a position can have {MOST_KEPT} tokens at most")
    encoder, data = recipe.model.encoder, recipe.data
    refuse(encoder.features == "codes" and encoder.kind != "mimi", "model.encoder.features",
           f"is codes, and {encoder.kind} has none", "set it to latents, or model.encoder.kind to mimi")  # fmt: skip
    refuse(data.features == "cache" and data.span_encoding == "separate", "data.features",
           "is cache, but data.span_encoding is separate: spans are drawn anew in every epoch, so their own encodings "
           "cannot be kept", "set data.span_encoding=slice or =words, or data.features=audio")  # fmt: skip
    adapter = recipe.model.adapter
    refuse(adapter.width % adapter.heads != 0, "model.adapter.width", "must be a multiple of heads")
    refuse(adapter.heads % adapter.kv_heads != 0, "model.adapter.heads", "must be a multiple of kv_heads")
    refuse(bool(recipe.model.adapter_weights and recipe.stages) and None not in
           [stage.init_from for stage in recipe.stages.values()], "model.adapter_weights",
           "is set, and every stage starts from a student, which has an adapter",
           "remove it, or a stage's init_from")  # fmt: skip
    for corpus in recipe.corpora:
        refuse(
            corpus.split not in ("all", "train", "test"),
            "corpora",
            f"has split {corpus.split!r}, not all, train or test",
        )
    earlier: list[str] = []
    for name, stage in recipe.stages.items():
        key = f"stages.{name}"
        if why := not_a_start(recipe, stage.init_from, earlier):
            refuse(True, f"{key}.init_from", f"is {stage.init_from!r}, {why[0]}", why[1])
        earlier.append(name)
        refuse(not 0 <= stage.alpha <= 1, f"{key}.alpha", f"is {stage.alpha}, not between 0 and 1")
        refuse(not stage.temperature > 0, f"{key}.temperature", f"is {stage.temperature}, not above 0")
        refuse(
            stage.temperature != 1 and (recipe.teacher.mode != "live" or not stage.alpha),
            f"{key}.temperature",
            f"is {stage.temperature}: what is stored of a teacher, and a label, can only be learnt at 1",
            "set teacher.mode to live and alpha above 0, or temperature to 1",
        )
        refuse(
            len(stage.betas) != 2 or not all(0 <= beta < 1 for beta in stage.betas),
            f"{key}.betas",
            f"must be two numbers in [0, 1), not {stage.betas}",
        )
        refuse(stage.lr_adapter == stage.lr_llm == 0, f"{key}.lr_adapter",
               "is 0, as lr_llm is: nothing would be trained")  # fmt: skip
        hears = any(source.kind == "speech" and source.weight for source in stage.sources)
        refuse(not stage.lr_llm and bool(stage.sources) and not hears, f"{key}.lr_llm",
               "is 0, and no source is speech: nothing would be learnt")  # fmt: skip
        refuse(not 0 <= stage.decay_share <= 1, f"{key}.decay_share", f"is {stage.decay_share}, not between 0 and 1")
        refuse(
            stage.global_batch % (stage.micro_batch * stage.ranks) != 0,
            f"{key}.global_batch",
            f"{stage.global_batch} is not a multiple of micro_batch × ranks = {stage.micro_batch * stage.ranks}",
        )
        refuse(stage.keep_every % stage.checkpoint_every != 0, f"{key}.keep_every",
               f"is {stage.keep_every}, not a multiple of checkpoint_every {stage.checkpoint_every}: such a step may "
               "have no checkpoint")  # fmt: skip
        refuse(stage.probe_every > 0 and not recipe.measure.speech, f"{key}.probe_every",
               "probes measure.speech, which is empty", "set measure.speech, or probe_every to 0")  # fmt: skip
        refuse(not stage.sources, f"{key}.sources", "is empty")
        refuse(not sum(source.weight for source in stage.sources) > 0, f"{key}.sources", "has weights that sum to 0")
        for source in stage.sources:
            refuse(
                source.kind not in ("speech", "text"), f"{key}.sources", f"has kind {source.kind!r}, not speech or text"
            )
    for model in recipe.evaluate.models:
        refuse(model not in ("student", "base", "cascade") and not re.match("hf:.", model),
               "evaluate.models", f"has {model!r}, not student, base, cascade or hf:NAME")  # fmt: skip
    tasks = [task.name for task in recipe.evaluate.tasks]
    refuse(len(set(tasks)) < len(tasks), "evaluate.tasks", f"has one task twice: {', '.join(tasks)}")
    refuse(recipe.measure.words > 0 and not recipe.measure.speech, "measure.words",
           "measures measure.speech, which is empty", "set measure.speech, or measure.words to 0")  # fmt: skip
    refuse(recipe.evaluate.echo > 0 and not recipe.measure.speech, "evaluate.echo",
           "asks about measure.speech, which is empty", "set measure.speech, or evaluate.echo to 0")  # fmt: skip
    names = [one.name for one in recipe.measure.sets]
    for name in names:
        refuse(names.count(name) > 1, "measure.sets", f"has {name!r} twice")
        refuse(not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in ("speech", "words"), "measure.sets",
               f"has the name {name!r}", "take letters, digits, - and _; speech and words are taken")  # fmt: skip
    for scheme, options in recipe.storage.options.items():
        refuse(not isinstance(options, dict), f"storage.options.{scheme}", f"is {options!r}, not settings by name")
        for name in options:
            refuse(
                re.search(r"secret|passw|token|credential|^key$", name, re.I) is not None,
                f"storage.options.{scheme}.{name}",
                "would be recorded with every run",
                "leave keys and tokens to the environment, where the libraries look for them",
            )
    chosen = recipe.select.checkpoint
    refuse(
        bool(recipe.select.text) and chosen not in recipe.stages and not (chosen and recipe.path(chosen).is_dir()),
        "select.checkpoint",
        f"is {chosen!r}, which is neither a stage of the recipe nor a directory",
        f"name one of {', '.join(recipe.stages) or 'the stages'}, or the directory of a saved student",
    )
