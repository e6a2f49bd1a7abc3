"""Mending torchaudio: on trees of files, and on the torchaudio that is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from salad_ds import mend_torchaudio
from salad_ds.errors import AssetError

FOUND = {"torch": "2.13.0+cpu", "cuda": None, "error": None, "extension": False, "align": False}
NO_CUDA = "OSError: Could not load this library: _torchaudio.abi3.so; OSError: libc10_cuda.so: cannot open shared file"


@pytest.fixture
def installed(tmp_path):
    library = tmp_path / "torchaudio" / "lib"
    library.mkdir(parents=True)
    for name in ("_torchaudio.abi3.so", "libtorchaudio.abi3.so", "torchaudio_prefixctc.abi3.so", "__init__.py"):
        (library / name).write_text(name)
    return tmp_path / "torchaudio"


def names(directory):
    return sorted(path.name for path in (directory / "lib").iterdir())


def test_set_aside_and_put_back(installed):
    before = names(installed)
    moved = mend_torchaudio.set_aside(installed)
    assert [path.name for path in moved] == ["_torchaudio.abi3.so", "libtorchaudio.abi3.so"]
    assert names(installed) == ["__init__.py", "_torchaudio.abi3.so.disabled", "libtorchaudio.abi3.so.disabled",
                                "torchaudio_prefixctc.abi3.so"]
    assert (installed / "lib/_torchaudio.abi3.so.disabled").read_text() == "_torchaudio.abi3.so"
    mend_torchaudio.put_back(installed)
    assert names(installed) == before


def test_put_back_keeps_what_a_reinstallation_brought(installed):
    mend_torchaudio.set_aside(installed)
    (installed / "lib/_torchaudio.abi3.so").write_text("newer")
    mend_torchaudio.put_back(installed)
    assert (installed / "lib/_torchaudio.abi3.so").read_text() == "newer"
    assert not list(installed.rglob("*.disabled"))


def test_nothing_to_set_aside_is_an_error(tmp_path):
    with pytest.raises(AssetError, match="holds no torchaudio extension"):
        mend_torchaudio.set_aside(tmp_path)


@pytest.mark.parametrize("change, kind", [
    ({"extension": True, "align": True}, "works"),
    ({}, "plain"),
    ({"error": NO_CUDA}, "cuda"),
    ({"error": NO_CUDA, "cuda": "13.0", "torch": "2.13.0"}, "broken"),  # a CUDA torch: not ours to hide
    ({"error": "OSError: libtorchaudio.abi3.so: undefined symbol: _ZN3c105ErrorC1"}, "broken"),
    ({"error": "ModuleNotFoundError: No module named 'torch'", "torch": None}, "broken"),
])
def test_only_the_missing_cuda_libraries_of_a_cpu_torch_are_mended(installed, change, kind):
    assert mend_torchaudio.judge({**FOUND, **change}, installed).kind == kind


def test_what_is_installed_here_imports_and_is_left_alone():
    """After set-up: importable, and mending again changes nothing."""
    directory = mend_torchaudio.torchaudio_directory()
    assert directory is not None
    before = names(directory)
    assert mend_torchaudio.inspect().kind in ("works", "plain")
    assert "nothing to mend" in mend_torchaudio.mend()
    assert names(directory) == before


def test_the_mender_imports_neither_torch_nor_torchaudio():
    code = ("import sys, salad_ds.mend_torchaudio;"
            "sys.exit(bool({'torch', 'torchaudio', 'transformers'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
