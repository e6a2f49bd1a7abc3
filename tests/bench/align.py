"""How well the aligners find words, against synthesisers that know when they said each.

    python -m tests.bench.align [--texts 24] [--write]

Texts of WordNet, spoken by hibari and espeak; an aligner hears the sound and the text, the times stay hidden. Errors
are of word starts, where spans are cut (word ends are taken from the next start). ``--write`` puts the page into
docs/bench/align.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from data_prep.wordnet import prepare_wordnet
from salad_ds.align.ctc_engine import CtcAligner
from salad_ds.align.pocketsphinx_engine import PocketsphinxAligner
from salad_ds.assets import resolve
from salad_ds.audio import resample
from salad_ds.config import SynthConfig
from salad_ds.data.shards import ShardSet
from salad_ds.environment import cores
from salad_ds.errors import DataError
from salad_ds.synth.engine import load_engine

PAGE = Path(__file__).parents[2] / "docs/bench/align.md"
RATE = 16000
VOICES = ("hibari", "espeak")


def speech(texts: list[str]) -> list[tuple[str, str, np.ndarray, list]]:
    """(voice, text, wave at 16 kHz, known word times) of every text in every voice."""
    out = []
    for voice in VOICES:
        engine = load_engine(SynthConfig(engine=voice))
        for number, text in enumerate(texts):
            said = engine.say(text, engine.voices[0], number)
            out.append((voice, text, resample(said.wave, said.rate, RATE), said.words))
    return out


def measure(name: str, aligner: object, spoken: list) -> list[str]:
    """One row per voice: errors of the word starts, failures, speed, and the scores of right and wrong texts."""
    rows = []
    for voice in VOICES:
        mine = [row for row in spoken if row[0] == voice]
        errors, failed, scores, wrong, seconds, began = [], 0, [], [], 0.0, time.perf_counter()
        for _, text, wave, known in mine:
            seconds += len(wave) / RATE
            try:
                words = aligner.align_wave(wave, text)
            except DataError:
                failed += 1
                continue
            errors += [word.start - k.start for word, k in zip(words, known, strict=True) if k.end > k.start]
            scores.append(np.mean([word.score for word in words]))
        speed = seconds / (time.perf_counter() - began)
        for (_, text, *_), (_, _, wave, _) in zip(mine, mine[1:], strict=False):
            try:
                wrong.append(np.mean([word.score for word in aligner.align_wave(wave, text)]))
            except DataError:
                wrong.append(0.0)
        size = np.abs(errors) * 1000
        rows.append(f"| {name} | {voice} | {len(errors)} | {np.median(size):.0f} | {np.percentile(size, 95):.0f} | "
                    f"{np.mean(errors) * 1000:+.0f} | {failed} of {len(mine)} | {speed:.0f} | "
                    f"{np.percentile(scores, 5):.2f} | {np.percentile(wrong, 95):.2f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        prepare_wordnet(str(resolve("packaged:wordnet")), place, limit=arguments.texts)
        shards = ShardSet.open(place)
        spoken = speech([shards.read(i).text for i in range(len(shards))])
    aligners = {"pocketsphinx": PocketsphinxAligner()}
    if importlib.util.find_spec("hama"):
        aligners["ctc (hama)"] = CtcAligner("hama")
    lines = ["| aligner | voice | words | median ms | 95 % ms | bias ms | failed | s of speech per s | "
             "score of a right text, 5th percentile | of a wrong one, 95th |", "|---" * 10 + "|"]
    print("\n".join(lines), flush=True)
    for name, aligner in aligners.items():
        for row in measure(name, aligner, spoken):
            print(row, flush=True)
            lines.append(row)
    if arguments.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        head = (f"# Word times\n\n`python -m tests.bench.align --texts {arguments.texts} --write` on "
                f"{platform.machine()}, one thread of {cores()}. Errors of word starts against the synthesiser's own "
                "times; a wrong text is the next one's.\n\n")
        foot = "\n\nHugging Face CTC checkpoints and MMS_FA, and any GPU: not measured.\n"
        PAGE.write_text(head + "\n".join(lines) + foot)


if __name__ == "__main__":
    main()
