"""Two hosts, and a small work directory that both see."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from salad_ds.config import load_recipe
from tests.multinode.lab import Lab, lacking
from tests.ports import held_port
from tests.train.conftest import prepared  # noqa: F401 (a fixture)
from tests.train.launch import REPOSITORY, environment


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Skips, with the reason, where it cannot be set up."""
    if why := lacking():
        pytest.skip(why)
    binaries = str(Path(sys.executable).parent)
    variables = environment() | {"VIRTUAL_ENV": str(Path(sys.executable).parent.parent), "OMP_WAIT_POLICY": "PASSIVE"}
    variables["PATH"] = f"{binaries}:{variables['PATH']}"
    with Lab(2, variables) as ready:
        yield ready


@pytest.fixture(scope="session")
def recipe(prepared, tmp_path_factory) -> Path:  # noqa: F811
    """A recipe with a plain path, as remote shells want it; of steps enough for a job to be stopped between the first
    and the last."""
    path = tmp_path_factory.mktemp("multinode") / "recipe.yaml"
    found = yaml.safe_load(prepared.read_text())
    found["stages"]["stage1"]["steps"] = 12
    path.write_text(yaml.safe_dump(found))
    return path


@pytest.fixture
def work(prepared, tmp_path) -> Path:  # noqa: F811
    shutil.copytree(load_recipe(prepared).path("."), tmp_path / "work")
    return tmp_path / "work"


def losses(work: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (work / "stage1/log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def alone(recipe, tmp_path_factory) -> list[float]:
    """The losses of the same stage on two ranks of one machine, which no launcher has started."""
    work = tmp_path_factory.mktemp("alone") / "work"
    shutil.copytree(load_recipe(recipe).path("."), work)
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held_port())}
    command = [sys.executable, "-m", "salad_ds", "train", str(recipe), f"workdir={work}"]
    ranks = [subprocess.Popen(command, env=environment() | place | {"RANK": rank, "LOCAL_RANK": rank}, cwd=REPOSITORY)
             for rank in "01"]  # fmt: skip
    assert [rank.wait(timeout=900) for rank in ranks] == [0, 0]
    return losses(work)


@pytest.fixture
def hostfile(lab, tmp_path) -> Path:
    path = tmp_path / "hostfile"
    path.write_text("".join(f"{name} slots=1\n" for name in lab.names))
    return path


LAUNCHERS = REPOSITORY / "launchers"
