"""Weights are read one at a time: the memory of an export is that of a parameter, not of the model."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from salad_ds.export.tensors import Entry, write_tensors
from salad_ds.export.weights import stretch

COUNT, SIZE, RANKS = 40, 1 << 20, 2
MEASURED = """
import sys
from pathlib import Path
from salad_ds.export import weights
from salad_ds.export.tensors import Entry, write_tensors

def peak(field):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(field))

weights.WINDOW = 16 << 20
found = weights.open_weights(Path(sys.argv[1])).parameters
open("/proc/self/clear_refs", "w").write("5")  # forget the peak of the imports
before = peak("VmRSS")
write_tensors(Path(sys.argv[2]), {name: Entry(one.shape, one.dtype, one.read) for name, one in found.items()})
print(peak("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this kernel cannot forget a peak")
def test_a_model_is_exported_in_a_fraction_of_its_memory(tmp_path):
    """160 MB of parameters in the shards of two ranks of ZeRO-3, laid out as DeepSpeed does (test_export.py reads real
    ones), every page of mapped files counted."""
    values = {f"layer.{i}": torch.full((SIZE // 1024, 1024), float(i)) for i in range(COUNT)}
    torch.save({"param_shapes": [{name: value.shape for name, value in values.items()}], "module": {}},
               tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt")  # fmt: skip
    for rank in range(RANKS):
        flat = torch.cat([value.view(RANKS, -1)[rank] for value in values.values()])
        moments = torch.zeros(2 * flat.numel())  # are never touched
        state = {"zero_stage": 3, "partition_count": RANKS, "fp32_flat_groups": [flat], "optimizer_state_dict": moments}
        torch.save({"optimizer_state_dict": state}, tmp_path / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    out = tmp_path / "model.safetensors"
    # What is freed goes back to the system at once: glibc keeps up to 32 MB for itself, as it happens to lie.
    back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURED, str(tmp_path), str(out)]
    done = subprocess.run(command, env=os.environ | back, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    model = COUNT * SIZE * 4
    assert 4 * SIZE < int(done.stdout) < model / 2, f"{int(done.stdout) / model:.0%} of the model"
    assert all(torch.equal(value, values[name]) for name, value in load_file(out).items())


def test_the_file_is_the_one_that_the_library_writes(tmp_path):
    values = {"b.weight": torch.randn(3, 5), "a": torch.arange(7), "é": torch.randn(4).bfloat16(),
              "empty": torch.zeros(0, 2), "flag": torch.tensor([True, False]), "one": torch.tensor(2.5),
              "half": torch.randn(2, 2).half()}  # fmt: skip
    save_file(values, tmp_path / "theirs", metadata={"format": "pt"})
    entries = {name: Entry(tuple(one.shape), one.dtype, lambda one=one: one) for name, one in values.items()}
    write_tensors(tmp_path / "ours", entries)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_stretch_runs_over_parts():
    parts = list(torch.arange(10).split([3, 1, 6]))
    for at in range(10):
        for size in range(1, 11 - at):
            assert torch.cat(stretch(parts, at, size)).tolist() == list(range(at, at + size))
