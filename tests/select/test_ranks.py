"""The whole verb on two ranks: they share embedding, speaking and measuring, and one of them writes the tables."""

import shutil
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from salad_ds.config import plain
from salad_ds.data.shards import ShardSet
from salad_ds.files import read_json
from salad_ds.table import read_table
from tests.ports import held_port
from tests.select.job import start

pytestmark = [pytest.mark.assets, pytest.mark.slow]


@pytest.mark.timeout(1800)
def test_two_ranks_make_the_selection_of_one(unmeasured, tmp_path):
    shutil.copytree(unmeasured.path("."), tmp_path / "work", ignore=shutil.ignore_patterns("stage2"))
    recipe = replace(unmeasured, workdir=str(tmp_path / "work"))
    OmegaConf.save(OmegaConf.create(plain(recipe)), tmp_path / "recipe.yaml")
    port = held_port()
    ranks = [start("select", {"recipe": str(tmp_path / "recipe.yaml")}, rank, 2, port) for rank in range(2)]
    said = [process.communicate(timeout=1200) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    assert b"texts drawn from 3 clusters" in said[0][0] and not said[1][0].strip()
    rooms = [made.path("stage2/selection") for made in (unmeasured, recipe)]
    for name in ("embeddings.npy", "texts.parquet", "names.parquet"):
        assert (rooms[0] / name).read_bytes() == (rooms[1] / name).read_bytes()
    alone, shared = (read_table(room / "probes.parquet")[0].to_pylist() for room in rooms)
    for one, other in zip(alone, shared, strict=True):
        # where a text lies in the shards decides how it is interleaved, so M is another draw of the same quantity
        assert {**one, "m": 0, "tokens": 0} == {**other, "m": 0, "tokens": 0} and other["m"] > 0
    keys = read_table(rooms[1] / "selected.parquet", ["key"])[0]["key"].to_pylist()
    speech = ShardSet.open(recipe.path("stage2/speech"))
    assert sorted(entry.key for entry in speech.entries()) == sorted(keys)
    assert read_json(rooms[1] / "lineage.json")["links"][-1]["digest"] == speech.digest
