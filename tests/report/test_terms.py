"""Terms in words."""

from __future__ import annotations

import math

import pytest

from polyclinic.report import terms


def term(**changes: object) -> dict[str, object]:
    plain = {"name": "age", "label": "age", "unit": "a", "step": 10.0, "coef": 0.03, "se": 0.01,
             "z": 3.0, "p": 0.003, "lower": 0.01, "upper": 0.05}  # fmt: skip
    return plain | changes


@pytest.mark.parametrize(
    ("unit", "text"),
    [("a", "years"), ("mm[Hg]", "mm Hg"), ("/min", "beats/min"), ("1", ""),
     ("{vessels}", "vessels"), ("mg/dL", "mg/dL")],
)  # fmt: skip
def test_units_as_clinicians_write_them(unit: str, text: str) -> None:
    assert terms.unit_words(unit) == text


def test_an_effect_is_read_per_step() -> None:
    assert terms.steps(term()) == (10.0, "age, per 10 years")
    assert terms.effect(term(), "logistic") == pytest.approx(
        (math.exp(0.3), math.exp(0.1), math.exp(0.5))
    )
    assert terms.effect(term(), "linear") == pytest.approx((0.3, 0.1, 0.5))


def test_a_level_has_no_step() -> None:
    level = term(name="sex", label="sex: male", unit="", step=0.0)
    assert terms.steps(level) == (1.0, "sex: male")
    assert terms.effect(level, "logistic")[0] == pytest.approx(math.exp(0.03))


@pytest.mark.parametrize("name", ["Intercept", "versicolor: Intercept"])
def test_an_intercept_has_no_effect(name: str) -> None:
    assert terms.effect(term(name=name), "logistic") is None


def test_a_term_without_interval_has_no_effect() -> None:
    assert terms.effect(term(lower=None, upper=None), "logistic") is None


def test_a_separated_term_is_finite() -> None:
    assert all(map(math.isfinite, terms.effect(term(upper=1e6), "logistic")))
