from __future__ import annotations

import math

import numpy as np
import pytest

from polyclinic.core import ring
from polyclinic.core.contribution import Contribution, Evidence, Sum
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.privacy.gate import Audience, Gate
from polyclinic.privacy.noisy import Noise, noise_of
from polyclinic.privacy.policy import Policy

SIZE = 20_000
LEAVES = (Leaf("a", (SIZE,), bound=3.0), Leaf("b", (SIZE,), bound=0.5))
NOISY = Plan("toy.sum", {"noise": {"multiplier": 2.0}})


def noise(plan=NOISY, leaves=LEAVES, audience=Audience(), policy=Policy()):
    values = {leaf.name: np.zeros(leaf.shape) for leaf in leaves}
    summed = Sum.of(leaves, Contribution(values, Evidence(100)))
    out = Gate("va", policy).release(plan, leaves, summed, audience=audience)
    return {name: ring.decode(words) for name, words in out.words.items()}


def sigma_of(leaf):
    return math.sqrt(noise_of(NOISY).variance(leaf, LEAVES))


def spread(values, sigma):
    """Standard deviations between the sample's variance and sigma^2; chance beyond 6: 1e-8."""
    return abs(values.var() / sigma**2 - 1.0) * math.sqrt(len(values) / 2.0)


def test_every_leaf_gets_noise_for_its_own_bound_and_all_leaves_together():
    found = noise()
    for leaf in LEAVES:
        sigma = 2.0 * leaf.bound * math.sqrt(2)
        assert sigma_of(leaf) == pytest.approx(sigma, rel=1e-3)  # the grid costs a little
        assert sigma_of(leaf) > sigma
        assert spread(found[leaf.name], sigma_of(leaf)) < 6


def test_under_secure_sums_the_threshold_alone_brings_all_of_the_noise():
    found = noise(audience=Audience(sites=7, secure=True, threshold=5))
    assert spread(found["a"], sigma_of(LEAVES[0]) / math.sqrt(5)) < 6


def test_noise_lies_on_a_grid_that_says_nothing_of_the_sum():
    words = {0.1: None, 0.1 + 1e-13: None}
    for value in words:
        leaves = (Leaf("a", (50,), bound=1.0),)
        summed = Sum.of(leaves, Contribution({"a": np.full(50, value)}, Evidence(100)))
        out = Gate("va").release(NOISY, leaves, summed).words["a"]
        grid = 1 << (64 + 1 - 1 - 20)  # sigma 2: between 2**20 and 2**21 steps
        assert np.all(out[:, 0] % np.uint64(grid) == 0)


def test_a_leaf_without_a_bound_is_not_released_with_noise():
    for leaf in (Leaf("a", (3,)), Leaf("a", (3,), "count", "int64", bound=1.0)):
        with pytest.raises(PolyclinicError, match="NOT_BOUNDED"):
            noise_of(NOISY).variance(leaf, [leaf])


@pytest.mark.parametrize(("mechanism", "norm"), [("gaussian", "l1"), ("laplace", "l2")])
def test_noise_of_the_other_norm_is_not_added(mechanism, norm):
    plan = Plan("toy.sum", {"noise": {"multiplier": 2.0, "mechanism": mechanism}})
    mixed = (Leaf("a", (3,), bound=1.0, norm=noise_of(plan).norm), Leaf("b", bound=1.0, norm=norm))
    with pytest.raises(PolyclinicError, match=f"b is bounded in the {norm.upper()} norm") as found:
        noise(plan, mixed)
    assert found.value.code == "NOT_BOUNDED"
    with pytest.raises(PolyclinicError, match="NOT_BOUNDED"):
        noise_of(plan).variance(mixed[1], mixed)


def test_a_policy_without_exact_sums():
    with pytest.raises(Refused, match="NOISE_REQUIRED"):
        noise(plan=Plan("toy.sum", {}), policy=Policy(exact=False))
    noise(policy=Policy(exact=False))


@pytest.mark.parametrize("asked", [0, -1.0, math.inf, True, "2", None])
def test_a_multiplier_that_is_none(asked):
    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        noise_of(Plan("toy.sum", {"noise": {"multiplier": asked}}))


def test_laplace_noise_for_counts():
    size = 2000
    leaves = (Leaf("a", (size,), bound=2.0, norm="l1"), Leaf("b", (size,), bound=1.0, norm="l1"))
    plan = Plan("toy.sum", {"noise": {"multiplier": 1.5, "mechanism": "laplace"}})
    scale = 1.5 * 3.0  # one patient can change both leaves
    for audience in (Audience(), Audience(sites=7, secure=True, threshold=5)):
        found = noise(plan, leaves, audience)  # in a secure sum every site adds all of it
        for values in found.values():
            # Mean distance of a Laplace variable is its scale; six standard deviations.
            assert abs(np.abs(values).mean() / scale - 1.0) < 6 / math.sqrt(size) + 0.01
    exact = noise_of(plan).variance(leaves[0], leaves)
    assert exact == pytest.approx(2 * scale**2, rel=0.02) and exact > 2 * scale**2
    assert noise_of(plan).share_of(7, 5) == 7.0
    assert noise_of(NOISY).share_of(7, 5) == 1.4


def test_what_noise_costs():
    from polyclinic.privacy.accounting import epsilon

    assert epsilon([Noise("laplace", 2.0).event], 1e-6) == pytest.approx(0.5, abs=1e-3)
    assert epsilon([Noise("gaussian", 5.0).event] * 30, 1e-5) == pytest.approx(4.866, abs=1e-3)


@pytest.mark.parametrize(
    "asked", [{"multiplier": 1.0, "mechanism": "uniform"}, {"multiplier": 1.0, "x": 1}, 3.0]
)
def test_noise_of_an_unknown_kind(asked):
    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        noise_of(Plan("toy.sum", {"noise": asked}))
