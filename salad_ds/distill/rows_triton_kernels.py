"""The two Triton kernels of the distillation loss: one with a teacher of few tokens or none, one with a dense teacher.

One program per row of logits. The first pass is an online softmax (running maximum and sum together); the second turns
the logits into their gradient where they lie. What keeps it exact:

- exponents are base 2 and relative to a maximum which the sum was formed with too, so its rounding cancels;
- a KL is summed as the mean of a difference of log-probabilities, so a small KL keeps its digits;
- the ghost form takes its tokens out of the row before the first pass: the tail is summed, not subtracted.

What keeps it fast: a thread owns ``VEC`` neighbouring columns (16 bytes) and its own running maximum and sum, so the
loops have neither shuffles nor barriers; only the last, partial tile has masks; the second pass runs backwards, because
the end of the row was read last and is still in the caches.

Corrections at single columns (kept tokens, the label) are stored after the row's own stores, behind a barrier, as whole
values computed in registers: bfloat16 cannot take a read-modify-write. Two stores to one column carry the same value.

In the argument lists: x the student's logits, t the teacher's; ``scale``/``cap`` as in RowSettings, 0 for no cap.
Without ``from __future__ import annotations``: Triton reads the annotations.
"""

import triton
import triton.language as tl

NO_TEACHER, SPARSE, GHOST = 0, 1, 2
"""``FORM`` of ``few_tokens_kernel``."""
COMPARED = 16
"""Kept tokens that are compared at a time with all others, to find a token that occurs twice."""

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)
_COUNTS = ["rows", "kept", "ids_stride", "weights_stride"]
_SMALL = ["ids", "weights", "tail", "labels", "mix", "out"]
"""Arguments whose value or alignment varies from call to call: no compilation for each."""
_SPARSE, _GHOST, _COMPARED = tl.constexpr(SPARSE), tl.constexpr(GHOST), tl.constexpr(COMPARED)
_LOWEST = tl.constexpr(-1e30)
"""Where a running maximum starts. Finite: minus infinity less itself would be NaN."""
_NOTHING = tl.constexpr(-2000.0)
"""Base-2 logarithm whose power of two is 0 in every dtype; a finite stand-in for the logarithm of probability 0."""


@triton.jit
def _curve(x, SCALE: tl.constexpr, CAP: tl.constexpr, HOLES: tl.constexpr):
    """(z without its constant factor, dz/dx without ``scale``): (x, 1), or tanh and 1 - tanh² of scale·x / cap.
    HOLES: an x of -inf stays -inf.

    libdevice is not in the interpreter, and tanh.approx is coarse. exp(-2|u|) never overflows; near 0, where
    1 - exp(...) would cancel, five terms of the series: relative error below 4e-7 everywhere in float32."""
    curve = x
    slope = 1.0
    if CAP != 0.0:
        u = x * (SCALE / CAP)
        size = tl.abs(u)
        e = tl.exp2(size * (-2.0 * _LOG2_E))
        inverse = 1.0 / (1.0 + e)
        slope = 4.0 * e * inverse * inverse
        curve = (1.0 - e) * inverse
        if x.dtype != tl.float64:
            s = u * u
            series = s * (-17.0 / 315.0 + s * (62.0 / 2835.0))
            series = size + size * (s * (-1.0 / 3.0 + s * (2.0 / 15.0 + series)))
            curve = tl.where(size < 0.3, series, curve)
        curve = tl.where(u < 0, -curve, curve)
        if HOLES:
            curve = tl.where(x == float("-inf"), float("-inf"), curve)
    return curve, slope


@triton.jit
def _load(pointer, tile, end, FILL: tl.constexpr, MASKED: tl.constexpr, ACC: tl.constexpr):
    if MASKED:
        return tl.load(pointer + tile, mask=tile < end, other=FILL).to(ACC)
    return tl.load(pointer + tile).to(ACC)


@triton.jit
def _store(pointer, tile, end, value, MASKED: tl.constexpr):
    if MASKED:
        tl.store(pointer + tile, value, mask=tile < end)
    else:
        tl.store(pointer + tile, value)


@triton.jit
def _online(peak, total, curve, FACTOR: tl.constexpr):
    """One tile [LANES, VEC] into each lane's running base-2 maximum and sum of 2^(FACTOR·curve - maximum)."""
    highest = tl.maximum(peak, tl.max(curve, 1) * FACTOR)
    total = total * tl.exp2(peak - highest) + tl.sum(tl.exp2(curve * FACTOR - highest[:, None]), 1)
    return highest, total


@triton.jit
def _join(peak, total):
    """The lanes' maxima and sums → the row's."""
    highest = tl.max(peak, 0)
    return highest, tl.sum(total * tl.exp2(peak - highest), 0)


@triton.jit(do_not_specialize=_COUNTS, do_not_specialize_on_alignment=_SMALL)
def few_tokens_kernel(
    logits, ids, weights, tail, labels, mix, out, row_stride, ids_stride, weights_stride, rows, columns, kept,
    FORM: tl.constexpr, LABELS: tl.constexpr, NLL: tl.constexpr, GRADIENT: tl.constexpr, SCALE: tl.constexpr,
    CAP: tl.constexpr, ACC: tl.constexpr, LANES: tl.constexpr, VEC: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """No teacher, SparseTargets or GhostTargets.

    weights: [rows, kept], the sparse weights or the ghost's probabilities; tail: [rows], the sparse targets' entropy or
    the ghost's tail mass. mix: [2, rows], what KL and NLL weigh in the gradient. out: [4, rows], a RowLosses. KEPT: a
    power of two ≥ kept. NLL: whether NLL has a share in the gradient. ACC: dtype of the arithmetic.
    """
    TILE: tl.constexpr = LANES * VEC
    FACTOR: tl.constexpr = (SCALE if CAP == 0.0 else CAP) * _LOG2_E
    HOLES: tl.constexpr = FORM == _GHOST
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    tile = tl.arange(0, LANES)[:, None] * VEC + tl.arange(0, VEC)[None, :]
    full = columns // TILE * TILE

    # 1. What is needed of single columns, before anything is overwritten.
    if LABELS:
        label = tl.load(labels + row).to(tl.int32)
        curve_label, slope_label = _curve(tl.load(logits + label).to(ACC), SCALE, CAP, False)
        y_label = curve_label * FACTOR
    if FORM != 0:
        slot = tl.arange(0, KEPT)
        held = slot < kept
        token = tl.load(ids + row * ids_stride + slot, mask=held, other=-1).to(tl.int32)
        weight = tl.load(weights + row * weights_stride + slot, mask=held, other=0.0).to(ACC)
        curve_token, slope_token = _curve(tl.load(logits + token, mask=held, other=0.0).to(ACC), SCALE, CAP, False)
        y_token = curve_token * FACTOR
        rest = tl.load(tail + row).to(ACC)
    if FORM == _GHOST:
        tl.debug_barrier()
        tl.store(logits + token, tl.full((KEPT,), float("-inf"), ACC), mask=held)
        tl.debug_barrier()

    # 2. Softmax of the row; for the ghost of its tail only.
    peak = tl.full((LANES,), _LOWEST, ACC)
    total = tl.zeros((LANES,), ACC)
    for start in tl.range(0, full, TILE):
        x = _load(logits + start, tile, TILE, 0.0, False, ACC)
        peak, total = _online(peak, total, _curve(x, SCALE, CAP, HOLES)[0], FACTOR)
    if full < columns:
        x = _load(logits + full, tile, columns - full, float("-inf"), True, ACC)
        peak, total = _online(peak, total, _curve(x, SCALE, CAP, True)[0], FACTOR)
    highest, mass = _join(peak, total)
    row_highest, row_mass = highest, mass
    if FORM == _GHOST:
        row_highest = tl.maximum(highest, tl.max(tl.where(held, y_token, _LOWEST), 0))
        row_mass = mass * tl.exp2(highest - row_highest)
        row_mass += tl.sum(tl.where(held, tl.exp2(y_token - row_highest), 0.0), 0)
    log_mass = tl.log2(row_mass)

    # 3. Losses. Surprise: -log2 of a student's probability.
    kl = tl.zeros((), ACC)
    nll = tl.zeros((), ACC)
    entropy = tl.zeros((), ACC)
    taught = tl.zeros((), ACC)
    if FORM != 0:
        surprise = (row_highest - y_token) + log_mass
        taught = tl.sum(weight, 0)
    if FORM == _SPARSE:
        entropy = rest
        kl = tl.sum(weight * surprise, 0) * _LN_2 - entropy
    if FORM == _GHOST:
        log_weight = tl.log2(tl.where(weight > 0, weight, 1.0))
        log_rest = tl.log2(tl.where(rest > 0, rest, 1.0))
        rest_surprise = (row_highest - highest) + (log_mass - tl.log2(mass))
        kl = tl.sum(weight * (log_weight + surprise), 0) * _LN_2
        kl += tl.where(rest > 0, rest * (log_rest + rest_surprise), 0.0) * _LN_2
        entropy = -(tl.sum(weight * log_weight, 0) + rest * log_rest) * _LN_2
        taught += rest
    if LABELS:
        nll = ((row_highest - y_label) + log_mass) * _LN_2
    tl.store(out + row, kl)
    tl.store(out + rows + row, nll)
    tl.store(out + 2 * rows + row, entropy)
    tl.store(out + 3 * rows + row, (row_highest + log_mass) * _LN_2)

    # 4. The gradient, last tile first.
    if GRADIENT:
        kl_share = tl.load(mix + row) * SCALE
        nll_share = tl.load(mix + rows + row) * SCALE
        push = (kl_share * taught + nll_share) / row_mass
        common = push
        if FORM == _GHOST:
            # The tail is pushed down by its own mass and up by the teacher's.
            common = push * tl.exp2(highest - row_highest) - tl.where(mass > 0, kl_share * rest / mass, 0.0)
        tl.debug_barrier()
        if full < columns:
            x = _load(logits + full, tile, columns - full, 0.0, True, ACC)
            curve, slope = _curve(x, SCALE, CAP, HOLES)
            _store(logits + full, tile, columns - full, tl.exp2(curve * FACTOR - highest) * common * slope, True)
        for done in tl.range(0, full, TILE):
            here = logits + (full - TILE - done)
            x = _load(here, tile, TILE, 0.0, False, ACC)
            curve, slope = _curve(x, SCALE, CAP, HOLES)
            _store(here, tile, TILE, tl.exp2(curve * FACTOR - highest) * common * slope, False)
        if (FORM != 0) or NLL:
            tl.debug_barrier()
        if FORM != 0:
            pull = weight * kl_share
            if FORM == _SPARSE:
                shared = tl.zeros((KEPT, _COMPARED), ACC)
                for start in tl.range(0, kept, _COMPARED):
                    other = start + tl.arange(0, _COMPARED)
                    valid = other < kept
                    other_token = tl.load(ids + row * ids_stride + other, mask=valid, other=-1).to(tl.int32)
                    other_weight = tl.load(weights + row * weights_stride + other, mask=valid, other=0.0).to(ACC)
                    shared += tl.where(token[:, None] == other_token[None, :], other_weight[None, :], 0.0)
                pull = tl.sum(shared, 1) * kl_share
            if NLL:
                pull += tl.where(token == label, nll_share, 0.0)
            tl.store(logits + token, (tl.exp2(y_token - row_highest) * push - pull) * slope_token, mask=held)
        if NLL:
            pushed = tl.exp2(y_label - highest) * common
            alone = True
            if FORM != 0:
                # A label that is a kept token has been written with it.
                alone = tl.max((token == label).to(tl.int32), 0) == 0
            tl.store(logits + label, (pushed - nll_share) * slope_label, mask=alone)


@triton.jit
def _dense_sums(x, t, sums, SCALE: tl.constexpr, CAP: tl.constexpr, TEACHER_SCALE: tl.constexpr,
                TEACHER_CAP: tl.constexpr, TEMPERATURE: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """One tile into the three running softmaxes: student and teacher at the temperature, student at 1. The third's
    maximum is the first's times the temperature; at temperature 1 it is the first."""
    PLAIN: tl.constexpr = (SCALE if CAP == 0.0 else CAP) * _LOG2_E
    peak, total, plain_total, teacher_peak, teacher_total = sums
    curve = _curve(x, SCALE, CAP, MASKED)[0]
    highest, total = _online(peak, total, curve, PLAIN / TEMPERATURE)
    if TEMPERATURE != 1.0:
        plain_total = plain_total * tl.exp2((peak - highest) * TEMPERATURE)
        plain_total += tl.sum(tl.exp2(curve * PLAIN - (highest * TEMPERATURE)[:, None]), 1)
    curve = _curve(t, TEACHER_SCALE, TEACHER_CAP, True)[0]
    factor: tl.constexpr = (TEACHER_SCALE if TEACHER_CAP == 0.0 else TEACHER_CAP) * _LOG2_E / TEMPERATURE
    teacher_peak, teacher_total = _online(teacher_peak, teacher_total, curve, factor)
    return highest, total, plain_total, teacher_peak, teacher_total


@triton.jit
def _dense_tile(x, t, highest, plain_highest, teacher_highest, push, plain_push, teacher_pull, SCALE: tl.constexpr,
                CAP: tl.constexpr, TEACHER_SCALE: tl.constexpr, TEACHER_CAP: tl.constexpr, TEMPERATURE: tl.constexpr,
                NLL: tl.constexpr):  # fmt: skip
    """(base-2 log-weight of the student, of the teacher, weight of the teacher, gradient by x) of a tile. A weight is a
    probability times the mass that belongs to it."""
    PLAIN: tl.constexpr = (SCALE if CAP == 0.0 else CAP) * _LOG2_E
    factor: tl.constexpr = (TEACHER_SCALE if TEACHER_CAP == 0.0 else TEACHER_CAP) * _LOG2_E / TEMPERATURE
    curve, slope = _curve(x, SCALE, CAP, False)
    y = curve * (PLAIN / TEMPERATURE) - highest
    t = tl.maximum(_curve(t, TEACHER_SCALE, TEACHER_CAP, True)[0] * factor - teacher_highest, _NOTHING)
    q = tl.exp2(t)
    gradient = tl.exp2(y) * push - q * teacher_pull
    if TEMPERATURE != 1.0 and NLL:
        gradient += tl.exp2(curve * PLAIN - plain_highest) * plain_push
    return y, t, q, gradient * slope


@triton.jit(do_not_specialize=_COUNTS, do_not_specialize_on_alignment=_SMALL)
def dense_kernel(
    logits, teacher, labels, mix, out, row_stride, teacher_stride, rows, columns,
    LABELS: tl.constexpr, NLL: tl.constexpr, GRADIENT: tl.constexpr, SCALE: tl.constexpr, CAP: tl.constexpr,
    TEACHER_SCALE: tl.constexpr, TEACHER_CAP: tl.constexpr, TEMPERATURE: tl.constexpr, ACC: tl.constexpr,
    LANES: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """A teacher that knows every column: DenseRows. The arguments as in ``few_tokens_kernel``."""
    TILE: tl.constexpr = LANES * VEC
    PLAIN: tl.constexpr = (SCALE if CAP == 0.0 else CAP) * _LOG2_E
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    teacher += row * teacher_stride
    tile = tl.arange(0, LANES)[:, None] * VEC + tl.arange(0, VEC)[None, :]
    full = columns // TILE * TILE
    if LABELS:
        label = tl.load(labels + row).to(tl.int32)
        x_label = tl.load(logits + label).to(ACC)
        t_label = tl.load(teacher + label).to(ACC)

    peak = tl.full((LANES,), _LOWEST, ACC)
    total = tl.zeros((LANES,), ACC)
    sums = (peak, total, total, peak, total)
    for start in tl.range(0, full, TILE):
        x = _load(logits + start, tile, TILE, 0.0, False, ACC)
        t = _load(teacher + start, tile, TILE, 0.0, False, ACC)
        sums = _dense_sums(x, t, sums, SCALE, CAP, TEACHER_SCALE, TEACHER_CAP, TEMPERATURE, False)
    if full < columns:
        x = _load(logits + full, tile, columns - full, float("-inf"), True, ACC)
        t = _load(teacher + full, tile, columns - full, float("-inf"), True, ACC)
        sums = _dense_sums(x, t, sums, SCALE, CAP, TEACHER_SCALE, TEACHER_CAP, TEMPERATURE, True)
    peak, total, plain_total, teacher_peak, teacher_total = sums
    highest, mass = _join(peak, total)
    teacher_highest, teacher_mass = _join(teacher_peak, teacher_total)
    plain_highest, plain_mass = highest, mass
    if TEMPERATURE != 1.0:
        plain_highest = highest * TEMPERATURE
        plain_mass = tl.sum(plain_total * tl.exp2((peak - highest) * TEMPERATURE), 0)
    log_plain_mass = tl.log2(plain_mass)
    log_teacher_mass = tl.log2(teacher_mass)
    offset = tl.log2(mass / teacher_mass)
    kl_share = tl.load(mix + row) * (SCALE * TEMPERATURE)
    nll_share = tl.load(mix + rows + row) * SCALE
    push = kl_share / mass
    if TEMPERATURE == 1.0:
        push = (kl_share + nll_share) / mass
    plain_push = nll_share / plain_mass
    teacher_pull = kl_share / teacher_mass
    tl.debug_barrier()

    # KL and the teacher's mean log-probability, in parts of teacher_mass; the gradient in the same pass.
    difference = tl.zeros((LANES,), ACC)
    mean_log = tl.zeros((LANES,), ACC)
    if full < columns:
        x = _load(logits + full, tile, columns - full, 0.0, True, ACC)
        t = _load(teacher + full, tile, columns - full, float("-inf"), True, ACC)
        y, t, q, gradient = _dense_tile(x, t, highest, plain_highest, teacher_highest, push, plain_push, teacher_pull,
                                        SCALE, CAP, TEACHER_SCALE, TEACHER_CAP, TEMPERATURE, NLL)  # fmt: skip
        difference += tl.sum(q * ((t - y) + offset), 1)
        mean_log += tl.sum(q * t, 1)
        if GRADIENT:
            _store(logits + full, tile, columns - full, gradient, True)
    for done in tl.range(0, full, TILE):
        here = full - TILE - done
        x = _load(logits + here, tile, TILE, 0.0, False, ACC)
        t = _load(teacher + here, tile, TILE, 0.0, False, ACC)
        y, t, q, gradient = _dense_tile(x, t, highest, plain_highest, teacher_highest, push, plain_push, teacher_pull,
                                        SCALE, CAP, TEACHER_SCALE, TEACHER_CAP, TEMPERATURE, NLL)  # fmt: skip
        difference += tl.sum(q * ((t - y) + offset), 1)
        mean_log += tl.sum(q * t, 1)
        if GRADIENT:
            _store(logits + here, tile, TILE, gradient, False)
    kl = tl.sum(difference, 0) / teacher_mass
    entropy = log_teacher_mass - tl.sum(mean_log, 0) / teacher_mass
    nll = tl.zeros((), ACC)
    if LABELS:
        nll = ((plain_highest - _curve(x_label, SCALE, CAP, False)[0] * PLAIN) + log_plain_mass) * _LN_2
    tl.store(out + row, kl * (_LN_2 * TEMPERATURE * TEMPERATURE))
    tl.store(out + rows + row, nll)
    tl.store(out + 2 * rows + row, entropy * _LN_2)
    tl.store(out + 3 * rows + row, (plain_highest + log_plain_mass) * _LN_2)
    if GRADIENT and NLL:
        tl.debug_barrier()
        gradient = _dense_tile(x_label, t_label, highest, plain_highest, teacher_highest, push, plain_push,
                               teacher_pull, SCALE, CAP, TEACHER_SCALE, TEACHER_CAP, TEMPERATURE, NLL)[3]  # fmt: skip
        tl.store(logits + label, gradient - nll_share * _curve(x_label, SCALE, CAP, False)[1])
