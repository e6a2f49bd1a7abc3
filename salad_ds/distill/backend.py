"""Which row backend serves the distillation loss: 'triton' on CUDA where Triton is installed, 'torch' everywhere else.

A choice is made by the argument ``backend=`` of the op, else by the environment variable SALAD_DS_DISTILL, else by
itself. A choice that cannot be had is an error, never another backend.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from salad_ds.distill import rows_torch
from salad_ds.distill.rows import RowBackend

VARIABLE = "SALAD_DS_DISTILL"
NAMES = ("torch", "triton")


def choose(device: torch.device, wanted: str | None = None) -> tuple[str, str]:
    """(name, reason) of the backend for tensors on ``device``.

    Raises ValueError for a name that does not exist or a backend that cannot run there.
    """
    asked, source = (wanted, "backend") if wanted else (os.environ.get(VARIABLE), VARIABLE)
    lack = _lack(device)
    if not asked:
        if device.type != "cuda":
            return "torch", f"no CUDA, but {device.type}"
        return ("torch", lack) if lack else ("triton", "CUDA, and Triton is installed")
    if asked not in NAMES:
        raise ValueError(f"{source} is {asked!r}, not one of {', '.join(NAMES)}")
    if asked == "triton" and lack:
        raise ValueError(f"{source} asks for the triton backend: {lack}")
    return asked, f"asked for by {source}"


def rows(device: torch.device, wanted: str | None = None) -> RowBackend:
    """The backend itself. Triton is imported only when it is taken."""
    name, _ = choose(device, wanted)
    if name == "torch":
        return rows_torch.distill_rows
    from salad_ds.distill import rows_triton

    return rows_triton.distill_rows


def _lack(device: torch.device) -> str:
    """Why Triton cannot run on the device; empty when it can."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"Triton needs CUDA, and the tensors are on {device.type} (TRITON_INTERPRET=1 runs it there, slowly)"
    return "" if find_spec("triton") else "Triton is not installed"
