"""ZeRO-3 on two real ranks trains exactly what one plain process trains: losses and the gradient of every parameter."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from tests.train.launch import forked
from tests.train.parity import plain

STEPS = 3


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_two_ranks_agree_with_one_process(tied, tiny_llm_dir, tiny_untied_llm_dir, tmp_path):
    """Two ranks × two accumulated micro-batches of one row, one of them without speech; alpha mixes KL and NLL."""
    llm = tiny_llm_dir if tied else tiny_untied_llm_dir
    settings = {"steps": STEPS, "alpha": 0.75, "micro_batch": 1, "config": "ds_configs/zero3_cpu.json"}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    forked(2, "tests.train.parity", llm, tmp_path, tmp_path / "settings.json", log=tmp_path / "log")
    losses, gradients, parameters = plain(str(llm), STEPS, 0.75)
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(losses, rel=1e-5)
    found = load_file(tmp_path / "tensors.safetensors")
    assert {name.split(".", 1)[1] for name in found if name.startswith("gradient.")} == set(gradients)
    for name, expected in gradients.items():
        assert expected.abs().max() > 0, f"{name} has no gradient: nothing was tested"
        error = (found[f"gradient.{name}"] - expected).norm() / expected.norm()
        assert error <= 5e-5, f"{name}: gradients differ by {error:.1e}"
    for name, expected in parameters.items():
        # A step moves a weight by up to 1e-3. Where a gradient is about AdamW's eps, rounding becomes a part of a step,
        # another on every kind of CPU: of single weights, not of many.
        off = (found[f"parameter.{name}"] - expected).abs()
        assert off.max() <= 2e-5 and off.mean() <= 1e-7, f"{name}: {off.max():.1e} at most, {off.mean():.1e} on average"
