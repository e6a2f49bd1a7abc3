"""Which backend serves, and that a choice is honoured or refused."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from salad_ds.distill import backend, fused_linear_distill, rows_torch
from tests.distill.inputs import make

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_by_itself():
    assert backend.choose(CPU)[0] == "torch"
    assert backend.choose(CUDA)[0] == ("triton" if find_spec("triton") else "torch")
    assert backend.rows(CPU) is rows_torch.distill_rows


def test_an_argument_counts_more_than_the_environment(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, "nonsense")
    assert backend.choose(CPU, "torch") == ("torch", "asked for by backend")
    with pytest.raises(ValueError, match="SALAD_DS_DISTILL is 'nonsense', not one of torch, triton"):
        backend.choose(CPU)
    monkeypatch.setenv(backend.VARIABLE, "torch")
    assert backend.choose(CUDA) == ("torch", "asked for by SALAD_DS_DISTILL")


def test_what_cannot_be_had_is_refused(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, "triton")
    hidden, weight, targets, labels = make("dense", 3, 20, 4)
    with pytest.raises(ValueError, match="SALAD_DS_DISTILL asks for the triton backend: Triton needs CUDA"):
        fused_linear_distill(hidden, weight, targets, labels, 0.5)
    if not find_spec("triton"):
        with pytest.raises(ValueError, match="Triton is not installed"):
            backend.choose(CUDA)


def test_the_interpreter_of_triton_runs_on_a_cpu_when_asked(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend.choose(CPU)[0] == "torch"
    if find_spec("triton"):
        assert backend.choose(CPU, "triton")[0] == "triton"
