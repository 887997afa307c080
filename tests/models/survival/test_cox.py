"""Cox regression against lifelines, scikit-survival and statsmodels, and where it cannot be had."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from statsmodels.duration.hazard_regression import PHReg

from polyclinic.core.design import Design, Term
from polyclinic.core.errors import InputError
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.survival import CoxSpec
from polyclinic.models.survival.concordance import pairs
from polyclinic.models.survival.kernel import derivatives, sort_rows
from polyclinic.privacy.policy import Policy, open_policy
from tests.models.survival.brca import (
    GOLDEN,
    TERMS,
    design,
    fitted,
    rows,
    sites,
    stratified,
    untied,
)

pytestmark = pytest.mark.usefixtures("data_dir")


def test_stratified_by_site_as_lifelines() -> None:
    found, known = fitted(stratified()), GOLDEN["stratified"]
    table = found.summary()
    assert_allclose(table["coef"], known["coef"], rtol=1e-8)
    assert_allclose(table["se"], known["se"], rtol=1e-8)
    assert_allclose(found.loglik, known["loglik"], rtol=1e-12)


@pytest.mark.parametrize("weight", [None, "w"])
def test_robust_errors_and_weights_as_lifelines(weight: str | None) -> None:
    """Without ties: with them its robust errors are those of Breslow's."""
    spec = CoxSpec(design(strata=("site",), weight=weight), levels=(6,), robust="row")
    known = GOLDEN["untied weighted" if weight else "untied robust"]
    table = fitted(spec, untied()).summary()
    assert_allclose(table["coef"], known["coef"], rtol=1e-8)
    assert_allclose(table["se"], known["se"], rtol=1e-7)


def test_weights_and_ties_as_lifelines() -> None:
    spec = CoxSpec(design(strata=("site",), weight="w"), levels=(6,))
    assert_allclose(fitted(spec).coef, GOLDEN["weighted"]["coef"], rtol=1e-8)


def test_one_baseline_as_lifelines() -> None:
    found, known = fitted(CoxSpec(design(), least=1)), GOLDEN["pooled"]
    assert_allclose(found.coef, known["coef"], rtol=1e-8)
    assert_allclose(found.summary()["se"], known["se"], rtol=1e-7)
    assert_allclose(found.tests["likelihood ratio"]["chi2"], known["ratio"], rtol=1e-9)
    assert_allclose(found.concordance["c"], GOLDEN["concordance"], rtol=1e-12)


def test_proportional_hazards_as_lifelines() -> None:
    found, known = fitted(CoxSpec(design()), untied()).proportional, GOLDEN["untied"]
    for scale in ("identity", "log", "rank"):
        values = [line[f"chi2 {scale}"] for line in found]
        assert_allclose(values, [known["proportional"][scale][t] for t in TERMS], rtol=1e-6)


def test_ridge_as_scikit_survival() -> None:
    found = fitted(CoxSpec(design(), l2=20.0))
    assert_allclose(found.coef, GOLDEN["ridge"], rtol=1e-7)
    assert np.all(np.abs(fitted(CoxSpec(design(), l1=40.0)).coef[1:]) < 1e-12)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_ties_weights_and_strata_as_statsmodels(ties: str) -> None:
    rng = np.random.default_rng(3)
    x, s = rng.normal(size=(300, 3)) * [1, 50, 0.01] + 5, rng.integers(0, 4, 300)
    t, e = np.ceil(rng.exponential(8, 300) * np.exp(-0.5 * x[:, 0])), rng.random(300) < 0.6
    offset = rng.normal(size=300)
    data = {"X": x, "y": t, "e": e * 1.0, "s": s * 1.0, "offset": offset}
    made = tuple(Term(f"x{j}", (), b) for j, b in enumerate((16.0, 256.0, 8.0)))
    what = Design(made, "y", False, event="e", strata=("s",), offset="offset")
    found = fitted(CoxSpec(what, levels=(4,), ties=ties), Partition(data))
    model = PHReg(t, x, status=e.astype(int), strata=s, ties=ties, offset=offset)
    scale = np.sqrt(np.diag(found.covariance))
    assert_allclose(model.score(found.coef) * scale, 0.0, atol=1e-9)
    known = np.linalg.inv(-model.hessian(found.coef))
    assert_allclose(found.covariance, known, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_a_weight_of_two_is_two_rows_under_breslow(ties: str) -> None:
    data = dict(rows().columns)
    weight = 1.0 + np.arange(len(data["T"])) % 3
    weight[::7] = 0.0
    given = fitted(CoxSpec(design(weight="w"), ties=ties), Partition({**data, "w": weight}))
    twice = {n: np.repeat(v, weight.astype(int)) for n, v in data.items()}
    same = np.allclose(given.coef, fitted(CoxSpec(design(), ties=ties), Partition(twice)).coef)
    assert same == (ties == "breslow")  # under Efron's two rows are a tie, a weight is none


def _small(seed: int = 0, n: int = 60) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    t, e = np.ceil(rng.exponential(6, n)), rng.random(n) < 0.7
    return x, t, e, rng.integers(0, 2, n), rng.random(n) + 0.5


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_derivatives_by_finite_differences(ties: str) -> None:
    x, t, e, s, w = _small()
    strata = sort_rows(x, t, e, s, w, None, ties == "efron")
    at, h = np.array([0.3, -0.7]), 1e-5
    one = derivatives(strata, at[None], 2)
    for j in range(2):
        step = h * np.eye(2)[j]
        ends = derivatives(strata, np.array([at + step, at - step]), 1)
        slope = (ends.loss[0] - ends.loss[1]) / (2 * h)
        bend = (ends.gradient[0] - ends.gradient[1]) / (2 * h)
        assert_allclose(one.gradient[0, j], slope, rtol=1e-7)
        assert_allclose(one.hessian[0, j], bend, rtol=1e-7, atol=1e-7)


def test_concordance_pair_by_pair() -> None:
    _, t, e, _, _ = _small(1)
    risk = np.random.default_rng(2).integers(0, 7, len(t)) * 1.0
    right = np.zeros(len(t))
    every = np.zeros(len(t))
    for i in range(len(t)):
        for j in range(len(t)):
            if e[i] and (t[i] < t[j] or (t[i] == t[j] and not e[j])):
                points = 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
                right[[i, j]] += points
                every[[i, j]] += 1
    found = pairs(t, e, risk)
    assert found.counts[0] + found.counts[2] / 2 == right.sum() / 2
    assert found.counts.sum() == every.sum() / 2
    assert_allclose(found.squares, [right @ right, right @ every, every @ every])


@pytest.mark.parametrize(("sums", "parts"), [("clear", 1), ("clear", 3), ("secure", 1)])
def test_over_sites_it_is_the_stratified_fit(sums: str, parts: int) -> None:
    engine = sites(open_policy(), sums, parts)
    found = fit(CoxSpec(design()).algorithm(), engine).model[-1]
    alone = fitted(stratified())
    assert_allclose(found.coef, GOLDEN["stratified"]["coef"], rtol=1e-8)
    assert_allclose(found.coef, alone.coef, rtol=1e-12)
    # Over sites risks are taken together by fives.
    assert_allclose(found.concordance["c"], alone.concordance["c"], atol=0.01)
    assert found.concordance["pairs"] == alone.concordance["pairs"]


def test_an_ordinary_fit_passes_the_gates_under_secure_sums() -> None:
    engine = sites(Policy(), "secure")
    found = fit(CoxSpec(design(TERMS[:3])).algorithm(), engine).model[-1]
    assert found.converged and found.events == 151


def _arrays(x, t, e, **more):
    made = tuple(Term(f"x{j}", (), 16.0) for j in range(np.shape(x)[1]))
    data = {"X": np.asarray(x, float), "y": np.asarray(t, float), "e": np.asarray(e, float)}
    return fitted(CoxSpec(Design(made, "y", False, event="e"), **more), Partition(data))


@pytest.mark.parametrize(
    ("t", "e", "code"),
    [
        ([1, 2, 3, 4], [0, 0, 0, 0], "NO_EVENTS"),
        ([1, -2, 3, 4], [1, 1, 1, 0], "OUTCOME_NOT_ALLOWED"),
        ([1, np.nan, 3, 4], [1, 1, 1, 0], "OUTCOME_NOT_ALLOWED"),
        ([1, 2, 3, 4], [1, 0.5, 1, 0], "OUTCOME_NOT_ALLOWED"),
        ([], [], "NO_ROWS"),
    ],
)
def test_outcomes_that_it_cannot_have(t, e, code: str) -> None:
    x = np.arange(len(t))[:, None] * 1.0
    with pytest.raises(InputError) as error:
        _arrays(x, t, e)
    assert error.value.code == code


def test_separated_constant_and_collinear_columns() -> None:
    x, t, e, _, _ = _small(4)
    separated = _arrays(np.column_stack([e * 1.0]), t, e)
    assert separated.end == "separated" and "no finite optimum" in separated.warnings()[0]
    found = _arrays(np.column_stack([x[:, 0], 0 * t + 3, 2 * x[:, 0]]), t, e)
    assert found.active.tolist() == [True, False, False]
    assert "does not vary" in found.warnings()[0] and "x0" in found.warnings()[1]
    assert_allclose(found.coef[0], _arrays(x[:, :1], t, e).coef[0], rtol=1e-10)


def test_all_times_tied_one_event_and_a_stratum_without_one() -> None:
    x, t, e, s, _ = _small(5)
    tied = _arrays(x, 0 * t, e)  # all events at once, at time 0
    known = PHReg(0 * t + 1, x, status=e.astype(int), ties="efron").fit(disp=0, tol=1e-14)
    assert_allclose(tied.coef, known.params, atol=1e-6)
    one = np.arange(len(t)) == int(np.argmin(t))
    assert _arrays(x[:, :1], t, one, l2=1.0).converged
    made = tuple(Term(f"x{j}", (), 16.0) for j in range(2))
    what = Design(made, "y", False, event="e", strata=("s",))
    data = {"X": x, "y": t, "e": e * (s == 0) * 1.0, "s": s * 1.0}
    found = fitted(CoxSpec(what, levels=(2,)), Partition(data))
    assert_allclose(found.coef, _arrays(x[s == 0], t[s == 0], e[s == 0]).coef, rtol=1e-10)


def test_without_terms_it_is_the_likelihood_of_no_effect() -> None:
    _, t, e, _, _ = _small(6)
    found = _arrays(np.zeros((len(t), 0)), t, e)
    assert found.converged and found.loglik == found.null_loglik and len(found.coef) == 0


def test_robust_errors_take_a_patients_rows_together_as_statsmodels() -> None:
    x, t, e, _, _ = _small(7, 90)
    patient = np.sort(np.random.default_rng(8).integers(0, 40, 90))
    key = np.unique(patient, return_inverse=True)[1].astype(np.int64)
    made = tuple(Term(f"x{j}", (), 16.0) for j in range(2))
    data = Partition({"X": x, "y": t, "e": e * 1.0}, key)
    spec = CoxSpec(Design(made, "y", False, event="e"), ties="breslow", robust="row")
    model = PHReg(t, x, status=e.astype(int), ties="breslow")
    known = model.fit(groups=patient, disp=0, tol=1e-14)
    assert_allclose(fitted(spec, data).summary()["se"], known.bse, rtol=1e-7)
