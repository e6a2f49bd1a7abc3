"""The speech of a set of texts, for M: made once, kept beside the results, the same for every student."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salad_ds.config import Recipe, plain
from salad_ds.files import digest_of
from salad_ds.measure.sequences import Order
from salad_ds.synth.synthesize import synthesize_shards
from salad_ds.text import split_words

SPOKEN_WORDS = 200
"""Longer texts are cut, behind a sentence where one ends in the second half: about 80 s, what a context holds and an
engine says."""
PER_SHARD = 64


def spoken_settings(recipe: Recipe) -> str:
    """What the speech depends on beside the texts."""
    own = {key: value for key, value in plain(recipe.synth).items() if key not in ("workers", "max_cer")}
    return digest_of([own, SPOKEN_WORDS])


def speak_texts(recipe: Recipe, name: str, order: Order, items: int) -> Path | None:
    """The first ``items`` (0: all) texts of ``order`` as speech shards with word times, whatever their character error
    rate; their directory, None where not one can be spoken."""
    made_from = {"texts": order.shards.digest, "items": items, "seed": order.seed, "words": SPOKEN_WORDS}
    place = recipe.path("measure") / f"spoken-{name}-{digest_of([made_from, spoken_settings(recipe)])[:12]}"
    total = min(items or order.size, order.size)
    manifest = synthesize_shards(texts_of(order, items), place, recipe.synth, source=name, made_from=made_from,
                                 samples_per_shard=PER_SHARD, total=total, max_bad_share=1.0)
    return place.resolve() if manifest["samples"] else None


def texts_of(order: Order, items: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(key, what is said, metadata) of the texts, in order."""
    for block in order.blocks(items):
        for _, plan in block.plans:
            sample = order.shards.read(plan.index, audio=False)
            yield sample.key, shortened(sample.text), {"text_source": sample.meta.get("source", "")}


def shortened(text: str) -> str:
    """``text``, or its beginning of at most SPOKEN_WORDS words."""
    words = split_words(text)
    if len(words) <= SPOKEN_WORDS:
        return text
    kept = text[: words[SPOKEN_WORDS - 1][1]]
    ends = [match.end() for match in re.finditer(r"[.!?][\"')\]]*(?=\s)", kept)]
    return kept[: ends[-1]] if ends and ends[-1] > len(kept) // 2 else kept
