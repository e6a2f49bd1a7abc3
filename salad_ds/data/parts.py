"""Work in parts: ``--part i/n`` takes every n-th unit (file, chapter, tar) of a corpus, from the i-th (0 ≤ i < n).

All parts write into one directory. Part i writes the tars ``<i>-<number>.tar`` (five and six digits), and as its last
act ``manifest.part-<i>-of-<n>.json``; whoever then finds the manifests of all n parts writes ``manifest.json`` from
them, in part order: the same bytes, whoever does it. Until then ``writing.part-<i>-of-<n>.json`` says how far a part
has come. Parts need to know nothing of each other: they may run on one machine or many, at once or in turn.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from salad_ds.data.rejections import FEW, merge_tables, one_line, too_many
from salad_ds.data.samples import SCHEMA
from salad_ds.errors import DataError, RecipeError
from salad_ds.files import digest_of, read_json, write_json

Unit = TypeVar("Unit")
FILE = re.compile(r"(manifest|writing)\.part-(\d{5})-of-(\d{5})\.json")
TAR = re.compile(r"\d{5}-\d{6}\.tar")
MOST = 99999


@dataclass(frozen=True)
class Part:
    """Part ``number`` of ``of``; of one part, that is of all, the files have the names they have without parts."""

    number: int = 0
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def whole(self) -> bool:
        return self.of == 1

    def has(self, number: int) -> bool:
        """Whether the unit of this number is ours."""
        return number % self.of == self.number

    def take(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """Ours among ``units``, which come in the same order in every part."""
        return itertools.islice(units, self.number, None, self.of)

    def share(self, limit: int) -> int | None:
        """How many of ``limit`` samples are ours; None for no limit (0)."""
        return limit // self.of + (self.number < limit % self.of) if limit else None

    # ---- names

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}-of-{self.of:05d}"

    @property
    def manifest_name(self) -> str:
        return "manifest.json" if self.whole else f"manifest.{self.name}.json"

    @property
    def state_name(self) -> str:
        return "writing.json" if self.whole else f"writing.{self.name}.json"

    @property
    def lock_name(self) -> str:
        return ".lock" if self.whole else f".{self.name}.lock"

    def shard_name(self, number: int) -> str:
        return f"{number:06d}.tar" if self.whole else f"{self.number:05d}-{number:06d}.tar"

    def leftovers(self, directory: Path) -> Iterator[Path]:
        """Unfinished files of a killed run of this part."""
        own = [f"{kind}.{self.name}." for kind in ("manifest", "writing", "items")]
        starts = [""] if self.whole else [f"{self.number:05d}-", *own]
        for start in starts:
            yield from directory.glob(f".{start}*.part")


WHOLE = Part()


def part_of(text: str | Part) -> Part:
    """``"2/8"``, ``"auto"`` (see launched) or ``""`` (everything) as a Part. Raises RecipeError for anything else."""
    if isinstance(text, Part):
        return text
    if text == "auto":
        return launched()
    if not text:
        return WHOLE
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]) <= MOST:
        raise RecipeError(f"part {text!r} is not i/n with 0 <= i < n <= {MOST}",
                          "number the parts from 0: 0/4, 1/4, 2/4, 3/4; or write auto under a launcher")
    return Part(int(match[1]), int(match[2]))


def ranks() -> Part:
    """This rank's part under a launcher that sets ``RANK`` and ``WORLD_SIZE`` (deepspeed, torchrun); else WHOLE."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return part_of(f"{os.environ['RANK']}/{os.environ['WORLD_SIZE']}")
    return WHOLE


def launched() -> Part:
    """This process's part: of the ranks of a launcher, else of the tasks of a SLURM array; alone, everything.

    Raises RecipeError for an array with gaps: its tasks cannot know their places.
    """
    get = os.environ.get
    if "RANK" in os.environ or "SLURM_ARRAY_TASK_ID" not in os.environ:
        return ranks()
    first, step = int(get("SLURM_ARRAY_TASK_MIN", "0")), int(get("SLURM_ARRAY_TASK_STEP", "1") or 1)
    number, count = int(os.environ["SLURM_ARRAY_TASK_ID"]) - first, int(get("SLURM_ARRAY_TASK_COUNT", "1"))
    last = get("SLURM_ARRAY_TASK_MAX")
    if number % step or (last is not None and (int(last) - first) // step + 1 != count):
        raise RecipeError("the tasks of this SLURM array are not evenly numbered", "use --array=0-N, or --part i/n")
    return part_of(f"{number // step}/{count}")


# ---- the files of all parts

def files_of(directory: Path) -> tuple[int, dict[str, list[int]]]:
    """``(n, {"manifest": finished parts, "writing": parts under way})``; n is 0 where nothing is in parts.

    Raises DataError when the directory holds parts of different divisions.
    """
    found: dict[str, list[int]] = {"manifest": [], "writing": []}
    divisions: dict[int, str] = {}
    for path in directory.glob("*.part-*-of-*.json"):
        if match := FILE.fullmatch(path.name):
            found[match[1]].append(int(match[2]))
            divisions.setdefault(int(match[3]), path.name)
    if len(divisions) > 1:
        raise DataError(f"{directory} is divided in different ways ({', '.join(sorted(divisions.values()))})",
                        "remove that directory, and run all parts with one n")
    return next(iter(divisions), 0), {kind: sorted(numbers) for kind, numbers in found.items()}


def refuse_unfinished(directory: Path) -> None:
    """Raise DataError for a directory whose parts are not all there, with how many are missing."""
    n, found = files_of(directory)
    if n:
        missing = sorted(set(range(n)) - set(found["manifest"]))
        if not missing:
            raise DataError(f"{directory} has all its {n} parts, but no manifest.json", "run any of the parts again")
        names = ", ".join(f"{number}/{n}" for number in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{directory} is not complete: {len(missing)} of {n} parts are missing ({names})",
                        "run these parts; a part that was interrupted goes on where it stopped")


def merge(directory: Path, n: int, max_bad_share: float = 1.0) -> dict[str, Any] | None:
    """Write and return the manifest of all ``n`` parts; None while some are missing.

    Raises DataError for parts that were made from different things or are of different kinds, when all of them
    together have too many bad samples, or no sample at all.
    """
    paths = [directory / Part(number, n).manifest_name for number in range(n)]
    if not all(path.is_file() for path in paths):
        return None
    manifests = [read_json(path) for path in paths]
    first = manifests[0]
    for path, manifest in zip(paths, manifests, strict=True):
        if digest_of(manifest["made_from"]) != digest_of(first["made_from"]):
            raise DataError(f"{path} and {paths[0].name} were made from different things",
                            "remove that directory, and run all parts with the same settings")
    kinds = sorted({manifest["kind"] for manifest in manifests if manifest["kind"]})
    if len(kinds) > 1:
        raise DataError(f"{directory} holds {' and '.join(kinds)}", "give speech and text a directory each")
    rejected = merge_tables([manifest["rejected"] for manifest in manifests])
    left_out = merge_tables([manifest["left_out"] for manifest in manifests])
    shards = [row for manifest in manifests for row in manifest["shards"]]
    samples = sum(row["samples"] for row in shards)
    check_share(first["source"], rejected, left_out, samples, max_bad_share)
    whole = {"schema": SCHEMA, "kind": kinds[0], "source": first["source"], "parts": n, "shards": shards,
             "samples": samples, "seconds": round(sum(row["seconds"] for row in shards), 3),
             "rejected": rejected, "left_out": left_out, "made_from": first["made_from"]}
    write_json(directory / "manifest.json", whole)
    return whole


def check_share(source: str, rejected: dict[str, Any], left_out: dict[str, Any], samples: int, share: float,
                whole: bool = True) -> None:
    """Raise DataError when more than ``share`` of the samples are bad, or when there are none.

    A part, not the ``whole``, may have none, and its few bad ones may be all it has: that is seen when all are merged.
    """
    bad = sum(row["count"] for row in rejected.values())
    if too_many(bad, bad + samples, share) and (whole or bad >= FEW):
        raise DataError(f"{bad} of {bad + samples} samples of {source} cannot be used (more than {share:.0%}): "
                        f"{one_line(rejected)}", "mend the corpus, or allow a larger share of bad samples")
    if whole and not samples:
        raise DataError(f"{source} gave no sample at all: {one_line(rejected | left_out) or 'it is empty'}",
                        "check the source and the settings of this corpus")
