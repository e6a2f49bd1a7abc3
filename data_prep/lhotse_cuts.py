"""A CutSet of lhotse on disk (``cuts.jsonl.gz``): any corpus that lhotse has a recipe for. lhotse itself is not needed.

A line as lhotse 1.33 writes it; line breaks and spaces are ours:

    {"id": "s1", "start": 1.0, "duration": 2.0, "channel": 0, "supervisions": [
      {"id": "s1", "recording_id": "rec", "start": 0.0, "duration": 2.0, "channel": 0, "text": "HELLO THERE",
       "language": "English", "speaker": "a",
       "alignment": {"word": [["HELLO", 1.1, 0.4, null], ["", 1.5, 0.1, null], ["THERE", 1.6, 0.5, 0.9]]}}],
     "recording": {"id": "rec", "sources": [{"type": "file", "channels": [0], "source": "audio/rec.flac"}],
      "sampling_rate": 16000, "num_samples": 160000, "duration": 10.0, "channel_ids": [0]}, "type": "MonoCut"}

Each supervision becomes an utterance, as after ``trim_to_supervisions``: its start is counted from the cut's, the times
of its alignment from the recording's (``trim_to_alignments`` reads them so). With word alignments every word has its
times already, and the shards need no aligner.

``audio``: the directory below which recordings lie; by default that of the cuts. Sources that are relative are below
it, absolute ones must be (``/`` allows any). Sources may also be URLs; behind one, a file is read whole for every cut.
``casing``: ``published``, or ``lower`` where all is written in capitals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from salad_ds.audio import FORMATS
from salad_ds.data import storage
from salad_ds.data.cuts import LANGUAGES, runs
from salad_ds.data.given_words import ENGINE, given_words
from salad_ds.data.parts import part_of
from salad_ds.data.preparation import QUOTES, existing, fingerprint, main
from salad_ds.data.samples import SLACK
from salad_ds.data.speech_writer import prepare_utterances
from salad_ds.data.storage import Place
from salad_ds.data.utterances import Refused, Utterance, decode_part
from salad_ds.data.word_times import Word
from salad_ds.errors import DataError

VERSION = 1


def prepare_lhotse_cuts(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 2048,
                        join_seconds: float = 0.0, audio: str = "", casing: str = "published", part: str = "",
                        workers: int = 0, max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write the cuts as speech shards; returns the manifest. Does nothing where they lie there already.

    ``corpus_dir``: a file of cuts, or a directory of ``*cuts*.jsonl.gz`` or ``.jsonl``. ``part``: a recording is a
    unit; every part reads all the cuts. Raises DataError: no cuts, a file of them is damaged, too many bad samples,
    ``output_dir`` holds something else.
    """
    if casing not in ("lower", "published"):
        raise DataError(f"casing {casing!r} is not lower or published", "mend the corpus's settings")
    source, own = existing(corpus_dir, "cuts"), part_of(part)
    files = [source] if source.is_file() else sorted({*source.glob("*cuts*.jsonl.gz"), *source.glob("*cuts*.jsonl")})
    if not files:
        raise DataError(f"{source} holds no *cuts*.jsonl.gz", "name the file of cuts itself")
    home = source.parent if source.is_file() else source
    root = (existing(audio, "audio") if audio else home).absolute()
    made_from = {"corpus": "lhotse_cuts", "version": VERSION, "source": fingerprint(home, files), "limit": limit,
                 "samples_per_shard": samples_per_shard, "join_seconds": float(join_seconds), "casing": casing}
    return prepare_utterances(output_dir, home.absolute().name or "lhotse_cuts", made_from,
                              lambda: (utterances(run, root, casing) for run in runs(files, own)),
                              lambda: sum(map(len, runs(files, own))), limit=limit, samples_per_shard=samples_per_shard,
                              join_seconds=join_seconds, workers=workers, max_bad_share=max_bad_share, own=own,
                              words_engine=ENGINE)


def utterances(run: list[tuple[str, bytes]], root: Path, casing: str) -> Iterator[Utterance | Refused]:
    """The cuts of one recording."""
    for place, line in run:
        try:
            yield from supervised(json.loads(line), root, casing)
        except DataError as error:
            yield Refused(error.what, place, error.mend)
        except ValueError as error:
            yield Refused("line does not parse", place, str(error))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            yield Refused("not a cut", place, f"{type(error).__name__}: {error}")


def supervised(cut: dict[str, Any], root: Path, casing: str) -> Iterator[Utterance | Refused]:
    """What is said in a cut. DataError: ``what`` is the reason that the cut is counted under, ``mend`` the detail."""
    if cut["type"] != "MonoCut":
        raise DataError("not a MonoCut", f"{cut['id']} is a {cut['type']}")
    recording = cut.get("recording")
    if not recording:
        raise DataError("cut without a recording", cut["id"])
    if recording.get("transforms"):
        raise DataError("recording is transformed", f"{cut['id']}: {str(recording['transforms'])[:60]}")
    place, channel = find(recording, cut["channel"], root)
    if isinstance(place, Path) and not place.is_file():
        raise DataError("no such file", str(place))
    said = cut.get("supervisions") or []
    if not said:
        yield Refused("no supervision", cut["id"], bad=False)
    for number, one in enumerate(said):
        told = int(number == 0)  # a cut is one in the progress, whatever is in it
        name = cut["id"] if len(said) == 1 else one["id"]
        begin, seconds = float(one["start"]), float(one["duration"])
        if not (math.isfinite(begin) and 0 < seconds < math.inf and 0 <= float(cut["start"]) < math.inf):
            yield Refused("start or duration is not possible", name, f"{begin}, {seconds}", utterances=told)
            continue
        if begin < -SLACK or begin + seconds > float(cut["duration"]) + SLACK:
            yield Refused("supervision reaches out of its cut", name, f"{begin:.2f}-{begin + seconds:.2f} s",
                          utterances=told)
            continue
        start = max(float(cut["start"]) + begin, 0.0)
        text = " ".join(str(one.get("text") or "").translate(QUOTES).split())
        words = None
        try:
            words = aligned(one, text, start, seconds)
        except DataError as error:
            yield Refused(error.what, name, error.mend, bad=False, utterances=0)
        whole = start == 0 and abs(seconds - float(recording["duration"])) < SLACK and channel is None
        compressed = isinstance(place, Path) and place.suffix[1:].lower() in set(FORMATS) - {"wav"}
        path = place if isinstance(place, Path) else Path(storage.name_of(place))
        yield Utterance(name, text.lower() if casing == "lower" else text, path,
                        partial(decode_part, place, start, seconds, channel, storage.current()), seconds,
                        str(one.get("speaker") or ""), LANGUAGES.get(one.get("language"), one.get("language") or "en"),
                        recording["id"], as_it_is=whole and compressed, utterances=told, words=words)


def find(recording: dict[str, Any], channel: int, root: Path) -> tuple[Place, int | None]:
    """Where the sound of ``channel`` lies, and its number among the file's channels, if that has several."""
    source = next((one for one in recording["sources"] if channel in one["channels"]), None)
    if source is None:
        raise DataError("recording lacks the cut's channel", f"{recording['id']}: {channel}")
    if source["type"] not in ("file", "url"):
        raise DataError(f"source is a {source['type']}, not a file or URL", recording["id"])
    number = source["channels"].index(channel) if len(source["channels"]) > 1 else None
    if storage.is_url(source["source"]):
        return source["source"], number
    relative = PurePosixPath(source["source"])
    if ".." in relative.parts or "\0" in source["source"] or not (root / relative).is_relative_to(root):
        raise DataError("path leads out of the corpus", f"{source['source']}; audio: {root}")
    return root / relative, number


def aligned(said: dict[str, Any], text: str, start: float, seconds: float) -> tuple[Word, ...] | None:
    """The word times of a supervision, from its start; None where it has none. Blank items are pauses."""
    items = (said.get("alignment") or {}).get("word")
    if not items:
        return None
    try:
        rows = [[float(begin) - start, float(begin) - start + float(length), *score]
                for symbol, begin, length, *score in items if symbol.strip()]
    except (TypeError, ValueError, AttributeError):
        raise DataError("word times left out: not [symbol, start, duration, score]", str(items)[:60]) from None
    return given_words(rows, text, seconds)


if __name__ == "__main__":
    main(__doc__, prepare_lhotse_cuts)
