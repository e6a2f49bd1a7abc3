"""The disk is full when a checkpoint is due: the stage says so and stops, and what was written before is whole."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from salad_ds.config import load_recipe
from salad_ds.train.checkpoint import newest
from tests.train.launch import REPOSITORY, command, deepspeed, environment
from tests.train.test_resume import losses

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


def test_a_full_disk_costs_nothing_but_time(prepared, small_disk, tmp_path):
    work, whole = tmp_path / "work", tmp_path / "whole"
    shutil.copytree(load_recipe(prepared).path("."), work, dirs_exist_ok=True)
    shutil.copytree(load_recipe(prepared).path("."), whole)
    settings = ["stages.stage1.checkpoint_every=1", "stages.stage1.keep=3"]
    deepspeed(2, "salad_ds", "train", prepared, f"workdir={whole}", *settings)
    size = sum(path.stat().st_size for path in (whole / "stage1/checkpoints/step-00000006").rglob("*"))
    free = os.statvfs(small_disk)
    ballast = free.f_bavail * free.f_frsize - int(2.5 * size)
    assert ballast > 0, f"a checkpoint has {size} bytes: enlarge the disk"
    with open(small_disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, ballast)

    full = subprocess.run(command(2, "salad_ds", "train", prepared, f"workdir={work}", *settings), env=environment(),
                          cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    assert full.returncode != 0, full.stdout[-3000:]
    assert "cannot be written" in full.stdout and "make room in" in full.stdout, full.stdout[-3000:]
    found = newest(small_disk, digest_of_checkpoints(small_disk))
    assert found is not None and found[1]["step"] >= 1

    (small_disk / "ballast").unlink()
    again = deepspeed(2, "salad_ds", "train", prepared, f"workdir={work}", *settings)
    assert f"continuing after step {found[1]['step']}" in again
    assert losses(work) == losses(whole)


def digest_of_checkpoints(place) -> str:  # noqa: ANN001
    from salad_ds.files import read_json

    return str(read_json(sorted(place.glob("step-????????"))[-1] / "complete.json")["recipe"])
