"""Products of models by oneDNN: the same numbers as PyTorch's own, forward and backward, in whatever form they come."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from salad_ds import onednn

HERE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
pytestmark = pytest.mark.skipif(not HERE, reason="this PyTorch has no oneDNN")

LAYERS = """
import torch
from salad_ds import onednn
onednn.is_faster = lambda: True
onednn.WORTH = {worth}
torch.manual_seed(0)
taken, product = [], onednn.product
onednn.product = lambda *matrices: taken.append(1) or product(*matrices)
onednn.use()
x = torch.randn(5, 33, 70, requires_grad=True)
layers = torch.nn.Sequential(torch.nn.Linear(70, 41), torch.nn.Tanh(), torch.nn.Linear(41, 9, bias=False))
exact = torch.nn.Sequential(*(torch.nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
                              if isinstance(layer, torch.nn.Linear) else layer for layer in layers)).double()
exact.load_state_dict({{name: value.double() for name, value in layers.state_dict().items()}})
layers(x).square().sum().backward()
same = x.detach().double().requires_grad_()
exact(same).square().sum().backward()
pairs = [(x.grad, same.grad), *((a.grad, b.grad) for a, b in zip(layers.parameters(), exact.parameters()))]
assert all((a - b).norm() <= 1e-6 * b.norm() for a, b in pairs), [((a - b).norm() / b.norm()).item() for a, b in pairs]
assert not torch.mm(torch.zeros(0, 4), torch.ones(4, 3)).numel()
assert torch.mm(torch.ones(2, 0), torch.ones(0, 3)).sum() == 0
assert torch.addmm(torch.ones(2, 1), torch.ones(2, 3), torch.ones(3, 2), beta=2, alpha=0.5).eq(3.5).all()
wide = torch.randn(40, 80)[:, ::2]  # neither rows nor columns in a piece
assert torch.allclose(wide @ wide.t(), (wide.double() @ wide.double().t()).float(), atol=1e-4)
assert torch.ones(3, 3, dtype=torch.int64).mm(torch.ones(3, 3, dtype=torch.int64)).eq(3).all()
for left, right in ((torch.ones(3, 4), torch.ones(5, 3)), (torch.ones(3, 4), torch.ones(4, 5).double()),
                    (torch.ones(4), torch.ones(4, 5)), (torch.ones(3, 4), torch.ones(2, 4, 5))):
    try:
        torch.mm(left, right)
    except RuntimeError:
        continue
    raise AssertionError("this has no product")
print(len(taken))
"""


def layers(worth: int) -> int:
    """How many products oneDNN has made of a small network's; in a process of its own, which stays as it becomes."""
    done = subprocess.run([sys.executable, "-c", LAYERS.format(worth=worth)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_layers_forward_and_backward_are_those_of_float64():
    assert layers(worth=1) >= 6, "two layers: forward, by input, by weight"


def test_small_products_are_left_alone():
    assert layers(worth=1 << 40) == 0


def test_nothing_is_done_where_it_is_forbidden():
    code = "from salad_ds import onednn; onednn.use(); print(onednn.is_faster())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, onednn.VARIABLE: "0"})
    assert done.stdout.strip() == "False", done.stderr


def test_the_routine_does_not_change_from_call_to_call():
    """The choice hangs on the machine alone: a run that resumes computes what it would have computed."""
    assert onednn.is_faster() == onednn.is_faster.__wrapped__()
