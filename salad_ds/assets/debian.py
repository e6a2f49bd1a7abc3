"""Corpora that Debian packages: fetched with apt into a private state, unpacked with dpkg-deb; no root, nothing
installed.

Mirrors and their signing keys are those of the system's own apt sources. Where apt cannot reach one, the ``.deb`` files
may be laid into ``$SALAD_DS_HOME/debs`` by hand.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad_ds.assets.cache import home, locked
from salad_ds.assets.program import command
from salad_ds.errors import AssetError
from salad_ds.files import sha256_file


@dataclass(frozen=True)
class DebianPackage:
    """``version`` and ``sha256`` of the file we know; another version is taken where the known one is not offered."""

    name: str
    version: str
    sha256: str


SOUNDS = DebianPackage("asterisk-core-sounds-en-g722", "1.6.1-1",
                       "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806")
TRANSCRIPTS = DebianPackage("asterisk-core-sounds-en", "1.6.1-1",
                            "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50")
WORDNET = DebianPackage("wordnet-base", "1:3.0-37",
                        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752")
LIBRIVOX = DebianPackage("pocketsphinx-testdata", "0.8+5prealpha+1-15",
                         "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0")
SENSES = DebianPackage("wordnet-sense-index", "1:3.0-37",
                       "b22c7d3100470d90f812acc224718e4bd362d7ca427766fa3e11013c8c7895cf")


def build_asterisk(directory: Path) -> dict[str, Any]:
    """``usr/share/asterisk/sounds/**.g722`` (16 kHz); transcripts in ``usr/share/doc/**/core-sounds-en.txt.gz``."""
    made_from = unpack([SOUNDS, TRANSCRIPTS], directory)
    sounds = sum(1 for _ in directory.glob("usr/share/asterisk/sounds/**/*.g722"))
    texts = list(directory.glob("usr/share/doc/**/core-sounds-en.txt.gz"))
    if sounds < 500 or not texts:
        raise AssetError(f"the asterisk packages hold {sounds} g722 files and {len(texts)} transcripts, not 568 and 1",
                         f"lay {SOUNDS.name} and {TRANSCRIPTS.name} {SOUNDS.version} into {home() / 'debs'}")
    return made_from


def build_librivox(directory: Path) -> dict[str, Any]:
    """``usr/share/pocketsphinx/test/data/librivox``: five WAV files (16 kHz), ``transcription``."""
    made_from = unpack([LIBRIVOX], directory)
    found = len(list(directory.glob("usr/share/pocketsphinx/test/data/librivox/*.wav")))
    if found != 5:
        raise AssetError(f"the pocketsphinx-testdata package holds {found} LibriVox recordings, not 5",
                         f"lay {LIBRIVOX.name} {LIBRIVOX.version} into {home() / 'debs'}")
    return made_from


def build_wordnet(directory: Path) -> dict[str, Any]:
    """WordNet's data files: ``usr/share/wordnet/{data,index}.{noun,verb,adj,adv}``, ``index.sense``."""
    made_from = unpack([WORDNET, SENSES], directory)
    for name in ("data.noun", "data.verb", "data.adj", "data.adv", "index.sense"):
        if not (directory / "usr/share/wordnet" / name).is_file():
            raise AssetError(f"the wordnet packages hold no usr/share/wordnet/{name}",
                             f"lay {WORDNET.name} and {SENSES.name} {WORDNET.version} into {home() / 'debs'}")
    return made_from


def unpack(packages: list[DebianPackage], directory: Path) -> dict[str, Any]:
    """Unpack ``packages`` into ``directory``; returns the provenance of each. Raises AssetError."""
    need("dpkg-deb", packages)
    debs = home() / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    files = []
    with locked(debs / ".lock"):
        for package in packages:
            path = newest(debs, package)
            if path is None:
                fetch(package, debs)
                path = newest(debs, package)
            if path is None:
                raise AssetError(f"apt-get fetched no file of {package.name}", by_hand(packages))
            command(["dpkg-deb", "-x", str(path), str(directory)], f"{path} cannot be unpacked", f"delete {path}")
            version = command(["dpkg-deb", "-f", str(path), "Version"], f"{path} is damaged", f"delete {path}").strip()
            digest = sha256_file(path)
            if version == package.version and digest != package.sha256:
                raise AssetError(f"{path} is not {package.name} {version} as published (sha256 {digest})",
                                 f"delete {path}")
            if version != package.version:
                print(f"{package.name}: {version} instead of {package.version}, which is not offered here",
                      file=sys.stderr, flush=True)
            files.append({"registry": "Debian", "package": package.name, "version": version, "sha256": digest})
    return {"files": files}


def newest(debs: Path, package: DebianPackage) -> Path | None:
    """The package's file in ``debs``: the known version first (a ':' in a version is written %3a in file names)."""
    known = debs.glob(f"{package.name}_{package.version.replace(':', '%3a')}_*.deb")
    found = sorted(known) or sorted(debs.glob(f"{package.name}_*.deb"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def fetch(package: DebianPackage, debs: Path) -> None:
    """``apt-get download`` with lists of our own: the system's may be absent, stale, or only root's to renew."""
    need("apt-get", [package])
    apt = home() / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    status = apt / "state/status"  # nothing is installed as far as this apt knows, so nothing is resolved
    status.touch()
    options = {"Dir::State": apt / "state", "Dir::State::status": status, "Dir::Cache": apt / "cache",
               "Acquire::Languages": "none", "APT::Sandbox::User": "root", "Acquire::Retries": "2"}
    apt_get = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    with tempfile.TemporaryDirectory(dir=debs) as folder:
        def download(wanted: str) -> str:
            return command([*apt_get, "download", wanted], f"apt-get cannot download {wanted}", by_hand([package]),
                           folder)

        known = f"{package.name}={package.version}"
        try:
            download(known)
        except AssetError:
            command([*apt_get, "update"], "apt-get update fails", by_hand([package]))
            try:
                download(known)
            except AssetError:
                download(package.name)
        for path in Path(folder).glob("*.deb"):
            os.replace(path, debs / path.name)


def need(program: str, packages: list[DebianPackage]) -> None:
    if shutil.which(program) is None:
        raise AssetError(f"{program} is not on the PATH: this asset is unpacked from Debian packages",
                         "install dpkg (Fedora and Homebrew have it too)" if program == "dpkg-deb"
                         else by_hand(packages))


def by_hand(packages: list[DebianPackage]) -> str:
    names = " ".join(f"{package.name}_{package.version}" for package in packages)
    return f"check apt's sources and the network, or lay the files ({names}) into {home() / 'debs'} by hand"
