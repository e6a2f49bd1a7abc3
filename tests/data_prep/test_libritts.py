"""LibriTTS: three files to an utterance, either of its texts, 24 kHz without loss."""

import numpy as np
import pytest
import soundfile

from data_prep.libritts import prepare_libritts
from salad_ds.audio import decode, resample
from salad_ds.errors import DataError
from tests.data_prep.conftest import BOOK, contents, files

pytestmark = pytest.mark.assets


@pytest.fixture
def libritts(tmp_path, spoken):
    """Two chapters; returns the root and the waves (16 bit, 24 kHz) by name."""
    root, waves = tmp_path / "LibriTTS", {}
    for subset, speaker, chapter, numbers in (("train-clean-100", "103", "1241", (0, 1, 2)),
                                              ("dev-clean", "84", "121550", (3, 4))):
        folder = root / subset / speaker / chapter
        folder.mkdir(parents=True)
        for place, number in enumerate(numbers):
            name = f"{speaker}_{chapter}_{place // 2:06d}_{place % 2:06d}"
            wave = resample((spoken[number][0] / 32768).astype(np.float32), 16000, 24000)
            waves[name] = np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)
            soundfile.write(folder / f"{name}.wav", waves[name], 24000, subtype="PCM_16")
            (folder / f"{name}.original.txt").write_text(BOOK[number])
            (folder / f"{name}.normalized.txt").write_text(BOOK[number].replace("Mr.", "mister"))
        (folder / f"{speaker}_{chapter}.trans.tsv").write_text("")
    return root, waves


def test_recordings_and_either_text(libritts, tmp_path):
    root, waves = libritts
    made = prepare_libritts(root, tmp_path / "n")
    got = contents(tmp_path / "n")
    assert list(got) == sorted(waves, key=lambda name: (name.startswith("103"), name)) and made["rejected"] == {}
    for name, sample in got.items():
        wave, rate = decode(sample.audio)
        assert rate == 24000
        np.testing.assert_array_equal((wave * 32768).astype(np.int16), waves[name])
        assert sample.meta["speaker"] == name.split("_")[0]
    assert got["103_1241_000000_000000"].text.startswith("And mister John")
    assert "don't" in got["103_1241_000001_000000"].text
    prepare_libritts(root, tmp_path / "o", text="original", subset="train-clean-100")
    assert contents(tmp_path / "o")["103_1241_000000_000000"].text == BOOK[0]
    with pytest.raises(DataError, match="normalised"):
        prepare_libritts(root, tmp_path / "x", text="normalised")


def test_faults_parts_and_processes(libritts, tmp_path):
    root, _ = libritts
    folder = root / "train-clean-100/103/1241"
    (folder / "103_1241_000000_000001.normalized.txt").unlink()
    (folder / "103_1241_000001_000000.normalized.txt").write_bytes(b"\xff\xfe")
    (root / "dev-clean/84/121550/84_121550_000000_000001.wav").write_bytes(b"RIFF")
    options = {"join_seconds": 20, "max_bad_share": 0.9, "samples_per_shard": 1}
    whole = prepare_libritts(root, tmp_path / "1", workers=1, **options)
    assert {reason: [one.split(":")[0] for one in row["examples"]] for reason, row in whole["rejected"].items()} == {
        "no transcript": ["103_1241_000000_000001", "103_1241_000001_000000"],
        "does not decode": ["84_121550_000000_000001"]}
    prepare_libritts(root, tmp_path / "3", workers=3, **options)
    assert files(tmp_path / "1") == files(tmp_path / "3")
    for number in (1, 0):
        prepare_libritts(root, tmp_path / "2", part=f"{number}/2", **options)
    assert contents(tmp_path / "2") == contents(tmp_path / "1")
