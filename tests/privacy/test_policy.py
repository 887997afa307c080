from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from polyclinic.core.errors import InputError, Refused
from polyclinic.core.plan import Plan
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.policy import Closed, Policy, open_policy

COUNTS = ("min_sites", "min_patients", "min_subset", "min_difference", "max_cohorts", "min_node")
COUNTS = (*COUNTS, "min_residual", "max_levels")
SHARES = ("max_share", "max_two_shares", "max_column_share", "max_leverage")
NUMBERS = ("patients_per_coefficient", "min_effective", "min_remainder", "max_level_density")


def refused(**rule):
    with pytest.raises(InputError) as caught:
        Policy(**rule)
    ((name, _),) = rule.items()
    error = caught.value
    assert error.code == "WRONG_VALUE" and name in error.what
    assert error.rule.startswith(name) and error.next and error.kept
    return error


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, "5", None, True, [1], 1j])
@pytest.mark.parametrize("name", [*COUNTS, *SHARES, *NUMBERS, "delta"])
def test_a_number_is_finite_and_in_its_range(name, value):
    refused(**{name: value})


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_whole(name):
    refused(**{name: 2.0})
    refused(**{name: np.float64(2)})
    policy = Policy(**{name: np.int64(7)})
    assert getattr(policy, name) == 7 and type(getattr(policy, name)) is int
    assert getattr(Policy(**{name: 0}), name) == 0


@pytest.mark.parametrize("name", SHARES)
def test_a_share_is_at_most_one(name):
    refused(**{name: 1.0000001})
    policy = Policy(**{name: 1})
    assert getattr(policy, name) == 1.0 and type(getattr(policy, name)) is float
    assert getattr(Policy(**{name: Fraction(1, 2)}), name) == 0.5


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_fits_into_a_float(name):
    refused(**{name: 10**400})
    assert getattr(Policy(**{name: 3}), name) == 3.0


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.0, 2.0])
def test_delta_lies_between_zero_and_one(value):
    refused(delta=value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5, "any", False])
def test_epsilon_is_a_number_or_none(value):
    refused(epsilon=value)


def test_noise_has_a_budget_unless_it_is_taken_away():
    budget = Policy().budget
    assert budget is not None and (budget.epsilon, budget.delta) == (10.0, 1e-6)
    assert Policy(epsilon=None).budget is None
    assert open_policy().budget is None
    assert Policy(epsilon=0).budget.epsilon == 0.0


@pytest.mark.parametrize("value", ["all", "Majority", 2, None, ["majority"], b"majority"])
def test_a_threshold_is_one_of_two(value):
    assert "two_thirds" in refused(threshold=value).rule


@pytest.mark.parametrize("name", ["release_alone", "exact"])
@pytest.mark.parametrize("value", [1, 0, "yes", None, np.bool_(True)])
def test_yes_and_no_are_true_and_false(name, value):
    refused(**{name: value})


@pytest.mark.parametrize("name", ["algorithms", "collect"])
@pytest.mark.parametrize("value", ["glm.*", None, (1,), {"glm.*"}, ["glm.*", None]])
def test_names_are_a_tuple_of_texts(name, value):
    refused(**{name: value})


@pytest.mark.parametrize("value", [["age"], "age", ("age",), None, {1: ("age",)}])
def test_columns_are_names_by_purpose(value):
    assert '{"*": ("age", "sex")}' in refused(columns=value).rule


@pytest.mark.parametrize("value", ["age", None, 3, [1]])
def test_the_columns_of_a_purpose_are_a_tuple_of_texts(value):
    with pytest.raises(InputError) as caught:
        Policy(columns={"care": value})
    assert caught.value.what.startswith("policy: columns['care'] = ")


def test_lists_become_tuples_that_the_caller_cannot_change():
    names, columns = ["glm.*"], {"*": ["age"]}
    policy = Policy(algorithms=names, columns=columns)
    names.append("*")
    columns["*"].append("sex")
    columns["care"] = ["sex"]
    assert policy.algorithms == ("glm.*",) and policy.columns == {"*": ("age",)}
    assert not policy.allows_column("sex", "care")


def test_a_long_value_is_cut_short():
    assert len(refused(threshold="x" * 5_000).what) < 100


@pytest.mark.parametrize("code", ["POLICY_UNSIGNED", "POLICY_CHANGED", "POLICY_UNREADABLE"])
def test_a_closed_policy_refuses_with_its_own_code(code):
    policy = Closed(code=code, reason="policy.toml: this and that")
    with pytest.raises(Refused) as caught:
        Gate("va", policy).admit(Plan("glm.scores", {}))
    error = caught.value
    assert error.code == code and error.what.endswith("policy.toml: this and that")
    assert error.rule and error.next
    assert not policy.allows_collect("glm.scores") and not policy.allows_column("age", "")
    assert not policy.release_alone
