"""A saved student in transformers' Auto classes: with this package imported, as remote code, without the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, AutoTokenizer

from salad_ds.assets import resolve
from salad_ds.config import ModelConfig
from salad_ds.errors import DataError
from salad_ds.model.auto import SaladConfig, SaladFeatureExtractor, SaladForConditionalGeneration, SaladProcessor
from salad_ds.model.build import student_config
from tests.model.listening import listener, listener_dir, mimi_dir  # noqa: F401

REMOTE = """
import sys
import numpy as np
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor

where = sys.argv[1]
assert "salad_ds" not in sys.modules
model = AutoModel.from_pretrained(where, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(where, trust_remote_code=True)
assert type(AutoModelForMultimodalLM.from_pretrained(where, trust_remote_code=True)) is type(model)
clip = np.sin(np.arange(9000, dtype=np.float32) / 20)
inputs = processor("Hear <|audio|> now", [(clip, 24000)])
print("TOKENS", model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0).tolist())
model.save_pretrained(sys.argv[2]), processor.save_pretrained(sys.argv[2])
"""
HIDDEN = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "salad_ds":
            raise ModuleNotFoundError(f"No module named {name!r}", name="salad_ds")

sys.meta_path.insert(0, Hidden())
from transformers import AutoModel

AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
"""


def fresh(code: str, cache: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """``code`` in a process of its own, which has never seen the package or its remote code."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=240,
        env=os.environ | {"HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_remote_code_loads_answers_and_saves_the_student(listener, listener_dir, tmp_path):  # noqa: F811
    model, processor = listener
    clip = np.sin(np.arange(9000, dtype=np.float32) / 20)
    inputs = processor("Hear <|audio|> now", [(clip, 24000)])
    tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0).tolist()
    done = fresh(REMOTE, tmp_path / "cache", listener_dir, tmp_path / "again")
    assert f"TOKENS {tokens}" in done.stdout, done.stderr[-2000:]
    for path in sorted(listener_dir.iterdir()):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
    assert len(list((tmp_path / "again").glob("*.py"))) == 1, "no copy of this package's modules"


def test_without_the_package_the_error_names_it(listener_dir, tmp_path):  # noqa: F811
    done = fresh(HIDDEN, tmp_path / "cache", listener_dir)
    assert done.returncode == 1
    assert "ImportError: this student needs the Python package salad_ds" in done.stderr, done.stderr[-2000:]


def test_importing_the_package_is_enough(listener_dir):  # noqa: F811
    model = AutoModel.from_pretrained(listener_dir)
    processor = AutoProcessor.from_pretrained(listener_dir)
    extractor = AutoFeatureExtractor.from_pretrained(listener_dir)
    assert type(model) is SaladForConditionalGeneration and type(processor) is SaladProcessor
    assert type(extractor) is SaladFeatureExtractor and extractor.sampling_rate == 24_000
    assert processor.ids("a<|audio|>")[-1] == model.config.audio_token_id == processor.audio_token_id
    config = json.loads((listener_dir / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_salad.SaladForConditionalGeneration"
    assert config["architectures"] == ["SaladForConditionalGeneration"]


def test_the_llm_is_called_what_the_recipe_calls_it(listener):  # noqa: F811
    """Not the directory where it lay on the machine that trained the student."""
    model, processor = listener
    recipe = ModelConfig(llm="packaged:smollm2-135m")
    text = AutoConfig.from_pretrained(str(resolve(recipe.llm)))
    made = student_config(recipe, text, model.encoder, processor.tokenizer, 1.0).to_dict()
    assert made["text_config"]["_name_or_path"] == recipe.llm
    assert str(Path.home()) not in json.dumps(made)


def test_a_student_saved_without_a_processor_still_has_one(listener, tmp_path):  # noqa: F811
    model, processor = listener
    model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    again = SaladProcessor.from_pretrained(tmp_path)
    assert (again.sample_rate, again.start_token_id) == (processor.sample_rate, processor.start_token_id)


def test_what_ends_an_answer_survives(listener, tmp_path):  # noqa: F811
    model, _ = listener
    before = model.llm.generation_config
    model.llm.generation_config = type(before)(eos_token_id=[7, 11], temperature=0.3)  # not saveable as it is
    try:
        model.save_pretrained(tmp_path)
    finally:
        model.llm.generation_config = before
    again = SaladForConditionalGeneration.from_pretrained(tmp_path)
    assert again.llm.generation_config.eos_token_id == [7, 11] and not again.llm.generation_config.do_sample
    assert SaladConfig.from_pretrained(tmp_path).auto_map


def test_the_chat_template_has_a_mark_where_a_message_has_audio(listener, tmp_path):  # noqa: F811
    _, processor = listener
    clip = (np.zeros(800, np.float32), 16_000)
    parts = [{"type": "audio", "audio": clip}, {"type": "text", "text": "What is said?"}]
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    prompt = processor.apply_chat_template(talk, add_generation_prompt=True)
    plain = [talk[0], {"role": "user", "content": "<|audio|>What is said?"}]
    assert prompt == processor.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    inputs = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert torch.equal(inputs["input_ids"], processor(prompt, [clip])["input_ids"])
    assert inputs["audio_lengths"].tolist() == [1200], "resampled to the encoder's rate"
    processor.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).apply_chat_template(talk, add_generation_prompt=True) == prompt
    with pytest.raises(DataError, match="neither text nor audio"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image", "image": "x.png"}]}])


def test_waves_with_a_rate_are_clips(listener):  # noqa: F811
    """What transformers calls ``audio`` and ``sampling_rate``."""
    _, processor = listener
    wave = np.sin(np.arange(1600, dtype=np.float32) / 9)
    ours = processor("<|audio|>", [(wave, 16_000)])
    theirs = processor(text=["<|audio|>"], audio=[wave], sampling_rate=16_000, return_tensors="pt")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(DataError, match="images"):
        processor("a", images=[1])
    with pytest.raises(DataError, match="clip 0 holds no samples"):
        processor("<|audio|>", [(wave[:0], 16_000)])


def test_the_processor_reads_the_tokenizer_that_it_saved(listener, tmp_path):  # noqa: F811
    _, processor = listener
    processor.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("Say it")["input_ids"] == processor.tokenizer("Say it")["input_ids"]
    wanted = {"processor_config.json", "tokenizer.json", "modeling_salad.py"}
    assert wanted <= {path.name for path in tmp_path.iterdir()}
