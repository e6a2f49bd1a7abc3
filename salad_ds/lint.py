"""``salad-ds lint``: reads every byte that a recipe has made (shards, word times, teacher store) and names every fault.

Training counts a bad sample and goes on; lint is for finding out beforehand, after a copy, or when a stage has stopped.
Nothing is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from salad_ds.config import Recipe
from salad_ds.data.check import Checked, check_shards
from salad_ds.errors import DataError, SaladError
from salad_ds.progress import Progress

SHOWN = 50
"""Faults printed per directory; all are counted."""


def lint(recipe: Recipe, stream: TextIO = sys.stdout, quiet: bool = False) -> list[Checked]:
    """Check what there is of the recipe's shards and teacher store; print a table and every fault, with its mend.

    What has not been made yet is said, and is no fault. Raises DataError at the end if there are faults.
    """
    checked = []
    with Progress("lint", None, "shards", quiet=quiet) as progress:
        for name in directories(recipe):
            for row in check_shards(name, recipe.path(name)):
                progress.update(row.shards + sum(other.shards for other in checked) - progress.count, name)
            checked.append(row)
    if recipe.teacher.mode == "store":
        checked.append(check_store(recipe))
    stream.write(table(checked))
    faulty = [row for row in checked if row.faults]
    for row in faulty:
        for what, mend in row.faults[:SHOWN]:
            stream.write(f"\n{what}\n" + (f"  mend: {mend}\n" if mend else ""))
        if len(row.faults) > SHOWN:
            stream.write(f"\n{len(row.faults) - SHOWN} more in {row.name}\n")
    if not faulty:
        stream.write("\nno faults\n")
    stream.flush()
    if faulty:
        count = sum(len(row.faults) for row in faulty)
        raise DataError(
            f"{count} {'fault' if count == 1 else 'faults'} in {', '.join(row.name for row in faulty)}",
            "each is named above, with what to do about it",
        )
    return checked


def directories(recipe: Recipe) -> list[str]:
    """Every shard directory that the recipe names or that its stations have made, each once, below ``workdir`` where it
    is."""
    named = [corpus.out for corpus in recipe.corpora]
    if recipe.synthesize.text:
        named += [recipe.synthesize.text, recipe.synthesize.out]
    named += [source.path for stage in recipe.stages.values() for source in stage.sources]
    named += [recipe.measure.speech, recipe.select.text]
    found: dict[Path, str] = {}
    for name in filter(None, named):
        found.setdefault(recipe.path(name), name)
    root = recipe.path(".")
    made = [*recipe.path("evaluate").glob("*/manifest.json"), *recipe.path(recipe.select.out).glob("**/manifest.json")]
    for place in sorted(manifest.parent for manifest in made):
        if next(place.glob("*.tar"), None) is not None:
            found.setdefault(place, str(place.relative_to(root) if place.is_relative_to(root) else place))
    return list(found.values())


def check_store(recipe: Recipe) -> Checked:
    """The teacher store: every shard's structure and checksum, and that it is the store of this recipe's teacher."""
    from salad_ds.teacher.shard import open_shard
    from salad_ds.teacher.store import SETTINGS, read_settings

    row, directory = Checked(recipe.teacher.store, "store"), recipe.path(recipe.teacher.store)
    paths = sorted(directory.glob("*.safetensors"))
    if not (directory / SETTINGS).exists() and not paths:
        return Checked(recipe.teacher.store, note="not there yet")
    header: dict[str, Any] = {}
    try:
        header = read_settings(directory).header()
        check_identity(row, recipe, directory, header)
    except SaladError as error:
        row.fault(error.what, error.mend)
    for path in paths:
        row.shards += 1
        try:
            shard = open_shard(path)
            row.samples += len(shard.keys)
            shard.verify()
        except SaladError as error:
            row.fault(error.what, error.mend)
            continue
        for name in differing(header, shard.header):
            row.fault(
                f"{path} was made with {name} {shard.header.get(name)!r}, its store with {header[name]!r}",
                "remove that file from the store",
            )
    return row


def check_identity(row: Checked, recipe: Recipe, directory: Path, header: dict[str, Any]) -> None:
    """Teacher, tokenizer and settings of the store against the recipe's. Naming the teacher reads its weights."""
    from salad_ds.teacher.forward import load_tokenizer
    from salad_ds.teacher.precompute import store_settings
    from salad_ds.text import tokenizer_identity

    tokenizer = load_tokenizer(recipe.model.tokenizer or recipe.model.llm)
    wanted = store_settings(recipe, tokenizer_identity(tokenizer)).header()
    for name in differing(header, wanted):
        row.fault(
            f"{directory} was made with {name} {header[name]!r}, the recipe has {wanted[name]!r}",
            "set teacher.store to another directory, or take the store's settings",
        )


def differing(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    return [name for name, value in left.items() if right.get(name) != value]


def table(checked: Iterable[Checked]) -> str:
    """The result for people: one line per directory."""
    rows = [("", "kind", "shards", "samples", "hours", "word times", "faults", "")]
    for row in checked:
        speech = row.kind == "speech"
        timed = f"{row.timed}" + (f" + {row.dropped} dropped" if row.dropped else "") if speech else ""
        hours = f"{row.seconds / 3600:.2f}" if speech else ""
        counts = (row.kind, str(row.shards), str(row.samples), hours, timed) if row.kind else ("",) * 5
        rows.append((row.name, *counts, str(len(row.faults)) if row.kind or row.faults else "", row.note))
    widths = [max(len(row[i]) for row in rows) for i in range(8)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i in (0, 1, 7) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)
