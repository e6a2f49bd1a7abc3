"""Sentence embeddings of a text corpus, in one memory-mapped file.

Any sentence-transformers model in a directory or on the hub works as it was saved: pooling, prompts, Dense and
Normalize modules are the library's business. Whatever it puts out is brought to length 1: clusters are of directions.

The work is cut into blocks of BLOCK neighbouring texts. A block's vectors depend on nothing outside it, and each rank
of a launcher takes blocks of its own and writes them to their place in the file; a block counts as done when its bytes
are on the disk. So the file is the same however many ranks made it and however often they were killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad_ds import onednn
from salad_ds.config import Recipe
from salad_ds.data.shards import ShardSet
from salad_ds.errors import AssetError, DataError
from salad_ds.files import digest_of, read_json, sync_directory, write_json
from salad_ds.progress import Progress
from salad_ds.teacher.forward import default_device
from salad_ds.teacher.identity import model_directory, remembered_sha256
from salad_ds.teacher.ranks import Ranks

SCHEMA = 2
BLOCK = 1024
"""Texts of a block: what a killed rank loses at most, and what is sorted by length together."""
BATCH = 32
MODEL_FILES = (".json", ".safetensors", ".bin", ".txt", ".model")
"""Endings of the files that decide what a sentence-transformers directory computes."""

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts → float32 [texts, width], rows of length 1."""
Load = Callable[[Path, torch.device], tuple[Embed, int]]
"""(directory, device) → (embed, width)."""


def embedder_directory(recipe: Recipe) -> Path:
    """Where ``select.embedder`` lies; a hub model is downloaded. Raises AssetError."""
    name = recipe.select.embedder
    try:
        found = model_directory(name)
    except AssetError as error:
        raise AssetError(f"select.embedder: {error.what}", error.mend) from None
    if not (found / "modules.json").is_file():
        raise AssetError(f"select.embedder {name} is no sentence-transformers model: {found} has no modules.json",
                         "give one, such as packaged:minilm or BAAI/bge-large-en-v1.5")
    return found


def embedder_identity(directory: Path) -> str:
    """Digest of everything that decides what the model computes; each file is read once for every time it changes."""
    files = sorted(path for path in directory.rglob("*") if path.suffix in MODEL_FILES and path.is_file()
                   and not {"onnx", "openvino"} & set(path.relative_to(directory).parts))
    return digest_of({"files": {str(path.relative_to(directory)): remembered_sha256(path) for path in files},
                      "block": BLOCK, "batch": BATCH})


def load_embedder(directory: Path, device: torch.device) -> tuple[Embed, int]:
    """``(embed, width of its vectors)`` of a sentence-transformers directory. Raises AssetError."""
    from sentence_transformers import SentenceTransformer  # its import takes seconds, and finished steps do not need it

    onednn.use()
    try:
        model = SentenceTransformer(str(directory), device=str(device), local_files_only=True,
                                    model_kwargs={"dtype": torch.float32})
    except Exception as error:  # a foreign directory fails in as many ways as there are modules
        raise AssetError(f"select.embedder {directory} cannot be loaded ({' '.join(str(error).split())[:160]})",
                         "give a sentence-transformers model, such as packaged:minilm") from None

    def embed(texts: Sequence[str]) -> np.ndarray:
        with faster_products():
            return model.encode(list(texts), batch_size=BATCH, show_progress_bar=False, normalize_embeddings=True)

    return embed, len(embed(["width"])[0])


@contextlib.contextmanager
def faster_products() -> Iterator[None]:
    """On CUDA, float32 products with ten bits of mantissa (TF32): far finer than the clusters are."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if torch.cuda.is_available() else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def wanted(recipe: Recipe, texts: ShardSet) -> dict[str, Any]:
    """What the embeddings of this recipe are made from."""
    return {"texts": texts.digest, "embedder": embedder_identity(embedder_directory(recipe)),
            "dtype": recipe.select.embed_dtype}


def embed(recipe: Recipe, texts: ShardSet, path: str | Path, ranks: Ranks, make: bool = True, quiet: bool = False,
          load: Load = load_embedder) -> np.ndarray:
    """The embeddings of ``texts`` in ``path`` (``.npy``): a read-only memory map [len(texts), width] of
    ``select.embed_dtype``, rows of length 1. Every rank calls it and gets it.

    ``<path>.json`` says what they were made from. The model is loaded only by ranks that have something to embed.
    ``make`` False raises DataError where there is something. Raises AssetError for the model, DataError for the texts.
    """
    path = Path(path)
    blocks = Blocks(path, ranks.first(lambda: wanted(recipe, texts)), len(texts))
    if not ranks.first(blocks.finished):
        if not make:
            raise DataError(f"{path} does not hold the embeddings of these settings", "run the step embed first")
        mine = ranks.first(blocks.todo)[ranks.rank::ranks.size]
        device = default_device(ranks.local)
        loaded = ranks.everywhere(lambda: load(embedder_directory(recipe), device) if mine else None)
        ranks.first(lambda: blocks.begin(loaded[1]) if loaded else None)
        ranks.everywhere(lambda: embed_blocks(blocks, texts, loaded[0], mine, ranks, quiet) if loaded else None)
        ranks.first(blocks.finish)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def embed_blocks(blocks: Blocks, texts: ShardSet, embed: Embed, mine: list[int], ranks: Ranks, quiet: bool) -> None:
    """Embed the blocks ``mine``, each counted once it is on the disk."""
    label = "embed" if ranks.size == 1 else f"embed, rank 0 of {ranks.size}"
    total = sum(len(blocks.rows(block)) for block in mine)
    with Progress(label, total, "texts", quiet=quiet or ranks.rank > 0) as bar, blocks.writer(ranks.rank) as write:
        for block in mine:
            rows = blocks.rows(block)
            write(block, embed([texts.read(row).text for row in rows]))
            bar.update(len(rows))


class Blocks:
    """The file while it is made, in ``<path>.blocks``: vectors.npy at its full size, what it is made from, and one note
    per rank of the blocks that it has written."""

    def __init__(self, path: Path, made_from: dict[str, Any], count: int) -> None:
        self.path, self.note = path, path.with_name(path.name + ".json")
        self.room = path.with_name(path.name + ".blocks")
        self.about = {"schema": SCHEMA, "made_from": made_from, "rows": count}
        self.dtype, self.count = np.dtype(made_from["dtype"]), count

    def rows(self, block: int) -> range:
        return range(block * BLOCK, min((block + 1) * BLOCK, self.count))

    def finished(self) -> bool:
        return self.path.is_file() and self.says_so(self.note)

    def says_so(self, note: Path) -> bool:
        """Whether ``note`` is about these embeddings, as far as that is known before the model is loaded."""
        try:
            return {**read_json(note), "width": 0} == {**self.about, "width": 0}
        except (DataError, TypeError):
            return False

    def todo(self) -> list[int]:
        """Blocks that no rank of this run or an earlier one has written."""
        every = range(-(-self.count // BLOCK))
        if not self.says_so(self.room / "about.json"):
            return list(every)
        done: set[int] = set()
        for note in self.room.glob("done-*.json"):
            done.update(read_json(note))
        return sorted(set(every) - done)

    def begin(self, width: int) -> None:
        """Make the file, full of zeros, unless an earlier run has."""
        if self.says_so(self.room / "about.json"):
            return
        shutil.rmtree(self.room, ignore_errors=True)
        self.room.mkdir(parents=True)
        shape = (self.count, width)
        np.lib.format.open_memmap(self.room / "vectors.npy", mode="w+", dtype=self.dtype, shape=shape).flush()
        write_json(self.room / "about.json", {**self.about, "width": width})

    @contextlib.contextmanager
    def writer(self, rank: int) -> Iterator[Callable[[int, np.ndarray], None]]:
        """``write(block, vectors)``. Positioned writes, not a shared map: on a network file system two hosts that have
        one page of a map each would undo each other's."""
        note = self.room / f"done-{rank}.json"
        done: list[int] = read_json(note) if note.is_file() else []
        width = read_json(self.room / "about.json")["width"]
        vectors = np.load(self.room / "vectors.npy", mmap_mode="r", allow_pickle=False)
        start, size = vectors.offset, width * self.dtype.itemsize
        file = os.open(self.room / "vectors.npy", os.O_WRONLY)

        def write(block: int, found: np.ndarray) -> None:
            if found.shape != (len(self.rows(block)), width) or not np.isfinite(found).all():
                raise AssetError(f"the embedder gave {found.shape} numbers for block {block}, or some are not finite",
                                 "take another select.embedder")
            raw, at = memoryview(found.astype(self.dtype).tobytes()), start + self.rows(block).start * size
            while raw:
                written = os.pwrite(file, raw, at)
                raw, at = raw[written:], at + written
            os.fsync(file)
            done.append(block)
            write_json(note, sorted(done))

        try:
            yield write
        finally:
            os.close(file)

    def finish(self) -> None:
        """Every block is there: the file gets its name. It goes before its note, which is what counts."""
        if left := self.todo():
            raise DataError(f"{len(left)} blocks of the embeddings are missing", "run the step embed again")
        width = read_json(self.room / "about.json")["width"]
        self.note.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # a run that was killed behind this line
            os.replace(self.room / "vectors.npy", self.path)
        sync_directory(self.path.parent)
        write_json(self.note, {**self.about, "width": width})
        shutil.rmtree(self.room)


def made_from(path: Path) -> dict[str, Any]:
    """What the embeddings in ``path`` were made from."""
    return read_json(path.with_name(path.name + ".json"))["made_from"]
