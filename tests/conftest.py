"""Fixtures shared by the tests: real packaged models, and tiny random ones that keep their tokenizer."""

from __future__ import annotations

import os
import signal
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not os.path.exists("/dev/nvidia0"):
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import hypothesis
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from salad_ds.assets import resolve
from tests.tracking_server import gate, tracking_server  # noqa: F401 (fixtures)

torch.set_num_threads(1)
# The same examples in every run: a rare one that fails is to be met by who looks for it (SALAD_DS_EXPLORE=1), not by
# whoever happens to run the tests.
hypothesis.settings.register_profile("busy machines", deadline=None, database=None,
                                     derandomize=os.environ.get("SALAD_DS_EXPLORE") != "1")  # fmt: skip
hypothesis.settings.load_profile("busy machines")

MARKERS = {
    "assets": "needs packaged real models or corpora (installed by make setup)",
    "slow": "takes more than fifteen seconds",
    "gpu": "needs a CUDA device",
    "multinode": "starts several hosts",
    "browser": "needs a Chromium",
}


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell: no child could be interrupted
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """SmolLM2-135M-Instruct, converted once and cached."""
    return Path(resolve("packaged:smollm2-135m"))


@pytest.fixture(scope="session")
def whisper_dir() -> Path:
    """Whisper tiny.en."""
    return Path(resolve("packaged:whisper-tiny.en"))


@pytest.fixture(scope="session")
def tokenizer(smollm2_dir):
    return AutoTokenizer.from_pretrained(smollm2_dir)


def make_tiny_llm(directory: Path, smollm2_dir: Path, tied: bool = True) -> Path:
    """A random two-layer Llama with SmolLM2's tokenizer."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(smollm2_dir).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_llm_dir(tmp_path_factory, smollm2_dir) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("tiny-llm"), smollm2_dir)


@pytest.fixture(scope="session")
def tiny_untied_llm_dir(tmp_path_factory, smollm2_dir) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("tiny-llm-untied"), smollm2_dir, tied=False)
