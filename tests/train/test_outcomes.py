"""What a stage makes of what it cannot use: it goes on, or stops with the reason behind a checkpoint of what it has
done; and once that is mended it ends as if nothing had been.

Elsewhere: a full disk (test_full_disk.py), a corpus that vanishes (test_lockstep.py), MLflow away and back
(test_tracking*.py), a loader process that is killed (tests/data), a store of another teacher (tests/teacher), a dead
rank (test_watchdog.py); and more of all of them in ``python -m tests.faults``.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from salad_ds.config import Recipe, load_recipe
from salad_ds.data.plan import Planner
from salad_ds.data.stream import Stream
from salad_ds.hearing import Hearing
from salad_ds.model.build import load_tokenizer
from salad_ds.teacher.precompute import precompute
from salad_ds.teacher.shard import open_shard, write_shard
from salad_ds.text import text_key
from salad_ds.train.checkpoint import STEP, name_of
from tests.train.conftest import LONGER, log_rows, losses, same_student
from tests.train.launch import forked

pytestmark = [pytest.mark.assets, pytest.mark.slow]


def latest_text(recipe: Recipe) -> tuple[int, tuple[int, ...]]:
    """The text that training asks the teacher about for the first time as late as any, and that step."""
    hearing, stage = Hearing(16000, ((1, 320),), 480000, 4), recipe.stages["stage1"]
    planner = Planner(stage.sources, recipe.path, recipe.data, load_tokenizer(recipe.model), hearing)
    walked = iter(Stream(planner, stage.seed, stage.global_batch, stage.micro_batch))
    seen: set[tuple[int, ...]] = set()
    found: tuple[int, tuple[int, ...]] = (0, ())
    for number, step in enumerate(islice(walked, stage.steps), 1):
        for ids in sorted({ids for batch in step.batches for ids, _ in batch.teacher_requests()} - seen):
            seen.add(ids)
            found = (number, ids)
    walked.close()
    return found


def leave_out(store: Path, key: bytes) -> None:
    """Write the store's shard again without one text."""
    (path,) = store.glob("*.safetensors")
    shard = open_shard(path)
    keys = [row.tobytes() for row in shard.keys]
    coded = [(place, shard.record(place)) for place in range(len(keys)) if keys[place] != key]
    assert len(coded) == len(keys) - 1
    header = {name: shard.header[name] for name in shard.header if name not in ("schema", "records", "rows", "sha256")}
    records = [(keys[place], bytes(one.data), one.rows) for place, one in coded]
    write_shard(store, records, shard.ranks.copy(), header)
    path.unlink()


def test_a_text_that_the_store_lacks(prepared, whole, work, tmp_path):
    """Passing over it would train on other data than the recipe says, and nobody would know: the stage stops."""
    settings = [f"workdir={work}", *LONGER, "stages.stage1.checkpoint_every=1000"]
    recipe = load_recipe(prepared, settings)
    step, ids = latest_text(recipe)
    assert step > 1, "every text is in the first batch: nothing is done before the store is asked in vain"
    leave_out(work / "teacher", text_key(ids))
    said = forked(2, "salad_ds", "train", prepared, *settings, log=tmp_path / "log", fails=True)
    assert "has no record of the text" in said and "run `salad-ds precompute` with this recipe" in said, said[-3000:]
    assert len(log_rows(work)) == step - 1
    assert [path.name for path in (work / "stage1/checkpoints").glob(STEP)] == [name_of(step - 1)]

    precompute(recipe)  # computes that text alone
    said = forked(2, "salad_ds", "train", prepared, *settings, log=tmp_path / "log")
    assert f"continuing after step {step - 1}" in said
    assert losses(work) == losses(whole) and same_student(work, whole)
