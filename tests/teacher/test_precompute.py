"""Precompute: every text once, the model's own answers, and the same store however it came about."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from salad_ds.distill.targets import SparseTargets
from salad_ds.errors import RecipeError, StoreError
from salad_ds.teacher.precompute import only_writer, precompute
from salad_ds.teacher.stored import StoredTeacher, open_teacher
from salad_ds.text import start_token, tokenize
from tests.processes import gone
from tests.teacher.job import GROUP_TOKENS
from tests.train.launch import REPOSITORY, command, environment, forked


def ids_of(recipe, text: str) -> tuple[int, ...]:
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.llm)
    return tokenize(tokenizer, text, start_token(tokenizer), recipe.data.context).ids


def opened(recipe) -> StoredTeacher:
    teacher = open_teacher(recipe, AutoTokenizer.from_pretrained(recipe.model.llm))
    assert isinstance(teacher, StoredTeacher)
    return teacher


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.safetensors"))}


def require_estimate(targets: SparseTargets, probs: torch.Tensor) -> None:
    """Stored targets of a row say what ``probs`` [N, V] say: the 16 likeliest tokens to their rounding (topk.py), the
    sum of all, the entropy to 1/512 nat."""
    top, kept = probs.topk(16).indices.sort(1).values, targets.ids[:, :16].sort(1).values
    assert (top == kept).float().mean() > 0.99  # but for ties
    exact = probs.gather(1, targets.ids[:, :16])
    assert ((targets.weights[:, :16] - exact).abs() < 0.26 * exact).all()
    torch.testing.assert_close(targets.weights[:, :16].sum(1), exact.sum(1), rtol=0.1, atol=0)
    torch.testing.assert_close(targets.weights.sum(1), torch.ones(len(probs)), rtol=0, atol=1e-6)
    torch.testing.assert_close(targets.entropy, torch.special.entr(probs).sum(1), rtol=0, atol=2.1e-3)


def pieces_of(sentences: list[str]) -> list[str]:
    return [" ".join(words) for text in sentences for words in np.array_split(text.split(), 3)]


def test_every_text_once_with_the_models_own_answers(recipe, write_texts, sentences) -> None:
    write_texts("text/a", sentences[:4] + sentences[:1])
    write_texts("text/b", sentences[2:6])
    made = recipe({"stage1": ["text/a", "text/b"], "stage2": ["text/b", "text/later"]})
    report = precompute(made)
    assert (report.texts, report.computed, report.missing) == (6, 6, ["text/later"])
    assert report.tokens == sum(len(ids_of(made, text)) for text in sentences[:6])
    assert 0 < report.padding < 0.4 and f"{report.padding:.1%} padding" in str(report)
    store = opened(made).store
    assert len(store) == 6 and store.verify() >= 1
    model = AutoModelForCausalLM.from_pretrained(made.model.llm, dtype=torch.float32)
    for text in sentences[:6]:
        ids = ids_of(made, text)
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        require_estimate(store.get(ids), log_probs.exp())

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
    require_estimate(stored, probs)


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
        torch.testing.assert_close(one.entropy, many.entropy, rtol=0, atol=1 / 256)
        torch.testing.assert_close(one.weights.sum(1), many.weights.sum(1), rtol=1e-5, atol=1e-5)
        for row, other in zip(one.ids.tolist(), many.ids.tolist(), strict=True):
            moved += len(set(row) - set(other))
            total += len(row)
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
    write_texts("text/a", pieces_of(sentences) + sentences)
    made = recipe({"stage1": ["text/a"]})
    made.teacher.store = "whole"
    precompute(made, group_tokens=GROUP_TOKENS)
    whole = files(tmp_path / "whole")
    assert len(whole) >= 10

    call = [sys.executable, "-m", "tests.teacher.job", str(tmp_path), str(tiny_llm_dir)]
    job = subprocess.run([*call, json.dumps({"stores": {"teacher": "device"}, "dies": 3})], env=environment(),
                         cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, timeout=600)  # fmt: skip
    survivors = {path: path.stat().st_mtime_ns for path in (tmp_path / "teacher").glob("*.safetensors")}
    assert job.returncode == -signal.SIGKILL and len(survivors) == 3, job.stderr[-3000:]
    (tmp_path / "teacher" / ".x.safetensors.0.part").write_bytes(b"left by a killed run")

    made.teacher.store = "teacher"
    report = precompute(made, group_tokens=GROUP_TOKENS)
    assert 0 < report.computed < report.texts
    assert all(path.stat().st_mtime_ns == written for path, written in survivors.items())  # nothing was done again
    assert files(tmp_path / "teacher") == whole
    assert not list((tmp_path / "teacher").glob(".*.part"))


def test_a_rank_that_dies_ends_the_job_and_the_next_one_does_the_rest(recipe, write_texts, sentences, tmp_path,
                                                                      tiny_llm_dir) -> None:
    """Two ranks under the deepspeed launcher: SIGKILL to one of them, then the same command again."""
    write_texts("text/a", pieces_of(sentences) + sentences)
    made = recipe({"stage1": ["text/a"]})
    made.teacher.store = "whole"
    precompute(made, group_tokens=GROUP_TOKENS)
    whole = files(tmp_path / "whole")

    job = {"stores": {"teacher": "device"}}
    killed = subprocess.run(command(2, "tests.teacher.job", tmp_path, tiny_llm_dir, json.dumps(job | {"dies": 2})),
                            env=environment(), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, timeout=600)  # fmt: skip
    pids = [int(pid) for pid in re.findall(r"process (\d+) spawned", killed.stdout)]
    assert killed.returncode != 0 and len(pids) == 2, killed.stdout[-3000:]
    survivors = {path: path.stat().st_mtime_ns for path in (tmp_path / "teacher").glob("*.safetensors")}
    assert 3 <= len(survivors) < len(whole) and gone(pids), killed.stdout[-3000:]

    said = forked(2, "tests.teacher.job", tmp_path, tiny_llm_dir, json.dumps(job), log=tmp_path / "again")
    assert said.count("texts computed") == 1  # by rank 0, for all
    assert all(path.stat().st_mtime_ns == written for path, written in survivors.items())
    assert files(tmp_path / "teacher") == whole


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
    with pytest.raises(StoreError, match="top_k 16 instead of 20"):
        opened(recipe({"stage1": ["text/a"]}, top_k=20))
    with only_writer(tmp_path / "teacher"), pytest.raises(StoreError, match="another precompute run"):
        precompute(made)


def test_a_wider_teacher_is_cut_to_the_student_and_a_narrower_one_refused(recipe, write_texts, sentences, tmp_path,
                                                                            tiny_llm_dir) -> None:
    """The rows that the wider head has besides are the loudest: if they were not cut, they would be nearly all."""
    model = AutoModelForCausalLM.from_pretrained(tiny_llm_dir, dtype=torch.float32)
    model.resize_token_embeddings(49_152 + 64)
    with torch.no_grad():
        model.get_output_embeddings().weight[49_152:] *= 1e3
    model.save_pretrained(tmp_path / "wide")
    write_texts("text/a", sentences[:2])
    made = recipe({"stage1": ["text/a"]})
    made.teacher.llm = str(tmp_path / "wide")
    precompute(made)
    request = [(ids_of(made, sentences[1]), torch.tensor([5, 2, 0]))]
    stored = opened(made).targets(request)
    made.teacher.mode = "live"
    live = open_teacher(made, AutoTokenizer.from_pretrained(made.model.llm), "cpu").targets(request)
    assert live.head.shape == (49_152, 32) and int(stored.ids.max()) < 49_152
    probs = (live.hidden @ live.head.T).softmax(-1)
    require_estimate(stored, probs)
    made.model.llm, made.teacher.llm, made.model.tokenizer = made.teacher.llm, made.model.llm, made.model.llm
    for mode in ("live", "store"):
        made.teacher.mode = mode
        with pytest.raises(RecipeError, match="has 49152 tokens in its head, the student 49216"):
            open_teacher(made, AutoTokenizer.from_pretrained(tiny_llm_dir), "cpu")


def test_a_teacher_with_another_tokenizer_is_refused(recipe, write_texts, sentences, whisper_dir) -> None:
    write_texts("text/a", sentences[:2])
    made = recipe({"stage1": ["text/a"]})
    made.teacher.llm = str(whisper_dir)
    with pytest.raises(RecipeError, match="has tokenizer"):
        precompute(made)
