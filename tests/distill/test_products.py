"""The three products, by each routine that this machine has, against float64."""

from __future__ import annotations

import pytest
import torch

from salad_ds.distill import products
from tests.distill.inputs import gap

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("block", [37, 8192])
def test_products(dtype, onednn, block, monkeypatch):
    if onednn and not ONEDNN:
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products.onednn, "is_faster", lambda: onednn)
    monkeypatch.setattr(products, "BLOCK", block)
    g = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(rows, 24, generator=g).to(dtype) for rows in (19, 130))
    weight = head[:101]  # without padding
    logits = torch.empty(32, 101, dtype=dtype)[:19]
    products.project(hidden, weight, logits)
    bound = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 4e-3}[dtype]
    assert gap(logits, hidden.double() @ weight.double().t()) <= bound
    dx = torch.empty_like(hidden)
    products.by_hidden(logits, weight, dx, 0.5)
    assert gap(dx, 0.5 * logits.double() @ weight.double()) <= bound
    for total in (torch.float32, dtype):
        if total == torch.float32 and dtype == torch.float64:
            continue
        dw = torch.full((101, 24), torch.nan, dtype=total)
        products.by_weight(logits, hidden, dw, True, 0.5)
        right = 0.5 * logits.double().t() @ hidden.double()
        assert gap(dw, right) <= bound
        products.by_weight(logits, hidden, dw, False, 0.5)
        assert gap(dw, 2 * right) <= 2 * bound
