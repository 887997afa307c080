"""Noise for differential privacy: integers from the operating system's randomness, no floats.

The samplers are the exact ones of Canonne, Kamath and Steinke, "The Discrete Gaussian for
Differential Privacy", NeurIPS 2020. Every decision is "is a uniform number U below exp(-gamma)?"
with a rational gamma. A float comparison settles it when the two are more than 2**-40 apart, which
is over 500 times the error that the floats can have; else integers of growing length settle it.
So nothing is truncated and no probability is off by a rounding error.

Noise is added to ring words on a grid: what is released is a multiple of 2**grid, so its low bits
tell nothing (Mironov, "On Significance of the Least Significant Bits", CCS 2012).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from polyclinic.core import ring
from polyclinic.core.errors import InputError
from polyclinic.core.ring import Floats, RingError, Words

Integers = NDArray[np.int64]

SMALLEST, LARGEST = 2.0**-10, 2.0**40  # of a sampler's scale, so that int64 holds every draw
GRID_STEPS_BITS = 20
LARGEST_NOISE_BITS = 50  # the noise of 64 sites stays within the ring's guard
FEWEST_STEPS = 4.0
_SLACK = 2.0**-40
_BATCH = 1 << 17


def discrete_gaussian(sigma: float, size: int) -> Integers:
    """`size` integers y with probability proportional to exp(-y**2 / (2 sigma**2)).

    sigma  2**-10 to 2**40; the standard deviation is sigma for sigma >= 1 up to 1e-6 of it
    """
    _check_scale(sigma)
    variance = Fraction(sigma) ** 2
    scale = math.floor(sigma) + 1
    center = float(variance / scale)

    def draw(count: int) -> Integers:
        y = _laplace(count, scale, 1)
        z = (np.abs(y) - center) / sigma

        def gamma(i: int) -> Fraction:
            return (abs(int(y[i])) - variance / scale) ** 2 / (2 * variance)

        return y[_below_exp(0.5 * z * z, gamma)]

    return _collect(size, draw)


def discrete_laplace(scale: float, size: int) -> Integers:
    """`size` integers y with probability proportional to exp(-|y| / scale), scale 2**-10..2**40."""
    _check_scale(scale)
    numerator, denominator = float(scale).as_integer_ratio()
    return _collect(size, lambda count: _laplace(count, numerator, denominator))


def analytic_gaussian_sigma(epsilon: float, delta: float, sensitivity: float) -> float:
    """Smallest standard deviation for which Gaussian noise is (epsilon, delta)-private.

    References: Balle and Wang, "Improving the Gaussian Mechanism", ICML 2018, theorem 8.
    """
    check_guarantee(epsilon, delta)
    if not (sensitivity > 0 and math.isfinite(sensitivity)):
        raise _bad("the sensitivity is not a positive number")

    def spent(ratio: float) -> float:  # ratio = sigma / sensitivity
        half, slope = 0.5 / ratio, epsilon * ratio
        return math.exp(log_ndtr(half - slope)) - math.exp(epsilon + log_ndtr(-half - slope))

    high = 1.0
    while spent(high) > delta:
        high *= 2.0
    low = high / 2.0
    while spent(low) <= delta:
        low, high = low / 2.0, low
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if spent(middle) <= delta else (middle, high)
    return high * sensitivity


def grid_of(sigma: float) -> int:
    """The power of two g with 2**20 <= sigma / 2**g < 2**21."""
    if not (sigma > 0 and math.isfinite(sigma)):
        raise _bad("the noise is not a positive number")
    return math.frexp(sigma)[1] - 1 - GRID_STEPS_BITS


def rounded_sensitivity(sensitivity: float, size: int, grid: int) -> float:
    """L2 sensitivity of `size` numbers after rounding to multiples of 2**grid.

    Rounding moves each coordinate of a difference by less than one step. A patient is at one site,
    so the sites' rounding counts once however many there are.
    """
    return math.nextafter(sensitivity + math.sqrt(size) * math.ldexp(1.0, grid), math.inf)


def add_noise(words: Words, sigma: float, grid: int, share: int = 1, scale: int = 0) -> Words:
    """Ring words rounded to multiples of 2**grid, plus this site's share of the noise.

    words  (n, 2) in units of 2**(scale - 64)
    sigma  standard deviation of the total, in the unit of the decoded numbers
    share  sites whose noise must add up to `sigma`: the threshold of a secure sum, so that losing
           sites down to it does not take noise away. Each adds variance sigma**2 / share. With 4
           or more steps per site the sum is a discrete Gaussian up to a factor 1 +- 1e-60
           (Kairouz, Liu and Steinke, "The Distributed Discrete Gaussian Mechanism", ICML 2021).

    Raises
    ------
    RingError : RANGE when the noise does not fit into the ring, or the grid is finer than its unit.
    """
    shift = grid + 64 - scale
    if share < 1:
        raise _bad("noise is shared by at least one site")
    if shift < 0 or not 0 < sigma <= math.ldexp(1.0, LARGEST_NOISE_BITS + scale):
        raise RingError("the noise does not fit into the ring", code="RANGE")
    # The factor covers the rounding of the square root: never less noise than was accounted for.
    steps = math.ldexp(sigma / math.sqrt(share) * (1 + 2.0**-50), -grid)
    if share > 1 and steps < FEWEST_STEPS:
        raise _bad("the grid is too coarse for noise that several sites share")
    noise = discrete_gaussian(steps, len(words))
    return ring.add(_rounded(words, shift), _shifted(noise, shift))


def add_laplace(words: Words, scale: float, grid: int, unit: int = 0) -> Words:
    """Ring words rounded to multiples of 2**grid, plus discrete Laplace noise of that `scale`.

    words  (n, 2) in units of 2**(unit - 64); Laplace noise is no sum of parts, so every site of a
           secure sum adds all of it
    """
    shift = grid + 64 - unit
    if shift < 0 or not 0 < scale <= math.ldexp(1.0, LARGEST_NOISE_BITS + unit):
        raise RingError("the noise does not fit into the ring", code="RANGE")
    noise = discrete_laplace(math.ldexp(scale * (1 + 2.0**-50), -grid), len(words))
    return ring.add(_rounded(words, shift), _shifted(noise, shift))


def check_guarantee(epsilon: float, delta: float) -> None:
    """Raises BAD_PRIVACY unless epsilon is positive and finite and 0 < delta < 1."""
    if not (_is_number(epsilon) and 0 < epsilon < math.inf):
        raise _bad(f"epsilon = {epsilon!r} is not a positive number")
    if not (_is_number(delta) and 0 < delta < 1):
        raise _bad(f"delta = {delta!r} is not a number between 0 and 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _rounded(words: Words, shift: int) -> Words:
    """The nearest multiples of 2**shift units, halves upwards."""
    if not shift:
        return words.copy()
    out = ring.add(words, np.broadcast_to(_pair(1 << (shift - 1)), words.shape))
    return out & _pair((1 << 128) - (1 << shift))


def _shifted(values: Integers, shift: int) -> Words:
    """The ring form of values * 2**shift."""
    low, high = values.astype(np.uint64), (values >> 63).astype(np.uint64)
    if shift >= 64:
        low, high = np.zeros_like(low), low << np.uint64(shift - 64)
    elif shift:
        high = (high << np.uint64(shift)) | (low >> np.uint64(64 - shift))
        low = low << np.uint64(shift)
    return np.stack([low, high], axis=1)


def _pair(value: int) -> Words:
    return np.array([value & (2**64 - 1), value >> 64], dtype=np.uint64)


def _collect(size: int, draw: Callable[[int], Integers]) -> Integers:
    """The first `size` of the draws; which are kept does not depend on their values."""
    parts, missing = [np.empty(0, dtype=np.int64)], size
    while missing > 0:
        parts.append(draw(min(2 * missing + 16, _BATCH))[:missing])
        missing -= len(parts[-1])
    return np.concatenate(parts)


def _laplace(count: int, numerator: int, denominator: int) -> Integers:
    """The discrete Laplace draws of scale numerator / denominator that `count` candidates give.

    A draw needs numerator * V < 2**63 for a geometric V: broken with probability below exp(-1000).
    """
    tried = _uniform(count, numerator)
    kept = _below_exp(tried / numerator, lambda i: Fraction(int(tried[i]), numerator))
    fraction = tried[kept]
    y = (fraction + numerator * _geometric(fraction.size)) // denominator
    negative = _random_words(y.size) >> np.uint64(63) == 1
    keep = ~(negative & (y == 0))  # else zero would come up twice as often
    signed: Integers = np.where(negative, -y, y)[keep]
    return signed


def _geometric(size: int) -> Integers:
    """Number of events of probability exp(-1) before the first failure."""
    count = np.zeros(size, dtype=np.int64)
    alive = np.arange(size)
    while alive.size:
        alive = alive[_below_exp(np.ones(alive.size), lambda _: Fraction(1))]
        count[alive] += 1
    return count


def _uniform(size: int, below: int) -> Integers:
    """Uniform integers 0..below-1, by rejection from the next power of two."""
    mask = np.uint64((1 << (below - 1).bit_length()) - 1)

    def draw(count: int) -> Integers:
        x: Integers = (_random_words(count) & mask).astype(np.int64)
        return x[x < below]

    return _collect(size, draw)


def _below_exp(gamma: Floats, exact: Callable[[int], Fraction]) -> NDArray[np.bool_]:
    """True with probability exp(-gamma), where `gamma` approximates the true value exact(i)."""
    words = _random_words(gamma.size)
    gap = np.exp(-gamma) - words * 2.0**-64
    below: NDArray[np.bool_] = gap > 0
    for i in np.flatnonzero(np.abs(gap) <= _SLACK):
        below[i] = _surely_below_exp(int(words[i]), exact(int(i)))
    return below


def _surely_below_exp(word: int, gamma: Fraction) -> bool:
    """Whether a uniform number whose first 64 bits are `word` is below exp(-gamma)."""
    if gamma == 0:
        return True
    bits = 64
    while True:
        low, high = _exp_bounds(gamma, bits)
        if word + 1 <= low:
            return True
        if word >= high:
            return False
        word, bits = word << 64 | int.from_bytes(os.urandom(8)), bits + 64


def _exp_bounds(gamma: Fraction, bits: int) -> tuple[Fraction, Fraction]:
    """Rational bounds of 2**bits * exp(-gamma), about 2**-40 apart."""
    digits = int(bits * math.log10(2.0)) + 16
    down = Context(prec=digits, rounding=ROUND_FLOOR, traps=[])
    up = Context(prec=digits, rounding=ROUND_CEILING, traps=[])
    numerator, denominator = Decimal(gamma.numerator), Decimal(gamma.denominator)
    # Decimal's exp is correctly rounded, so its neighbours enclose the true value.
    low = down.next_minus(down.exp(up.divide(numerator, denominator).copy_negate()))
    high = up.next_plus(up.exp(down.divide(numerator, denominator).copy_negate()))
    return Fraction(low) * 2**bits, Fraction(high) * 2**bits


def _random_words(size: int) -> NDArray[np.uint64]:
    return np.frombuffer(os.urandom(8 * size), dtype=np.uint64)


def _check_scale(value: float) -> None:
    if not SMALLEST <= value <= LARGEST:
        raise _bad("the noise is not between 2**-10 and 2**40 steps of the grid")


def _bad(what: str) -> InputError:
    return InputError(
        what,
        code="BAD_PRIVACY",
        rule="epsilon, delta, noise and sensitivity are positive; delta is below 1",
        next="write for example epsilon = 1 and delta = 1e-6",
    )
