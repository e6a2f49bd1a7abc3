"""npm tarballs: fetched by npm (here from a folder), or laid by hand; only named files come out of them."""

import io
import shutil
import tarfile

import pytest

from salad_ds.assets import npm
from salad_ds.errors import AssetError
from salad_ds.files import sha256_file


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SALAD_DS_HOME", str(tmp_path / "home"))
    (tmp_path / "home/npm").mkdir(parents=True)
    return tmp_path / "home"


def tarball(path, files: dict[str, bytes], link: str = ""):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return path


@pytest.fixture
def laid(home):
    path = tarball(home / "npm/sample-1.0.0.tgz", {"package/voices/a.bin": b"one", "package/../../evil": b"no"},
                   link="package/voices/link.bin")
    return npm.NpmPackage("sample", "1.0.0", sha256_file(path))


def test_a_tarball_laid_by_hand_is_taken_and_only_named_files_come_out(laid, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    npm.extract(npm.fetched(laid), ["voices/a.bin"], out)
    assert [path.name for path in out.iterdir()] == ["a.bin"] and (out / "a.bin").read_bytes() == b"one"
    assert laid.provenance()["sha256"] == laid.sha256


@pytest.mark.parametrize("member, words", [("voices/b.bin", "holds no voices/b.bin"),
                                           ("voices/link.bin", "not a file")])
def test_a_member_that_is_missing_or_a_link_is_refused(laid, tmp_path, member, words):
    with pytest.raises(AssetError, match=words):
        npm.extract(npm.fetched(laid), [member], tmp_path)


def test_other_bytes_and_damage_are_refused(laid, home, tmp_path):
    path = home / "npm/sample-1.0.0.tgz"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(AssetError, match="is not sample 1.0.0 as published.*delete"):
        npm.fetched(laid)
    with pytest.raises(AssetError, match="cannot be unpacked.*delete"):
        npm.extract(path, ["voices/a.bin"], tmp_path)


def test_without_npm_the_way_by_hand_is_named(home, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match=r"npm is not on the PATH.*lay sample-2.0.0.tgz into .*npm by hand"):
        npm.fetched(npm.NpmPackage("sample", "2.0.0", "00"))


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_what_npm_cannot_fetch_is_said_in_its_own_words(monkeypatch, tmp_path):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")  # nobody listens there
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    with pytest.raises(AssetError, match="npm cannot fetch sample 2.0.0.*by hand"):
        npm.fetched(npm.NpmPackage("sample", "2.0.0", "00"))
    assert not list((tmp_path / "home/npm").glob("*.tgz"))
