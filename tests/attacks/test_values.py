"""One patient's value out of sums, tables and quantiles of a column.

A sum that one patient dominates, limits and scales that leave one value over, edges around a value.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.fit import fit
from polyclinic.core.plan import Plan
from polyclinic.models.descriptive import Quantiles
from polyclinic.models.descriptive.moments import FARTHEST
from polyclinic.study.describe import describe_columns
from tests.attacks.world import (
    EACH,
    FRAME,
    SECRET,
    VICTIM,
    ask,
    close,
    column_sums,
    derivatives,
    descriptive,
    design,
    exposed,
    hospitals,
    moments,
    refusal,
    unguarded,
    value,
)

MODES = ("clear", "secure", "auto")
DEAR = FRAME.copy()
DEAR.loc[VICTIM, "cost"] = 2.0**20 - 3.25
DEAR.loc[DEAR.index != VICTIM, "cost"] = np.round(DEAR["cost"].drop(index=VICTIM) / 2.0**14, 6)


def powers(column: str, centre: float, exponent: int, centred: bool, highest: int = 2) -> Plan:
    return descriptive(
        "moments",
        columns=[column],
        by=None,
        centre=np.array([[centre]]),
        exponent=np.array([[exponent]]),
        powers=highest,
        centred=centred,
    )


def products(column: str, centre: float, exponent: int) -> Plan:
    columns = [column, "age"]
    centres, exponents = np.array([centre, 60.0]), np.array([exponent, 7])
    return descriptive("products", columns=columns, centre=centres, exponent=exponents)


def test_a_dominated_sum_gives_the_value_away_without_rules() -> None:
    made = design(value("cost"))
    total = column_sums(ask(exposed(DEAR), moments(made)), made)[0]
    assert abs(total / DEAR.loc[VICTIM, "cost"] - 1) < 1e-3
    total = ask(exposed(DEAR), powers("cost", 0.0, 20, False))
    assert abs(np.sqrt(float(total["s2"][0, 0])) * 2.0**20 / DEAR.loc[VICTIM, "cost"] - 1) < 1e-6


@pytest.mark.parametrize("sums", MODES)
def test_a_dominated_sum_is_refused_or_hidden(sums: str) -> None:
    made = design(value("cost"), value("age"))
    outcome = design(value("age"), response="cost")
    codes = {"EFFECTIVE_SIZE", "LEVERAGE"}
    for plan in (moments(made), moments(outcome)):
        assert refusal(lambda plan=plan: ask(hospitals(data=DEAR), plan, sums)) in codes
    total = ask(hospitals(data=DEAR), powers("cost", 0.0, 20, False), sums)
    assert [int(total.hidden[name][0, 0]) for name in ("n", "s1", "s2")] == [1, 1, 1]
    total = ask(hospitals(data=DEAR), products("cost", 0.0, 20), sums)
    assert all(total.hidden[name][0, 0] == 1 for name in ("n", "sum", "product", "square"))
    assert not total.hidden["n"][1, 1]


@pytest.mark.parametrize("sums", MODES)
def test_a_dominated_outcome_in_a_fit(sums: str) -> None:
    made = design(value("age"), response="cost")
    plan = derivatives(made, np.zeros(2), "gaussian", order=1)
    sites = hospitals(data=DEAR)
    alone = ask(sites, replace(plan, to=("a",))) if sums == "clear" else ask(sites, plan, sums)
    assert alone["too_large"][0] == 1


def test_a_mean_leaves_a_hospital_out_whose_sum_is_hidden() -> None:
    """Hidden sums are hidden with their number of patients, so that the mean is one of the rest."""
    from polyclinic.models.descriptive import Moments

    sites = hospitals(data=DEAR)
    columns = describe_columns(sites.codebook, ["cost"])
    found = fit(Moments(columns), sites.federation(sums="clear")).model["all"]["cost"]
    rest = DEAR.loc[DEAR["site"] != "a", "cost"]
    assert (found["hidden_sites"], found["n"]) == (1, len(rest))
    assert np.isclose(found["mean"], rest.mean(), rtol=1e-12)


def window(column: str, low: float, exponent: int, task: str = "moments") -> Plan:
    """All values but those above `low` lie at the limit of the scale."""
    centre = low + FARTHEST * 2.0**exponent
    if task == "products":
        return products(column, centre, exponent)
    return powers(column, centre, exponent, True)


@pytest.mark.parametrize(("task", "name"), [("moments", "s1"), ("products", "sum")])
def test_windows_of_a_scale(task: str, name: str) -> None:
    """The limit that keeps far values in the ring is not to be used as a pair of scissors."""
    ninth = float(np.sort(FRAME.loc[FRAME["site"] == "a", "chol"])[-9])
    lows = [ninth - 0.01, ninth + 0.01, ninth + 0.02]  # as halving would find them
    plans = [window("chol", low, -9, task) for low in lows]
    limit = FARTHEST * 2.0**-9
    above = [float(unguarded(p)[name].ravel()[0]) * 2.0**-9 + EACH * limit for p in plans]
    # Each is the sum of what values exceed `low` by, which falls by their number as `low` rises.
    number = (above[1] - above[2]) / 0.01
    assert close(lows[0] + (above[0] - above[1]) - 0.02 * number, ninth)
    for sums in MODES:
        sites = hospitals()
        for plan in plans:
            total = ask(sites, plan, sums)
            assert total.hidden[name].ravel()[0] == 3 and total[name].ravel()[0] == 0
            assert total.hidden["n"].ravel()[0] == 3


def test_edges_around_one_value() -> None:
    """A bin with the victim alone; then all bins but that one, from which it would follow."""
    at = SECRET["chol"]
    for edges in ([at - 0.5, at + 0.5], [200.0, at - 0.5], [at + 0.5], [at - 0.001]):
        plan = descriptive("histogram", by=None, edges={"chol": np.array([edges])})
        open_counts = ask(exposed(), plan)["bins:chol"][0]
        assert 0 < open_counts[-2:].min() <= 1 or open_counts[-1] <= 1
        for sums in MODES:
            total = ask(hospitals(), replace(plan, to=()), sums)
            counts, hidden = total["bins:chol"][0], total.hidden["bins:chol"][0]
            shown = counts[hidden == 0]
            assert not ((shown > 0) & (shown < 5)).any()
            assert hidden.sum() != 1


def largest(sites: pc.Sites, rounds: int = 45) -> tuple[float, float]:
    """Where the largest value of hospital ``a`` is, by halving: no half is empty unseen."""
    low, high = 0.0, 512.0
    for _ in range(rounds):
        middle = (low + high) / 2
        edges = np.array([[middle]])
        plan = descriptive("histogram", by=None, edges={"chol": edges})
        total = ask(sites, replace(plan, to=("a",)))
        if total.hidden["bins:chol"][0, -1]:
            break
        empty = total["bins:chol"][0, -1] == 0
        low, high = (low, middle) if empty else (middle, high)
    return low, high


def test_the_largest_value_is_not_found_by_halving() -> None:
    assert close(largest(exposed()), SECRET["chol"])
    low, high = largest(hospitals())
    chol = FRAME.loc[FRAME["site"] == "a", "chol"]
    assert high - low > 10.0
    assert np.count_nonzero((chol >= low) & (chol <= high)) >= 5


def test_the_largest_value_is_not_found_by_quantiles() -> None:
    sites = hospitals()
    columns = describe_columns(sites.codebook, ["chol"])
    asked = Quantiles(columns, q=(0.0, 1.0, 719 / 720), tolerance=1e-9, least=1)
    found = fit(asked, sites.federation(sums="clear")).model["all"]["chol"]
    for answer in (found["1.0"], found[str(719 / 720)], found["high"]):
        lower, upper = answer["lower"] or 0.0, answer["upper"] or 512.0
        assert np.count_nonzero((FRAME["chol"] >= lower) & (FRAME["chol"] <= upper)) >= 5
        assert upper - lower > 1.0


@pytest.mark.parametrize("sums", MODES)
def test_levels_and_tables_of_one_patient(sums: str) -> None:
    pain, sick = {"name": "pain", "levels": 4}, {"name": "sick", "levels": 2}
    for plan, leaf in (
        (descriptive("levels", by=None, columns=[pain]), "levels:pain"),
        (descriptive("levels", by=sick, columns=[pain]), "levels:pain"),
        (descriptive("cross_table", a=pain, b=sick), "table"),
    ):
        open_counts = ask(exposed(), plan)[leaf]
        assert (open_counts == 1).any()
        total = ask(hospitals(), plan, sums)
        counts, hidden = total[leaf], total.hidden[leaf]
        assert hidden[open_counts == 1].all()
        shown = counts[hidden == 0]
        assert not ((shown > 0) & (shown < 5)).any()


@pytest.mark.parametrize("sums", MODES)
def test_as_many_powers_as_patients(sums: str) -> None:
    """Sums of x, x^2, ... over few patients are as many equations for their values."""
    ask(hospitals(), powers("chol", 0.0, 8, centred=False, highest=3), sums)
    for highest in (0, 4, 7):
        plan = powers("chol", 0.0, 8, centred=False, highest=highest)
        with pytest.raises(PolyclinicError) as refused:
            ask(hospitals(), plan, sums)
        assert refused.value.code == "BAD_MESSAGE"
