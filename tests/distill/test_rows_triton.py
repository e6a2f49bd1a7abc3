"""The Triton backend against the definition in float64, and what its kernels compile to.

Whether a kernel is interpreted is settled when Triton is first imported. So the checks are functions of this module
that run in a process which has Triton's interpreter switched on; on a machine with CUDA the same checks run once more,
there and here. The interpreter truncates to bfloat16 where a GPU rounds.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from salad_ds.distill.rows import DenseRows, RowLosses, RowSettings, RowTeacher
from salad_ds.distill.targets import GhostTargets, SparseTargets

triton = pytest.importorskip("triton", reason="Triton has packages for Linux only")

FORMS = ("none", "sparse", "ghost", "dense")
FORMULAS = [
    RowSettings(alpha=0.0),
    RowSettings(alpha=1.0),
    RowSettings(alpha=0.3, logit_scale=0.6),
    RowSettings(alpha=0.3, softcap=9.0),
    RowSettings(alpha=0.7, softcap=30.0, logit_scale=1.5, teacher_scale=0.7, teacher_softcap=5.0),
]
WARM = [
    RowSettings(alpha=1.0, temperature=2.0),
    RowSettings(alpha=0.3, temperature=0.5, teacher_softcap=7.0),
    RowSettings(alpha=0.3, temperature=3.0, softcap=9.0, logit_scale=0.6, teacher_scale=0.8),
]


# Where the checks run


def process(interpret: bool, cache: Path) -> ProcessPoolExecutor:
    """One worker whose Triton interprets, or does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", str(int(interpret)))
        patch.setenv("TRITON_CACHE_DIR", str(cache))
        pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        pool.submit(torch.set_num_threads, 1).result()
    return pool


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory) -> Iterator[ProcessPoolExecutor]:
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
        pytest.skip("the interpreter of Triton before 3.7 fails with NumPy 2.4")
    with process(True, tmp_path_factory.mktemp("interpreted")) as pool:
        yield pool


@pytest.fixture(scope="module")
def compiler(tmp_path_factory) -> Iterator[ProcessPoolExecutor]:
    with process(False, tmp_path_factory.mktemp("compiled")) as pool:
        yield pool


CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=CUDA)])
def run(request) -> Callable[..., None]:
    """``run(check, *arguments)`` calls ``check(device, *arguments)`` where kernels for that device can run."""
    if request.param == "cuda":
        return lambda check, *arguments: check("cuda", *arguments)
    pool = request.getfixturevalue("interpreter")
    return lambda check, *arguments: pool.submit(check, "cpu", *arguments).result()


# The definition


class Case(NamedTuple):
    logits: Tensor
    teacher: RowTeacher
    labels: Tensor | None
    row_weight: Tensor | None = None


def make(form: str, rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float32, kept: int = 5) -> Case:
    """Peaked rows, as of a language; every third label is a kept token; sparse ids repeat and are padded with id 0."""
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, columns, generator=g) * 4).to(dtype)
    log_q = (torch.randn(rows, columns, generator=g) * 4).log_softmax(-1)
    labels = torch.randint(0, columns, (rows,), generator=g)
    weight = torch.rand(rows, generator=g) + 0.2
    top = log_q.exp().topk(min(kept, columns - 1))
    teacher: RowTeacher = None
    if form == "sparse":
        drawn = torch.randint(0, columns, (rows, 3), generator=g)
        tail = 1 - top.values.sum(-1, keepdim=True)
        ids = torch.cat([top.indices, drawn, top.indices[:, :1], torch.zeros(rows, 2, dtype=torch.long)], 1)
        weights = torch.cat([top.values, tail.expand(-1, 4) / 4, torch.zeros(rows, 2)], 1)
        teacher = SparseTargets(ids, weights, -(log_q.exp() * log_q).sum(-1))
    elif form == "ghost":
        teacher = GhostTargets(top.indices, top.values, 1 - top.values.sum(-1))
    elif form == "dense":
        teacher = DenseRows(log_q + torch.randn(rows, 1, generator=g))
    labels[::3] = top.indices[::3, 0]
    return Case(logits, teacher, labels, weight)


def definition(case: Case, how: RowSettings) -> tuple[RowLosses, Tensor, Tensor]:
    """Losses, gradient, and for every entry of it the size of what it is a difference of, all float64."""
    x = case.logits.double().requires_grad_()
    rows = len(x)

    def cap(value: Tensor, c: float | None) -> Tensor:
        # tanh; torch's own derivative, 1 - tanh², has no digits left where the cap is reached.
        return value if c is None else c * (1 - 2 / ((2 * value / c).exp() + 1))

    z = cap(x * how.logit_scale, how.softcap)
    log_p = z.log_softmax(-1)
    warm = (z / how.temperature).log_softmax(-1)
    kl = entropy = nll = torch.zeros(rows, dtype=torch.float64)
    if isinstance(case.teacher, SparseTargets):
        q = torch.zeros_like(x).scatter_add(1, case.teacher.ids, case.teacher.weights.double())
        entropy = case.teacher.entropy.double()
        kl = -(q * log_p).sum(-1) - entropy
    elif isinstance(case.teacher, GhostTargets):
        q, t = case.teacher.probs.double(), case.teacher.tail.double()
        kept = torch.zeros_like(x, dtype=torch.bool).scatter(1, case.teacher.ids, True)
        rest = log_p.masked_fill(kept, -torch.inf).logsumexp(-1)
        kl = (q * (q.log() - log_p.gather(1, case.teacher.ids))).sum(-1)
        kl = kl + torch.where(t > 0, t * (t.log() - rest), torch.zeros_like(t))
        entropy = -(q * q.log()).sum(-1) - torch.xlogy(t, t)
    elif case.teacher is not None:
        raw = case.teacher.logits.double()
        raw = cap(raw * how.teacher_scale, how.teacher_softcap).masked_fill(raw == -torch.inf, -torch.inf)
        q = (raw / how.temperature).softmax(-1)
        kl = (torch.xlogy(q, q) - q * warm).sum(-1) * how.temperature**2
        entropy = -torch.xlogy(q, q).sum(-1)
    if case.labels is not None:
        nll = -log_p.gather(1, case.labels[:, None])[:, 0]
    weight = 1.0 if case.row_weight is None else case.row_weight.double()
    (slope,) = torch.autograd.grad(z.sum(), x, retain_graph=True)
    (gradient,) = torch.autograd.grad((weight * (how.alpha * kl + (1 - how.alpha) * nll)).sum(), x)
    p = warm.exp() * how.alpha * how.temperature + log_p.exp() * (1 - how.alpha)
    size = gradient.abs() + 2 * p.detach() * slope * torch.as_tensor(weight).reshape(-1, 1)
    return RowLosses(*(v.detach() for v in (kl, nll, entropy, z.logsumexp(-1)))), gradient, size


def move(value: Any, device: str) -> Any:
    if isinstance(value, DenseRows):
        return DenseRows(value.logits.to(device, copy=True))
    return value if value is None else value.to(device)


def ours(device: str, case: Case, how: RowSettings, gradient: bool = True) -> tuple[RowLosses, Tensor]:
    from salad_ds.distill.rows_triton import distill_rows

    logits = case.logits.to(device, copy=True)
    teacher, labels, weight = (move(value, device) for value in case[1:])
    losses = distill_rows(logits, teacher, labels, how, gradient, weight)
    return RowLosses(*(value.cpu() for value in losses)), logits.cpu()


def agree(device: str, case: Case, how: RowSettings) -> None:
    losses, gradient = ours(device, case, how)
    expected, expected_gradient, size = definition(case, how)
    dtype = case.logits.dtype
    exact = dtype == torch.float64
    relative, absolute = (1e-11, 1e-11) if exact else (1e-5, 3e-6)
    for name, value, wanted in zip(RowLosses._fields, losses, expected, strict=True):
        assert value.dtype == (torch.float64 if exact else torch.float32)
        assert_close(value.double(), wanted, rtol=relative, atol=absolute, msg=lambda m, n=name: f"{n}, {how}: {m}")
    bits = {torch.float64: 1e-15, torch.float32: 6e-8, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    if dtype == torch.bfloat16 and device == "cpu":
        bits *= 2
    tiny = 2**-24 if dtype == torch.float16 else 1e-36
    error = (gradient.double() - expected_gradient).abs() / (size * relative + expected_gradient.abs() * bits + tiny)
    assert error.max() <= 1, f"gradient, {how}: {error.max():.1f} of what is allowed, at {error.argmax():d}"


def agree_on(device: str, form: str, rows: int, columns: int, seed: int, dtype: torch.dtype, kept: int,
             hows: list[RowSettings]) -> None:  # fmt: skip
    for how in hows:
        agree(device, make(form, rows, columns, seed, dtype, kept), how)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_losses_and_gradient_are_those_of_the_definition(run, form, dtype):
    hows = FORMULAS + (WARM if form == "dense" else [])
    run(agree_on, form, 4, 1301, 0, dtype, 5, hows if form != "none" else [RowSettings(alpha=0.0), *FORMULAS[2:]])


@pytest.mark.parametrize("columns", [49152, 151936])
@pytest.mark.parametrize("form", FORMS)
def test_real_vocabularies(run, form, columns):
    alpha = 0.0 if form == "none" else 0.4
    run(agree_on, form, 2, columns, 1, torch.float32, 128, [RowSettings(alpha=alpha)])
    run(agree_on, form, 3, columns, 2, torch.bfloat16, 128, [RowSettings(alpha=alpha, softcap=30.0)])


@given(st.data())
@settings(max_examples=40)
def test_any_small_shape(run, data):
    form = data.draw(st.sampled_from(FORMS))
    columns = data.draw(st.integers(2, 600))
    kept = data.draw(st.integers(1, min(40, columns - 1)))
    how = RowSettings(
        alpha=data.draw(st.sampled_from([0.0, 0.3, 1.0])),
        logit_scale=data.draw(st.floats(0.1, 2)),
        softcap=data.draw(st.none() | st.floats(1, 50)),
        temperature=data.draw(st.sampled_from([1.0, 2.0, 0.7])) if form == "dense" else 1.0,
        teacher_scale=data.draw(st.floats(0.1, 2)),
        teacher_softcap=data.draw(st.none() | st.floats(1, 50)),
    )
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    run(agree_on, form, data.draw(st.integers(1, 3)), columns, data.draw(st.integers(0, 99)), dtype, kept, [how])


# What only some rows have


def check_repeated_ids(device: str) -> None:
    """One token three times, the label among them, id 0 kept and as padding too, and 1,024 ids of ten tokens."""
    logits = torch.randn(3, 77, generator=torch.Generator().manual_seed(0)) * 3
    ids = torch.tensor([[9, 4, 9, 0, 9, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0], [5, 4, 3, 2, 1, 0, 76, 75]])
    weights = torch.tensor([[0.2, 0.1, 0.2, 0.3, 0.1, 0.1, 0, 0], [0.9, 0, 0, 0, 0, 0, 0, 0], [0.125] * 8])
    entropy = torch.tensor([1.2, 0.1, 2.0])
    for labels in ([9, 0, 6], [0, 1, 5]):
        case = Case(logits, SparseTargets(ids, weights, entropy), torch.tensor(labels))
        agree(device, case, RowSettings(alpha=0.6))
        again = [ours(device, case, RowSettings(alpha=0.6))[1] for _ in range(3)]
        assert all(torch.equal(again[0], other) for other in again)
    many = torch.randint(0, 10, (3, 1024), generator=torch.Generator().manual_seed(1))
    agree(device, Case(logits, SparseTargets(many, torch.full((3, 1024), 1 / 1024), entropy), None), RowSettings())


def check_nothing_kept(device: str) -> None:
    """K = 0, and rows of padding only: no push, no pull."""
    logits = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    for ids, weights in ((torch.zeros(2, 0), torch.zeros(2, 0)), (torch.zeros(2, 3), torch.zeros(2, 3))):
        case = Case(logits, SparseTargets(ids.long(), weights, torch.zeros(2)), None)
        losses, gradient = ours(device, case, RowSettings())
        assert not losses.kl.any() and not gradient.any()


def check_ghost_extremes(device: str) -> None:
    """A tail of 1e-12 on both sides, whose gradient must still be right in its own size; a label inside and outside of
    the kept tokens; a tail that is zero; no tail at all."""
    logits = torch.randn(4, 400, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[7, 0, 399]]).expand(4, 3).clone()
    logits.scatter_(1, ids, torch.tensor([35.0, 33.5, 34.0]).expand(4, 3))
    probs = torch.tensor([0.5, 0.2, 0.3]).expand(4, 3)
    tail = torch.tensor([1e-12, 1e-12, 0.0, 1e-3])
    for how in (RowSettings(), RowSettings(alpha=0.5), RowSettings(alpha=0.5, softcap=50.0)):
        agree(device, Case(logits, GhostTargets(ids, probs, tail), torch.tensor([7, 8, 399, 0])), how)
    whole = GhostTargets(torch.arange(6).expand(2, 6), torch.full((2, 6), 1 / 6), torch.zeros(2))
    agree(device, Case(logits[:2, :6].contiguous(), whole, torch.tensor([1, 5])), RowSettings(alpha=0.5))


def check_impossible_tokens(device: str) -> None:
    """-inf in the teacher is probability 0, under a soft cap too, and where the label is."""
    case = make("dense", 3, 200, 0)
    case.teacher.logits[:, 100:] = -torch.inf
    case.teacher.logits[1, 1:] = -torch.inf
    case.labels[:] = torch.tensor([150, 0, 3])
    for how in (RowSettings(alpha=0.5), RowSettings(alpha=0.5, temperature=2.0, teacher_softcap=3.0)):
        agree(device, case, how)


def check_small_divergence(device: str) -> None:
    """A teacher equal to the student has KL 0 and gradient 0; one near it, with a KL of
    4e-5, has its digits."""
    x = torch.randn(2, 49152, generator=torch.Generator().manual_seed(0)) * 4
    for how in (RowSettings(), RowSettings(temperature=2.0, softcap=8.0, teacher_softcap=8.0)):
        losses, gradient = ours(device, Case(x, DenseRows(x), None), how)
        assert losses.kl.abs().max() <= 1e-7 and gradient.abs().max() <= 1e-8
    near = Case(x, DenseRows(x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * 1e-2), None)
    assert_close(ours(device, near, RowSettings())[0].kl.double(), definition(near, RowSettings())[0].kl,
                 rtol=0.01, atol=0)  # fmt: skip


def check_without_gradient(device: str) -> None:
    """The same losses bit by bit, and no labels needed."""
    for form in FORMS:
        case = make(form, 3, 500, 3)
        for labels in (case.labels, None):
            part = case._replace(labels=labels)
            for one, other in zip(ours(device, part, FORMULAS[3], False)[0], ours(device, part, FORMULAS[3])[0],
                                  strict=True):  # fmt: skip
                assert torch.equal(one, other)
            if labels is None:
                assert not one.isnan().any() and not ours(device, part, FORMULAS[3])[0].nll.any()


def check_rows_and_strides(device: str) -> None:
    """No rows; a row of weight 0; rows a stride apart, whose gap stays as it was; a teacher that is a view."""
    from salad_ds.distill.rows_triton import distill_rows

    for form in FORMS:
        case = make(form, 3, 500, 4)
        teacher = case.teacher
        if form != "none":
            nobody = DenseRows(teacher.logits[:0]) if form == "dense" else teacher.rows(slice(0, 0))
            losses = distill_rows(case.logits[:0], nobody, case.labels[:0], RowSettings(alpha=0.5), True)
            assert [value.shape for value in losses] == [(0,)] * 4
        weight = torch.tensor([1.0, 0.0, 2.0])
        wide = torch.full((3, 512), 7.0, device=device)
        wide[:, :500] = case.logits.to(device)
        if form == "dense":
            teacher = DenseRows(torch.cat([teacher.logits, teacher.logits], 1).to(device)[:, :500])
        distill_rows(wide[:, :500], move(teacher, device), case.labels.to(device), RowSettings(alpha=0.5), True,
                     weight.to(device))  # fmt: skip
        plain = ours(device, case._replace(row_weight=weight), RowSettings(alpha=0.5))[1]
        assert torch.equal(wide[:, :500].cpu(), plain) and (wide[:, 500:] == 7).all()
        assert not plain[1].any() and plain[2].any()


def check_not_a_number(device: str) -> None:
    """What is wrong upstream shows: it is not taken for a probability of 0."""
    case = make("dense", 2, 300, 5)
    case.teacher.logits[0, 7] = torch.nan
    losses, gradient = ours(device, case, RowSettings())
    assert losses.kl[0].isnan() and losses.kl[1].isfinite()
    assert gradient[0].isnan().any() and gradient[1].isfinite().all()
    for form in FORMS:
        case = make(form, 2, 300, 5)
        case.logits[0, 299] = torch.nan
        losses, gradient = ours(device, case, RowSettings(alpha=0.5))
        assert losses.lse[0].isnan() and losses.lse[1].isfinite() and gradient[0].isnan().all()
        assert gradient[1].isfinite().all()


@pytest.mark.parametrize("check", [
    check_repeated_ids, check_nothing_kept, check_ghost_extremes, check_impossible_tokens, check_small_divergence,
    check_without_gradient, check_rows_and_strides, check_not_a_number,
], ids=lambda check: check.__name__)  # fmt: skip
def test_rows_that_are_special(run, check):
    run(check)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_chunk_of_more_than_two_to_the_31_logits():
    from salad_ds.distill.rows_triton import distill_rows

    case = make("sparse", 3, 1024, 6, torch.bfloat16)
    far = torch.empty(3 << 30, dtype=torch.bfloat16, device="cuda").as_strided((3, 1024), (1 << 30, 1))
    far.copy_(case.logits)
    distill_rows(far, move(case.teacher, "cuda"), case.labels.cuda(), RowSettings(alpha=0.5), True)
    assert torch.equal(far.cpu(), ours("cuda", case._replace(row_weight=None), RowSettings(alpha=0.5))[1])


@pytest.mark.parametrize("how, wrong, message", [
    (RowSettings(temperature=2.0), {}, "needs a dense teacher"),
    (RowSettings(softcap=0.0), {}, "softcap is 0.0"),
    (RowSettings(logit_scale=-1.0), {}, "logit_scale is -1.0"),
    (RowSettings(), {"labels": torch.zeros(2, dtype=torch.long)}, "labels"),
    (RowSettings(), {"row_weight": torch.zeros(4, 1)}, "row_weight"),
    (RowSettings(), {"logits": torch.zeros(50, 4).t()}, "side by side"),
    (RowSettings(), {"logits": torch.zeros(4, 50, dtype=torch.long)}, "int64"),
    (RowSettings(), {"teacher": DenseRows(torch.zeros(4, 49))}, "teacher"),
    (RowSettings(), {"teacher": SparseTargets(torch.zeros(5, 2), torch.zeros(5, 2), torch.zeros(5))}, "5 rows"),
    (RowSettings(), {"teacher": SparseTargets(torch.zeros(4, 2000), torch.zeros(4, 2000), torch.zeros(4))}, "at most"),
])  # fmt: skip
def test_what_cannot_be_computed_is_refused(how, wrong, message):
    from salad_ds.distill.rows_triton import distill_rows

    case = make("sparse", 4, 50, 0)._replace(**wrong)
    with pytest.raises(ValueError, match=message):
        distill_rows(case.logits, case.teacher, case.labels, how, True, case.row_weight)


# What the kernels compile to; the packages of Triton bring NVIDIA's assembler, so no GPU is needed

TYPES = {torch.float64: "*fp64", torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


class Compiled(NamedTuple):
    registers: int
    stack: int
    wide_loads: int
    layout_changes: int
    loop_waits: int
    """Barriers and accesses to spilled registers inside of loops."""


def compiled(arch: int, form: str, dtype: torch.dtype, columns: int, labelled: bool, gradient: bool, how: RowSettings,
             teacher_dtype: torch.dtype) -> Compiled:  # fmt: skip
    """Compile what ``distill_rows`` would launch, for rows whose addresses are multiples of 16 bytes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from salad_ds.distill.rows_triton import plan_launch

    plan = plan_launch(dtype, columns, make(form, 2, 200, 0, kept=128).teacher, labelled, how, gradient)
    exact = "*fp64" if dtype == torch.float64 else "*fp32"
    types = {"logits": TYPES[dtype], "teacher": TYPES[teacher_dtype], "ids": "*i64", "weights": "*fp32",
             "tail": "*fp32", "labels": "*i64", "mix": exact, "out": exact}  # fmt: skip
    names = plan.kernel.arg_names
    source = ASTSource(
        plan.kernel,
        {name: "constexpr" if name in plan.constants else types.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in plan.constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]]
         for name in ("logits", "teacher", "row_stride", "teacher_stride", "columns") if name in names},
    )  # fmt: skip
    binary = triton.compile(source, GPUTarget("cuda", arch, 32), {"num_warps": plan.threads // 32})
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    cubin = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])

    def output(*command: str) -> str:
        return subprocess.run([tools / command[0], *command[1:], cubin], capture_output=True, text=True,
                              check=True).stdout  # fmt: skip

    usage = re.search(r"REG:(\d+) STACK:(\d+)", output("cuobjdump", "-res-usage"))
    assembly = output("nvdisasm", "-c")
    return Compiled(int(usage[1]), int(usage[2]), len(re.findall(r"LDG\.E\.128", assembly)),
                    binary.asm["ttgir"].count("ttg.convert_layout %x"), loop_waits(assembly))  # fmt: skip


def loop_waits(assembly: str) -> int:
    instructions: list[str] = []
    labels: dict[str, int] = {}
    count = 0
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            back = re.search(r"BRA\S* .*\((\.L_x_\d+)\)", found[1])
            if back and back[1] in labels:
                count += sum(bool(re.search(r"BAR\.|LDL|STL", step)) for step in instructions[labels[back[1]] :])
            instructions.append(found[1])
    return count


CAPPED = {"softcap": 30.0, "teacher_softcap": 30.0, "logit_scale": 0.5}
KERNELS = [
    *[(90, form, torch.bfloat16, alpha, more, use) for form in FORMS for alpha, more, use in (
        (0.3, {}, "train"), (1.0, {}, "train"), (1.0, {}, "unlabelled"), (1.0, {}, "evaluate"), (0.3, CAPPED, "train"),
    ) if form != "none" or use != "unlabelled"],
    *[(90, form, torch.float32, 0.3, {}, "train") for form in FORMS],
    (90, "dense", torch.bfloat16, 1.0, {"temperature": 2.0}, "train"),
    (90, "dense", torch.bfloat16, 0.3, {"temperature": 2.0, **CAPPED}, "train"),
    (90, "sparse", torch.float16, 0.3, {}, "train"),
    *[(80, form, torch.bfloat16, 0.3, {}, "train") for form in FORMS],
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_kernels_compile_for_gpus_as_they_should(compiler, form):
    """For sm_90 and sm_80: 16-byte loads, no spilling and no barriers in the loops over the row."""
    for arch, its_form, dtype, alpha, more, use in KERNELS:
        if its_form != form:
            continue
        result: Compiled = compiler.submit(
            compiled, arch, form, dtype, 151936, use != "unlabelled", use != "evaluate",
            RowSettings(alpha=alpha, **more), dtype,
        ).result()  # fmt: skip
        what = f"sm_{arch} {form} {dtype} {alpha} {more} {use}: {result}"
        assert result.wide_loads >= 4 and not result.layout_changes and not result.loop_waits, what
        assert result.registers <= 64 and result.stack <= 32, what


def test_a_float32_teacher_of_a_bfloat16_student_is_read_wide_too(compiler):
    result = compiler.submit(compiled, 90, "dense", torch.bfloat16, 151936, True, True, RowSettings(alpha=0.3),
                             torch.float32).result()  # fmt: skip
    assert result.wide_loads >= 12 and not result.layout_changes and not result.loop_waits


def test_float64_compiles(compiler):
    for form in FORMS:
        compiler.submit(compiled, 90, form, torch.float64, 49152, True, True, RowSettings(alpha=0.3, softcap=30.0),
                        torch.float64).result()  # fmt: skip
