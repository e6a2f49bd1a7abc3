"""LibriTTS (openslr.org/60) and LibriTTS-R (openslr.org/141): 585 hours of read English, 24 kHz WAV, CC-BY-4.0.

``LibriTTS/<subset>/<speaker>/<chapter>/<speaker>_<chapter>_<paragraph>_<sentence>`` with three endings: ``.wav``,
``.original.txt`` (the book's text) and ``.normalized.txt`` (numbers and abbreviations written out, as they are said).
``train-clean-100/103/1241/103_1241_000000_000001.normalized.txt``, and the same in ``.original.txt``:

    matthew Cuthbert is surprised

``text``: ``normalized`` (every word is as it is heard: what word times need) or ``original``. ``subset``:
``train-clean-100,train-clean-360`` and so on, or ``all``. WAV becomes FLAC: half the size, the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salad_ds.data.parts import part_of
from salad_ds.data.preparation import QUOTES, existing, fingerprint, main, of_subset
from salad_ds.data.speech_writer import prepare_utterances
from salad_ds.data.utterances import Refused, Utterance
from salad_ds.errors import DataError

VERSION = 1


def prepare_libritts(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 2048,
                     join_seconds: float = 0.0, subset: str = "all", text: str = "normalized", part: str = "",
                     workers: int = 0, max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write LibriTTS as speech shards; returns the manifest. Does nothing where they lie there already.

    ``part``: a chapter is a unit. Raises DataError: the corpus is not there, too many bad samples, ``output_dir`` holds
    something else.
    """
    if text not in ("normalized", "original"):
        raise DataError(f"text {text!r} is not normalized or original", "mend the corpus's settings")
    root, own = existing(corpus_dir, "corpus"), part_of(part)
    recordings = of_subset(root, root.rglob("*_*_*_*.wav"), subset)
    if not recordings:
        raise DataError(f"{root} holds no <speaker>_<chapter>_<paragraph>_<sentence>.wav",
                        "unpack LibriTTS's archives there")
    chapters: dict[Path, list[Path]] = {}
    for path in recordings:
        chapters.setdefault(path.parent, []).append(path)
    made_from = {"corpus": "libritts", "version": VERSION, "recordings": fingerprint(root, recordings, content=False),
                 "limit": limit, "samples_per_shard": samples_per_shard, "join_seconds": float(join_seconds),
                 "subset": subset, "text": text}
    units = list(own.take(chapters.values()))
    return prepare_utterances(output_dir, "libritts", made_from, lambda: (utterances(unit, text) for unit in units),
                              lambda: sum(map(len, units)), limit=limit, samples_per_shard=samples_per_shard,
                              join_seconds=join_seconds, workers=workers, max_bad_share=max_bad_share, own=own)


def utterances(recordings: list[Path], text: str) -> Iterator[Utterance | Refused]:
    """One chapter."""
    for path in recordings:
        transcript = path.with_suffix(f".{text}.txt")
        try:
            said = " ".join(transcript.read_text(encoding="utf-8").translate(QUOTES).split())
        except (OSError, UnicodeDecodeError) as error:
            yield Refused("no transcript", path.stem, f"{transcript.name}: {getattr(error, 'strerror', error)}")
            continue
        speaker, chapter, *_ = path.stem.split("_")
        yield Utterance(path.stem, said, path, speaker=speaker, group=chapter)


if __name__ == "__main__":
    main(__doc__, prepare_libritts)
