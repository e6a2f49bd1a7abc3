"""docs/formats.md says what the files are: its examples are read, and have the fields of what is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from salad_ds.audio import encode_flac
from salad_ds.data.check_shard import KINDS
from salad_ds.data.samples import parse_meta
from salad_ds.data.shard_index import dump, entries
from salad_ds.data.shard_ref import ShardRows
from salad_ds.data.shards import Sample, ShardWriter, Word
from salad_ds.data.word_times import parse_head, parse_words

TEXT = (Path(__file__).parents[2] / "docs/formats.md").read_text()
SAMPLE, EMILIA, MANIFEST, PLACED, INDEX, WORDS = re.findall(r"```json\n(.*?)```", TEXT, re.S)


def test_the_examples_are_what_is_written(tmp_path):
    documented = parse_meta(SAMPLE.encode(), "x")
    wave = np.zeros(82478, np.float32)
    with ShardWriter(tmp_path, "asterisk", words_engine="t") as writer:
        writer.add(Sample(documented["id"], documented, encode_flac(wave, 16000)), [Word(0, 1, 1)] * 12)
    written = json.loads((tmp_path / "manifest.json").read_text())
    shown = json.loads(MANIFEST)
    assert written.keys() == shown.keys() and written["shards"][0].keys() == shown["shards"][0].keys()
    index = (tmp_path / "000000.index.json").read_text().splitlines()
    assert json.loads("\n".join(index)).keys() == json.loads(INDEX).keys()
    assert json.loads(index[1]).keys() == json.loads(INDEX.splitlines()[2]).keys()
    head, line = (tmp_path / "000000.words.jsonl").read_text().splitlines()
    assert json.loads(head).keys() == json.loads(WORDS.splitlines()[0]).keys()
    assert json.loads(line).keys() == json.loads(WORDS.splitlines()[1]).keys()


def test_the_examples_are_read():
    assert parse_meta(EMILIA.encode(), "x")["text"] == "And then we went down to the sea."
    rows = ShardRows([json.loads(PLACED), *json.loads(MANIFEST)["shards"]], "/corpus")
    assert str(rows.ref(0)) == json.loads(PLACED)["url"] and str(rows.ref(1)) == "/corpus/000000.tar"
    index = json.loads(INDEX)
    assert dump(index).decode() == INDEX
    assert [entry.n_words for entry in entries("/corpus/000000.tar", index)] == [16, 12]
    head, line = WORDS.encode().splitlines()
    assert parse_head(head, "x")["engine"] == "pocketsphinx" and len(parse_words(line, "x")[1]) == 12


def test_every_kind_of_fault_is_listed():
    assert dict(re.findall(r"\| `(\w+)` \| ([a-z][^|]+) \|$", TEXT.split("## What `lint` finds")[1], re.M)) == KINDS
