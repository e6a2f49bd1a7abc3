"""A corpus of speech without its sound: the same texts and word times, and silence. What a student is trained on that
learns all there is to learn but to hear.

    python -m salad_ds.evidence.silent runs/x/speech/train runs/x-deaf/speech/train
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from salad_ds.audio import encode_flac
from salad_ds.data.shards import Sample, ShardSet, ShardWriter, finished
from salad_ds.errors import SaladError


def silence(speech: Path, out: Path, samples_per_shard: int = 64) -> None:
    """Write ``out`` from the speech shards ``speech``; nothing where it is there."""
    shards = ShardSet.open(speech)
    made_from = {"silence of": shards.identity()}
    if finished(out, made_from) is not None:
        return
    with ShardWriter(out, "silence", samples_per_shard, made_from, words_engine="copied") as writer:
        for i in range(len(shards)):
            sample, entry = shards.read(i), shards.entry(i)
            if writer.begin(entry.key):
                rate = sample.meta["sample_rate"]
                wave = np.zeros(round(entry.duration * rate), np.float32)
                writer.add(Sample(entry.key, dict(sample.meta), encode_flac(wave, rate)), shards.words(i))
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m salad_ds.evidence.silent", description=__doc__.split("\n\n")[0])
    parser.add_argument("speech", type=Path, help="directory of speech shards")
    parser.add_argument("out", type=Path, help="directory of the silent ones")
    arguments = parser.parse_args()
    try:
        silence(arguments.speech, arguments.out)
    except SaladError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
