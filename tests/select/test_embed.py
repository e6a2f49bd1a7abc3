import json

import numpy as np
import pytest
import torch

from salad_ds.assets import resolve
from salad_ds.data.shards import Sample, ShardSet, ShardWriter
from salad_ds.errors import AssetError
from salad_ds.select import embed as embedding

pytestmark = pytest.mark.assets
TEXTS = ["a boat on a lake", "a ship sails across the sea", "the central bank raised interest rates",
         "inflation and the price of money", "a " + "very " * 400 + "long text"]


@pytest.fixture(scope="module")
def embedder():
    return embedding.Embedder("packaged:minilm")


@pytest.fixture
def texts(tmp_path):
    with ShardWriter(tmp_path / "text", source="t") as writer:
        for i, text in enumerate(TEXTS):
            writer.add(Sample(f"t{i}", {"text": text}))
    return ShardSet.open(tmp_path / "text")


def test_vectors_are_the_model_s_mean_pooled_and_of_length_one(embedder):
    vectors = embedder(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    coded = embedder.tokenizer(TEXTS[0], return_tensors="pt")
    with torch.inference_mode():
        alone = embedder.model(**coded).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vectors[0], (alone / alone.norm()).numpy(), atol=1e-5)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.3 > alike[0, 2] and alike[2, 3] > 0.3 > alike[1, 3]


def test_a_stopped_run_goes_on_where_it_was_and_gives_the_same_file(embedder, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 2)
    whole = embedding.embed(texts, embedder, tmp_path / "whole.npy", quiet=True)
    calls = []

    def stops(batch):
        calls.append(len(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return embedder(batch)

    stops.dim, stops.identity = embedder.dim, embedder.identity
    with pytest.raises(KeyboardInterrupt):
        embedding.embed(texts, stops, tmp_path / "part.npy", quiet=True)
    assert json.loads((tmp_path / "part.npy.json").read_text())["rows"] == 2
    found = embedding.embed(texts, stops, tmp_path / "part.npy", quiet=True)
    assert calls == [2, 2, 2, 1] and np.array_equal(found, whole)
    assert (tmp_path / "part.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    embedding.embed(texts, stops, tmp_path / "part.npy", quiet=True)
    assert len(calls) == 4, "what is done is not done again"


def test_pooling_is_read_from_the_model(tmp_path):
    assert not embedding.pools_cls(resolve("packaged:minilm"))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert embedding.pools_cls(tmp_path)


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AssetError, match="nowhere"):
        embedding.Embedder(str(tmp_path / "nowhere"))
