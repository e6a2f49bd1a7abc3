"""Sentence embeddings of a text corpus: mean-pooled, L2-normalised, in one memory-mapped file.

Any sentence-transformers model with mean or CLS pooling works; its ``1_Pooling/config.json`` says which. The file grows
in blocks that are synced before they are counted, so that a killed run goes on at the next block.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad_ds.assets import resolve
from salad_ds.data.shards import ShardSet
from salad_ds.errors import AssetError
from salad_ds.files import digest_of, read_json, sha256_file, sync_directory, write_json
from salad_ds.progress import Progress

SCHEMA = 1
BLOCK = 1024
"""Rows between two records of progress; also the rows that are sorted by length together."""
BATCH = 32
MAX_TOKENS = 256


class Embedder:
    """A loaded sentence-transformers model. ``dim``: width of its vectors; ``identity``: digest of what it computes."""

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        where = str(resolve(name, "select.embedder"))
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(where)
            self.model = AutoModel.from_pretrained(where, dtype=torch.float32).eval()
        except (OSError, ValueError) as error:
            raise AssetError(f"select.embedder {name!r} cannot be loaded ({str(error).splitlines()[0][:160]})",
                             "give a sentence-transformers model, such as packaged:minilm") from None
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.dim = int(self.model.config.hidden_size)
        self.cls = pools_cls(Path(where))
        self.max_tokens = min(MAX_TOKENS, int(getattr(self.model.config, "max_position_embeddings", MAX_TOKENS)))
        weights = [sha256_file(path) for path in sorted(Path(where).glob("*.safetensors"))]
        self.identity = digest_of({"weights": weights or name, "cls": self.cls, "tokens": self.max_tokens,
                                   "batch": [BLOCK, BATCH]})

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), dim], rows of length 1. Batches are of texts of like length."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        for first in range(0, len(order), BATCH):
            rows = order[first:first + BATCH]
            coded = self.tokenizer([texts[i] for i in rows], padding=True, truncation=True,
                                   max_length=self.max_tokens, return_tensors="pt").to(self.model.device)
            hidden = self.model(**coded).last_hidden_state.float()
            mask = coded["attention_mask"].unsqueeze(-1).float()
            pooled = hidden[:, 0] if self.cls else (hidden * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return vectors


def pools_cls(directory: Path) -> bool:
    """True where the model's own pooling takes the first token (bge); without a pooling file, mean pooling."""
    path = directory / "1_Pooling" / "config.json"
    return bool(path.is_file() and read_json(path).get("pooling_mode_cls_token"))


def embed(texts: ShardSet, embedder: Embedder, path: str | Path, quiet: bool = False) -> np.ndarray:
    """The embeddings of ``texts`` in ``path`` (``.npy``), as a read-only memory map float32 [len(texts), dim].

    Beside it ``<path>.json`` says what they were made from and how many rows are done.
    """
    path = Path(path)
    note = path.with_name(path.name + ".json")
    made_from = {"texts": texts.digest, "embedder": embedder.identity}
    state = read_json(note) if note.is_file() and path.is_file() else {}
    if state.get("made_from") != made_from or state.get("schema") != SCHEMA:
        state = {"schema": SCHEMA, "made_from": made_from, "rows": 0, "of": len(texts)}
        path.parent.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(texts), embedder.dim)).flush()
        write_json(note, state)
    if state["rows"] < len(texts):
        vectors = np.lib.format.open_memmap(path, mode="r+")
        with Progress("embed", len(texts), "texts", done=state["rows"], quiet=quiet) as bar:
            for first in range(state["rows"], len(texts), BLOCK):
                last = min(first + BLOCK, len(texts))
                vectors[first:last] = embedder([texts.read(i).text for i in range(first, last)])
                vectors.flush()
                write_json(note, {**state, "rows": last})  # only what is on the disk counts as done
                bar.update(last - first)
        del vectors
        durable(path)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def durable(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    sync_directory(path.parent)


def made_from(path: Path) -> dict[str, Any]:
    """What the embeddings in ``path`` were made from."""
    return read_json(path.with_name(path.name + ".json"))["made_from"]
