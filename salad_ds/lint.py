"""``salad-ds lint``: reads every byte that a recipe has made (shards, word times, cached frames, teacher store), or of
the directories of shards it is given, and names every fault.

Training counts a bad sample and goes on; lint is for finding out beforehand, after a copy, or when a stage has stopped.
It is not fatal below a share of bad samples, as in training, and changes nothing.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from salad_ds.config import DataConfig, Recipe, StorageConfig
from salad_ds.data import storage
from salad_ds.data.check import SHOWN, Checked, as_json, check_shards
from salad_ds.data.check_shard import KINDS, Fault
from salad_ds.errors import DataError, SaladError
from salad_ds.progress import Progress


def lint(recipe: Recipe, stream: TextIO | None = None, quiet: bool = False, max_bad_share: float | None = None,
         listing: str | Path | None = None) -> list[Checked]:
    """Check what there is of the recipe's shards and teacher store; print a table, and the faults with their mends.

    What has not been made yet is said, and is no fault. ``max_bad_share``: by default data.max_bad_share. ``listing``:
    a file that gets every fault, as a line of JSON. Raises DataError at the end if a directory has more bad samples
    than that, or the store any fault.
    """
    places = {name: recipe.path(name) for name in directories(recipe)}
    more = [lambda: check_store(recipe)] if recipe.teacher.mode == "store" else []
    share = recipe.data.max_bad_share if max_bad_share is None else max_bad_share
    return check_all(places, stream, quiet, share, listing, recipe.storage, more)


def lint_shards(names: Iterable[str], max_bad_share: float | None = None, listing: str | Path | None = None,
                stream: TextIO | None = None, quiet: bool = False) -> list[Checked]:
    """Check directories of shards, paths or URLs; as ``lint``. One that does not exist is an error."""
    share = DataConfig.max_bad_share if max_bad_share is None else max_bad_share
    places = {name: storage.place_of(name) for name in names}
    for place in places.values():
        if storage.local(place) is not None and not storage.exists(place):
            raise DataError(f"{place} does not exist", "give a recipe, or directories of shards")
    return check_all(places, stream, quiet, share, listing)


def check_all(places: Mapping[str, Path | str], stream: TextIO | None, quiet: bool, max_bad_share: float,
              listing: str | Path | None = None, settings: StorageConfig | None = None,
              more: Iterable[Callable[[], Checked]] = ()) -> list[Checked]:
    stream, checked = stream or sys.stdout, list[Checked]()
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress("lint", None, "shards", quiet=quiet))
        lines = stack.enter_context(open(listing, "w", encoding="utf-8")) if listing else None

        def tell(name: str, fault: Fault) -> None:
            if lines is not None:
                lines.write(as_json(name, fault) + "\n")

        for name, place in places.items():
            before, row = progress.count, Checked(name)
            for row in check_shards(name, place, settings, partial(tell, name)):
                of = f"{name}: {row.shards} of {row.total}" + (f", {row.counts.total()} faults" if row.counts else "")
                progress.update(before + row.shards - progress.count, of)
            checked.append(row)
        for check in more:
            checked.append(check())
            for fault in (fault for faults in checked[-1].faults.values() for fault in faults):
                tell(checked[-1].name, fault)
    stream.write(table(checked))
    for row in checked:
        stream.write(named(row))
    faulty, stopping = [row for row in checked if row.counts], [row for row in checked if row.stops(max_bad_share)]
    count = sum(row.counts.total() for row in faulty)
    faults = f"{count} {'fault' if count == 1 else 'faults'}"
    if not faulty:
        stream.write("\nno faults\n")
    elif not stopping:
        stream.write(f"\n{faults}; nowhere more than {max_bad_share:.0%} of the samples are bad\n")
    stream.flush()
    if stopping:
        raise DataError(f"{faults} in {', '.join(row.name for row in faulty)}; too much is bad in "
                        f"{', '.join(row.name for row in stopping)}",
                        "the faults are named above, with what to do about them"
                        + ("" if listing else "; --list FILE writes down every one"))
    return checked


def named(row: Checked) -> str:
    """The faults of one directory, kind by kind, for people."""
    if not row.counts:
        return ""
    out = [f"\n{row.name}: {row.bad} of {row.samples} samples are bad ({row.bad / max(row.samples, 1):.1%})"]
    for kind, count in row.counts.most_common():
        out.append(f"\n{count} {kind}: {KINDS[kind]}")
        mend = ""
        for fault in row.faults[kind]:
            out.append(f"  {fault.what}")
            if fault.mend not in ("", mend):
                mend = fault.mend
                out.append(f"    mend: {mend}")
        if count > SHOWN:
            out.append(f"  {count - SHOWN} more")
    return "\n".join(out) + "\n"


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
        rows.append((row.name, *counts, str(row.counts.total()) if row.kind or row.counts else "", row.note))
    widths = [max(len(row[i]) for row in rows) for i in range(8)]
    lines = []
    for written in rows:
        cells = [
            cell.ljust(width) if i in (0, 1, 7) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(written, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)
