"""A run against another that was measured on the same utterances, cut alike: the change of M is a mean over pairs, far
better known than either M."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from salad_ds.measure.blocks import BlockFile
from salad_ds.measure.statistics import ratio

MAIN = "speech"
"""Name of the rows of ``measure.speech``."""
Sums = dict[tuple[str, str], tuple[int, float]]
"""(group, key) of an utterance → its text targets and the sum of its misalignment over them, nats."""


def sums_of(measured: Path, name: str) -> Sums:
    """Of the utterances of the set ``name`` below ``measured``, a run's ``measure/<stage>``."""
    path = measured / f"{name}.rows.jsonl"
    rows = BlockFile(path, {}).rows() if path.is_file() else ()
    return {(row.get("group", ""), row["key"]): (row["tokens"], row["misalignment"]) for row in rows}


def targets(sums: Sums) -> dict[str, int]:
    """Text targets of each utterance: where spans are cut elsewhere, some utterance has another number of them."""
    return {key: tokens for (_, key), (tokens, _) in sums.items()}


def changes(own: Path, other: Path, sets: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """(name, {mean, se}) of M of ``own`` less that of ``other``, nats per text token: of the main set ("") and of every
    group of ``sets``. Nothing of a set whose utterances or cuts are others, and of groups with fewer than two."""
    for name in (MAIN, *sets):
        ours, theirs = sums_of(own, name), sums_of(other, name)
        if targets(ours) != targets(theirs):
            continue
        both = [key for key in ours if key in theirs]
        for group in dict.fromkeys(group for group, _ in both):
            keys = [key for key in both if key[0] == group]
            if len(keys) > 1:
                tokens = np.array([ours[key][0] for key in keys], float)
                difference = np.array([ours[key][1] - theirs[key][1] for key in keys])
                yield ("" if name == MAIN else "-".join(filter(None, [name, group]))), ratio(difference, tokens)
