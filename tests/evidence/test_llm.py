"""The small LLM: it learns, goes on where it stopped, and reads as its tokenizer does."""

from __future__ import annotations

import math

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from salad_ds.data.shards import Sample, ShardWriter
from salad_ds.evidence import llm
from salad_ds.evidence.llm import Settings, train_llm
from salad_ds.text import start_token, tokenize

SMALL = Settings(vocabulary=320, width=16, layers=1, heads=2, mlp=32, length=32, rows=4, epochs=3, rate=1e-2)


def write(directory, texts):
    with ShardWriter(directory, "made", 64) as writer:
        for i, text in enumerate(texts):
            writer.add(Sample(f"t{i}", {"text": text}))
    return directory


@pytest.fixture
def texts(tmp_path):
    animals = "dog cat cow hen fox owl".split()
    made = [f"a {one} is bigger than a {other}. it is not a {third}."
            for one in animals for other in animals for third in animals]
    return write(tmp_path / "texts", made[:180]), write(tmp_path / "held", made[180:])


def test_it_learns_and_is_left_alone_when_it_is_done(texts, tmp_path):
    told = train_llm(texts[0], tmp_path / "llm", texts[1], SMALL)
    assert told["held_nll"] < 0.6 * math.log(320)
    model, tokenizer = (kind.from_pretrained(tmp_path / "llm") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.num_parameters() == told["parameters"] and start_token(tokenizer) == 1
    read = tokenize(tokenizer, "a cow is bigger than a fox.", 1)
    assert read.n_words == 7 and read.ids[0] == 1
    before = (tmp_path / "llm/model.safetensors").stat().st_mtime_ns
    assert train_llm(texts[0], tmp_path / "llm", texts[1], SMALL)["steps"] == told["steps"]
    assert (tmp_path / "llm/model.safetensors").stat().st_mtime_ns == before


def test_a_killed_training_ends_as_one_that_was_left_alone(texts, tmp_path, monkeypatch):
    whole = train_llm(texts[0], tmp_path / "whole", texts[1], SMALL)
    monkeypatch.setattr(llm, "SAVE_EVERY", 7)
    rate, calls = llm.wsd_factor, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 18:
            raise KeyboardInterrupt
        return rate(*arguments)

    monkeypatch.setattr(llm, "wsd_factor", killed)
    with pytest.raises(KeyboardInterrupt):
        train_llm(texts[0], tmp_path / "cut", texts[1], SMALL)
    again = train_llm(texts[0], tmp_path / "cut", texts[1], SMALL)
    assert again["held_nll"] == pytest.approx(whole["held_nll"], abs=1e-4)
    assert len(calls) == 18 + whole["steps"] - 14  # steps 14, 15, 16 and 17 came twice
