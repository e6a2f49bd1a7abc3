"""Rounding to small integers: near, and right in the mean."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.teacher import grid


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), least=st.integers(0, 4), beyond=st.integers(-4, 20), uniform=st.floats(0, 1 - 1e-6))
def test_rounding_is_to_a_neighbour(seed: int, least: int, beyond: int, uniform: float) -> None:
    numbers = np.exp2(np.random.default_rng(seed).random(50) * 30)
    exponents, mantissas = grid.round_up_or_down(numbers, least, beyond, np.full(50, uniform))
    bits = grid.mantissa_bits(exponents, least, beyond)
    assert (exponents >= 0).all() and (mantissas >= 0).all() and (mantissas < 1 << bits).all()
    found = grid.numbers_of(exponents, mantissas, bits)
    octave = np.exp2(np.floor(np.log2(numbers)))
    step = octave * np.exp2(-(least + np.maximum(np.log2(octave) - beyond, 0)))
    assert (np.abs(found - numbers) <= step * (1 + 1e-9)).all()
    back = grid.round_up_or_down(found, least, beyond, np.full(50, uniform))  # what lies on the grid stays
    np.testing.assert_array_equal(back[0], exponents)
    np.testing.assert_array_equal(back[1], mantissas)


def test_the_mean_is_the_number() -> None:
    numbers = np.array([1.0, 1.1, 1.99, 2.6, 7.97, 100.3, 3e5])
    uniform = (np.arange(40000)[:, None] + 0.5) / 40000 * np.ones(7)
    exponents, mantissas = grid.round_up_or_down(np.broadcast_to(numbers, uniform.shape), 2, 3, uniform)
    found = grid.numbers_of(exponents, mantissas, grid.mantissa_bits(exponents, 2, 3))
    np.testing.assert_allclose(found.mean(0), numbers, rtol=1e-5)
    assert (found.std(0)[[1, 2, 3, 4, 5]] > 0).all()


@settings(max_examples=200)
@given(mass=st.one_of(st.floats(0, 1), st.floats(0, 1).map(lambda x: x**9)), uniform=st.floats(0, 1 - 1e-9))
def test_masses(mass: float, uniform: float) -> None:
    code = grid.pack_mass(np.array([mass]), np.array([uniform]))
    assert 0 <= code[0] < 1 << grid.TAIL_BITS
    assert abs(grid.unpack_mass(code)[0] - mass) <= max(mass * 2.0**-11, 2.0**-42)
    np.testing.assert_array_equal(grid.pack_mass(grid.unpack_mass(code), np.zeros(1)), code)


def test_the_mean_of_masses_is_the_mass() -> None:
    uniform = (np.arange(10000) + 0.5) / 10000
    for mass in (0.0, 1e-13, 3.3e-7, 0.01, 0.4999999, 0.7):
        found = grid.unpack_mass(grid.pack_mass(np.full(10000, mass), uniform))
        np.testing.assert_allclose(found.mean(), mass, rtol=1e-6, atol=1e-16)
