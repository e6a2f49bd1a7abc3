"""The warm-up, stable, decay schedule, at its corners."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from salad_ds.train.schedule import wsd_factor


def test_the_papers_shape():
    factors = [wsd_factor(step, 1000, 100, 0.2) for step in range(1000)]
    assert factors[0] == 0.01 and factors[99] == 1.0
    assert set(factors[100:800]) == {1.0}
    decay = factors[800:]
    assert decay[0] < 1.0 and decay[-1] > 0.0
    steps = {round(a - b, 9) for a, b in zip(decay, decay[1:], strict=False)}
    assert len(steps) == 1, "the decay is linear"
    assert wsd_factor(1000, 1000, 100, 0.2) == 0.0


@given(steps=st.integers(1, 300), warmup=st.integers(0, 400), share=st.floats(0, 1))
def test_every_update_has_a_positive_factor_and_none_exceeds_one(steps, warmup, share):
    factors = [wsd_factor(step, steps, warmup, share) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    rises = [b > a for a, b in zip(factors, factors[1:], strict=False)]
    falls = [b < a for a, b in zip(factors, factors[1:], strict=False)]
    if True in falls:
        assert True not in rises[falls.index(True) :]
