"""LibriHeavy (k2-fsa/libriheavy, arXiv 2309.08105): 50,000 hours of Libri-Light with the text of the books, 16 kHz.

``libriheavy_cuts_{small,medium,large}.jsonl.gz`` (the raw cuts), and the chapters of Libri-Light, FLAC of many minutes.
A line of ``libriheavy_cuts_small.jsonl.gz``; spaces, line breaks and ``pre_texts`` are shortened here:

    {"id": "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb_0", "start": 243.919,
     "duration": 7.36, "channel": 0, "supervisions": [
      {"id": "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb_0",
       "recording_id": "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb", "start": 0,
       "duration": 7.36, "channel": 0, "language": "English", "speaker": "100", "custom": {
        "texts": ["The little girl was thoughtful for a moment. \\"But why do folks dive in the water when the mermaids
                   smile an' wink?\\" she asked.",
                  "THE LITTLE GIRL WAS THOUGHTFUL FOR A MOMENT BUT WHY DO FOLKS DIVE IN THE WATER WHEN THE MERMAIDS
                   SMILE AND WINK SHE ASKED"],
        "pre_texts": ["...us mortal folk,\\" replied Cap'n Bill.", "...US MORTAL FOLK REPLIED CAP'N BILL"],
        "begin_byte": 4993, "end_byte": 5120}}],
     "recording": {"id": "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb", "sources": [
       {"type": "file", "channels": [0], "source":
        "download/librilight/small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb.flac"}],
      "sampling_rate": 16000, "num_samples": 9567080, "duration": 597.942, "channel_ids": [0]},
     "custom": {"text_path": "download/librilight_text/output_text_small_cleaned/Sea Fairies/text.txt"},
     "type": "MonoCut"}

The text is ``texts[0]`` with its curly quotes made straight. A cut is sought in its chapter, which is never read whole.

``subset``: ``small``, ``medium``, ``large``, with commas, or ``all`` of them that are there (never dev or test).
``audio``: the directory that stands for ``download/librilight``; without it the sources are below the corpus's own.
``join_seconds``: neighbouring cuts become one sample of at most so many seconds, with what the recording has between
them, where that is at most ``gap_seconds`` long: a cut lasts 15 s and 40 words, too few for many spans.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from salad_ds.data.cuts import LANGUAGES, runs
from salad_ds.data.parts import part_of
from salad_ds.data.preparation import QUOTES, existing, fingerprint, main
from salad_ds.data.samples import SLACK
from salad_ds.data.speech_writer import prepare_utterances
from salad_ds.data.utterances import Refused, Utterance, decode_part, implausible, told
from salad_ds.errors import DataError

VERSION = 1
PREFIX = "download/librilight"
"""How the published cuts begin their sources."""
SUBSETS = ("small", "medium", "large")


@dataclass(frozen=True)
class Cut:
    """What is taken of a record. ``start``, ``duration``: seconds, in the recording."""

    id: str
    start: float
    duration: float
    text: str
    speaker: str
    language: str
    recording: str
    source: str

    @property
    def end(self) -> float:
        return self.start + self.duration


def prepare_libriheavy(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 2048,
                       join_seconds: float = 0.0, gap_seconds: float = 1.0, subset: str = "all", audio: str = "",
                       part: str = "", workers: int = 0, max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write LibriHeavy as speech shards; returns the manifest. Does nothing where they lie there already.

    ``corpus_dir``: the directory of the cuts, or one file of them. ``part``: a recording is a unit; every part reads
    all the cuts. A recording that is missing is counted once. Raises DataError: the corpus is not there, a file of cuts
    is damaged, too many bad samples, ``output_dir`` holds something else.
    """
    root, own = existing(corpus_dir, "corpus"), part_of(part)
    files, home = find_cuts(root, subset), root if root.is_dir() else root.parent
    chapters = existing(audio, "audio") if audio else home / PREFIX
    made_from = {"corpus": "libriheavy", "version": VERSION, "source": fingerprint(home, files), "limit": limit,
                 "samples_per_shard": samples_per_shard, "join_seconds": float(join_seconds),
                 "gap_seconds": float(gap_seconds), "subset": subset}

    def units() -> Iterator[Iterator[Utterance | Refused]]:
        if not chapters.is_dir():
            raise DataError(f"{chapters} is not there", "give the directory of Libri-Light as audio")
        return (utterances(run, chapters, join_seconds, gap_seconds) for run in runs(files, own))

    return prepare_utterances(output_dir, "libriheavy", made_from, units, lambda: sum(map(len, runs(files, own))),
                              limit=limit, samples_per_shard=samples_per_shard, join_seconds=0.0, workers=workers,
                              max_bad_share=max_bad_share, own=own)


def find_cuts(root: Path, subset: str) -> list[Path]:
    if root.is_file():
        return [root]
    names = [name.strip() for name in subset.split(",")]
    wanted = SUBSETS if names == ["all"] else names
    found = [root / f"libriheavy_cuts_{name}.jsonl.gz" for name in wanted]
    files = [path for path in found if path.is_file()]
    if not files or (names != ["all"] and len(files) < len(found)):
        missing = next(path for path in found if not path.is_file())
        raise DataError(f"{missing} is not there", "give the directory of the raw cuts, and the subsets that are there")
    return files


def utterances(run: list[tuple[str, bytes]], chapters: Path, join_seconds: float,
               gap_seconds: float) -> Iterator[Utterance | Refused]:
    """The cuts of one recording."""
    cuts: list[Cut | Refused] = []
    for place, line in run:
        try:
            cut = read_cut(line)
        except DataError as error:
            cuts.append(Refused(error.what, place, error.mend))
            continue
        reason = implausible(cut.text, cut.duration)  # before a cut is joined to others, which would hide it
        cuts.append(Refused(reason, cut.id, told(cut.duration, cut.text)) if reason else cut)
    sounding = [cut for cut in cuts if isinstance(cut, Cut)]
    if not sounding:
        yield from (cut for cut in cuts if isinstance(cut, Refused))
        return
    try:
        path = chapter(chapters, sounding[0].source)
        reason = "" if path.is_file() else "recording is missing"
    except DataError as error:
        path, reason = chapters, error.what
    if reason:
        yield from (cut for cut in cuts if isinstance(cut, Refused))
        seconds = sum(cut.duration for cut in sounding)
        yield Refused(reason, sounding[0].recording, f"{len(sounding)} cuts, {seconds:.0f} s", utterances=len(sounding))
        return
    for item in neighbours(cuts, join_seconds, gap_seconds):
        yield item if isinstance(item, Refused) else utterance(item, path)


def read_cut(line: bytes) -> Cut:
    """Raises DataError: ``what`` is the reason it is counted under, ``mend`` the detail."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError("line does not parse", str(error)) from None
    try:
        said, recording = record["supervisions"][0], record["recording"]
        cut = Cut(record["id"], float(record["start"]), float(record["duration"]),
                  " ".join(said["custom"]["texts"][0].translate(QUOTES).split()), str(said.get("speaker") or ""),
                  LANGUAGES.get(said.get("language"), said.get("language") or "en"), recording["id"],
                  recording["sources"][0]["source"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError("not a raw cut of LibriHeavy", f"{type(error).__name__}: {error}") from None
    if not all(isinstance(name, str) for name in (cut.id, cut.recording, cut.source, cut.language)):
        raise DataError("not a raw cut of LibriHeavy", "a name is not a string")
    if not (0 <= cut.start < float("inf") and 0 < cut.duration < float("inf")):
        raise DataError("start or duration is not possible", f"{cut.id}: {cut.start}, {cut.duration}")
    return cut


def chapter(chapters: Path, source: str) -> Path:
    """Where the recording of ``source`` lies. Links below ``chapters`` are followed: they are the user's own, put there
    to spread terabytes over disks; the names in the cuts come from elsewhere, and must not lead out.

    Raises DataError for a name that does.
    """
    relative = PurePosixPath(source.removeprefix(f"{PREFIX}/"))
    if relative.is_absolute() or ".." in relative.parts or "\0" in source:
        raise DataError("path leads out of the corpus", source)
    return chapters / relative


def neighbours(cuts: list[Cut | Refused], join_seconds: float, gap_seconds: float) -> Iterator[list[Cut] | Refused]:
    """Runs of cuts that follow each other in the recording, of one speaker, and last at most ``join_seconds``."""
    run: list[Cut] = []
    for cut in cuts:
        if isinstance(cut, Refused):
            yield cut
            continue
        if run and not (cut.end - run[0].start <= join_seconds and -SLACK <= cut.start - run[-1].end <= gap_seconds
                        and (cut.speaker, cut.source) == (run[-1].speaker, run[-1].source)):
            yield run
            run = []
        run.append(cut)
    if run:
        yield run


def utterance(run: list[Cut], path: Path) -> Utterance:
    """Several cuts are one part of the recording; ``parts`` = [[id, start, end, text], ...], in seconds from its start.
    """
    first, seconds = run[0], round(run[-1].end - run[0].start, 6)
    rows = [[cut.id, round(cut.start - first.start, 4), round(cut.end - first.start, 4), cut.text] for cut in run]
    name = first.id if len(run) == 1 else f"{first.id}-and-{len(run) - 1}"
    return Utterance(name, " ".join(cut.text for cut in run), path, partial(decode_part, path, first.start, seconds),
                     seconds, first.speaker, first.language, first.recording,
                     extra={"parts": rows} if len(run) > 1 else {}, utterances=len(run))


if __name__ == "__main__":
    main(__doc__, prepare_libriheavy)
