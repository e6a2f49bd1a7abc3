"""vLLM finds students through its entry point; without vLLM the package says so."""

from __future__ import annotations

import importlib.util
from importlib.metadata import entry_points

import numpy as np
import pytest

from salad_ds.errors import SaladError
from salad_ds.vllm_plugin import ARCHITECTURE, MODEL, register
from tests.model.listening import listener, listener_dir, mimi_dir  # noqa: F401

HERE = importlib.util.find_spec("vllm") is not None


def test_the_entry_point_is_register_and_can_be_loaded():
    (found,) = entry_points(group="vllm.general_plugins", name="salad_ds")
    assert found.load() is register


def test_the_architecture_is_that_of_a_saved_student(listener):  # noqa: F811
    assert type(listener[0]).__name__ == ARCHITECTURE
    module, name = MODEL.split(":")
    source = importlib.util.find_spec(module)
    assert source is not None and f"class {name}(" in open(source.origin).read()


@pytest.mark.skipif(HERE, reason="vLLM is installed")
def test_without_vllm_it_says_so():
    with pytest.raises(SaladError, match="vLLM is not there") as caught:
        register()
    assert "pip install vllm" in caught.value.mend


@pytest.mark.gpu
@pytest.mark.skipif(not HERE, reason="vLLM is not installed: it needs a CUDA build of torch")
def test_vllm_answers_as_transformers_does(listener, listener_dir):  # noqa: F811
    """Greedy tokens of a small student, two clips in one prompt."""
    vllm = pytest.importorskip("vllm")
    model, processor = listener
    clips = [(np.sin(np.arange(n, dtype=np.float32) / 20), 24_000) for n in (9_000, 20_000)]
    prompt = "First <|audio|> then <|audio|>"
    ours = model.generate(**processor(prompt, clips), max_new_tokens=5, do_sample=False, pad_token_id=0)
    engine = vllm.LLM(str(listener_dir), dtype="float32", enforce_eager=True, max_model_len=512)
    (theirs,) = engine.generate({"prompt": prompt, "multi_modal_data": {"audio": clips}},
                                vllm.SamplingParams(max_tokens=5, temperature=0.0))  # fmt: skip
    assert list(theirs.outputs[0].token_ids) == ours[0].tolist()
