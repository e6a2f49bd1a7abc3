"""Foreign tars in place: what plain webdataset reads is what we read, and the tars are not touched."""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salad_ds.audio import decode
from salad_ds.config import StorageConfig
from salad_ds.data import storage
from salad_ds.data.parts import Part
from salad_ds.data.refer import name_all, refer
from salad_ds.data.samples import own_key
from salad_ds.data.shards import ShardSet, Word, read_words, words_path, write_words
from salad_ds.errors import DataError
from tests.data.range_server import serving

SLOPPY = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@functools.cache
def mp3(seconds: float = 1.0) -> bytes:
    """A glide, as 24 kHz MP3."""
    wave = 0.3 * np.sin(np.linspace(0, 900 * seconds, round(24000 * seconds)) ** 1.1)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 24000, format="MP3")
    return buffer.getvalue()


def emilia_json(key: str, text: str, **more) -> bytes:
    """As Emilia has it."""
    meta = {"id": key, "wav": f"{key}.mp3", "text": f" {text}", "duration": 1.0, "speaker": key.rsplit("_", 1)[0]}
    return json.dumps({**meta, "language": "en", "dnsmos": 3.3, **more}).encode()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, raw in members:
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def emilia(root: Path, tars: int = 3, samples: int = 4) -> list[Path]:
    """``EN/EN-B000000.tar`` …, each with ``samples`` utterances."""
    made = []
    for number in range(tars):
        members = []
        for sample in range(samples):
            key = f"EN_B{number:05d}_S00000_W{sample:06d}"
            about = emilia_json(key, f"Utterance {sample} of tar {number}.")
            members += [(f"{key}.mp3", mp3()), (f"{key}.json", about)]
        made.append(write_tar(root / f"EN/EN-B{number:06d}.tar", members))
    return made


def state(paths: list[Path]) -> list[tuple[bytes, int]]:
    return [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths]


def test_a_published_corpus_is_read_in_place(tmp_path):
    tars = emilia(tmp_path / "src")
    before = state(tars)
    manifest = refer(tmp_path / "out", tars, "emilia", root=tmp_path / "src", quiet=True)
    assert [(row["name"], row["url"]) for row in manifest["shards"]] == [
        (f"EN__EN-B00000{n}.tar", str(tars[n])) for n in range(3)
    ]
    assert (manifest["samples"], manifest["seconds"], manifest["rejected"]) == (12, 12.0, {})
    assert manifest["shards"][0]["sha256"].startswith("edges:")
    shards = ShardSet.open(tmp_path / "out")
    for i, raw in enumerate(webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False)):
        sample = shards.read(i)
        assert (sample.key, sample.audio, sample.audio_format) == (raw["__key__"], raw["mp3"], "mp3")
        assert sample.text == json.loads(raw["json"])["text"].strip()
        assert shards.entry(i).duration == 1.0 and shards.entry(i).n_words == 5
        assert decode(sample.audio)[1] == 24000
    shards.verify()
    times = {"EN_B00001_S00000_W000002": [Word(0.1 * n, 0.1 * n + 0.1, 1) for n in range(5)]}
    path = write_words(shards.shards[1], "test", times, shard_sha256=shards.sha256(1))
    assert path == tmp_path / "out/EN__EN-B000001.words.jsonl" == words_path(shards.shards[1])
    assert len(ShardSet.open(tmp_path / "out").words(6)) == 5
    assert read_words(shards.shards[1], shards.sha256(1)).engine == "test"
    assert state(tars) == before and sorted(os.listdir(tmp_path / "src/EN")) == [tar.name for tar in tars]


parts_of_names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=6)
names = st.builds(
    lambda folders, stem: "/".join([*folders, stem]),
    st.lists(st.sampled_from(["a", "b c", ".", "d.e", "ü", "_"]), max_size=2),
    parts_of_names.filter(lambda name: "/" not in name and name not in (".", "..")),
)


@given(st.lists(st.tuples(names, st.sampled_from(["mp3", "MP3", "seg.mp3", "txt"]), st.booleans()), min_size=1,
                max_size=8, unique_by=lambda row: row[0]))  # fmt: skip
@SLOPPY
def test_we_find_the_samples_that_plain_webdataset_finds(tmp_path_factory, rows):
    """Odd names, folders, several dots; JSON before or behind the sound."""
    root = tmp_path_factory.mktemp("foreign")
    members = []
    for number, (name, ending, json_first) in enumerate(rows):
        pair = [(f"{name}.{ending}", mp3()), (f"{name}.json", emilia_json("x", f"number {number}"))]
        members += reversed(pair) if json_first else pair
    members += [("sound.mp3", mp3()), ("sound.json", emilia_json("x", "the last one"))]
    tar = write_tar(root / "a.tar", members)
    manifest = refer(root / "out", [tar], "odd", quiet=True, max_bad_share=1.0)
    shards = ShardSet.open(root / "out")
    ours = {entry.key: shards.read(i) for i, entry in enumerate(shards.entries())}
    theirs: dict[str, dict] = {}
    for raw in webdataset.WebDataset([str(tar)], shardshuffle=False, handler=webdataset.reraise_exception):
        if "json" in raw:
            theirs.setdefault(own_key(raw["__key__"]), raw)
    assert set(ours) == {key for key, raw in theirs.items() if "mp3" in raw}
    for key, sample in ours.items():
        assert sample.text == json.loads(theirs[key]["json"])["text"].strip() and sample.audio == theirs[key]["mp3"]
    silent = manifest["rejected"].get("no sound", {"count": 0})["count"]
    assert silent == len(theirs) - len(ours), "what has no sound is counted"


def test_bad_samples_and_bad_tars_are_counted_and_cost_themselves(tmp_path, capsys):
    good, *_ = emilia(tmp_path / "src", tars=1, samples=20)
    key = "EN_B09999_S00000_W000000"
    bad = write_tar(tmp_path / "src/EN/EN-B000001.tar", [
        (f"{key}.mp3", mp3()), (f"{key}.json", emilia_json(key, "fine")),
        ("a.mp3", mp3()), ("a.json", b"{"), ("b.mp3", b""), ("b.json", emilia_json("b", "no sound")),
        ("c.mp3", mp3()), ("c.json", emilia_json("c", "")),
        (f"{key}.mp3", mp3()), (f"{key}.json", emilia_json(key, "again")),
        ("../d.json", emilia_json("d", "outside")), ("e.mp3", mp3()), ("f.json", b'{"text": "\\ud800"}'),
    ])  # fmt: skip
    cut = tmp_path / "src/EN/EN-B000002.tar"
    cut.write_bytes(good.read_bytes()[:30_000])
    (tmp_path / "src/EN/EN-B000003.tar").write_bytes(b"no tar at all" * 100)
    tars = sorted((tmp_path / "src/EN").glob("*.tar"))
    manifest = refer(tmp_path / "out", tars, "emilia", quiet=True, max_bad_share=0.5)
    assert {reason: row["count"] for reason, row in manifest["rejected"].items()} == {
        "tar cannot be read": 2, "JSON does not parse": 1, "audio of zero bytes": 1, "no text": 1, "duplicate key": 1,
        "path leads out of the archive": 1, "no JSON": 1, "text holds half a character": 1,
    }  # fmt: skip
    assert any("EN-B000002.tar" in example for example in manifest["rejected"]["tar cannot be read"]["examples"])
    assert "../d" in manifest["rejected"]["path leads out of the archive"]["examples"][0]
    assert manifest["samples"] == 21 and [row["name"] for row in manifest["shards"]] == [good.name, bad.name]
    with pytest.raises(DataError, match="9 of 30 samples of emilia cannot be used .more than 5%.*tar cannot be read"):
        refer(tmp_path / "strict", tars, "emilia", quiet=True)


def test_most_tars_unreadable_stop_although_each_counts_once(tmp_path):
    """A storage that was away for an hour: what few tars were read hold enough samples to hide the others."""
    tars = [write_tar(tmp_path / f"src/{n}.tar", [(f"k{n}_{i}.json", b'{"text": "a b"}') for i in range(200)])
            for n in range(8)]  # fmt: skip
    whole = {tar: tar.read_bytes() for tar in tars}
    for tar in tars[1:]:
        tar.write_bytes(whole[tar][:3000])
    with pytest.raises(DataError, match="7 of 8 tars of texts cannot be read: 1.tar"):
        refer(tmp_path / "out", tars, "texts", quiet=True)
    assert not (tmp_path / "out/manifest.json").exists()
    for tar in tars[:-1]:
        tar.write_bytes(whole[tar])
    manifest = refer(tmp_path / "out", tars, "texts", quiet=True)  # one is no reason to stop
    assert manifest["samples"] == 1400 and manifest["rejected"]["tar cannot be read"]["count"] == 1
    part = refer(tmp_path / "parts", tars, "texts", part=Part(7, 8), quiet=True)  # nor if a part has no other
    assert part["samples"] == 0


def dull(meta: dict) -> str:
    return "dnsmos below 3" if meta["dnsmos"] < 3 else ""


def test_what_is_not_wanted_is_left_out(tmp_path):
    tar = write_tar(tmp_path / "a.tar", [member for n in range(6) for member in (
        (f"k{n}.mp3", mp3()), (f"k{n}.json", emilia_json(f"k{n}", "some words", dnsmos=n)))])  # fmt: skip
    manifest = refer(tmp_path / "out", [tar], "x", {"dnsmos": 3}, leave_out=dull, quiet=True)
    assert manifest["left_out"] == {"dnsmos below 3": {"count": 3, "examples": ["k0", "k1", "k2"]}}
    assert [entry.key for entry in ShardSet.open(tmp_path / "out").entries()] == ["k3", "k4", "k5"]
    with pytest.raises(DataError, match="made from something else"):
        refer(tmp_path / "out", [tar], "x", {"dnsmos": 2}, leave_out=dull, quiet=True)


def everything(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}


def test_parts_in_any_order_give_the_same_manifest(tmp_path):
    tars = emilia(tmp_path / "src", tars=5, samples=2)
    whole = refer(tmp_path / "whole", tars, "emilia", quiet=True)
    made = []
    for number, order in enumerate(itertools.permutations(range(3))):
        out = tmp_path / f"out{number}"
        for part in order:
            with pytest.raises(DataError, match="no shards|parts are missing"):
                ShardSet.open(out)
            manifest = refer(out, tars, "emilia", part=Part(part, 3), quiet=True)
        made.append(everything(out))
    assert all(one == made[0] for one in made)
    assert sorted(row["name"] for row in manifest["shards"]) == [row["name"] for row in whole["shards"]]
    assert (manifest["samples"], manifest["seconds"]) == (whole["samples"], whole["seconds"])
    shards = ShardSet.open(out)
    assert sorted(shards.read(i).key for i in range(len(shards))) == sorted(
        entry.key for entry in ShardSet.open(tmp_path / "whole").entries()
    )


DIES = """
import os, signal, sys
from pathlib import Path
from salad_ds.data.refer import refer

met = 0

def leave_out(meta):
    global met
    met += 1
    if met == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return ""

refer(sys.argv[1], sorted(Path(sys.argv[2]).glob("EN/*.tar")), "emilia", {"dies": 1}, leave_out, workers=1, quiet=True)
"""


def test_a_killed_run_goes_on_with_the_next_tar(tmp_path):
    """SIGKILL at the second sample of the fourth tar."""
    tars = emilia(tmp_path / "src", tars=6, samples=4)
    out = tmp_path / "out"
    run = subprocess.run([sys.executable, "-c", DIES, str(out), str(tmp_path / "src")], stderr=subprocess.PIPE,
                         text=True, timeout=300)  # fmt: skip
    assert run.returncode == -signal.SIGKILL, run.stderr
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.index.json")}
    assert len(before) == 3 and not (out / "manifest.json").exists()
    manifest = refer(out, tars, "emilia", {"dies": 1}, quiet=True)
    assert manifest["samples"] == 24
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was done is not done again"
    path = next(iter(before))
    os.utime(path, ns=(0, 0))
    assert refer(out, tars, "emilia", {"dies": 1}, quiet=True) == manifest and path.stat().st_mtime_ns == 0


def test_a_tar_that_was_changed_is_indexed_again(tmp_path):
    tars = emilia(tmp_path / "src", tars=2)
    refer(tmp_path / "out", tars, "emilia", quiet=True)
    (tmp_path / "out/manifest.json").unlink()
    shutil.copy(tars[0], tars[1])
    manifest = refer(tmp_path / "out", tars, "emilia", quiet=True)
    assert manifest["shards"][0]["sha256"] == manifest["shards"][1]["sha256"]
    assert [entry.key for entry in ShardSet.open(tmp_path / "out").entries()][4].startswith("EN_B00000")


def test_several_processes_find_the_same(tmp_path):
    tars = emilia(tmp_path / "src", tars=4, samples=2)
    one = refer(tmp_path / "one", tars, "emilia", quiet=True, workers=1)
    assert refer(tmp_path / "two", tars, "emilia", quiet=True, workers=2) == one
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_names_are_unique_and_follow_the_folders(tmp_path):
    def named(tars, root=""):
        return [(ref.name, str(ref.url)) for ref in name_all(tmp_path, tars, root)]

    assert named(["/x/EN/a.tar", "/x/DE/a.tar"]) == [("DE__a.tar", "/x/DE/a.tar"), ("EN__a.tar", "/x/EN/a.tar")]
    assert named(["/x/EN/a.tar"], "/x") == [("EN__a.tar", "/x/EN/a.tar")]
    assert named(["s3://b/x/a.b.tar", "s3://b/y.tar"])[0] == ("x__a.b.tar", "s3://b/x/a.b.tar")
    assert named([tmp_path / "here.tar"]) == [("here.tar", "")]
    assert named({"n.tar": "pipe:cat x"}) == [("n.tar", "pipe:cat x")]
    with pytest.raises(DataError, match="would both be called a__b.tar"):
        named(["/x/a/b.tar", "/x/a__b.tar"])


@pytest.mark.parametrize(("row", "told"), [
    ({"name": "../a.tar"}, "outside its directory"), ({"name": ".."}, "outside its directory"),
    ({"url": "../a.tar"}, "neither an absolute path nor a URL"), ({"url": "a.tar"}, "neither an absolute path"),
    ({"url": "pipe:rm -r x"}, "runs a shell command, which the recipe does not allow"),
    ({"url": "ssh://host/x"}, "read through ssh, which the recipe does not allow"),
    ({"name": None}, "is not a manifest"), ({"url": 7}, "is not a manifest"),
])  # fmt: skip
def test_manifests_that_reach_too_far_are_refused(tmp_path, row, told):
    refer(tmp_path / "out", emilia(tmp_path / "src", tars=1), "emilia", quiet=True)
    path = tmp_path / "out/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0] |= row
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=told):
        ShardSet.open(tmp_path / "out")


# ---- far away


@pytest.fixture
def memory():
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    fsspec.filesystem("memory").rm(name.removeprefix("memory:/"), recursive=True)


def check_equal(far: ShardSet, near: ShardSet) -> None:
    assert len(far) == len(near) and far.seconds == near.seconds
    for i in np.random.default_rng(0).permutation(len(near)).tolist():
        a, b = far.read(i), near.read(i)
        assert (a.key, a.meta, a.audio) == (b.key, b.meta, b.audio) and far.read(i, audio=False).audio is None
        assert far.words(i) == near.words(i)


def test_tars_behind_http_with_the_manifest_here(tmp_path):
    tars = emilia(tmp_path / "src")
    near = ShardSet.open((refer(tmp_path / "near", tars, "e", quiet=True), tmp_path / "near")[1])
    with serving(tmp_path / "src") as server:
        urls = [f"{server.url}/EN/{tar.name}?signature=geheim" for tar in tars]
        refer(tmp_path / "far", urls, "e", quiet=True, settings=StorageConfig(retries=1))
        far = ShardSet.open(tmp_path / "far", StorageConfig(retries=1))
        for shards in (far, near):
            times = {"EN_B00000_S00000_W000001": [Word(0, 0.1, 1)] * 5}
            write_words(shards.shards[0], "t", times, shard_sha256=shards.sha256(0))
        check_equal(ShardSet.open(tmp_path / "far"), ShardSet.open(tmp_path / "near"))
        server.asked.clear()
        far.read(2)
        assert len(server.asked) == 1, "JSON and sound come in one request"
        server.faults.extend([503, 503])
        with pytest.raises(DataError) as caught:
            far.read(2)
        assert f"{server.url}/EN/EN-B000000.tar cannot be read (503" in caught.value.what
        assert "geheim" not in str(caught.value)


def test_everything_in_an_object_store(tmp_path, memory):
    """Manifest, indexes and sidecars too."""
    tars = emilia(tmp_path / "src")
    refer(tmp_path / "near", tars, "e", quiet=True)
    for tar in tars:
        storage.write_bytes(f"{memory}/{tar.name}", tar.read_bytes())
    far = ShardSet.open(memory)  # indexes them where they lie
    assert far.manifest["made_from"]["tars"] == "found without a manifest"
    assert storage.names_in(memory) >= {"manifest.json", "EN-B000002.index.json"}
    for shards in (far, ShardSet.open(tmp_path / "near")):
        path = write_words(shards.shards[2], "t", {"EN_B00002_S00000_W000000": [Word(0, 1, 1)] * 5},
                           shard_sha256=shards.sha256(2))  # fmt: skip
    assert (tmp_path / "near/EN-B000002.words.jsonl") == path
    check_equal(ShardSet.open(memory), ShardSet.open(tmp_path / "near"))
    assert [ref.name for ref in far.unaligned()] == ["EN-B000000.tar", "EN-B000001.tar"]
    before = far.identity()
    write_words(far.shards[1], "t", {}, shard_sha256=far.sha256(1))
    assert ShardSet.open(memory).identity() != before
    far.verify()
    with pytest.raises(DataError, match="holds no shards"):
        ShardSet.open(f"{memory}/nowhere")


def test_a_pipe_that_the_recipe_allows(tmp_path):
    (tar,) = emilia(tmp_path / "src", tars=1)
    allowed = StorageConfig(allow=["pipe"])
    refer(tmp_path / "out", {"a.tar": f"pipe:cat {tar}"}, "e", settings=allowed, quiet=True)
    with pytest.raises(DataError, match="pipe:cat .* runs a shell command"):
        ShardSet.open(tmp_path / "out")
    assert ShardSet.open(tmp_path / "out", allowed).read(3).text == "Utterance 3 of tar 0."
