"""Every rank takes the same steps: with bad samples, missing shards and rows of text alone, nobody waits for nobody."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import yaml

from salad_ds.config import load_recipe
from salad_ds.data.plan import Planner
from salad_ds.data.stream import Stream
from salad_ds.hearing import Hearing
from salad_ds.model.build import load_tokenizer
from salad_ds.train.checkpoint import STEP, name_of
from tests.ports import held_port
from tests.train.launch import REPOSITORY, environment, forked, start, stop


@pytest.fixture(scope="module")
def ends() -> dict[str, list[str]]:
    """{case: what each of two ranks says at its end}."""
    cases = ["fault", "defect", "tolerable", "lossy"]
    settings = environment() | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held_port()), "WORLD_SIZE": "2"}
    jobs = [
        subprocess.Popen([sys.executable, "-m", "tests.train.lockstep", *cases], env=settings | {"RANK": str(rank)},
                         cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        said = [job.communicate(timeout=120)[0] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    return {case: [re.search(rf"{case}: (rank .*)", words)[1] for words in said] for case in cases}


@pytest.mark.parametrize(
    "case, first, second",
    [
        ("fault", "rank 0 took 6: DataError: rank 1 has stopped: speech/000003.tar is missing | mend: copy it back",
         "rank 1 took 6: DataError: speech/000003.tar is missing | mend: copy it back"),
        ("defect", "rank 0 took 6: DataError: rank 1 has stopped: ZeroDivisionError: a defect",
         "rank 1 took 6: ZeroDivisionError: a defect"),
        ("tolerable", "rank 0 took 40: done; skipped 0", "rank 1 took 40: done; skipped 20"),
    ],
)  # fmt: skip
def test_ranks_stop_together_or_not_at_all(ends, case, first, second):
    """A fault of one rank at its seventh step; a rank that loses 2.5 % of its samples where all may lose 4 %."""
    assert ends[case][0].startswith(first) and ends[case][1].startswith(second), ends


def test_the_share_is_that_of_all_ranks(ends):
    """One rank loses a tenth of its samples, the global batches a twentieth: both ranks stop, with the names.

    Two lost of forty per step: five of at least 50, and more than 4 %, are reached at the third step.
    """
    for end in ends["lossy"]:
        assert "took 2: DataError: 6 of 120 samples cannot be used: 6 has no word times (speech:u1" in end


def recipe_with(prepared: Path, tmp_path: Path, **changes) -> Path:
    """The prepared recipe with other settings of its stage, in a work directory of its own."""
    recipe = yaml.safe_load(prepared.read_text())
    shutil.copytree(load_recipe(prepared).path("."), tmp_path / "work")
    recipe["workdir"] = str(tmp_path / "work")
    recipe["stages"]["stage1"] |= changes
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "recipe.yaml"


def test_a_run_in_which_ranks_have_only_text(prepared, tmp_path):
    """ZeRO-3 on two ranks, speech a fifth of the positions: in most steps some rank has nothing to hear. The rows are
    made by worker processes, more of them than a rank has lanes."""
    sources = [{"kind": "speech", "path": "speech/natural", "weight": 0.2},
               {"kind": "text", "path": "text/plain", "weight": 0.8}]  # fmt: skip
    path = recipe_with(prepared, tmp_path, sources=sources, checkpoint_every=6)
    recipe = load_recipe(path)
    forked(2, "salad_ds", "train", path, "data.workers=2", log=tmp_path / "log")
    rows = [json.loads(line) for line in (recipe.path("stage1") / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= row["padding"] < 0.3 and row["grad_norm"] > 0 for row in rows)
    hearing, tokenizer = Hearing(16000, ((1, 320),), 480000, 4), load_tokenizer(recipe.model)
    kinds = []
    for rank in (0, 1):
        planner = Planner(recipe.stages["stage1"].sources, recipe.path, recipe.data, tokenizer, hearing)
        walked = iter(Stream(planner, 0, 2, 1, rank, 2))
        kinds.append([step.batches[0].speech_lengths.tolist() != [0] for step in islice(walked, 6)])
        walked.close()
    assert any(a != b for a, b in zip(*kinds, strict=True)), f"no step in which one rank alone had speech: {kinds}"


def test_a_corpus_that_vanishes_ends_all_ranks_with_the_reason(prepared, tmp_path):
    """Its tars are taken away after the start: the samples are counted, and above the threshold every rank stops."""
    path = recipe_with(prepared, tmp_path, steps=400, checkpoint_every=400)
    work = load_recipe(path).path(".")
    log = tmp_path / "log"
    job = start(2, "salad_ds", "train", path, "data.max_bad_share=0.1", log=log)
    try:
        end = time.monotonic() + 240
        while not (work / "stage1/log.jsonl").is_file() or not (work / "stage1/log.jsonl").read_text():
            assert job.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.05)
        for tar in (work / "speech/natural").glob("*.tar"):
            os.truncate(tar, 0)
        while job.poll() is None:
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.05)
        assert job.returncode != 0
    finally:
        stop(job)
    said = log.read_text()
    assert len(re.findall(r"samples (in a row )?cannot be used.*speech/natural", said)) >= 1, said[-3000:]
    done = len((work / "stage1/log.jsonl").read_text().splitlines())
    assert [path.name for path in (work / "stage1/checkpoints").glob(STEP)] == [name_of(done)], "steps were lost"
