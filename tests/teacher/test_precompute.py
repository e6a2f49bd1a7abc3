"""Precompute: every text once, the model's own answers, and the same store however it came about."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from salad_ds.errors import RecipeError, StoreError
from salad_ds.teacher.precompute import only_writer, precompute
from salad_ds.teacher.stored import StoredTeacher, open_teacher
from salad_ds.text import start_token, tokenize

RUN = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import make_recipe
from salad_ds.teacher.precompute import precompute
torch.set_num_threads(1)
precompute(make_recipe(Path(sys.argv[1]), Path(sys.argv[2]), {{"stage1": ["text/a"]}}), group_tokens=64)
"""


def ids_of(recipe, text: str) -> tuple[int, ...]:
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.llm)
    return tokenize(tokenizer, text, start_token(tokenizer), recipe.data.context).ids


def opened(recipe) -> StoredTeacher:
    teacher = open_teacher(recipe, AutoTokenizer.from_pretrained(recipe.model.llm))
    assert isinstance(teacher, StoredTeacher)
    return teacher


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.safetensors"))}


def start(workdir: Path, llm: str, **environment: str) -> subprocess.Popen[str]:
    code = RUN.format(tests=str(Path(__file__).parent))
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environment
    return subprocess.Popen([sys.executable, "-c", code, str(workdir), str(llm)], cwd=Path(__file__).parents[2],
                            text=True, env=environment, stderr=subprocess.PIPE)


def test_every_text_once_with_the_models_own_answers(recipe, write_texts, sentences) -> None:
    write_texts("text/a", sentences[:4] + sentences[:1])
    write_texts("text/b", sentences[2:6])
    made = recipe({"stage1": ["text/a", "text/b"], "stage2": ["text/b", "text/later"]})
    report = precompute(made)
    assert (report.texts, report.computed, report.missing) == (6, 6, ["text/later"])
    store = opened(made).store
    assert len(store) == 6 and store.verify() >= 1
    model = AutoModelForCausalLM.from_pretrained(made.model.llm, dtype=torch.float32)
    for text in sentences[:6]:
        ids = ids_of(made, text)
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        targets = store.get(ids)
        assert targets.ids.shape == (len(ids) - 1, 16 + 8)
        top = log_probs.topk(16, sorted=False)
        weights = targets.weights[:, :16]
        torch.testing.assert_close(weights.sum(1), top.values.exp().sum(1), rtol=1e-4, atol=0)
        torch.testing.assert_close(weights, log_probs.gather(1, targets.ids[:, :16]).exp(), rtol=1e-3, atol=0)
        torch.testing.assert_close(targets.weights.sum(1), torch.ones(len(ids) - 1), rtol=0, atol=1e-6)
        torch.testing.assert_close(targets.entropy, -(log_probs.exp() * log_probs).sum(1), rtol=1e-5, atol=0)

    # a later stage's texts are added, nothing is done again
    before = files(store.directory)
    write_texts("text/later", sentences[4:9])
    report = precompute(made)
    assert (report.texts, report.computed, report.missing) == (9, 3, [])
    after = files(store.directory)
    assert {name: after[name] for name in before} == before and len(after) > len(before)
    assert precompute(made, sources=["text/later"]).computed == 0
    with pytest.raises(StoreError, match="no record of the text 'the people of"):
        opened(made).store.get(ids_of(made, "the people of another earth"))


def test_a_live_teacher_answers_the_same_question(recipe, write_texts, sentences) -> None:
    write_texts("text/a", sentences[:3])
    made = recipe({"stage1": ["text/a"]})
    precompute(made)
    ids = ids_of(made, sentences[1])
    request = [(ids, torch.tensor([5, 2, 0]))]
    stored = opened(made).targets(request)
    made.teacher.mode = "live"
    live = open_teacher(made, AutoTokenizer.from_pretrained(made.model.llm), "cpu").targets(request)
    probs = (live.hidden @ live.head.T).softmax(-1)
    torch.testing.assert_close(stored.weights[:, :16], probs.gather(1, stored.ids[:, :16]), rtol=1e-3, atol=0)


def test_records_depend_on_batching_by_rounding_only(recipe, write_texts, sentences) -> None:
    sentences = sorted(sentences, key=len)[:5]
    write_texts("text/a", sentences)
    stores = []
    for batch_tokens, group_tokens, name in ((1, 32, "one"), (4096, 4096, "many")):
        made = recipe({"stage1": ["text/a"]}, batch_tokens=batch_tokens)
        made.teacher.store = name
        precompute(made, group_tokens=group_tokens)
        stores.append(opened(made).store)
    assert len(stores[0].shards) > len(stores[1].shards) == 1
    moved = total = 0
    for text in sentences:
        one, many = (store.get(ids_of(made, text)) for store in stores)
        torch.testing.assert_close(one.entropy, many.entropy, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.weights.sum(1), many.weights.sum(1), rtol=1e-5, atol=1e-5)
        moved += int((one.ids != many.ids).sum())
        total += one.ids.numel()
    assert moved / total < 2e-3  # a tie of the top, or a draw on the border of two tokens


def test_a_text_longer_than_the_context_is_cut(recipe, write_texts, sentences) -> None:
    write_texts("text/a", sentences)
    made = recipe({"stage1": ["text/a"]}, context=20)
    assert precompute(made).texts == len(sentences)
    longest = max(sentences, key=len)
    cut = ids_of(made, longest)
    assert len(cut) <= 20
    assert opened(made).store.get(cut).ids.shape[0] == len(cut) - 1


def test_a_text_that_cannot_be_used_is_counted(recipe, write_texts, sentences) -> None:
    write_texts("text/a", [sentences[0], "supercalifragilisticexpialidocious" * 9])
    report = precompute(recipe({"stage1": ["text/a"]}, context=32))
    assert report.computed == 1
    (reason, row), = report.skipped.items()
    assert "longer than the context" in reason and row["count"] == 1 and "text/a[1]" in row["examples"][0]
    assert "1 texts cannot be used" in str(report)


def test_kill_and_rerun_gives_the_same_bytes(recipe, write_texts, sentences, tmp_path, tiny_llm_dir) -> None:
    pieces = [" ".join(words) for text in sentences for words in np.array_split(text.split(), 3)]
    write_texts("text/a", pieces + sentences)
    made = recipe({"stage1": ["text/a"]})
    made.teacher.store = "whole"
    precompute(made, group_tokens=64)
    whole = files(tmp_path / "whole")
    assert len(whole) >= 10

    process = start(tmp_path, tiny_llm_dir)
    deadline = time.monotonic() + 120
    while len(files(tmp_path / "teacher")) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    survivors = {path: path.stat().st_mtime_ns for path in (tmp_path / "teacher").glob("*.safetensors")}
    assert process.returncode == -signal.SIGKILL and 3 <= len(survivors) < len(whole)
    (tmp_path / "teacher" / ".x.safetensors.0.part").write_bytes(b"left by a killed run")

    made.teacher.store = "teacher"
    report = precompute(made, group_tokens=64)
    assert 0 < report.computed < report.texts
    assert all(path.stat().st_mtime_ns == written for path, written in survivors.items())  # nothing was done again
    assert files(tmp_path / "teacher") == whole
    assert not list((tmp_path / "teacher").glob(".*.part"))


def test_two_ranks_make_the_same_store(recipe, write_texts, sentences, tmp_path, tiny_llm_dir) -> None:
    sentences = sorted(sentences, key=len)[:6]
    write_texts("text/a", sentences)
    made = recipe({"stage1": ["text/a"]})
    made.teacher.store = "whole"
    precompute(made, group_tokens=64)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [start(tmp_path, tiny_llm_dir, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
                   MASTER_ADDR="127.0.0.1", MASTER_PORT=port) for rank in range(2)]
    said = [process.communicate(timeout=240)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    assert files(tmp_path / "teacher") == files(tmp_path / "whole")
    assert f"{len(sentences)} of {len(sentences)} texts computed" in said[0] and "texts computed" not in said[1]


def test_another_teacher_settings_or_writer_are_refused(recipe, write_texts, sentences, tiny_untied_llm_dir,
                                                        tmp_path) -> None:
    write_texts("text/a", sentences[:2])
    made = recipe({"stage1": ["text/a"]})
    precompute(made)
    other = recipe({"stage1": ["text/a"]})
    other.teacher.llm = str(tiny_untied_llm_dir)
    with pytest.raises(StoreError, match="was made by teacher LlamaForCausalLM-32x2-.*the recipe has LlamaForCausalLM"):
        precompute(other)
    with pytest.raises(StoreError, match="top_k 16 instead of 20"):
        precompute(recipe({"stage1": ["text/a"]}, top_k=20))
    with only_writer(tmp_path / "teacher"), pytest.raises(StoreError, match="another precompute run"):
        precompute(made)


def test_a_teacher_with_another_tokenizer_is_refused(recipe, write_texts, sentences, whisper_dir) -> None:
    write_texts("text/a", sentences[:2])
    made = recipe({"stage1": ["text/a"]})
    made.teacher.llm = str(whisper_dir)
    with pytest.raises(RecipeError, match="has tokenizer"):
        precompute(made)
