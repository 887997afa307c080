from __future__ import annotations

import dataclasses
import math

import pytest

from polyclinic.core.errors import InputError
from polyclinic.privacy.dp import DifferentialPrivacy, SecureSum, parse_privacy

DP, SECURE = DifferentialPrivacy(1.0, 1e-6), SecureSum()


def test_the_guarantee_is_one_sentence_with_its_numbers() -> None:
    text = DP.guarantee()
    assert text.startswith("The result would be almost the same without any one patient: epsilon 1")
    assert "delta 1e-06" in text and f"{math.e:.3g} times" in text
    assert text.count(". ") == 0 and text.endswith(".")
    assert "times" in DifferentialPrivacy(5000, 1e-6).guarantee()


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf, "1", None, True])
def test_epsilon_is_positive(epsilon) -> None:
    with pytest.raises(InputError, match="epsilon"):
        DifferentialPrivacy(epsilon, 1e-6)


@pytest.mark.parametrize("delta", [0, 1, -0.1, 1.5, math.nan, "1e-6", None, False])
def test_delta_is_between_zero_and_one(delta) -> None:
    with pytest.raises(InputError, match="delta") as caught:
        DifferentialPrivacy(1, delta)
    assert caught.value.code == "BAD_PRIVACY" and caught.value.next


@pytest.mark.parametrize("value", [DP, SECURE])
def test_values_cannot_be_changed(value) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.epsilon = 2
    assert len({value, dataclasses.replace(value)}) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, (None, None)),
        ([], (None, None)),
        (DP, (DP, None)),
        (SECURE, (None, SECURE)),
        ([DP], (DP, None)),
        ([DP, SECURE], (DP, SECURE)),
        ((SECURE, DP), (DP, SECURE)),
    ],
)
def test_privacy_is_either_both_or_nothing(value, expected) -> None:
    assert parse_privacy(value) == expected


@pytest.mark.parametrize(
    "value",
    ["secure", 1.0, True, SecureSum, [DP, DP], [SECURE, SECURE], [DP, None], {"epsilon": 1}],
)
def test_anything_else_is_refused(value) -> None:
    with pytest.raises(InputError, match="BAD_PRIVACY"):
        parse_privacy(value)
