"""Emilia and Emilia-YODAS (amphion/Emilia-Dataset, arXiv 2501.15907): 215,000 hours of speech from the web in six
languages, 24 kHz MP3; Emilia is CC-BY-NC-4.0, Emilia-YODAS CC-BY-4.0.

``Emilia/EN/EN-B000000.tar`` and ``Emilia-YODAS/EN/EN-B000000.tar``, with the sound as ``<id>.mp3`` and beside it
``<id>.json``:

    {"id": "EN_B00000_S00000_W000000", "wav": "EN_B00000/EN_B00000_S00000/mp3/EN_B00000_S00000_W000000.mp3",
     "text": " You can help my mother and you- No. You didn't leave a bad situation back home to get caught up in
              another one here. What happened to you, Los Angeles?",
     "duration": 6.264, "speaker": "EN_B00000_S00000", "language": "en", "dnsmos": 3.2927}

(In Emilia-YODAS the id is called ``_id``, and there is ``phone_count`` and no ``wav``.) The tars are read in place and
nothing is written but a manifest and an index for each, so SRC must stay where it is. SRC: the downloaded directory, or
any below it; a URL that can be listed (``hf://datasets/amphion/Emilia-Dataset/Emilia-YODAS``, ``s3://...``); or the URL
of tars, ``https://.../EN-B{000000..001361}.tar``.

``language``: ``EN,DE`` and so on, the directories of the languages, or ``all``. ``min_dnsmos``: leave out what sounds
worse (the published all have 3.0 or more; 0: take all). ``tars``: the first so many of each directory, to try it out.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from salad_ds.data import storage
from salad_ds.data.parts import part_of
from salad_ds.data.preparation import existing, main
from salad_ds.data.refer import refer
from salad_ds.data.storage import Place
from salad_ds.data.utterances import implausible
from salad_ds.errors import DataError
from salad_ds.files import digest_of

VERSION = 1
DEPTH = 3
"""Directories above the tars that SRC may stand for: the corpus, its two halves, their languages."""


def prepare_emilia(corpus_dir: str | Path, output_dir: str | Path, language: str = "all", min_dnsmos: float = 0.0,
                   tars: int = 0, part: str = "", workers: int = 0, max_bad_share: float = 0.05) -> dict[str, Any]:
    """Index Emilia's tars as speech shards; returns the manifest. Does nothing where that is done.

    ``part``: a tar is a unit. Raises DataError: no tars, or none of a ``language``; too many bad samples;
    ``output_dir`` holds something else.
    """
    source = storage.place_of(str(corpus_dir))
    if isinstance(source, Path):
        source = existing(source, "corpus").absolute()
    found = of_languages(find_tars(source), language)
    if tars:
        places: dict[str, list[Place]] = {}
        for place in found:
            places.setdefault(str(place).rpartition("/")[0], []).append(place)
        found = [place for group in places.values() for place in group[:tars]]
    names = [str(place).removeprefix(str(source)) for place in found]
    made_from = {"corpus": "emilia", "version": VERSION, "tars": digest_of(names), "language": language,
                 "min_dnsmos": float(min_dnsmos)}
    return refer(output_dir, found, "emilia", made_from, partial(unwanted, min_dnsmos=float(min_dnsmos)),
                 part=part_of(part), root="" if "{" in str(source) or str(source).endswith(".tar") else str(source),
                 workers=workers, max_bad_share=max_bad_share)


def find_tars(source: Place) -> list[Place]:
    """The tars of ``source``, in order. Raises DataError where there are none."""
    if storage.is_url(source) and storage.name_of(source).endswith(".tar"):
        return [*expanded(str(source))]
    if isinstance(source, Path) and source.is_file():
        return [source]
    found = below(source, DEPTH)
    if not found:
        raise DataError(f"{storage.shown(source)} holds no tars", "give the directory of Emilia, or one below it")
    return found


def expanded(url: str) -> list[str]:
    """``a{08..11}`` → ``a08``, ``a09``, ``a10``, ``a11``."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", url)
    if not match:
        return [url]
    width = len(match[1])
    return [f"{url[:match.start()]}{number:0{width}d}{url[match.end():]}"
            for number in range(int(match[1]), int(match[2]) + 1)]


def below(directory: Place, depth: int) -> list[Place]:
    found: list[Place] = []
    for name in sorted(storage.names_in(directory)):
        if name.endswith(".tar"):
            found.append(storage.join(directory, name))
        elif depth > 1 and "." not in name:  # neither a file nor a download's cache
            found += below(storage.join(directory, name), depth - 1)
    return found


def of_languages(tars: list[Place], language: str) -> list[Place]:
    """Those in a directory of a wanted language. Raises DataError for a language of which there are none."""
    if language == "all":
        return tars
    folders = [str(place).split("/")[-2] for place in tars]
    wanted = [name.strip().upper() for name in language.split(",")]
    for name in wanted:
        if name not in folders:
            raise DataError(f"there are no tars of language {name!r}, but of {', '.join(sorted(set(folders)))}",
                            "name directories of languages, with commas, or all")
    return [place for place, folder in zip(tars, folders, strict=True) if folder in wanted]


def unwanted(meta: dict[str, Any], min_dnsmos: float) -> str:
    """Why a sample is not wanted, or "". Raises DataError for a bad one, by its reason."""
    seconds = meta.get("duration")
    if isinstance(seconds, (int, float)) and (reason := implausible(meta["text"], seconds)):
        raise DataError(reason, "leave it out")
    if not min_dnsmos:
        return ""
    dnsmos = meta.get("dnsmos")
    return "" if isinstance(dnsmos, (int, float)) and dnsmos >= min_dnsmos else f"dnsmos below {min_dnsmos:g}"


if __name__ == "__main__":
    main(__doc__, prepare_emilia)
