"""Make torchaudio importable beside a CPU-only torch: ``python -m salad_ds.mend_torchaudio``.

The torchaudio wheels on PyPI are linked against CUDA libraries that a CPU-only torch does not have. ``import
torchaudio`` then raises OSError, and so does everything that imports it when it is installed, transformers included.
torchaudio treats an *absent* extension as normal: its Python parts (resampling, filters, mel spectrograms) work without
it. So, in exactly that situation, the extension files are set aside as ``<name>.disabled``. Lost is what is compiled:
``torchaudio.functional.forced_align``, the CTC decoders' CUDA kernels, RNN-T loss. ``--undo`` puts the files back.

A torchaudio that loads is never touched, nor is one that fails for another reason. Nothing but the standard library is
imported here, because the mending has to come before the first import of torchaudio.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad_ds.errors import AssetError, SaladError

EXTENSIONS = ("_torchaudio*.so", "libtorchaudio*.so")
"""What ``torchaudio._extension`` loads when the package is imported."""
SUFFIX = ".disabled"
LOST = "torchaudio.functional.forced_align, rnnt_loss and the CUDA CTC decoder"

PROBE = """
import json
found = {"torch": None, "cuda": None, "error": None, "extension": False, "align": False}
try:
    import torch
    found["torch"], found["cuda"] = torch.__version__, torch.version.cuda or getattr(torch.version, "hip", None)
    import torchaudio._extension as extension
    found["extension"] = bool(extension._IS_TORCHAUDIO_EXT_AVAILABLE)
    found["align"] = bool(extension._IS_ALIGN_AVAILABLE)
except BaseException as error:
    chain = []
    while error is not None:  # torch names the missing library only in the cause
        chain.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    found["error"] = "; ".join(chain)
print("PROBE" + json.dumps(found))
"""


@dataclass(frozen=True)
class State:
    """How torchaudio stands in this Python: ``kind`` is one of

    ``absent`` (not installed), ``works`` (extension loads), ``plain`` (imports, without its extension), ``cuda`` (its
    extension wants CUDA libraries that this CPU-only torch lacks: what we mend), ``broken`` (fails for another reason).
    """

    kind: str
    directory: Path | None
    detail: str
    align: bool = False


def torchaudio_directory() -> Path | None:
    """Where torchaudio is installed, found without importing it; None when it is not."""
    spec = importlib.util.find_spec("torchaudio")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def inspect(python: str = sys.executable, timeout: float = 300.0) -> State:
    """Try ``import torchaudio`` in a process of its own: a library that failed to load cannot be tried twice in one."""
    directory = torchaudio_directory()
    if directory is None:
        return State("absent", None, "torchaudio is not installed")
    # What a user's PYTHONPATH finds has to be what the probe finds, so the environment is passed on as it is.
    done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=timeout, env=dict(os.environ))
    line = next((text for text in reversed(done.stdout.splitlines()) if text.startswith("PROBE")), None)
    if line is None:
        return State("broken", directory, f"importing it ends the process (exit status {done.returncode}): "
                     + " ".join(done.stderr.split())[-300:])
    return judge(json.loads(line.removeprefix("PROBE")), directory)


def judge(found: dict[str, Any], directory: Path) -> State:
    """The State that a probe's findings amount to."""
    error = found["error"]
    if error is None:
        if found["extension"]:
            return State("works", directory, "extension loaded", found["align"])
        return State("plain", directory, f"without its extension: no {LOST}")
    # A CUDA torch that misses its CUDA libraries is a damaged set-up, which hiding torchaudio's files would not mend.
    wants_cuda = re.search(r"lib(c10_cuda|torch_cuda|cudart|cublas|nvrtc|c10_hip|torch_hip)\b", error)
    if wants_cuda and found["torch"] and not found["cuda"]:
        return State("cuda", directory, f"{error} (torch {found['torch']} is CPU-only)")
    return State("broken", directory, error)


def extension_files(directory: Path, suffix: str = "") -> list[Path]:
    """The extension files of an installed torchaudio (with ``suffix=SUFFIX``: those set aside)."""
    return sorted(path for pattern in EXTENSIONS for path in (directory / "lib").glob(pattern + suffix))


def mend() -> str:
    """Mend if needed and return one line that says what was found and done.

    Raises AssetError when torchaudio fails for a reason that setting its extension aside does not cure.
    """
    state = inspect()
    if state.kind in ("works", "plain", "absent"):
        return f"torchaudio: nothing to mend, {state.detail}"
    if state.kind == "broken":
        raise AssetError(f"torchaudio in {state.directory} does not import: {state.detail}",
                         "reinstall torch and torchaudio from the same index")
    assert state.directory is not None
    moved = set_aside(state.directory)
    after = inspect()
    if after.kind != "plain":
        put_back(state.directory)
        raise AssetError(f"torchaudio still does not import without its extension: {after.detail}",
                         "the files are back in place; reinstall torch and torchaudio from the same index")
    return (f"torchaudio: {state.detail}; set aside {', '.join(path.name for path in moved)} in "
            f"{state.directory / 'lib'} as *{SUFFIX}. It imports now; lost: {LOST}. "
            "Undo: python -m salad_ds.mend_torchaudio --undo")


def set_aside(directory: Path) -> list[Path]:
    """Rename the extension files to ``*.disabled``; returns them under their old names."""
    files = extension_files(directory)
    if not files:
        raise AssetError(f"{directory / 'lib'} holds no torchaudio extension to set aside", "reinstall torchaudio")
    for path in files:
        try:
            os.replace(path, path.with_name(path.name + SUFFIX))
        except OSError as error:
            raise AssetError(f"cannot rename {path} ({error.strerror})",
                             "run this as the owner of the environment") from None
    return files


def put_back(directory: Path) -> list[Path]:
    """Undo ``set_aside``; a file that a reinstallation has brought back is kept. Returns the files put back."""
    restored = []
    for path in extension_files(directory, SUFFIX):
        target = path.with_name(path.name.removesuffix(SUFFIX))
        if target.exists():
            path.unlink()
        else:
            os.replace(path, target)
            restored.append(target)
    return restored


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m salad_ds.mend_torchaudio",
                                     description="Make torchaudio importable beside a CPU-only torch.")
    parser.add_argument("--undo", action="store_true", help="put extension files that were set aside back")
    options = parser.parse_args(arguments)
    try:
        if options.undo:
            directory = torchaudio_directory()
            restored = put_back(directory) if directory else []
            print("torchaudio: put back " + (", ".join(path.name for path in restored) or "nothing"))
        else:
            print(mend())
    except SaladError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
