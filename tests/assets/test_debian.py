"""Debian packages without apt: from files laid by hand, and what is said where a tool is missing. No network used."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from salad_ds.assets import debian
from salad_ds.errors import AssetError
from salad_ds.files import sha256_file

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SALAD_DS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def deb(tmp_path, home):
    """A real .deb, made by dpkg-deb, lying where a user without apt would lay it."""
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share/sample").mkdir(parents=True)
    (tree / "usr/share/sample/text").write_text("content")
    (tree / "DEBIAN/control").write_text("Package: sample\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: x <x@x>\n"
                                         "Description: sample\n")
    (home / "debs").mkdir(parents=True)
    path = home / "debs/sample_1%3a2.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(path)], check=True, capture_output=True)
    return path


@needs_dpkg
def test_files_laid_by_hand_are_unpacked(deb, tmp_path):
    package = debian.DebianPackage("sample", "1:2.0-1", sha256_file(deb))
    made_from = debian.unpack([package], tmp_path / "out")
    assert (tmp_path / "out/usr/share/sample/text").read_text() == "content"
    assert made_from["files"] == [{"registry": "Debian", "package": "sample", "version": "1:2.0-1",
                                   "sha256": package.sha256}]


@needs_dpkg
def test_the_known_version_with_other_bytes_is_refused(deb, tmp_path):
    with pytest.raises(AssetError, match="is not sample 1:2.0-1 as published"):
        debian.unpack([debian.DebianPackage("sample", "1:2.0-1", "00")], tmp_path / "out")


@needs_dpkg
def test_another_version_is_taken_and_said(deb, tmp_path, capsys):
    made_from = debian.unpack([debian.DebianPackage("sample", "3.0", "00")], tmp_path / "out")
    assert made_from["files"][0]["version"] == "1:2.0-1"
    assert "1:2.0-1 instead of 3.0" in capsys.readouterr().err


@needs_dpkg
def test_a_damaged_file_is_named(deb, tmp_path):
    deb.write_bytes(deb.read_bytes()[:200])
    with pytest.raises(AssetError, match="cannot be unpacked.*delete"):
        debian.unpack([debian.DebianPackage("sample", "1:2.0-1", "00")], tmp_path / "out")


def test_missing_tools_are_named(monkeypatch, tmp_path, home):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match="dpkg-deb is not on the PATH.*install dpkg"):
        debian.unpack([debian.WORDNET], tmp_path / "out")
    with pytest.raises(AssetError, match="apt-get is not on the PATH.*by hand"):
        debian.fetch(debian.WORDNET, home)
