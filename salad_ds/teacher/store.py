"""The teacher store: what the teacher says after every prefix of every text, keyed by the text.

The teacher reads text only, so its answers do not depend on how the student's copy is interleaved with speech: computed
once per text, they serve every interleaving, epoch and student (SALAD, arXiv 2510.13632). A record's address is
(teacher identity, tokenizer identity, token ids); a store made by another teacher or tokenizer is refused by name.

On disk: ``store.json`` (the settings) and ``<digest>.safetensors`` shards (see ``shard.py``), each appearing whole.
Shards are only ever added. A store is memory-mapped; in memory lies one index, 16 bytes per text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from salad_ds.distill.targets import Targets
from salad_ds.errors import DataError, StoreError
from salad_ds.files import digest_of, read_json, write_json
from salad_ds.teacher.codec import Coded, RankedCodec
from salad_ds.teacher.sampled import Sampled
from salad_ds.teacher.sampling import Record, Rule
from salad_ds.teacher.shard import SCHEMA, Shard, damaged, open_shard, write_shard
from salad_ds.teacher.topk import TopK
from salad_ds.text import text_key

SETTINGS = "store.json"
Key = bytes
"""``text.text_key`` of a text."""


@dataclass(frozen=True)
class StoreSettings:
    """What every record of a store has in common."""

    teacher: str
    """``teacher_identity`` of the LLM."""
    tokenizer: str
    """``text.tokenizer_identity``."""
    vocab: int
    """Width of the softmax: tokens that teacher and student share."""
    top_k: int = 0
    samples: int = 0
    seed: int = 0
    keep: str = "topk"
    """``topk`` (then ``top_k`` and ``samples`` count) or ``sampled`` (then ``resolution``)."""
    resolution: int = 0
    codec: str = RankedCodec.name
    made_from: dict[str, Any] = field(default_factory=dict, compare=False)

    def rule(self) -> Rule:
        """What is kept of a row."""
        return TopK(self.top_k, self.samples) if self.keep == "topk" else Sampled(self.resolution)

    def make_codec(self) -> RankedCodec:
        """Raises StoreError for a codec that this version does not know."""
        if self.codec != RankedCodec.name:
            raise StoreError(f"the teacher store uses codec {self.codec!r}, this version knows {RankedCodec.name}",
                             "install the salad_ds that wrote it, or precompute again")
        return RankedCodec(self.vocab, self.rule())

    def header(self) -> dict[str, Any]:
        """The settings as they stand in ``store.json`` and in every shard."""
        return {key: value for key, value in asdict(self).items() if key != "made_from"}


class TeacherStore:
    """Random access to the records of a store, and a place to add some. Reading is safe from several threads."""

    def __init__(self, directory: Path, settings: StoreSettings,
                 tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.directory, self.settings, self.tokenizer = directory, settings, tokenizer
        self.codec, self.rule = settings.make_codec(), settings.rule()
        self.shards: list[Shard] = []
        self.refresh()

    @classmethod
    def create(cls, path: str | Path, settings: StoreSettings) -> TeacherStore:
        """Open the store at ``path`` for more records, or begin one.

        Raises StoreError if one of other settings is there, naming what differs.
        """
        directory = Path(path)
        if (directory / SETTINGS).exists():
            store = cls.open(directory, settings.teacher, settings.tokenizer)
            store.require(settings)
            return store
        body = {"schema": SCHEMA, "kind": "teacher-store", **asdict(settings)}
        write_json(directory / SETTINGS, {**body, "digest": digest_of(body)})
        return cls(directory, settings)

    @classmethod
    def open(cls, path: str | Path, teacher_identity: str, tokenizer_identity: str,
             tokenizer: PreTrainedTokenizerBase | None = None) -> TeacherStore:
        """Open a store for reading.

        ``tokenizer`` only serves error messages: with it a missing text is named by its words, else by its ids.
        Raises StoreError if there is no store, it is damaged, or it belongs to another teacher or tokenizer.
        """
        directory = Path(path)
        settings = read_settings(directory)
        for what, have, want in (("teacher", settings.teacher, teacher_identity),
                                 ("tokenizer", settings.tokenizer, tokenizer_identity)):
            if have != want:
                raise StoreError(f"the teacher store {directory} was made by {what} {have}, the recipe has {want}",
                                 "set teacher.store to another directory and run `salad-ds precompute`, "
                                 f"or name the {what} that made it")
        return cls(directory, settings, tokenizer)

    def require(self, settings: StoreSettings) -> None:
        """Raises StoreError if the store was made with others than ``settings``, naming what differs."""
        differing = [f"{name} {have!r} instead of {want!r}" for (name, want), have in
                     zip(settings.header().items(), self.settings.header().values(), strict=True) if have != want]
        if differing:
            raise StoreError(f"the teacher store {self.directory} was made with {', '.join(differing)}",
                             "set teacher.store to another directory, or take the store's settings")

    def refresh(self) -> None:
        """Take notice of shards added by others since the store was opened. Raises StoreError for a damaged one."""
        known = {shard.path: shard for shard in self.shards}
        paths = sorted(self.directory.glob("*.safetensors"))
        self.shards = [known.get(path) or self._open_shard(path) for path in paths]
        prefixes = [shard.keys[:, :8].copy().view(">u8")[:, 0].astype(np.uint64) for shard in self.shards]
        places = [np.stack([np.full(len(shard.keys), number), np.arange(len(shard.keys))], 1).astype(np.int32)
                  for number, shard in enumerate(self.shards)]
        prefix = np.concatenate(prefixes) if prefixes else np.zeros(0, dtype=np.uint64)
        order = np.argsort(prefix, kind="stable")
        self._prefix = prefix[order]
        self._place = (np.concatenate(places) if places else np.zeros((0, 2), dtype=np.int32))[order]

    def _open_shard(self, path: Path) -> Shard:
        shard = open_shard(path)
        for name, want in self.settings.header().items():
            if shard.header.get(name) != want:
                raise StoreError(f"teacher shard {path} was made with {name} {shard.header.get(name)!r}, "
                                 f"its store with {want!r}", "remove that file from the store")
        return shard

    def __len__(self) -> int:
        """Texts."""
        return len(self._prefix)

    @property
    def rows(self) -> int:
        """Positions, over all texts."""
        return sum(shard.header["rows"] for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of the shards on disk."""
        return sum(shard.path.stat().st_size for shard in self.shards)

    def find(self, key: Key) -> tuple[Shard, int] | None:
        """Shard and place of a text key, None if the store has no such record."""
        prefix = np.uint64(int.from_bytes(key[:8], "big"))
        place = int(np.searchsorted(self._prefix, prefix))
        while place < len(self._prefix) and self._prefix[place] == prefix:
            shard = self.shards[self._place[place, 0]]
            if shard.keys[self._place[place, 1]].tobytes() == key:
                return shard, int(self._place[place, 1])
            place += 1
        return None

    def __contains__(self, key: Key) -> bool:
        return self.find(key) is not None

    def keys(self) -> Iterator[Key]:
        """Every text key, shard by shard."""
        for shard in self.shards:
            for key in shard.keys:
                yield key.tobytes()

    def records(self, requests: Sequence[tuple[tuple[int, ...], Tensor | None]]) -> Record:
        """The records of texts, one behind the other: of each text, given by its token ids (document start included),
        the given rows in their order, or all.

        Raises StoreError naming a text that is missing, a row it does not have, or the damaged shard.
        """
        found, wanted, before = [], [], 0
        for ids, rows in requests:
            shard, place = self._place_of(ids)
            coded = shard.record(place)
            if coded.rows != len(ids) - 1:
                raise damaged(shard.path, f"it has {coded.rows} rows for a text of {len(ids)} tokens")
            chosen = np.arange(coded.rows) if rows is None else rows.cpu().numpy()
            if len(chosen) and not (chosen.min() >= 0 and chosen.max() < coded.rows):
                wrong = int(chosen[(chosen < 0) | (chosen >= coded.rows)][0])
                raise StoreError(f"row {wrong} was asked of {self._name(ids)}, which has rows 0 to {coded.rows - 1}",
                                 "row i predicts token i + 1 of the text")
            found.append((shard, coded))
            wanted.append(chosen + before)
            before += coded.rows
        record = self._decode(found)
        places = np.concatenate([np.zeros(0, dtype=np.int64), *wanted])
        whole = len(places) == before and bool((places == np.arange(before)).all())
        return record if whole else record.take(places)

    def _place_of(self, ids: tuple[int, ...]) -> tuple[Shard, int]:
        found = self.find(text_key(ids))
        if found is None:
            raise StoreError(f"the teacher store {self.directory} has no record of {self._name(ids)}",
                             "run `salad-ds precompute` with this recipe")
        return found

    def _decode(self, found: list[tuple[Shard, Coded]]) -> Record:
        try:
            return self.codec.decode([coded for _, coded in found])
        except StoreError:
            for shard, coded in found:  # which of them is it?
                try:
                    self.codec.decode([coded])
                except StoreError as error:
                    raise damaged(shard.path, error.what) from None
            raise

    def targets(self, requests: Sequence[tuple[tuple[int, ...], Tensor | None]], tail: str | None = None) -> Targets:
        """Targets of rows of texts, in the order of ``requests``: of row i of a text about ids[i + 1] given ids[..i].

        ``tail``: one of ``rule.tails``, by default the first. Raises StoreError as ``records`` does.
        """
        return self.rule.targets(self.records(requests), tail or self.rule.tails[0])

    def get(self, ids: tuple[int, ...], rows: Tensor | None = None) -> Targets:
        """Targets of one text: of all its rows, or of ``rows``."""
        return self.targets([(ids, rows)])

    def _name(self, ids: tuple[int, ...]) -> str:
        if self.tokenizer is None:
            return f"the text with the token ids {list(ids[:8])}... ({len(ids)} tokens)"
        start = " ".join(self.tokenizer.decode(list(ids[1:40])).split())
        return f"the text {start[:60]!r}{'...' if len(start) > 60 else ''} ({len(ids)} tokens)"

    def add(self, records: list[tuple[Key, Record]], made_from: dict[str, Any]) -> Path:
        """Write ``records`` (text key, record) as one new shard; ``refresh`` makes them readable here."""
        records = sorted(records, key=lambda pair: pair[0])
        kept = [record for _, record in records]
        ranks = self.codec.rank(kept)
        encoded = [(key, data, len(record)) for (key, record), data in
                   zip(records, self.codec.encode(kept, ranks), strict=True)]
        return write_shard(self.directory, encoded, ranks, {**self.settings.header(), "made_from": made_from})

    def verify(self) -> int:
        """Read every byte of the store and compare it with the checksums; returns the number of shards.

        Raises StoreError naming every damaged shard.
        """
        read_settings(self.directory)
        bad, paths = [], sorted(self.directory.glob("*.safetensors"))
        for path in paths:
            try:
                self._open_shard(path).verify()
            except StoreError as error:
                bad.append(error.what)
        if bad:
            raise StoreError("; ".join(bad), "delete these files and run `salad-ds precompute`: "
                                             "only their texts are computed again")
        return len(paths)


def read_settings(directory: Path) -> StoreSettings:
    """``store.json``. Raises StoreError if it is missing, damaged or of another schema."""
    path = directory / SETTINGS
    if not path.exists():
        raise StoreError(f"there is no teacher store in {directory}", "run `salad-ds precompute` first")
    mend = "delete it and run `salad-ds precompute`: the shards that agree with the recipe are kept"
    try:
        body = read_json(path)
        digest = body.pop("digest", None) if isinstance(body, dict) else None
        if digest != digest_of(body):
            raise StoreError(f"{path} was changed after it was written", mend)
        if body["schema"] != SCHEMA:
            raise StoreError(f"{path} has schema {body['schema']}, this version reads {SCHEMA}",
                             "install the salad_ds that wrote it, or precompute again")
        return StoreSettings(**{name: body[name] for name in StoreSettings.__dataclass_fields__})
    except DataError as error:
        raise StoreError(error.what, mend) from None
    except KeyError as error:
        raise StoreError(f"{path} lacks {error}", mend) from None
