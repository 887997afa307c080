from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from polyclinic.core import ring
from polyclinic.core.errors import InputError
from polyclinic.core.ring import RingError
from polyclinic.privacy import noise

CHANCE = 1e-7  # of a false alarm, per test of a random outcome
WORD = 2**64
RATIONALS = st.fractions(0, 40, max_denominator=2**70)


def exp_bounds(gamma: Fraction, bits: int = 400) -> tuple[Fraction, Fraction]:
    """Bounds of exp(-gamma): the alternating Taylor series at gamma / 2**k, squared k times."""
    one = 2 ** (bits + 64)
    halvings = int(gamma).bit_length() + 8
    low, high, term, k = Fraction(0), Fraction(1), Fraction(1), 0
    while high - low > Fraction(1, one):
        k += 1
        term = -term * gamma / (k * 2**halvings)
        low, high = (high + term, high) if k % 2 else (low, low + term)
    for _ in range(halvings):
        low = Fraction(math.floor(low * low * one), one)
        high = Fraction(math.ceil(high * high * one), one)
    return low, high


def integers(words: np.ndarray) -> list[int]:
    """Two's complement numbers of the ring's words, in its unit."""
    whole = [int(low) + (int(high) << 64) for low, high in words]
    return [x - (1 << 128) if x >> 127 else x for x in whole]


def words_of(values: list[int]) -> np.ndarray:
    pairs = [((x % 2**128) % WORD, (x % 2**128) >> 64) for x in values]
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


def chi_square(draws: np.ndarray, weight, reach: int) -> float:
    """Survival probability of the chi-square distance from the exact probabilities."""
    support = np.arange(-reach, reach + 1)
    p = np.array([weight(y) for y in support])
    p /= p.sum()
    expected = len(draws) * p
    common = expected >= 10
    seen = np.array([np.count_nonzero(draws == y) for y in support[common]])
    rest = len(draws) - seen.sum()
    parts = np.append((seen - expected[common]) ** 2 / expected[common], 0.0)
    left = expected[~common].sum()
    if left > 1:
        parts[-1] = (rest - left) ** 2 / left
    return float(chi2.sf(parts.sum(), common.sum() - (left <= 1)))


def gaussian_weight(sigma):
    return lambda y: math.exp(-(float(y) ** 2) / (2 * sigma**2))


def laplace_weight(scale):
    return lambda y: math.exp(-abs(float(y)) / scale)


@pytest.mark.parametrize("sigma", [0.4, 0.999, 1.0, 1.5, 3.73])
def test_the_discrete_gaussian_has_its_probabilities(sigma: float) -> None:
    draws = noise.discrete_gaussian(sigma, 200_000)
    assert chi_square(draws, gaussian_weight(sigma), 60) > CHANCE


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5, 3.73])
def test_the_discrete_laplace_has_its_probabilities(scale: float) -> None:
    draws = noise.discrete_laplace(scale, 200_000)
    assert chi_square(draws, laplace_weight(scale), 200) > CHANCE


def test_the_distance_sees_one_percent_of_wrong_scale() -> None:
    draws = noise.discrete_gaussian(3.73, 200_000)
    assert chi_square(draws, gaussian_weight(3.73 * 1.03), 60) < CHANCE


@pytest.mark.parametrize("always_exact", [False, True])
def test_draws_settled_by_integers_alone_have_the_same_probabilities(
    monkeypatch: pytest.MonkeyPatch, always_exact: bool
) -> None:
    if always_exact:
        monkeypatch.setattr(noise, "_SLACK", 2.0)
    draws = noise.discrete_gaussian(1.5, 2_000)
    assert chi_square(draws, gaussian_weight(1.5), 60) > CHANCE
    draws = noise.discrete_laplace(1.7, 2_000)
    assert chi_square(draws, laplace_weight(1.7), 200) > CHANCE


@pytest.mark.parametrize("sigma", [2.0**20 * 1.37, 2.0**40])
def test_the_variance_is_right_within_seven_per_mille(sigma: float) -> None:
    size, tolerance = 1_000_000, 0.007
    false_alarm = chi2.sf(size * (1 + tolerance), size) + chi2.cdf(size * (1 - tolerance), size)
    assert false_alarm < 1e-6  # a correct sampler fails once in more than a million runs
    draws = noise.discrete_gaussian(sigma, size).astype(np.float64)
    assert np.mean((draws / sigma) ** 2) == pytest.approx(1.0, abs=tolerance)
    assert abs(draws.mean() / sigma) < 5.4 / math.sqrt(size)


@given(RATIONALS, st.integers(0, WORD - 1))
@example(Fraction(1), 0)
def test_one_decision_is_exact(gamma: Fraction, word: int) -> None:
    low, high = exp_bounds(gamma)
    if Fraction(word + 1, WORD) <= low:
        assert noise._surely_below_exp(word, gamma)
    elif Fraction(word, WORD) >= high:
        assert not noise._surely_below_exp(word, gamma)


@settings(max_examples=200)
@given(st.fractions(0, 30, max_denominator=2**53), st.integers(1, 2_000))
def test_uniforms_next_to_the_border_are_settled_exactly(gamma: Fraction, near: int) -> None:
    """Floats cannot tell these 64-bit words apart; the decision must."""
    border = math.floor(exp_bounds(gamma)[0] * WORD)
    words = [w for w in (border - near, border + near) if 0 <= w < WORD]
    given_words = np.array(words, dtype=np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "_random_words", lambda size: given_words[:size])
        below = noise._below_exp(np.full(len(words), float(gamma)), lambda _: gamma)
    assert below.tolist() == [word < border for word in words]


def test_an_undecided_word_is_extended_until_it_is_settled(monkeypatch) -> None:
    low, _ = exp_bounds(Fraction(1))
    bits = math.floor(low * 2**192)
    for extra, expected in ((-1, True), (1, False)):
        tail = (bits + extra) % 2**128
        more = [(tail >> 64).to_bytes(8), (tail % WORD).to_bytes(8)]
        monkeypatch.setattr(noise.os, "urandom", lambda _, more=more: more.pop(0))
        assert noise._surely_below_exp(bits >> 128, Fraction(1)) is expected
        assert more == []


@settings(max_examples=50)
@given(st.fractions(0, 60, max_denominator=2**60), st.sampled_from([64, 128, 256]))
def test_the_bounds_enclose_the_exponential(gamma: Fraction, bits: int) -> None:
    low, high = noise._exp_bounds(gamma, bits)
    inner, outer = exp_bounds(gamma, 600)
    assert low <= inner * 2**bits and outer * 2**bits <= high
    assert high - low < Fraction(1, 2**30)


@pytest.mark.parametrize("below", [1, 2, 3, 5, 2**40 + 1])
def test_uniform_integers_cover_their_range(below: int) -> None:
    draws = noise._uniform(20_000, below)
    assert draws.min() >= 0 and draws.max() < below
    cells = np.bincount((draws * min(below, 5)) // below, minlength=min(below, 5))
    expected = 20_000 / len(cells)
    distance = ((cells - expected) ** 2 / expected).sum()
    assert len(cells) == 1 or chi2.sf(distance, len(cells) - 1) > CHANCE


def test_no_two_calls_draw_the_same() -> None:
    a, b = noise.discrete_gaussian(2.0**30, 100), noise.discrete_gaussian(2.0**30, 100)
    assert not np.array_equal(a, b)
    assert noise.discrete_gaussian(3.0, 0).size == 0


@pytest.mark.parametrize("sigma", [0.0, -1.0, 2.0**-11, 2.0**41, math.nan, math.inf])
def test_a_scale_out_of_range_is_refused(sigma: float) -> None:
    for sampler in (noise.discrete_gaussian, noise.discrete_laplace):
        with pytest.raises(InputError, match="BAD_PRIVACY"):
            sampler(sigma, 1)


# Over-noise of sqrt(2 ln(1.25 / delta)) / epsilon, measured at delta 1e-5.
@pytest.mark.parametrize(("epsilon", "over"), [(0.1, 0.58), (1.0, 0.30), (4.0, 0.12)])
def test_the_analytic_noise_is_below_the_classical(epsilon: float, over: float) -> None:
    classical = math.sqrt(2 * math.log(1.25 / 1e-5)) / epsilon
    analytic = noise.analytic_gaussian_sigma(epsilon, 1e-5, 1.0)
    assert classical / analytic - 1 == pytest.approx(over, abs=0.005)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 8.0, 50.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.3])
def test_the_analytic_noise_is_google_s(epsilon: float, delta: float) -> None:
    library = pytest.importorskip("dp_accounting")
    theirs = library.get_sigma_gaussian(epsilon, delta)
    assert noise.analytic_gaussian_sigma(epsilon, delta, 3.0) == pytest.approx(3 * theirs, rel=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "delta", "sensitivity"),
    [
        *[(epsilon, 0.1, 1) for epsilon in (0, -1, math.nan, math.inf, "1", True, None)],
        *[(1, delta, 1) for delta in (0, 1, -0.1, math.nan, "1e-6", None)],
        *[(1, 0.1, sensitivity) for sensitivity in (0, -1, math.nan, math.inf)],
    ],
)
def test_a_guarantee_without_meaning_is_refused(epsilon, delta, sensitivity) -> None:
    with pytest.raises(InputError, match="BAD_PRIVACY"):
        noise.analytic_gaussian_sigma(epsilon, delta, sensitivity)


@given(st.floats(1e-15, 1e15))
def test_the_grid_has_a_million_steps_per_sigma(sigma: float) -> None:
    assert 2**20 <= sigma / 2.0 ** noise.grid_of(sigma) < 2**21


@pytest.mark.parametrize("sigma", [0.0, math.inf, math.nan])
def test_no_grid_for_no_noise(sigma: float) -> None:
    with pytest.raises(InputError, match="BAD_PRIVACY"):
        noise.grid_of(sigma)


@given(
    st.lists(st.integers(-(2**126), 2**126), min_size=1, max_size=4),
    st.integers(0, 120),
)
@example([-1, 0, 1, 2**63], 64)
def test_rounding_is_to_the_nearest_multiple(values: list[int], shift: int) -> None:
    step = 1 << shift
    rounded = integers(noise._rounded(words_of(values), shift))
    assert rounded == [(2 * x + step) // (2 * step) * step for x in values]


@given(st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=4), st.integers(0, 96))
@example([-1, 1], 64)
def test_steps_become_words(values: list[int], shift: int) -> None:
    words = noise._shifted(np.array(values, dtype=np.int64), shift)
    assert integers(words) == [x << shift for x in values]


@given(
    st.lists(
        st.tuples(st.integers(-(2**90), 2**90), st.integers(-(2**70), 2**70)),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 80),
)
def test_rounded_sensitivity_bounds_the_change_of_rounded_sums(pairs, shift) -> None:
    before, after = [x for x, _ in pairs], [x + change for x, change in pairs]
    rounded = [integers(noise._rounded(words_of(x), shift)) for x in (before, after)]
    moved = math.sqrt(sum((a - b) ** 2 for a, b in zip(*rounded, strict=True))) * 2.0**-64
    change = math.sqrt(sum(change**2 for _, change in pairs)) * 2.0**-64
    bound = noise.rounded_sensitivity(change, len(pairs), shift - 64)
    assert moved <= bound * (1 + 1e-12)


@pytest.mark.parametrize("grid", [-60, -30, -1, 0, 3, 20])
def test_what_is_released_lies_on_the_grid(grid: int) -> None:
    sigma = 2.0**grid * 1000
    values = np.linspace(-1.0, 1.0, 2_000) * sigma / 3
    words = noise.add_noise(ring.encode(values), sigma, grid)
    assert all(x % (1 << (grid + 64)) == 0 for x in integers(words))
    steps = np.array([x >> (grid + 64) for x in integers(words)])
    assert {1, 3, 5, 7} <= {int(x) % 8 for x in steps}  # not on a coarser grid
    error = (ring.decode(words) - values) / sigma
    assert chi2.sf((error**2).sum(), 2_000) > CHANCE and chi2.cdf((error**2).sum(), 2_000) > CHANCE


def test_a_scaled_array_gets_its_noise_in_decoded_units() -> None:
    values, sigma = np.full(20_000, 3e18), 1e13
    scale, grid = 10, noise.grid_of(sigma)
    words = noise.add_noise(ring.encode(values, scale), sigma, grid, scale=scale)
    decoded = ring.decode(words, scale)
    assert np.all(decoded / 2.0**grid == np.rint(decoded / 2.0**grid))
    assert np.std(decoded - 3e18) == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize(("sites", "threshold"), [(3, 3), (5, 4)])
def test_threshold_many_sites_add_up_to_the_noise(sites: int, threshold: int) -> None:
    size, sigma = 200_000, 5.0
    total = nothing = ring.encode(np.zeros(size))
    for _ in range(sites):
        mine = noise.add_noise(nothing, sigma, noise.grid_of(sigma), share=threshold)
        total = ring.add(total, mine)
    variance = np.mean(ring.decode(total) ** 2)
    assert variance == pytest.approx(sigma**2 * sites / threshold, rel=0.018)  # 5.7 errors


@pytest.mark.parametrize(
    ("sigma", "grid", "share", "code"),
    [
        (1.0, -65, 1, "RANGE"),  # finer than the ring's unit
        (2.0**51, 10, 1, "RANGE"),
        (math.nan, -20, 1, "RANGE"),
        (0.0, -20, 1, "RANGE"),
        (1.0, -20, 0, "BAD_PRIVACY"),
        (1.0, -2, 4, "BAD_PRIVACY"),  # two steps per site
        (1.0, -50, 1, "BAD_PRIVACY"),  # more steps than the sampler has
    ],
)
def test_noise_that_does_not_fit_is_refused(sigma, grid, share, code) -> None:
    with pytest.raises((RingError, InputError)) as caught:
        noise.add_noise(ring.encode(np.zeros(2)), sigma, grid, share)
    assert caught.value.code == code


def test_the_words_given_are_not_changed() -> None:
    words = ring.encode(np.array([1.5, -2.5]))
    before = words.copy()
    noise.add_noise(words, 2.0**-40, -64)
    noise.add_noise(words, 1.0, -20)
    assert np.array_equal(words, before)


def test_draws_of_one_call_are_not_repeated() -> None:
    draws = noise.discrete_gaussian(2.0**39, 300_000)  # several batches
    assert all(a != b for a, b in pairwise(sorted(draws)[:1000]))
    first, second = draws[: 2**17], draws[2**17 : 2**18]
    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / 2**8.5
