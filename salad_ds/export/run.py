"""``salad-ds export``: any checkpoint of a run as a student that transformers loads, without a GPU and in the memory of
one parameter (an LLM that was frozen is in no checkpoint: it comes whole from where it came)."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards

from salad_ds.config import Recipe
from salad_ds.errors import CheckpointError, RecipeError, SaladError
from salad_ds.export.adapter_card import write_adapter_card
from salad_ds.export.card import write_card
from salad_ds.export.student import Skeleton, entries, skeleton_of_stage, skeleton_of_student
from salad_ds.export.tensors import Entry, write_tensors
from salad_ds.export.weights import open_weights
from salad_ds.files import digest_of, read_json, sole_writer, sync_directory, sync_file, write_json, write_text
from salad_ds.model.processing import SaladProcessor
from salad_ds.progress import Progress
from salad_ds.train.checkpoint import MARK, STEP, UNIVERSAL, examine, read_mark
from salad_ds.train.frozen import frozen_identity, require_unchanged

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ADAPTER = "adapter."
PLAN = "export.json"
"""In the directory: what it was made from. A second export of the same leaves it alone."""


def export(recipe: Recipe, checkpoint: str, out: str = "", dtype: str = "auto", shard_size: str = "5GB",
           adapter: bool = False) -> Path:
    """Write the student of ``checkpoint`` (a stage: its newest intact checkpoint; a checkpoint's directory, universal
    or not; a saved student's directory) to ``out`` (default: below the work directory's ``export/``); returns it.

    ``dtype``: of adapter and LLM, ``auto`` as they were trained; the encoder stays as it is. ``shard_size``: largest
    file, such as 5GB. ``adapter``: nothing but the adapter, for ``model.adapter_weights`` of other recipes. The
    directory appears whole; files that an interrupted export has finished are kept. Raises CheckpointError for what
    holds no student of this recipe, or was trained beside frozen weights that are others now, SaladError for an ``out``
    that holds something else.
    """
    if dtype not in DTYPES:
        raise SaladError(f"dtype {dtype} is not known", f"take one of {', '.join(DTYPES)}")
    source, stage = find(recipe, checkpoint)
    weights = open_weights(source)
    only = ADAPTER if adapter else ""
    skeleton = skeleton_of_stage(recipe, stage, only) if stage else skeleton_of_student(source)
    found = entries(skeleton, weights, DTYPES[dtype], only)
    name = (f"{stage}-{source.name}" if stage else source.name) + ("-adapter" if adapter else "")
    target = Path(out) if out else recipe.path("export") / name
    files = divided(found, shard_size)
    made_from: dict[str, Any] = {"source": str(source.absolute()), "identity": identity_of(source), "dtype": dtype}
    made_from |= {"adapter": True} if adapter else {}
    if skeleton.frozen:
        made_from["frozen"] = frozen_identity(recipe, stage)
        require_unchanged(source, read_mark(source)[1], made_from["frozen"])
    plan = {"digest": digest_of([made_from, files]), **made_from}
    if (target / PLAN).is_file() and read_json(target / PLAN)["digest"] == plan["digest"]:
        print(f"exported before: {target}")
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SaladError(f"{target} holds something else", "give another --out, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(target.parent, name=f".{target.name}.lock") as alone:
        if not alone:
            raise SaladError(f"another export writes {target}", "wait for it, or give another --out")
        part = begun(target, plan["digest"])
        with Progress("export", len(files), "file") as bar:
            for name, tensors in files.items():
                if not (part / name).is_file():
                    write_tensors(part / name, {tensor: found[tensor] for tensor in tensors})
                bar.update()
        describe(skeleton, found, files, part, adapter)
        told = stage or stage_of(recipe, source), step_of(source) if stage else None
        if adapter:
            write_adapter_card(recipe, *told, part, skeleton.model.config)
        else:
            write_card(recipe, told[0], part, told[1])
        write_json(part / PLAN, plan)
        for file in part.iterdir():
            sync_file(file)
        if target.exists():
            target.rmdir()
        part.rename(target)
        sync_directory(target.parent)
    (target.parent / f".{target.name}.lock").unlink(missing_ok=True)
    size = sum(entry.bytes for entry in found.values())
    print(f"{target}: {len(found)} tensors, {size / 1e6:,.1f} MB in {len(files)} file{'s' * (len(files) > 1)}")
    return target


def find(recipe: Recipe, checkpoint: str) -> tuple[Path, str]:
    """(directory, stage); the stage is "" for a saved student."""
    if checkpoint in recipe.stages:
        directory = recipe.path(checkpoint) / "checkpoints"
        for candidate in sorted(directory.glob(STEP), reverse=True):
            fault, _ = examine(candidate)
            if not fault:
                return candidate, checkpoint
            print(f"passing over {candidate}: {fault}")
        if (recipe.path(checkpoint) / "model/config.json").is_file():
            return recipe.path(checkpoint) / "model", ""
        raise CheckpointError(f"{directory} holds no intact checkpoint", f"train {checkpoint} first")
    path = Path(checkpoint)
    if not path.is_dir():
        raise CheckpointError(f"{checkpoint} is neither a stage nor a directory",
                              f"give one of {', '.join(recipe.stages)}, a checkpoint or a saved student")
    if (path / "config.json").is_file():
        return path, ""
    stage = path.absolute().parent.parent.name
    if stage not in recipe.stages:
        raise RecipeError(f"{path} lies below {stage!r}, which is no stage of the recipe",
                          f"give the recipe it was trained with (this one has {', '.join(recipe.stages)})")
    if (path / MARK).is_file():
        fault, _ = examine(path)
        if fault:
            raise CheckpointError(f"{path}: {fault}", "take another checkpoint of the stage")
    return path, stage


def identity_of(source: Path) -> str:
    """What tells two checkpoints in the same place apart."""
    if (source / MARK).is_file():
        return digest_of(read_mark(source)[2])
    files = sorted(path for path in source.rglob("*") if path.suffix in (".pt", ".safetensors"))
    return digest_of([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files])


def divided(found: dict[str, Entry], shard_size: str) -> dict[str, list[str]]:
    """File → its tensors, as transformers divides them. Raises SaladError for a size that is none."""
    shapes = {name: torch.empty(entry.shape, dtype=entry.dtype, device="meta") for name, entry in found.items()}
    try:
        split = split_torch_state_dict_into_shards(shapes, max_shard_size=shard_size)
    except ValueError as error:
        raise SaladError(f"the shard size {shard_size} is none: {error}", "give a number with GB or MB: 5GB") from None
    return {name: list(tensors) for name, tensors in split.filename_to_tensors.items()}


def begun(target: Path, digest: str) -> Path:
    """The directory being written, with the files that an interrupted export of the same has finished."""
    part = target.with_name(f".{target.name}.part")
    mark = part / ".plan"
    if not (mark.is_file() and mark.read_text() == digest):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write_text(mark, digest)
    for torn in part.glob(".*.part"):
        torn.unlink()
    return part


def step_of(checkpoint: Path) -> int | None:
    """None where its name tells none."""
    number = checkpoint.name.removesuffix(UNIVERSAL).removeprefix("step-")
    return int(number) if number.isdigit() else None


def stage_of(recipe: Recipe, student: Path) -> str:
    """The stage whose result a saved student is, "" for none of this run."""
    return next((name for name in recipe.stages if (recipe.path(name) / "model").absolute() == student.absolute()), "")


def describe(skeleton: Skeleton, found: dict[str, Entry], files: dict[str, list[str]], part: Path,
             adapter: bool) -> None:
    """Everything beside the weights and the card; of an ``adapter`` alone its config."""
    model = skeleton.model
    dtype = next(entry.dtype for name, entry in found.items() if name.startswith(ADAPTER))
    model.to(dtype)
    model.config.text_config.dtype = dtype
    if adapter:
        model.config.save_pretrained(part)
    else:
        model.save_description(part)
        SaladProcessor.of(model, skeleton.tokenizer).save_pretrained(part)
    if len(files) > 1:
        index = {
            "metadata": {
                "total_parameters": sum(math.prod(entry.shape) for entry in found.values()),
                "total_size": sum(entry.bytes for entry in found.values()),
            },
            "weight_map": {tensor: file for file, tensors in files.items() for tensor in tensors},
        }
        write_text(part / "model.safetensors.index.json", json.dumps(index, indent=2, sort_keys=True) + "\n")
    (part / ".plan").unlink()
