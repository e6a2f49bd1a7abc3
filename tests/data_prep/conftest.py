"""Tiny corpora in the layout of the published ones, with real speech: five sentences of LibriVox, packaged."""

from __future__ import annotations

import copy
import gzip
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from salad_ds.assets import resolve
from salad_ds.data.shards import ShardSet

RATE = 16000
BOOK = [
    "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do for them.",
    "He was not an ill-disposed young man,",
    "“Unless to be rather cold hearted and rather selfish is to be ill-disposed:” don’t they say?",
    "Had he married a more amiable woman, he might have been made still more respectable than he was:",
    "He might even have been made amiable himself;",
]
"""What LibriHeavy would have of these recordings: the book's text, with its curly quotes."""


def contents(directory):
    """Every sample of a directory of shards, by key."""
    shards = ShardSet.open(directory)
    return {sample.key: sample for sample in (shards.read(i) for i in range(len(shards)))}


def files(directory):
    """Every file by name, with its bytes; locks hold none."""
    return {path.name: path.read_bytes() for path in sorted(Path(directory).iterdir())
            if not path.name.endswith("lock")}


DIES = """
import os, runpy, signal, sys
from salad_ds.data.shards import ShardWriter
add, left = ShardWriter.add, int(sys.argv[1])
def dies(self, *given, **named):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return add(self, *given, **named)
ShardWriter.add = dies
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def killed(script: str, samples: int, *arguments: object) -> None:
    """``python data_prep/SCRIPT ARGUMENTS``, with one process; SIGKILL when so many samples are added and another one
    is about to be."""
    path = Path(__file__).parents[2] / "data_prep" / script
    done = subprocess.run([sys.executable, "-c", DIES, str(samples), str(path), *map(str, arguments)],
                          capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture(scope="session")
def spoken() -> list[tuple[np.ndarray, str]]:
    """``(16-bit wave at 16 kHz, the words in lower case)`` of each sentence."""
    root = Path(resolve("packaged:librivox")) / "usr/share/pocketsphinx/test/data/librivox"
    rows = []
    for line in (root / "transcription").read_text().splitlines():
        text, name = re.fullmatch(r"<s> (.*) </s> \((.*)\)", line).groups()
        wave, rate = soundfile.read(root / f"{name}.wav", dtype="int16")
        assert rate == RATE
        rows.append((wave, text))
    return rows


@pytest.fixture
def librispeech(tmp_path, spoken) -> Path:
    """Three chapters of two speakers in two subsets."""
    root = tmp_path / "LibriSpeech"
    for subset, speaker, chapter, numbers in (("dev-clean", "84", "121123", (0, 1, 2)),
                                              ("dev-clean", "84", "121550", (3, 4)),
                                              ("dev-other", "116", "288045", (4, 3, 1))):
        folder = root / subset / speaker / chapter
        folder.mkdir(parents=True)
        lines = []
        for place, number in enumerate(numbers):
            name = f"{speaker}-{chapter}-{place:04d}"
            soundfile.write(folder / f"{name}.flac", spoken[number][0], RATE, subtype="PCM_16")
            lines.append(f"{name} {spoken[number][1].upper()}\n")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text(";ID  |SEX| SUBSET           |MINUTES| NAME\n")
    return root


CUT = {
    "id": "", "start": 0.0, "duration": 0.0, "channel": 0,
    "supervisions": [{"id": "", "recording_id": "", "start": 0, "duration": 0.0, "channel": 0, "language": "English",
                      "speaker": "100", "custom": {"texts": ["", ""], "pre_texts": ["...", "..."], "begin_byte": 0,
                                                   "end_byte": 0}}],
    "recording": {"id": "", "sources": [{"type": "file", "channels": [0], "source": ""}], "sampling_rate": RATE,
                  "num_samples": 0, "duration": 0.0, "channel_ids": [0]},
    "custom": {"text_path": "download/librilight_text/output_text_small_cleaned/Sense and Sensibility/text.txt"},
    "type": "MonoCut",
}  # fmt: skip
"""A record as it is published, with nothing filled in."""


def cut(recording, number, start, duration, texts, samples, source=None):
    row, name = copy.deepcopy(CUT), f"{recording}_{number}"
    row |= {"id": name, "start": start, "duration": duration}
    row["supervisions"][0] |= {"id": name, "recording_id": recording, "duration": duration}
    row["supervisions"][0]["custom"] |= {"texts": texts, "begin_byte": 1000 * number, "end_byte": 1000 * number + 99}
    row["recording"] |= {"id": recording, "num_samples": samples, "duration": samples / RATE}
    row["recording"]["sources"][0]["source"] = source or f"download/librilight/{recording}.flac"
    return row


class Libriheavy:
    """Four chapters of all sentences with pauses, two files of cuts. ``chapters``: their waves, by recording."""

    def __init__(self, root: Path, spoken: list[tuple[np.ndarray, str]]) -> None:
        self.root, self.chapters, self.cuts = root, {}, {"small": [], "medium": []}
        random = np.random.default_rng(3)
        for chapter in range(4):
            subset = "small" if chapter < 3 else "medium"
            recording = f"{subset}/100/sense_sensibility_0812_librivox_64kb_mp3/{chapter + 1:02d}_austen_64kb"
            pieces, at = [], 0
            order = [*range(5)][chapter:] + [*range(5)][:chapter]
            for place, number in enumerate(order):
                pause = 3.0 if place == 3 else 0.4
                noise = random.normal(0, 20, round(pause * RATE)).astype(np.int16)
                wave, words = spoken[number]
                at += len(noise)
                self.cuts[subset].append(
                    cut(recording, place, at / RATE, len(wave) / RATE, [BOOK[number], words.upper()], 0))
                pieces += [noise, wave]
                at += len(wave)
            self.chapters[recording] = np.concatenate(pieces)
            for row in self.cuts[subset][-5:]:
                row["recording"] |= {"num_samples": at, "duration": at / RATE}
            path = self.path(recording)
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, self.chapters[recording], RATE, subtype="PCM_16")
        self.write()

    def path(self, recording: str) -> Path:
        return self.root / "download/librilight" / f"{recording}.flac"

    def write(self, extra: bytes = b"") -> None:
        """``extra``: more lines, behind those of the last file."""
        for subset, rows in self.cuts.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            tail = extra if subset == "medium" else b""
            with open(self.root / f"libriheavy_cuts_{subset}.jsonl.gz", "wb") as file:
                file.write(gzip.compress(lines.encode() + tail, mtime=0))


@pytest.fixture
def libriheavy(tmp_path, spoken) -> Libriheavy:
    (tmp_path / "lh").mkdir()
    return Libriheavy(tmp_path / "lh", spoken)
