"""LibriSpeech (openslr.org/12): 1,000 hours of read English, 16 kHz FLAC, CC-BY-4.0.

``LibriSpeech/<subset>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt`` beside ``<speaker>-<chapter>-<number>.flac``.
The first line of ``test-clean/1089/134686/1089-134686.trans.txt``, which belongs to ``1089-134686-0000.flac``:

    1089-134686-0000 HE HOPED THERE WOULD BE STEW FOR DINNER TURNIPS AND CARROTS AND BRUISED POTATOES AND FAT MUTTON PIECES TO BE LADLED OUT IN THICK PEPPERED FLOUR FATTENED SAUCE

FLAC files go into the shards byte for byte, except where utterances are joined.

``subset``: ``train-clean-100,train-clean-360`` and so on, or ``all``. ``casing``: ``lower`` (a text LLM reads capitals as
something else than prose, in twice as many tokens) or ``published``.
"""  # noqa: E501  # a record is quoted as it is

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salad_ds.data.parts import part_of
from salad_ds.data.preparation import existing, fingerprint, main, of_subset
from salad_ds.data.speech_writer import prepare_utterances
from salad_ds.data.utterances import Refused, Utterance
from salad_ds.errors import DataError

VERSION = 1
ID = re.compile(r"\d+-\d+-\d+")


def prepare_librispeech(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 2048,
                        join_seconds: float = 0.0, subset: str = "all", casing: str = "lower", part: str = "",
                        workers: int = 0, max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write LibriSpeech as speech shards; returns the manifest. Does nothing where they lie there already.

    ``part``: a chapter is a unit. Raises DataError: the corpus is not there, too many bad samples, ``output_dir`` holds
    something else.
    """
    if casing not in ("lower", "published"):
        raise DataError(f"casing {casing!r} is not lower or published", "mend the corpus's settings")
    root, own = existing(corpus_dir, "corpus"), part_of(part)
    chapters = of_subset(root, root.rglob("*.trans.txt"), subset)
    if not chapters:
        raise DataError(f"{root} holds no <speaker>-<chapter>.trans.txt", "unpack LibriSpeech's archives there")
    recordings = (path for chapter in chapters for path in chapter.parent.glob("*.flac"))
    made_from = {"corpus": "librispeech", "version": VERSION, "source": fingerprint(root, chapters),
                 "recordings": fingerprint(root, recordings, content=False), "limit": limit,
                 "samples_per_shard": samples_per_shard, "join_seconds": float(join_seconds), "subset": subset,
                 "casing": casing}
    return prepare_utterances(output_dir, "librispeech", made_from,
                              lambda: (utterances(chapter, casing) for chapter in own.take(chapters)),
                              lambda: sum(chapter.read_bytes().count(b"\n") for chapter in own.take(chapters)),
                              limit=limit, samples_per_shard=samples_per_shard,
                              join_seconds=join_seconds, workers=workers, max_bad_share=max_bad_share, own=own)


def utterances(transcripts: Path, casing: str) -> Iterator[Utterance | Refused]:
    """One chapter."""
    told = set()
    for number, line in enumerate(transcripts.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        name, _, text = line.strip().partition(" ")
        if not line.strip():
            continue
        if not ID.fullmatch(name):
            yield Refused("line does not parse", f"{transcripts.name}, line {number}", line[:60])
            continue
        told.add(name)
        path = transcripts.with_name(f"{name}.flac")
        if not path.is_file():
            yield Refused("no such file", name, path.name)
            continue
        yield Utterance(name, text.lower() if casing == "lower" else text, path, speaker=name.split("-")[0],
                        group=transcripts.name, as_it_is=True)
    for path in sorted(transcripts.parent.glob("*.flac")):
        if path.stem not in told:
            yield Refused("no transcript", path.stem, transcripts.name)


if __name__ == "__main__":
    main(__doc__, prepare_librispeech)
