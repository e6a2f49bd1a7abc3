"""``salad-ds precompute``: the teacher reads every text once and the store keeps what it says.

The work is cut into *groups* of neighbouring lengths, one store shard each. A group is finished when its shard is
there, so a run that was killed does again at most the groups it was in. Groups are planned so that taking finished
ones away does not move the borders of the others: texts are sorted by length, shortest first, and a group is closed
by the first text that would overflow it, which any longer text would too. The same texts thus meet in the same
batches, and the store comes out the same, byte for byte, however often the run was killed and however many ranks
shared it.

What a record holds does not depend on its batch: the draws are keyed by the text, and padding cannot be seen
(forward.py).

Each rank has groups of its own, whatever the teacher's placement. Of a sharded teacher every forward pass is made by
all ranks at once, each with its own texts; a rank that has none left makes idle ones.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad_ds.config import Recipe
from salad_ds.environment import end_with_parent
from salad_ds.errors import StoreError
from salad_ds.files import writing_alone
from salad_ds.progress import Progress, clock
from salad_ds.teacher.forward import (
    TeacherForward,
    check_tokenizer,
    default_device,
    load_teacher,
    load_tokenizer,
    shared_vocabulary,
)
from salad_ds.teacher.identity import teacher_identity
from salad_ds.teacher.ranks import Ranks
from salad_ds.teacher.sampling import Record, join, uniforms
from salad_ds.teacher.store import StoreSettings, TeacherStore
from salad_ds.teacher.texts import TextPool, collect, recipe_directories
from salad_ds.text import tokenizer_identity

GROUP_TOKENS = {"cpu": 8192, "cuda": 1 << 18}
"""Tokens of one store shard: about a minute's work, so that is what a killed run loses."""

CHUNK_VALUES = 1 << 24
"""Logits handled at once: the float64 running sum over them takes 128 MiB."""


@dataclass(frozen=True)
class PrecomputeReport:
    """What a run did. ``seconds`` are wall time of the slowest rank."""

    store: Path
    texts: int
    """Distinct texts of the sources; all of them are in the store now."""
    computed: int
    """Of these, the ones this run computed."""
    tokens: int
    """Tokens read by this run's teacher, padding not counted."""
    padding: float
    """Share of the teacher's positions that held no token."""
    seconds: float
    bytes_per_token: float
    """Size of the whole store over its rows."""
    missing: list[str]
    """Source directories that do not exist yet."""
    skipped: dict[str, Any]
    """Texts that cannot be used: reason → count and examples."""

    def __str__(self) -> str:
        rate = f", {self.tokens / self.seconds:.0f} tokens/s" if self.computed and self.seconds > 0 else ""
        lost = sum(row["count"] for row in self.skipped.values())
        parts = [f"{self.computed} of {self.texts} texts computed",
                 f"{self.tokens} tokens in {clock(self.seconds)}{rate}, {self.padding:.1%} padding",
                 f"{self.bytes_per_token:.0f} bytes/token in {self.store}"]
        if lost:
            parts.append(f"{lost} texts cannot be used: {', '.join(self.skipped)}")
        if self.missing:
            parts.append(f"not there yet: {', '.join(self.missing)}")
        return "precompute: " + "; ".join(parts)


def precompute(recipe: Recipe, sources: Sequence[str | Path] | None = None,
               group_tokens: int | None = None) -> PrecomputeReport:
    """Fill the recipe's teacher store with every text of its stages, or of ``sources``.

    ``sources``: directories of shards, relative to ``workdir`` unless absolute. Texts that the store has are not
    computed again, so calling this after new texts appeared (Stage II) adds exactly those. Under a launcher the ranks
    share the work; they must see the same file system. Raises StoreError if the store is another teacher's, another
    tokenizer's or of other settings; AssetError if the teacher cannot be loaded; DataError for damaged shards.
    """
    reference = recipe.teacher.llm or recipe.model.llm
    named = [str(path) for path in (recipe_directories(recipe) if sources is None else sources)]
    placement, batch_tokens = recipe.teacher.placement, recipe.teacher.batch_tokens
    end_with_parent()
    with Ranks(placement.startswith("sharded")) as ranks, contextlib.ExitStack() as stack:
        if recipe.threads and ranks.size > 1:  # alone it has all cores
            torch.set_num_threads(recipe.threads)
        tokenizer = load_tokenizer(recipe.model.tokenizer or recipe.model.llm)
        # Once for all ranks, because the weights are read; where it fails, it fails on all of them.
        settings = ranks.first(lambda: store_settings(recipe, tokenizer_identity(tokenizer)))
        path = recipe.path(recipe.teacher.store)
        ranks.first(lambda: stack.enter_context(only_writer(path)))
        ranks.first(lambda: TeacherStore.create(path, settings) and None)
        store = TeacherStore.create(path, settings)
        pool, notes = collect({name: recipe.path(name) for name in named}, tokenizer, recipe.data.context,
                              ranks)
        device = default_device(ranks.local)
        # One looks for all, before anybody adds: file systems may show another rank another directory.
        absent = ranks.first(lambda: [text for text in range(len(pool)) if pool.keys[text] not in store])
        groups = plan_groups(pool, absent, group_tokens or GROUP_TOKENS[device.type])
        seconds = 0.0
        # The longest first: if they do not fit into memory, that is known at once.
        mine = groups[::-1][ranks.rank::ranks.size]
        if mine or (groups and placement.startswith("sharded")):
            teacher = load_teacher(reference, device, placement=placement)
            made_from = {"sources": notes["sources"], "context": recipe.data.context, "dtype": str(teacher.dtype)}
            started = time.monotonic()
            fill(store, teacher, pool, mine, batch_tokens, made_from, quiet=ranks.rank > 0)
            seconds = time.monotonic() - started
        seconds = max(ranks.gather(seconds))  # also waits for everybody's last shard
        store.refresh()
        lengths = pool.lengths()
        tokens = int(sum(lengths[group].sum() for group in groups))
        positions = int(sum(len(batch) * lengths[batch].max() for group in groups
                            for batch in batches(group, lengths, batch_tokens)))
        report = PrecomputeReport(
            path, len(pool), sum(map(len, groups)), tokens, 1 - tokens / max(positions, 1), seconds,
            store.bytes / max(store.rows, 1), notes["missing"], notes["skipped"])
        if ranks.rank == 0:
            print(report, file=sys.stderr, flush=True)
        return report


def store_settings(recipe: Recipe, tokenizer: str) -> StoreSettings:
    """Settings of the recipe's store; ``tokenizer`` is the identity of the student's. Reads the teacher's weights.

    Raises AssetError for a teacher that is not a language model, RecipeError for one with another tokenizer.
    """
    reference, wanted = recipe.teacher.llm or recipe.model.llm, recipe.teacher
    check_tokenizer(reference, tokenizer)
    vocab = shared_vocabulary(recipe)
    top = wanted.keep == "topk"
    return StoreSettings(
        teacher=teacher_identity(reference), tokenizer=tokenizer, vocab=vocab, keep=wanted.keep, seed=wanted.seed,
        top_k=min(wanted.top_k, vocab) if top else 0, samples=wanted.samples if top else 0,
        resolution=0 if top else wanted.resolution, made_from={"llm": reference, "recipe": recipe.name})


def fill(store: TeacherStore, teacher: TeacherForward, pool: TextPool, groups: list[list[int]], batch_tokens: int,
         made_from: dict[str, Any], quiet: bool = False) -> None:
    """Compute ``groups`` (lists of texts of ``pool``) and add each to ``store`` as one shard.

    A shard is encoded and written while the teacher reads the next group. Of a sharded teacher's ranks each calls this.
    """
    if teacher.vocab < store.settings.vocab:
        raise StoreError(f"the teacher's softmax has {teacher.vocab} entries, its store {store.settings.vocab}",
                         "set teacher.store to another directory")
    lengths = pool.lengths()
    work = [list(batches(group, lengths, batch_tokens)) for group in groups]
    passes = sum(map(len, work))
    idle = teacher.together(passes) - passes
    written, rows = 0, 0
    pending: Future[None] | None = None
    total = int(sum(lengths[group].sum() for group in groups))

    def add(records: list[tuple[bytes, Record]]) -> None:
        nonlocal written, rows
        written += store.add(records, made_from).stat().st_size
        rows += sum(len(record) for _, record in records)

    with (ThreadPoolExecutor(1, "store") as writer,
          Progress("precompute", total, "tokens", quiet=quiet) as progress):
        for group in work:
            records: list[tuple[bytes, Record]] = []
            for batch in group:
                keys = [pool.keys[text] for text in batch]
                texts = [(key, pool.ids(text)) for key, text in zip(keys, batch, strict=True)]
                records += zip(keys, read(teacher, store.settings, texts), strict=True)
                progress.update(int(lengths[batch].sum()), f"{written / rows:.0f} bytes/token" if rows else "")
            if pending is not None:
                pending.result()
            pending = writer.submit(add, records)
        teacher.idle(idle)
        if pending is not None:
            pending.result()


def read(teacher: TeacherForward, settings: StoreSettings, texts: list[tuple[bytes, np.ndarray]]) -> list[Record]:
    """Records of one batch of texts (key, token ids). Raises StoreError naming a text the teacher fails on."""
    for key, ids in texts:
        if int(ids.max()) >= settings.vocab:
            raise StoreError(f"text {key.hex()} has token id {int(ids.max())}, the student knows {settings.vocab}",
                             "use the student's own tokenizer")
    step = max(1, CHUNK_VALUES // teacher.vocab)
    rule = settings.rule()
    chance = np.concatenate([uniforms(settings.seed, key, len(ids) - 1, rule.uniforms) for key, ids in texts])
    ends = np.cumsum([0] + [len(ids) - 1 for _, ids in texts])
    with torch.no_grad():  # not inference mode: ZeRO-3 would keep tensors that only live in there
        states = torch.cat(teacher.rows([ids.astype(np.int64) for _, ids in texts]))
        try:
            record = join([rule.keep(teacher.logits(states[at:at + step])[:, :settings.vocab], chance[at:at + step])
                           for at in range(0, len(states), step)])
        except StoreError as error:
            raise StoreError(f"{error.what} (in a batch with the text {texts[0][0].hex()}, "
                             f"token ids {texts[0][1][:8].tolist()}...)", error.mend) from None
    return [record.rows(slice(begin, end)) for begin, end in zip(ends[:-1], ends[1:], strict=True)]


def plan_groups(pool: TextPool, texts: list[int], group_tokens: int) -> list[list[int]]:
    """Cut ``texts`` into groups of at most ``group_tokens`` tokens (one text at least), shortest texts first.

    Planning again without some of the groups gives the others unchanged.
    """
    lengths = pool.lengths()
    groups: list[list[int]] = []
    room = 0
    for text in sorted(texts, key=lambda text: (lengths[text], pool.keys[text])):
        if not groups or lengths[text] > room:
            groups.append([])
            room = group_tokens
        groups[-1].append(text)
        room -= int(lengths[text])
    return groups


def batches(group: list[int], lengths: np.ndarray, batch_tokens: int) -> Iterator[list[int]]:
    """Cut a group (ascending lengths) into batches of at most ``batch_tokens`` positions, padding included."""
    batch: list[int] = []
    for text in group:
        if batch and (len(batch) + 1) * int(lengths[text]) > batch_tokens:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def only_writer(directory: Path) -> contextlib.AbstractContextManager[None]:
    """Be the only run that writes to a store, and sweep up what a killed one left half written."""
    busy = StoreError(f"another precompute run is writing to {directory}", "wait for it to end")
    return writing_alone(directory, busy, ".*.part")
