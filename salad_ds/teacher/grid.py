"""Probabilities as small integers, rounded at random so that the mean of what is read back is what was written.

A number x >= 1 becomes an *exponent* e >= 0 and a *mantissa* of w bits: ``2**e * (1 + mantissa / 2**w)``. Rounding
goes up or down to the neighbours with the probabilities that make it unbiased: a fixed rounding
pulls every student the same way, a random one is noise that texts and steps average away.
"""

from __future__ import annotations

import numpy as np

TAIL_BITS = 16


def mantissa_bits(exponents: np.ndarray, least: int, beyond: np.ndarray | int) -> np.ndarray:
    """``least`` bits, and one more for every octave above ``beyond`` (octaves above 1): from there on the step no
    longer grows with the number."""
    return least + np.maximum(exponents - beyond, 0)


def round_up_or_down(numbers: np.ndarray, least: int, beyond: np.ndarray | int,
                     uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(exponents, mantissas) of ``numbers`` >= 1 (float64) with random numbers ``uniform`` in [0, 1) of their shape."""
    fraction, exponents = np.frexp(numbers)
    exponents = exponents.astype(np.int64) - 1
    bits = mantissa_bits(exponents, least, beyond)
    mantissas = np.floor((2 * fraction - 1) * np.exp2(bits) + uniform).astype(np.int64)
    carry = mantissas >> bits  # rounded up to the next octave
    return exponents + carry, np.where(carry > 0, 0, mantissas)


def numbers_of(exponents: np.ndarray, mantissas: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """float64 inverse of ``round_up_or_down``."""
    return np.ldexp(1 + mantissas * np.exp2(-bits), exponents)


def pack_mass(mass: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """[N] masses in [0, 1] → 16-bit numbers, a small float without a sign: 5 bits of exponent, 11 of mantissa; relative
    step 2^-11 above 2^-31, rounded at random."""
    exponents = np.clip(np.frexp(np.maximum(mass, 2.0**-60))[1] + 31, 1, 31).astype(np.int64)
    steps = np.floor(np.ldexp(mass, 43 - exponents) + uniform).astype(np.int64)
    return np.minimum(((exponents - 1) << 11) + steps, (1 << TAIL_BITS) - 1)


def unpack_mass(code: np.ndarray) -> np.ndarray:
    """float64 inverse of ``pack_mass``."""
    exponents = code >> 11
    steps = np.where(exponents > 0, (code & 2047) + 2048, code & 2047)
    return np.ldexp(steps.astype(np.float64), np.maximum(exponents, 1) - 43)
