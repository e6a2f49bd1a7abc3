"""From files of texts to text shards: what every text corpus of data_prep has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salad_ds.data.parts import Part
from salad_ds.data.preparation import fingerprint
from salad_ds.data.samples import Sample, make_key
from salad_ds.data.shard_writer import ShardWriter, finished
from salad_ds.data.speech_writer import refuse
from salad_ds.data.text_files import Piece, count, pieces
from salad_ds.data.utterances import Refused
from salad_ds.progress import Progress
from salad_ds.text import count_words


@dataclass(frozen=True)
class Text:
    """A text as the corpus has it. ``extra``: more metadata of the sample."""

    id: str
    text: str
    language: str = "en"
    extra: dict[str, Any] = field(default_factory=dict)


Read = Callable[[Piece, str], Iterable[Text | Refused]]
"""``read(piece, base)``: the texts of a piece; ``base``, the file's path in the corpus, names those without an id."""


def prepare_texts(corpus: str, version: int, root: Path, files: Sequence[Path], output_dir: str | Path, read: Read,
                  own: Part, limit: int, samples_per_shard: int, min_words: int, max_words: int,
                  max_bad_share: float, **settings: Any) -> dict[str, Any]:
    """Write what ``read`` gives of our pieces of ``files`` as text shards; returns the manifest. Does nothing where
    they lie there already. Texts of fewer than ``min_words`` or more than ``max_words`` words (0: no limit) are left
    out. ``settings``: what else the shards depend on.
    """
    made_from = {"corpus": corpus, "version": version, "source": fingerprint(root, files), "limit": limit,
                 "samples_per_shard": samples_per_shard, "min_words": min_words, "max_words": max_words, **settings}
    done = finished(output_dir, made_from, own, max_bad_share)
    if done is not None:
        return done
    share = list(pieces(files, own))
    with ShardWriter(output_dir, corpus, samples_per_shard, made_from, max_bad_share=max_bad_share,
                     part=own) as writer:
        found = (item for piece in share for item in read(piece, base_of(root, piece.path)))
        write_texts(writer, found, limit, min_words, max_words, None if limit else count(share))
        return writer.close()


def base_of(root: Path, path: Path) -> str:
    relative = path.relative_to(root)
    return (relative.parent / relative.name.split(".")[0]).as_posix()


def write_texts(writer: ShardWriter, items: Iterator[Text | Refused], limit: int, min_words: int, max_words: int,
                total: int | None) -> None:
    """``limit``: at most this many samples over all parts (0: all). ``total``: records, for the progress."""
    most = writer.part.share(limit)
    label = writer.source if writer.part.whole else f"{writer.source} {writer.part}"
    with Progress(label, total or most, "texts") as progress:
        while most is None or writer.samples < most:
            item = next(items, None)
            if item is None:
                return
            progress.update()
            if isinstance(item, Refused):
                refuse(writer, item)
                continue
            text = item.text.strip()
            n_words = count_words(text)
            if not n_words:
                writer.reject("no text", item.id)
            elif n_words < min_words or (max_words and n_words > max_words):
                writer.leave_out(f"not {min_words}-{max_words or 'any'} words", item.id)
            elif writer.begin(key := make_key(item.id)):
                writer.add(Sample(key, {"id": item.id, "text": text, "language": item.language, **item.extra}))
