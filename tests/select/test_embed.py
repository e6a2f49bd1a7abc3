"""Embeddings by a real model, in one process, in several, and in one that is killed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from salad_ds.assets import resolve
from salad_ds.config import Recipe
from salad_ds.data.shards import Sample, ShardSet, ShardWriter
from salad_ds.errors import AssetError, DataError
from salad_ds.select import embed as embedding
from salad_ds.teacher.ranks import Ranks
from tests.ports import held_port
from tests.select.job import start

pytestmark = pytest.mark.assets
TEXTS = ["a boat on a lake", "a ship sails across the sea", "the central bank raised interest rates",
         "inflation and the price of money", "a " + "very " * 400 + "long text", "stop", "the end"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A recipe file and its corpus."""
    directory = tmp_path_factory.mktemp("work")
    with ShardWriter(directory / "text", source="t") as writer:
        for i, text in enumerate(TEXTS):
            writer.add(Sample(f"t{i}", {"text": text}))
    (directory / "recipe.yaml").write_text(f"name: t\nworkdir: {directory}\nmodel: {{llm: none}}\n"
                                           "select: {text: text, checkpoint: .}\n")
    return directory


@pytest.fixture
def recipe(work):
    made = Recipe(name="t", workdir=str(work))
    made.select.text = "text"
    return made


@pytest.fixture(scope="module")
def minilm():
    return embedding.load_embedder(Path(resolve("packaged:minilm")), CPU)


def embed(recipe, path, load=embedding.load_embedder, **settings):
    return embedding.embed(recipe, ShardSet.open(recipe.path("text")), path, Ranks(), quiet=True, load=load, **settings)


def hidden_states(directory, text):
    """float32 [tokens, width] by transformers alone."""
    coded = AutoTokenizer.from_pretrained(directory)(text, return_tensors="pt")
    with torch.inference_mode():
        return AutoModel.from_pretrained(directory, dtype=torch.float32).eval()(**coded).last_hidden_state[0]


def test_vectors_are_the_model_s_own_whatever_stands_beside_them(minilm):
    work, width = minilm
    vectors = work(TEXTS)
    assert vectors.shape == (len(TEXTS), width) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = hidden_states(resolve("packaged:minilm"), TEXTS[0]).mean(0)
    np.testing.assert_allclose(vectors[0], (alone / alone.norm()).numpy(), atol=1e-5)
    for i in (1, 4):
        np.testing.assert_allclose(work([TEXTS[i]])[0], vectors[i], atol=1e-5)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.3 > alike[0, 2] and alike[2, 3] > 0.3 > alike[1, 3]


def test_pooling_prompt_and_dense_of_a_saved_model_are_followed(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer

    base = str(resolve("packaged:minilm"))
    torch.manual_seed(0)
    dense = Dense(384, 16, activation_function=torch.nn.Tanh())
    built = SentenceTransformer(modules=[Transformer(base), Pooling(384, pooling_mode="cls"), dense], device="cpu",
                                prompts={"topic": "What is this about? "}, default_prompt_name="topic")
    built.save(str(tmp_path / "own"))
    work, width = embedding.load_embedder(tmp_path / "own", CPU)
    assert width == 16
    first = hidden_states(base, "What is this about? " + TEXTS[0])[0]
    with torch.inference_mode():
        expected = torch.tanh(dense.linear(first))
    np.testing.assert_allclose(work(TEXTS)[0], (expected / expected.norm()).numpy(), atol=1e-5)
    before = embedding.embedder_identity(tmp_path / "own")
    settings = tmp_path / "own" / "config_sentence_transformers.json"
    settings.write_text(settings.read_text().replace("this about", "that about"))
    assert embedding.embedder_identity(tmp_path / "own") != before != embedding.embedder_identity(Path(base))


def test_a_stopped_run_goes_on_where_it_was_and_gives_the_same_file(minilm, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 2)
    whole = embed(recipe, tmp_path / "whole.npy", lambda *_: minilm)
    calls = []

    def stops(batch):
        calls.append(len(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return minilm[0](batch)

    with pytest.raises(KeyboardInterrupt):
        embed(recipe, tmp_path / "part.npy", lambda *_: (stops, 384))
    assert not (tmp_path / "part.npy").exists(), "files appear whole"
    with pytest.raises(DataError, match="step embed first"):
        embed(recipe, tmp_path / "part.npy", make=False)
    found = embed(recipe, tmp_path / "part.npy", lambda *_: (stops, 384))
    assert calls == [2, 2, 2, 2, 1] and np.array_equal(found, whole)
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    for suffix in ("", ".json"):
        assert (tmp_path / f"part.npy{suffix}").read_bytes() == (tmp_path / f"whole.npy{suffix}").read_bytes()

    def not_again(*_):
        raise AssertionError("the model is loaded for nothing")

    embed(recipe, tmp_path / "part.npy", not_again)
    (tmp_path / "part.npy.json").unlink()  # killed between the file and its note
    (tmp_path / "part.npy.blocks").mkdir()
    (tmp_path / "part.npy.blocks" / "about.json").write_bytes((tmp_path / "whole.npy.json").read_bytes())
    (tmp_path / "part.npy.blocks" / "done-0.json").write_text("[0, 1, 2, 3]")
    embed(recipe, tmp_path / "part.npy", not_again)
    assert sorted(path.name for path in tmp_path.glob("part*")) == ["part.npy", "part.npy.json"]


def test_half_precision_is_stored_in_half_the_bytes_and_is_nearly_the_same(minilm, recipe, tmp_path):
    whole = embed(recipe, tmp_path / "x.npy", lambda *_: minilm)
    recipe.select.embed_dtype = "float16"
    half = embed(recipe, tmp_path / "x.npy", lambda *_: minilm)
    assert half.dtype == np.float16 and np.abs(half - np.asarray(whole)).max() < 2**-11


def test_vectors_that_are_not_numbers_are_refused(recipe, tmp_path):
    with pytest.raises(AssetError, match="not finite"):
        embed(recipe, tmp_path / "x.npy", lambda *_: (lambda texts: np.full((len(texts), 3), np.nan), 3))


def test_a_model_that_is_not_there_or_is_none_of_these_is_named(recipe, tmp_path, tiny_llm_dir):
    for embedder, reason in ((str(tmp_path / "nowhere"), "nowhere"), (str(tiny_llm_dir), "modules.json")):
        recipe.select.embedder = embedder
        with pytest.raises(AssetError, match=f"select.embedder.*{reason}"):
            embed(recipe, tmp_path / "x.npy")


@pytest.mark.slow
def test_a_rank_that_is_killed_loses_its_block_and_two_ranks_make_the_same_file(minilm, recipe, work, tmp_path,
                                                                                monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 1)
    embed(recipe, tmp_path / "alone.npy", lambda *_: minilm)
    job = {"recipe": str(work / "recipe.yaml"), "path": str(tmp_path / "ranks.npy"), "block": 1}
    port = held_port()
    ranks = [start("embed", {**job, "die_after": die}, rank, 2, port) for rank, die in enumerate((5, 2))]
    assert ranks[1].wait(120) == -9
    ranks[0].communicate(timeout=120)
    notes = {path.name: json.loads(path.read_text()) for path in (tmp_path / "ranks.npy.blocks").glob("done-*.json")}
    assert notes["done-1.json"] == [1, 3] and set(notes["done-0.json"]) <= {0, 2, 4, 6}
    assert not (tmp_path / "ranks.npy").exists()
    port = held_port()
    ranks = [start("embed", job, rank, 2, port) for rank in range(2)]
    assert [process.communicate(timeout=120) and process.returncode for process in ranks] == [0, 0]
    for suffix in ("", ".json"):
        assert (tmp_path / f"ranks.npy{suffix}").read_bytes() == (tmp_path / f"alone.npy{suffix}").read_bytes()
