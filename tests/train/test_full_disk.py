"""The disk is full when a checkpoint is due: the stage says so and stops, and what was written before is whole."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from salad_ds.config import load_recipe
from salad_ds.train.checkpoint import newest
from tests.train.conftest import LONGER, losses
from tests.train.launch import forked

pytestmark = [pytest.mark.slow, pytest.mark.assets]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 MB below ``work/stage1/checkpoints``: room for some checkpoints of the small student."""
    place = tmp_path / "work/stage1/checkpoints"
    place.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs root, to mount a small disk ({done.stderr.strip()})")
    yield place
    subprocess.run(["umount", "-l", place], check=False)


@pytest.mark.parametrize("later", [False, True])
def test_a_full_disk_costs_nothing_but_time(prepared, whole, small_disk, tmp_path, later):
    """Of a checkpoint that the step waits for, and of one that is written beside the steps."""
    work = tmp_path / "work"
    shutil.copytree(load_recipe(prepared).path("."), work, dirs_exist_ok=True)
    settings = [prepared, f"workdir={work}", *LONGER, "stages.stage1.checkpoint_every=1", "stages.stage1.keep=3",
                f"stages.stage1.async_checkpoints={str(later).lower()}"]  # fmt: skip
    size = sum(path.stat().st_size for path in (whole / "stage1/checkpoints/step-00000009").rglob("*"))
    free = os.statvfs(small_disk)
    ballast = free.f_bavail * free.f_frsize - int(2.5 * size)
    assert ballast > 0, f"a checkpoint has {size} bytes: enlarge the disk"
    with open(small_disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, ballast)

    said = forked(2, "salad_ds", "train", *settings, log=tmp_path / "log", fails=True)
    assert "cannot be written" in said and "make room in" in said, said[-3000:]
    found = newest(small_disk, digest_of_checkpoints(small_disk))
    assert found is not None and found[1]["step"] >= 1

    (small_disk / "ballast").unlink()
    again = forked(2, "salad_ds", "train", *settings, log=tmp_path / "log")
    assert f"continuing after step {found[1]['step']}" in again
    assert losses(work) == losses(whole)


def digest_of_checkpoints(place) -> str:  # noqa: ANN001
    from salad_ds.files import read_json

    return str(read_json(sorted(place.glob("step-????????"))[-1] / "complete.json")["recipe"])
