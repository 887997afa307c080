from __future__ import annotations

import itertools

import pytest

from polyclinic.privacy.secure import shamir


def test_every_subset_of_threshold_size_gives_the_secret_and_smaller_ones_do_not():
    secret = 2**256 - 189
    shares = dict(enumerate(shamir.split(secret, 3, 5), start=1))
    for points in itertools.combinations(shares, 3):
        assert shamir.combine(shares, shamir.weights(points)) == secret
    for points in itertools.combinations(shares, 2):
        assert shamir.combine(shares, shamir.weights(points)) != secret


def test_the_shares_lie_on_one_polynomial_by_newtons_differences():
    values = shamir.split(12345, 4, 8)
    for _ in range(4):
        values = [(b - a) % shamir.PRIME for a, b in itertools.pairwise(values)]
    assert set(values) == {0}


def test_shares_of_one_secret_are_new_each_time():
    assert shamir.split(7, 2, 3) != shamir.split(7, 2, 3)


@pytest.mark.parametrize(("secret", "threshold"), [(-1, 2), (shamir.PRIME, 2), (1, 4), (1, 0)])
def test_what_cannot_be_split_is_refused(secret, threshold):
    with pytest.raises(ValueError, match="out of range"):
        shamir.split(secret, threshold, 3)


@pytest.mark.parametrize("points", [(1, 1), (0, 1)])
def test_points_are_positive_and_distinct(points):
    with pytest.raises(ValueError, match="distinct"):
        shamir.weights(points)


@pytest.mark.parametrize("data", [bytes(65), shamir.PRIME.to_bytes(66, "little"), b"\xff" * 66])
def test_bytes_outside_the_field_are_no_share(data):
    with pytest.raises(ValueError, match="element"):
        shamir.from_bytes(data)
    assert shamir.from_bytes(shamir.to_bytes(shamir.PRIME - 1)) == shamir.PRIME - 1
