"""Every shipped config, two real steps on two ranks under DeepSpeed's launcher, as far as a CPU goes."""

from __future__ import annotations

import json

import pytest

from tests.ds_configs.job import STEPS
from tests.ds_configs.on_cpu import CUDA_ONLY, FILES, lacking, on_cpu
from tests.train.launch import forked
from tests.train.parity import plain

pytestmark = [pytest.mark.slow, pytest.mark.assets, pytest.mark.timeout(1800)]
RANKS = 2


@pytest.fixture(scope="module")
def told(tiny_llm_dir, tmp_path_factory) -> dict[str, dict]:
    """What one job of two ranks tells of every config that can be run here."""
    out = tmp_path_factory.mktemp("ds-configs")
    (out / "nvme").mkdir()
    configs = {path.stem: on_cpu(path, out / "nvme", RANKS) for path in FILES if not lacking(path.stem)}
    (out / "configs.json").write_text(json.dumps(configs))
    forked(RANKS, "tests.ds_configs.job", tiny_llm_dir, out, log=out / "log", timeout=500)
    return json.loads((out / "told.json").read_text())


@pytest.fixture(scope="module")
def losses(tiny_llm_dir) -> list[float]:
    """The same steps in one plain process."""
    return plain(str(tiny_llm_dir), STEPS, 0.75)[0]


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_two_steps_are_those_of_a_plain_process(name, told, losses):
    if why := lacking(name):
        pytest.skip(why)
    assert told[name]["losses"] == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_the_frozen_encoder_takes_no_optimizer_state_and_no_collective(name, told):
    """Sharded weights are gathered while the model works: the counter sees it. While the encoder works: nothing."""
    if why := lacking(name):
        pytest.skip(why)
    one = told[name]
    assert one["encoder"] > one["trained"] > 0, "the encoder of the tests is the larger part"
    assert one["encoder_in_zero"] == one["encoder_in_optimizer"] == one["encoder_in_engine"] == 0
    assert one["heard"] == STEPS * 2 * 1 and not [key for key in one["carried"] if key.startswith("encoder ")]
    gathered = sum(count for key, count in one["carried"].items() if key.startswith("model all_gather"))
    if "zero3" in name or name == "zeropp":
        # Forward alone: every weight at least once per micro-batch, two of them per step and rank; the tied head again.
        assert gathered >= STEPS * 2 * one["trained"] * 0.9, one["carried"]
        assert gathered < STEPS * 2 * (one["trained"] + one["encoder"]), "as much as if it were sharded too"
    if name == "zero3_nvme":  # between steps nearly all of them are in files
        assert one["optimizer_elements"] < one["trained"]
    else:
        assert one["optimizer_elements"] == pytest.approx(2 * one["trained"], rel=0.01)  # padding of the shards


def test_hpz_keeps_a_second_copy_and_nvme_a_file(told, losses):
    """That the settings were at work, and not passed over."""
    assert told["zeropp"]["secondary"] > 10 and told["zero3"]["secondary"] == 0
    if why := lacking("zero3_nvme"):
        pytest.skip(why)
    assert told["zero3_nvme"]["files"] > 0 == told["zero3"]["files"]


@pytest.mark.gpu
@pytest.mark.parametrize("key", CUDA_ONLY)
def test_quantised_traffic(key):
    """The CPU job leaves these keys out; where there is a GPU, DeepSpeed's quantizer must build."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip(f"{CUDA_ONLY[key]}: no CUDA device")
    from deepspeed.ops.op_builder import QuantizerBuilder

    assert QuantizerBuilder().load() is not None
