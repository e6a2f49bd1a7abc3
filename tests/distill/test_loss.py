"""The public loss op against its float64 definition, and its behaviour in autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from salad_ds.distill import DenseTargets, GhostTargets, HiddenTargets, SparseTargets, fused_linear_distill
from salad_ds.distill.reference import reference_distill
from salad_ds.teacher.sampled import Sampled
from salad_ds.teacher.sampling import uniforms
from tests.distill.inputs import FORMS, gap, ghost, make, peaked


def defined(hidden, weight, targets, labels, alpha, **extra):
    """(mean loss, dX, dW) by definition, in float64."""
    rows = reference_distill(hidden, weight, targets, labels, alpha, **extra)
    counted = len(rows) if labels is None else max(int((labels != -100).sum()), 1)
    loss = rows.sum() / counted
    return loss, *torch.autograd.grad(loss, (hidden, weight))


def found(hidden, weight, targets, labels, alpha, **extra):
    loss = fused_linear_distill(hidden, weight, targets, labels, alpha, **extra).loss
    return loss, *torch.autograd.grad(loss, (hidden, weight))


EXTRAS = ({}, {"vocab_size": 83}, {"logit_scale": 0.5}, {"logit_softcap": 3.0},
          {"logit_scale": 2.0, "logit_softcap": 4.0}, {"temperature": 2.5}, {"temperature": 0.5, "logit_softcap": 6.0})


def honoured(form: str, alpha: float, extra: dict) -> bool:
    """Everything else is refused, and tested as such."""
    return (form != "none" or alpha == 0) and ("temperature" not in extra or form in ("dense", "hidden"))


@pytest.mark.parametrize("form, alpha, extra", [(form, alpha, extra) for form in FORMS for alpha in (0.0, 0.25, 1.0)
                                                for extra in EXTRAS if honoured(form, alpha, extra)])
def test_loss_and_gradients_agree_with_the_definition(form, alpha, extra):
    hidden, weight, targets, labels = make(form, 23, 97, 11, said=extra.get("vocab_size"))
    labels[3] = labels[20] = -100
    loss, dx, dw = found(hidden, weight, targets, labels, alpha, chunk_rows=5, **extra)
    exact, exact_dx, exact_dw = defined(hidden, weight, targets, labels, alpha, **extra)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert gap(dx, exact_dx) <= 1e-5 and gap(dw, exact_dw) <= 1e-5
    assert not dx[[3, 20]].any()
    if "vocab_size" in extra:
        assert not dw[83:].any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck_in_float64(form, reduction):
    hidden, weight, targets, labels = make(form, 5, 13, 4, torch.float64)
    labels[1] = -100
    for extra in ({}, {"logit_softcap": 3.0, "logit_scale": 1.5}, {"temperature": 2.0, "logit_softcap": 3.0}):
        for alpha in (0.0, 0.7, 1.0):
            if honoured(form, alpha, extra):

                def loss(x, w, call={"alpha": alpha, "reduction": reduction, "chunk_rows": 2, **extra}):  # noqa: B006
                    return fused_linear_distill(x, w, targets, labels, **call).loss

                assert torch.autograd.gradcheck(loss, (hidden, weight))


@settings(max_examples=30)
@given(rows=st.integers(1, 40), chunk=st.integers(1, 50), seed=st.integers(0, 99), form=st.sampled_from(FORMS[:4]))
def test_the_chunk_size_does_not_matter(rows, chunk, seed, form):
    hidden, weight, targets, labels = make(form, rows, 61, 8, seed=seed)
    loss, dx, dw = found(hidden, weight, targets, labels, 0.6, chunk_rows=rows)
    parts, px, pw = found(hidden, weight, targets, labels, 0.6, chunk_rows=chunk)
    torch.testing.assert_close(parts, loss, rtol=1e-6, atol=0)
    assert gap(px, dx) <= 1e-6 and gap(pw, dw) <= 1e-6


@pytest.mark.parametrize("form", ["hidden", "dense"])
def test_a_student_that_equals_its_teacher_has_no_divergence_and_no_gradient(form):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 32, generator=g).requires_grad_()
    weight = torch.randn(4096, 32, generator=g).requires_grad_()
    same = HiddenTargets(hidden.detach().clone(), weight.detach().clone())
    targets = same if form == "hidden" else DenseTargets((same.hidden @ same.head.t()).log_softmax(-1))
    for temperature in (1.0, 3.0):
        out = fused_linear_distill(hidden, weight, targets, temperature=temperature)
        dx, dw = torch.autograd.grad(out.loss, (hidden, weight))
        assert out.kl.abs().max() <= 1e-6
        assert dx.abs().max() <= 1e-6 and dw.abs().max() <= 1e-6


def test_metrics_are_what_they_say():
    hidden, weight, targets, labels = make("hidden", 9, 50, 6)
    labels[4] = -100
    out = fused_linear_distill(hidden, weight, targets, labels, 0.3, reduction="none", logit_softcap=4.0)
    logits = 4 * torch.tanh(hidden.double() @ weight.double().t() / 4)
    q = (5 * torch.tanh(0.7 * (targets.hidden @ targets.head.t()).double() / 5)).log_softmax(-1)
    expected = {"lse": logits.logsumexp(-1), "entropy": -(q.exp() * q).sum(-1),
                "kl": (q.exp() * (q - logits.log_softmax(-1))).sum(-1),
                "nll": torch.nn.functional.cross_entropy(logits, labels, reduction="none")}
    for name, value in expected.items():
        value[4] = 0
        torch.testing.assert_close(getattr(out, name).double(), value, rtol=1e-5, atol=1e-6)
        assert getattr(out, name).dtype == torch.float32 and not getattr(out, name).requires_grad
    torch.testing.assert_close(out.loss, 0.3 * out.kl + 0.7 * out.nll)


@pytest.mark.parametrize("labels", [torch.zeros(0, dtype=torch.long), torch.full((5,), -100)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_nothing_to_learn_gives_zero_loss_and_zero_gradients(labels, reduction):
    rows = len(labels)
    hidden, weight = torch.full((rows, 8), torch.nan, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    out = fused_linear_distill(hidden, weight, DenseTargets(peaked(rows, 30, 0)), labels, 0.5, reduction=reduction)
    out.loss.sum().backward()
    assert not out.loss.any() and not out.loss.isnan().any()
    assert hidden.grad.shape == hidden.shape and not hidden.grad.any()
    assert weight.grad.shape == weight.shape and not weight.grad.any()


@pytest.mark.parametrize("form", FORMS[:4])
def test_ignored_positions_may_hold_anything(form):
    hidden, weight, targets, labels = make(form, 9, 40, 6)
    keep = torch.tensor([0, 2, 3, 5, 8])
    part = fused_linear_distill(hidden[keep], weight, targets.rows(keep), labels[keep], 0.5)
    dx, dw = torch.autograd.grad(part.loss, (hidden, weight))
    labels[[1, 4, 6, 7]] = -100
    spoiled = hidden.detach().clone()
    spoiled[1], spoiled[4] = torch.nan, torch.inf
    if form in ("sparse", "ghost"):
        targets.ids[6] = 10**6
    whole, wx, ww = found(spoiled.requires_grad_(), weight, targets, labels, 0.5)
    torch.testing.assert_close(whole, part.loss)
    torch.testing.assert_close(wx, dx)
    torch.testing.assert_close(ww, dw)


def test_only_what_learns_gets_a_gradient():
    for x, w in ((True, False), (False, True), (False, False)):
        hidden, weight, targets, labels = make("sparse", 9, 40, 6)
        _, dx, dw = found(hidden, weight, targets, labels, 0.5, chunk_rows=4)
        hidden.requires_grad_(x), weight.requires_grad_(w)
        for reduction in ("mean", "none"):
            hidden.grad = weight.grad = None
            loss = fused_linear_distill(hidden, weight, targets, labels, 0.5, reduction=reduction, chunk_rows=4).loss
            assert loss.requires_grad == (x or w)
            if x or w:
                loss.mean().backward()
            for learns, value, right in ((x, hidden.grad, dx), (w, weight.grad, dw)):
                assert (value is not None) == learns
                assert value is None or gap(value, right) <= 1e-6
    with torch.no_grad():
        out = fused_linear_distill(hidden.requires_grad_(), weight.requires_grad_(), targets, labels, 0.5)
    assert not out.loss.requires_grad


def test_what_comes_from_above_scales_both_gradients_also_twice():
    hidden, weight, targets, labels = make("sparse", 9, 40, 6)
    _, dx, dw = found(hidden, weight, targets, labels, 0.5)
    loss = fused_linear_distill(hidden, weight, targets, labels, 0.5).loss
    (loss * 3).backward(retain_graph=True)
    assert gap(hidden.grad, 3 * dx) <= 1e-6 and gap(weight.grad, 3 * dw) <= 1e-6
    (loss * 0).backward(retain_graph=True)
    (loss * 2).backward()
    assert gap(hidden.grad, 5 * dx) <= 1e-6 and gap(weight.grad, 5 * dw) <= 1e-6


def test_micro_batches_accumulate():
    hidden, weight, targets, labels = make("sparse", 12, 40, 6)
    whole = fused_linear_distill(hidden, weight, targets, labels, 0.5, reduction="sum")
    right = torch.autograd.grad(whole.loss, weight)[0]
    for part in torch.arange(12).split(5):
        loss = fused_linear_distill(hidden[part], weight, targets.rows(part), labels[part], 0.5, reduction="sum").loss
        (loss / 12).backward()
    assert gap(weight.grad, right / 12) <= 1e-6


@pytest.mark.parametrize("reentrant", [True, False, None])
def test_tied_embeddings_with_and_without_activation_checkpointing(reentrant):
    _, _, targets, labels = make("dense", 10, 40, 6)
    tokens = torch.arange(10)
    g = torch.Generator().manual_seed(3)
    embedding = torch.randn(40, 6, generator=g, requires_grad=True)
    mix = torch.randn(6, 6, generator=g, requires_grad=True)

    def block(x, op):
        return op(torch.tanh(x @ mix), embedding)

    def ours(x, w):
        return fused_linear_distill(x, w, targets, labels, 0.5, chunk_rows=3).loss

    x = embedding[tokens]
    loss = block(x, ours) if reentrant is None else checkpoint(block, x, ours, use_reentrant=reentrant)
    loss.backward()
    got = embedding.grad, mix.grad
    exact = block(embedding[tokens], lambda x, w: reference_distill(x, w, targets, labels, 0.5).mean())
    right = torch.autograd.grad(exact, (embedding, mix))
    assert gap(got[0], right[0]) <= 1e-5 and gap(got[1], right[1]) <= 1e-5


def test_a_second_derivative_is_refused():
    hidden, weight, targets, labels = make("dense", 4, 20, 3)
    loss = fused_linear_distill(hidden, weight, targets, labels, 0.5).loss
    factor = torch.ones((), requires_grad=True)
    dx = torch.autograd.grad(loss * factor, hidden, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiate twice"):
        dx.sum().backward()


def test_autocast_casts_as_a_linear_layer_does():
    hidden, weight, targets, labels = make("dense", 16, 60, 8)
    with torch.autocast("cpu", torch.bfloat16):
        loss, dx, dw = found(hidden, weight, targets, labels, 0.5)
    low = [value.detach().bfloat16().requires_grad_() for value in (hidden, weight)]
    right, right_dx, right_dw = found(*low, targets, labels, 0.5)
    assert loss.dtype == torch.float32 and dx.dtype == dw.dtype == torch.float32
    assert loss.item() == right.item()
    assert torch.equal(dx, right_dx.float()) and torch.equal(dw, right_dw.float())


def test_float16_gradients_wait_in_float32_for_the_loss_scale():
    hidden, weight, targets, labels = make("dense", 16, 60, 8)
    low = [value.detach().half().requires_grad_() for value in (hidden, weight)]
    loss = fused_linear_distill(*low, targets, labels, 0.5, chunk_rows=5).loss
    dx, dw = torch.autograd.grad(loss * 1e-7 * 65536.0, low)
    exact = [value.detach().double().requires_grad_() for value in low]
    _, right_dx, right_dw = defined(*exact, targets, labels, 0.5)
    assert dx.dtype == dw.dtype == torch.float16
    assert gap(dx, right_dx * 1e-7 * 65536) < 2e-2 and gap(dw, right_dw * 1e-7 * 65536) < 2e-2


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for value in tree_flatten(result)[0]:
            if isinstance(value, torch.Tensor):
                self.size = max(self.size, value.untyped_storage().nbytes() // value.element_size())
        return result


@pytest.mark.parametrize("form", ["sparse", "ghost", "hidden", "none"])
def test_never_more_than_a_chunk_of_logits_is_alive(form):
    hidden, weight, targets, labels = make(form, 400, 3000, 8)
    alpha = 0.0 if form == "none" else 0.5
    with Largest() as largest:
        fused_linear_distill(hidden, weight, targets, labels, alpha, chunk_rows=16).loss.backward()
    assert 8 * 3000 <= largest.size <= 16 * 3000


@pytest.mark.parametrize("form, products", [("sparse", 3), ("dense", 3), ("none", 3), ("hidden", 3 + 7 / 8)])
def test_three_matrix_products_and_one_for_a_hidden_teacher(form, products, monkeypatch):
    monkeypatch.setattr("salad_ds.onednn.is_faster", lambda: False)  # which is not counted
    hidden, weight, targets, labels = make(form, 40, 300, 8)
    alpha = 0.0 if form == "none" else 0.5
    with FlopCounterMode(display=False) as counter:
        fused_linear_distill(hidden, weight, targets, labels, alpha, chunk_rows=7).loss.backward()
    assert counter.get_total_flops() == products * 2 * 40 * 300 * 8


@pytest.mark.parametrize(
    "form, call, message",
    [
        ("none", dict(alpha=0.5), "needs teacher targets"),
        ("dense", dict(labels=None, alpha=0.5), "needs labels"),
        ("dense", dict(alpha=1.5), "alpha is 1.5"),
        ("dense", dict(reduction="median"), "median"),
        ("dense", dict(vocab_size=999), "exceeds"),
        ("dense", dict(vocab_size=0), "vocab_size is 0"),
        ("dense", dict(chunk_rows=0), "chunk_rows is 0"),
        ("dense", dict(labels=torch.zeros(3, dtype=torch.long)), "are for 3 positions"),
        ("dense", dict(labels=torch.zeros(4, dtype=torch.int32)), "not int64"),
        ("dense", dict(labels=torch.tensor([0, 1, 20, 2])), "labels hold the token 20, the vocabulary has 20"),
        ("dense", dict(labels=torch.tensor([0, 1, -1, 2])), "labels hold the token -1"),
        ("dense", dict(vocab_size=19, labels=torch.tensor([0, 1, 19, 2])), "labels hold the token 19"),
        ("dense", dict(targets=DenseTargets(peaked(4, 19, 0))), "the teacher covers 19 tokens, the student has 20"),
        ("dense", dict(targets=DenseTargets(peaked(3, 20, 0))), "are for 3 positions"),
        ("sparse", dict(vocab_size=5, labels=None), "targets hold the token"),
        ("ghost", dict(vocab_size=5, labels=None), "targets hold the token"),
        ("sparse", dict(temperature=2.0), "cannot be tempered again"),
        ("ghost", dict(temperature=2.0), "cannot be tempered again"),
        ("none", dict(temperature=2.0, alpha=0.0), "the NLL has none"),
        ("dense", dict(temperature=0.0), "temperature is 0.0"),
        ("dense", dict(logit_softcap=-1.0), "logit_softcap is -1.0"),
        ("dense", dict(logit_scale=float("nan")), "logit_scale is nan"),
        ("hidden", dict(targets=HiddenTargets(torch.zeros(4, 7), torch.zeros(20, 8))), "disagree"),
        ("dense", dict(weight=torch.zeros(20, 3, dtype=torch.float64)), "hidden and weight differ"),
        ("dense", dict(backend="cuda"), "not one of torch, triton"),
    ],
)
def test_contradictions_are_refused(form, call, message):
    hidden, weight, targets, labels = make(form, 4, 20, 3)
    with pytest.raises(ValueError, match=message):
        fused_linear_distill(**{"hidden": hidden, "weight": weight, "targets": targets, "labels": labels, **call})


# Real sizes, and a real teacher.


@pytest.fixture(scope="module")
def real(smollm2_dir):
    """(hidden [6, 576], head [49152, 576]) of SmolLM2-135M at the end of a text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "The capital of France is Paris, and the capital of Spain is"
    llm = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(smollm2_dir)(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return llm.model(ids).last_hidden_state[0, -6:], llm.get_output_embeddings().weight.detach().clone()


@pytest.mark.assets
@pytest.mark.parametrize("form", FORMS[:4])
@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_a_real_teacher_in_float32(real, form, noise):
    """Errors against float64 at most 1e-5. A student close to its teacher is worse conditioned (p − q, and the products
    by a head whose rows are alike, cancel): there the bound is what the definition in float32 by autograd loses."""
    said, head = real
    g = torch.Generator().manual_seed(0)
    hidden = (said + noise * said.std() * torch.randn(said.shape, generator=g)).requires_grad_()
    weight = head.clone().requires_grad_()
    log_q = (said @ head.t()).log_softmax(-1)
    targets = {"dense": lambda: DenseTargets(log_q), "ghost": lambda: ghost(log_q, 64), "sparse": lambda: sampled(
        said @ head.t(), b"x"), "hidden": lambda: HiddenTargets(said, head)}[form]()
    labels = log_q.argmax(-1)
    ours = found(hidden, weight, targets, labels, 0.7)
    exact = defined(hidden, weight, targets, labels, 0.7)
    theirs = eager(hidden @ weight.t(), DenseTargets(log_q) if form == "hidden" else targets, labels, 0.7)
    torchs = theirs, *torch.autograd.grad(theirs, (hidden, weight))
    for value, torch_value, right in zip(ours, torchs, exact, strict=True):
        assert gap(value, right) <= (1e-5 if noise == 1.0 else max(1e-5, 2 * gap(torch_value, right)))
    again = fused_linear_distill(hidden, weight, targets, labels, 0.7, chunk_rows=4)
    assert again.loss.item() == pytest.approx(ours[0].item(), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vocabulary", [49_152, 151_936])
def test_real_vocabularies_in_float32(form, vocabulary):
    hidden, weight, targets, labels = make(form, 6, vocabulary, 16)
    alpha = 0.0 if form == "none" else 0.7
    loss, dx, dw = found(hidden, weight, targets, labels, alpha, chunk_rows=4)
    exact, exact_dx, exact_dw = defined(hidden, weight, targets, labels, alpha)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert gap(dx, exact_dx) <= 1e-5 and gap(dw, exact_dw) <= 1e-5


@pytest.mark.parametrize("form", ["dense", "sparse", "ghost", "none"])
def test_bfloat16_is_no_worse_than_torchs_own(form):
    """Errors of loss and gradients against float64 on the same (rounded) inputs; torch's: logits in bf16, then the
    definition in float32, by autograd."""
    hidden, weight, targets, labels = make(form, 12, 49_152, 16)
    alpha = 0.0 if form == "none" else 0.7
    low = [value.detach().bfloat16().requires_grad_() for value in (hidden, weight)]
    exact = defined(*(value.detach().double().requires_grad_() for value in low), targets, labels, alpha)
    logits = low[0] @ low[1].t()
    theirs = eager(logits.float(), targets, labels, alpha)
    torchs = theirs, *torch.autograd.grad(theirs, low)
    for ours, torch_value, right in zip(found(*low, targets, labels, alpha, chunk_rows=5), torchs, exact, strict=True):
        assert gap(ours, right) <= gap(torch_value, right) + 1e-2


def eager(logits, targets, labels, alpha):
    """The loss as one writes it in PyTorch, from float32 logits."""
    log_p = logits.log_softmax(-1)
    loss = (1 - alpha) * torch.nn.functional.nll_loss(log_p, labels)
    if isinstance(targets, DenseTargets):
        kl = torch.nn.functional.kl_div(log_p, targets.log_probs, log_target=True, reduction="none").sum(-1)
    elif isinstance(targets, SparseTargets):
        kl = -(targets.weights * log_p.gather(1, targets.ids)).sum(-1) - targets.entropy
    elif isinstance(targets, GhostTargets):
        top = log_p.gather(1, targets.ids)
        tail = log_p.scatter(1, targets.ids, -torch.inf).logsumexp(-1)
        kl = (targets.probs * (targets.probs.log() - top)).sum(-1) + targets.tail * (targets.tail.log() - tail)
    else:
        return loss
    return loss + alpha * kl.mean()


def sampled(logits, key):
    """As the teacher store keeps it, few tokens and no bias."""
    rule = Sampled(resolution=16)
    return rule.targets(rule.keep(logits, uniforms(0, key, len(logits), rule.uniforms)))


@pytest.mark.assets
def test_sampling_the_tail_leaves_the_gradient_unbiased(real):
    """Mean over many draws of what the store keeps against the gradient of the whole distribution, a real teacher."""
    said, head = real
    rows, copies, rounds = 3, 60, 5
    logits = said[:rows] @ head.t()
    g = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(rows, 24, generator=g), torch.randn(len(head), 24, generator=g) * 0.5
    weight.requires_grad_(False)

    def gradient(targets, times):
        x = hidden.repeat(times, 1).requires_grad_()
        loss = fused_linear_distill(x, weight, targets, reduction="sum").loss
        return torch.autograd.grad(loss, x)[0].view(times, rows, -1)

    full = gradient(DenseTargets(logits.log_softmax(-1)), 1)[0]
    draws = torch.cat([gradient(sampled(logits.repeat(copies, 1), f"{i}".encode()), copies)
                       for i in range(rounds)]).double()
    assert draws.std(0).max() > 1e-3, "the draws do not vary: nothing was tested"
    along = (draws * full).sum((1, 2)) / full.norm()
    assert abs(along.mean() - full.norm()) <= 3 * along.std() / len(along) ** 0.5
    scores = (draws.mean(0) - full) / (draws.std(0) / len(draws) ** 0.5)
    assert scores.square().mean() <= 1.5 and scores.abs().max() <= 4.5  # 72 coordinates
