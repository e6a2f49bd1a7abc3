"""The store: whole files, right answers, and a clear refusal of everything else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from salad_ds.errors import StoreError
from salad_ds.teacher.sampling import Record, summarise, uniforms
from salad_ds.teacher.store import StoreSettings, TeacherStore
from salad_ds.teacher.stored import StoredTeacher
from salad_ds.text import text_key

VOCAB, K, M = 300, 12, 5
SETTINGS = StoreSettings(teacher="LlamaForCausalLM-32x2-aaaaaaaaaaaa", tokenizer="t" * 32, vocab=VOCAB, top_k=K,
                         samples=M, seed=0)


def some_text(seed: int) -> tuple[int, ...]:
    rng = np.random.default_rng(seed)
    return (0, *(int(i) for i in rng.integers(1, VOCAB, rng.integers(1, 30))))


def some_record(ids: tuple[int, ...]) -> Record:
    logits = torch.randn(len(ids) - 1, VOCAB, generator=torch.Generator().manual_seed(sum(ids))) * 2
    return summarise(logits, K, uniforms(0, text_key(ids), len(ids) - 1, M))


def fill(directory: Path, texts: list[tuple[int, ...]]) -> TeacherStore:
    store = TeacherStore.create(directory, SETTINGS)
    store.add([(text_key(ids), some_record(ids)) for ids in texts], {"test": True})
    store.refresh()
    return store


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    fill(tmp_path, [some_text(seed) for seed in range(40)])
    return fill(tmp_path, [some_text(seed) for seed in range(40, 60)])


def test_every_text_is_found_and_its_rows_are_its_own(store: TeacherStore) -> None:
    assert len(store) == 60 and len(store.shards) == 2
    assert store.rows == sum(len(some_text(seed)) - 1 for seed in range(60))
    for seed in range(60):
        ids = some_text(seed)
        assert text_key(ids) in store
        want, got = some_record(ids).targets(), store.get(ids)
        assert got.ids.shape == (len(ids) - 1, K + M) and got.ids.dtype == torch.int64
        torch.testing.assert_close(got.ids, want.ids, rtol=0, atol=0)
        torch.testing.assert_close(got.weights, want.weights, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(got.entropy, want.entropy, rtol=0, atol=0)
    assert text_key(some_text(99)) not in store
    assert set(store.keys()) == {text_key(some_text(seed)) for seed in range(60)}


def test_stored_teacher_answers_in_the_order_asked(store: TeacherStore) -> None:
    first, second = some_text(3), some_text(41)
    rows = torch.tensor([len(second) - 2, 0])
    targets = StoredTeacher(store).targets([(second, rows), (first, torch.tensor([0])), (second, rows[:1])])
    torch.testing.assert_close(targets.ids[:2], store.get(second).ids[rows])
    torch.testing.assert_close(targets.weights[2:3], store.get(first).weights[:1])
    torch.testing.assert_close(targets.entropy[3], store.get(second).entropy[-1])
    assert len(StoredTeacher(store).targets([])) == 0
    assert len(StoredTeacher(store).targets([(first, torch.zeros(0, dtype=torch.long))])) == 0


def test_same_records_same_bytes_any_reader(store: TeacherStore, tmp_path: Path) -> None:
    again = fill(tmp_path / "again", [some_text(seed) for seed in reversed(range(40))])
    path = again.shards[0].path
    assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    with safe_open(path, framework="pt") as file:  # plain safetensors
        keys = file.get_tensor("keys")
        assert set(file.keys()) == {"keys", "starts", "counts", "payload"} and "salad_ds" in file.metadata()
    assert [bytes(key.tolist()) for key in keys] == sorted(text_key(some_text(seed)) for seed in range(40))


def test_another_teacher_or_tokenizer_is_refused_by_name(store: TeacherStore) -> None:
    with pytest.raises(StoreError) as caught:
        TeacherStore.open(store.directory, "Qwen2ForCausalLM-9x9-bbbbbbbbbbbb", SETTINGS.tokenizer)
    assert SETTINGS.teacher in caught.value.what and "Qwen2ForCausalLM-9x9-bbbbbbbbbbbb" in caught.value.what
    assert caught.value.mend
    with pytest.raises(StoreError, match="tokenizer t{32}, the recipe has x"):
        TeacherStore.open(store.directory, SETTINGS.teacher, "x")
    with pytest.raises(StoreError, match="top_k 12 instead of 13"):
        TeacherStore.create(store.directory, dataclasses.replace(SETTINGS, top_k=13))
    with pytest.raises(StoreError, match="no teacher store"):
        TeacherStore.open(store.directory / "nowhere", SETTINGS.teacher, SETTINGS.tokenizer)


def test_a_shard_of_another_store_is_refused(store: TeacherStore, tmp_path: Path) -> None:
    other = TeacherStore.create(tmp_path / "other", dataclasses.replace(SETTINGS, seed=9))
    (other.directory / "x.safetensors").write_bytes(store.shards[0].path.read_bytes())
    with pytest.raises(StoreError, match=r"x\.safetensors was made with seed 0"):
        other.refresh()


def test_a_missing_text_is_named(store: TeacherStore, tokenizer) -> None:
    ids = (0, *tokenizer("The quick brown fox jumps.", add_special_tokens=False)["input_ids"])
    with pytest.raises(StoreError, match="token ids") as caught:
        store.get(ids)
    assert "salad-ds precompute" in caught.value.mend
    named = TeacherStore.open(store.directory, SETTINGS.teacher, SETTINGS.tokenizer, tokenizer)
    with pytest.raises(StoreError, match="'The quick brown fox jumps.'"):
        named.get(ids)
    with pytest.raises(StoreError, match="row 500"):
        store.get(some_text(0), torch.tensor([500]))


def test_verify_names_the_damaged_shard(store: TeacherStore) -> None:
    assert store.verify() == 2
    path = store.shards[1].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=path.name) as caught:
        store.verify()
    assert store.shards[0].path.name not in caught.value.what
    path.write_bytes(data[:-20])
    with pytest.raises(StoreError, match=path.name):
        TeacherStore.open(store.directory, SETTINGS.teacher, SETTINGS.tokenizer)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> TeacherStore:
    return fill(tmp_path_factory.mktemp("small"), [some_text(0), some_text(1)])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found(small: TeacherStore, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([small.shards[0].path, small.directory / "store.json"]))
    good = path.read_bytes()
    bit = data.draw(st.integers(0, len(good) * 8 - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    try:
        path.write_bytes(bad)
        # White space between the JSON tokens of store.json means nothing, and neither does a flip within it.
        if path.suffix == ".json" and not bytes([good[bit // 8]]).strip() and not bytes([bad[bit // 8]]).strip():
            return
        with pytest.raises(StoreError, match=path.name):
            small.verify()
    finally:
        path.write_bytes(good)
    assert small.verify() == 1


def test_a_killed_write_leaves_nothing_that_is_read(store: TeacherStore) -> None:
    (store.directory / ".half.safetensors.abc.part").write_bytes(b"half")
    store.refresh()
    assert len(store) == 60
