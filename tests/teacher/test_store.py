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

from salad_ds.distill.targets import GhostTargets, SparseTargets
from salad_ds.errors import StoreError
from salad_ds.teacher.sampling import Record, uniforms
from salad_ds.teacher.shard import open_shard
from salad_ds.teacher.store import StoreSettings, TeacherStore
from salad_ds.teacher.stored import StoredTeacher
from salad_ds.text import text_key
from tests.teacher.records import dense

VOCAB, K, M = 300, 12, 5
SETTINGS = StoreSettings(teacher="LlamaForCausalLM-32x2-aaaaaaaaaaaa", tokenizer="t" * 32, vocab=VOCAB, top_k=K,
                         samples=M, seed=0)
SAMPLED = dataclasses.replace(SETTINGS, keep="sampled", top_k=0, samples=0, resolution=20)


def some_text(seed: int) -> tuple[int, ...]:
    rng = np.random.default_rng(seed)
    return (0, *(int(i) for i in rng.integers(1, VOCAB, rng.integers(1, 30))))


def some_record(ids: tuple[int, ...], settings: StoreSettings = SETTINGS) -> Record:
    logits = torch.randn(len(ids) - 1, VOCAB, generator=torch.Generator().manual_seed(sum(ids))) * 2
    rule = settings.rule()
    return rule.keep(logits, uniforms(0, text_key(ids), len(ids) - 1, rule.uniforms))


def fill(directory: Path, texts: list[tuple[int, ...]], settings: StoreSettings = SETTINGS) -> TeacherStore:
    store = TeacherStore.create(directory, settings)
    store.add([(text_key(ids), some_record(ids, settings)) for ids in texts], {"test": True})
    store.refresh()
    return store


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    fill(tmp_path, [some_text(seed) for seed in range(40)])
    return fill(tmp_path, [some_text(seed) for seed in range(40, 60)])


@pytest.mark.parametrize("kept", [SETTINGS, SAMPLED], ids=["topk", "sampled"])
def test_every_text_is_found_and_its_rows_are_its_own(tmp_path: Path, kept: StoreSettings) -> None:
    texts = [some_text(seed) for seed in range(60)]
    fill(tmp_path, texts[:40], kept)
    store = fill(tmp_path, texts[40:], kept)
    assert len(store) == 60 and len(store.shards) == 2
    assert store.rows == sum(len(ids) - 1 for ids in texts)
    rule = kept.rule()
    for ids in texts:
        assert text_key(ids) in store
        want, got = rule.targets(some_record(ids, kept), "draws"), store.get(ids)
        assert isinstance(got, SparseTargets) and got.ids.dtype == torch.int64 and len(got) == len(ids) - 1
        torch.testing.assert_close(dense(got, VOCAB), dense(want, VOCAB), rtol=1e-6, atol=0)
        torch.testing.assert_close(got.entropy, want.entropy, rtol=0, atol=0)
    assert text_key(some_text(99)) not in store
    assert set(store.keys()) == {text_key(ids) for ids in texts}


@pytest.mark.parametrize("kept", [SETTINGS, SAMPLED], ids=["topk", "sampled"])
def test_rows_of_many_texts_at_once_in_the_order_asked(tmp_path: Path, kept: StoreSettings) -> None:
    texts = [some_text(seed) for seed in range(20)]
    fill(tmp_path, texts[:12], kept)
    teacher = StoredTeacher(fill(tmp_path, texts[12:], kept))
    rng = np.random.default_rng(0)
    asked = [texts[place] for place in rng.integers(0, 20, 30)]  # some twice, of both shards
    requests = [(ids, torch.from_numpy(rng.integers(0, len(ids) - 1, rng.integers(0, 9)))) for ids in asked]
    got = teacher.targets(requests)
    whole = [teacher.store.get(ids).rows(rows) for ids, rows in requests]
    assert len(got) == sum(len(rows) for _, rows in requests)
    torch.testing.assert_close(dense(got, VOCAB), torch.cat([dense(one, VOCAB) for one in whole]), rtol=0, atol=0)
    torch.testing.assert_close(got.entropy, torch.cat([one.entropy for one in whole]), rtol=0, atol=0)
    assert len(teacher.targets([])) == 0
    assert len(teacher.targets([(texts[0], torch.zeros(0, dtype=torch.long))])) == 0


def test_tails(store: TeacherStore, tmp_path: Path) -> None:
    ids = some_text(3)
    ghost = StoredTeacher(store, "ghost").targets([(ids, torch.arange(len(ids) - 1))])
    assert isinstance(ghost, GhostTargets) and ghost.ids.shape == (len(ids) - 1, K)
    torch.testing.assert_close(ghost.probs.sum(1) + ghost.tail, torch.ones(len(ids) - 1))
    alone = StoredTeacher(store, "renormalise").targets([(ids, torch.arange(len(ids) - 1))])
    torch.testing.assert_close(alone.weights * (1 - ghost.tail[:, None]), ghost.probs)
    torch.testing.assert_close(alone.weights.sum(1), torch.ones(len(ids) - 1))
    torch.testing.assert_close(alone.entropy, -(alone.weights * alone.weights.log()).sum(1))
    sampled = fill(tmp_path / "sampled", [ids], SAMPLED)
    bare = fill(tmp_path / "bare", [ids], dataclasses.replace(SETTINGS, samples=0))
    assert isinstance(bare.get(ids), GhostTargets)
    for other, tail in ((sampled, "ghost"), (bare, "draws")):
        with pytest.raises(StoreError, match=f"cannot give teacher.tail {tail}"):
            StoredTeacher(other, tail)


def test_same_records_same_bytes_any_reader(store: TeacherStore, tmp_path: Path) -> None:
    again = fill(tmp_path / "again", [some_text(seed) for seed in reversed(range(40))])
    path = again.shards[0].path
    assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    with safe_open(path, framework="pt") as file:  # plain safetensors
        keys = file.get_tensor("keys")
        assert set(file.keys()) == {"keys", "starts", "counts", "sums", "ranks", "payload"}
        assert "salad_ds" in file.metadata()
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


def test_a_flipped_bit_is_found_when_it_is_read(store: TeacherStore) -> None:
    shard = store.shards[1]
    ids = next(some_text(seed) for seed in range(40, 60) if shard.keys[7].tobytes() == text_key(some_text(seed)))
    begin = len(shard.path.read_bytes()) - len(shard.payload) + int(shard.starts[7])
    good = shard.path.read_bytes()
    bad = bytearray(good)
    bad[begin + 2] ^= 4
    shard.path.write_bytes(bad)
    again = TeacherStore.open(store.directory, SETTINGS.teacher, SETTINGS.tokenizer)
    named = f"{shard.path.name} is damaged: the checksum of the text {text_key(ids).hex()}"
    with pytest.raises(StoreError, match=named):
        again.get(ids)
    other = next(some_text(seed) for seed in range(40, 60) if some_text(seed) != ids)
    assert len(again.get(other)) == len(other) - 1  # the others can still be read
    shard.path.write_bytes(good)
    assert len(shard.ranks) > 20
    bad = bytearray(good)
    bad[good.index(shard.ranks.tobytes())] ^= 1
    shard.path.write_bytes(bad)
    with pytest.raises(StoreError, match=f"{shard.path.name} is damaged: the checksum of its ranks"):
        TeacherStore.open(store.directory, SETTINGS.teacher, SETTINGS.tokenizer).get(other)


def test_a_shard_cut_short_is_named(store: TeacherStore) -> None:
    path = store.shards[0].path
    good = path.read_bytes()
    for length in (0, 5, 60, 700, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(StoreError, match=f"{path.name} is damaged"):
            open_shard(path)


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


@settings(max_examples=300)
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
