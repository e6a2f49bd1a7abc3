"""Asterisk core sounds, English: one professional speaker (Allison Smith), telephone prompts, CC-BY-SA-3.0.

Debian's ``asterisk-core-sounds-en-g722`` (recordings, G.722, 16 kHz) and ``asterisk-core-sounds-en`` (transcripts),
unpacked below one directory. A line of ``core-sounds-en.txt.gz``, which belongs to ``agent-alreadyon.g722``:

    agent-alreadyon: That agent is already logged on.  Please enter your agent number followed by the pound key.

Transcripts are cleaned: runs of spaces become one; ``...`` at the ends (an unfinished sentence) and notes in
parentheses go; ``*`` and ``#`` are written as they are said, star and pound; five misspellings are mended; a sentence
begins with a capital and ends with a stop. Entries in brackets describe tones and silence: they are not speech and not
part of it. Prompts below ``min_words`` words ("seventeen") are left out: no span can be cut from them.

``split``: ``test`` is about an eighth of the distinct prompts, by a hash of the words, so that the same sentence
recorded twice is never on both sides; ``train`` is the rest.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from salad_ds.audio import checked
from salad_ds.data.preparation import existing, fingerprint, main
from salad_ds.data.speech_writer import prepare_utterances
from salad_ds.data.utterances import Refused, Utterance
from salad_ds.errors import DataError

VERSION = 1
TEST_SHARE = 8  # one in eight
BYTES_PER_SECOND = 8000  # G.722: 64 kbit/s
MISSPELT = {"represenatives": "representatives", "umute": "unmute", "Un-indentified": "Unidentified",
            "witheld": "withheld", "thru": "through"}


def prepare_asterisk(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 64,
                     join_seconds: float = 0.0, split: str = "all", min_words: int = 4,
                     workers: int = 0, max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write the prompts as speech shards; returns the manifest. Does nothing where they lie there already.

    Too small to be divided in parts. Raises DataError: the corpus is not there, too many bad samples, ``output_dir``
    holds something else.
    """
    if split not in ("all", "train", "test"):
        raise DataError(f"split {split!r} is not all, train or test", "mend the corpus's split")
    root = existing(corpus_dir, "corpus")
    transcripts, base, files = find_parts(root)
    made_from = {"corpus": "asterisk", "version": VERSION, "source": fingerprint(root, [transcripts, *files]),
                 "limit": limit, "samples_per_shard": samples_per_shard, "join_seconds": float(join_seconds),
                 "split": split, "min_words": min_words}
    return prepare_utterances(output_dir, "asterisk", made_from,
                              lambda: [utterances(read_transcripts(transcripts), base, files, split, min_words)],
                              lambda: len(files), limit=limit, samples_per_shard=samples_per_shard,
                              join_seconds=join_seconds, workers=workers, max_bad_share=max_bad_share)


def find_parts(root: Path) -> tuple[Path, Path, list[Path]]:
    """``(transcript file, directory of the prompts, prompt files in name order)``."""
    transcripts = sorted(root.rglob("core-sounds-en.txt*"))
    files = sorted(root.rglob("*.g722"))
    if not transcripts or not files:
        raise DataError(f"{root} holds {len(files)} .g722 files and {len(transcripts)} core-sounds-en.txt.gz",
                        "unpack Debian's asterisk-core-sounds-en and asterisk-core-sounds-en-g722 there")
    base = min((path.parent for path in files), key=lambda path: len(path.parts))
    return transcripts[0], base, files


def read_transcripts(path: Path) -> dict[str, str]:
    """``{prompt name: text as written}``."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = {}
    for line in raw.decode("utf-8", "replace").splitlines():
        name, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            rows[name.strip()] = text.strip()
    return rows


def clean(text: str) -> str:
    """The transcript as it is said (see above); "" for what is not speech."""
    text = text.strip()
    if text.startswith(("[", "(")):
        return ""
    text = re.sub(r"\([^)]*\)", " ", text)
    text = text.replace("*", " star ").replace("#", " pound ")
    text = re.sub(r"\.\.\.|…", " ", text)
    for wrong, right in MISSPELT.items():
        text = re.sub(rf"\b{re.escape(wrong)}\b", right, text)
    text = re.sub(r"\s+([.,;:?!])", r"\1", " ".join(text.split())).strip()
    if not text:
        return ""
    text = re.sub(r"[,;:]$", "", text)
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else text + "."


def is_test(text: str) -> bool:
    """By the words alone: the same sentence is always on the same side."""
    words = " ".join(re.findall(r"[a-z0-9']+", text.lower()))
    return hashlib.blake2b(words.encode(), digest_size=8, salt=b"asterisk").digest()[0] % TEST_SHARE == 0


def utterances(texts: dict[str, str], base: Path, files: list[Path], split: str,
               min_words: int) -> Iterator[Utterance | Refused]:
    for path in files:
        name = path.relative_to(base).with_suffix("").as_posix()
        text = clean(texts.get(name, ""))
        if not text:
            yield Refused("no transcript, or not speech", name, bad=False)
        elif len(text.split()) < min_words:
            yield Refused(f"fewer than {min_words} words", name, bad=False)
        elif split != "all" and is_test(text) != (split == "test"):
            yield Refused("in the other split", name, bad=False)
        else:
            yield Utterance(name, text, path, partial(decode_g722, path), path.stat().st_size / BYTES_PER_SECOND,
                            "allison", group=Path(name).parent.as_posix())


def decode_g722(path: Path) -> tuple[np.ndarray, int]:
    """Raw G.722, which libsndfile does not read, through PyAV."""
    import av

    try:
        with av.open(str(path), format="g722") as container:
            rate = int(container.streams.audio[0].rate)
            frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path} does not decode ({error})", "replace or remove the file") from None
    if not frames:
        raise DataError(f"{path} holds no samples", "replace or remove the file")
    return checked(np.concatenate(frames).astype(np.float32) / 32768, str(path)), rate


if __name__ == "__main__":
    main(__doc__, prepare_asterisk)
