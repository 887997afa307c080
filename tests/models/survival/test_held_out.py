"""Concordance of held-out patients: the same pairs counted one by one, and what a site refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import polyclinic as pc
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.federation import Domain, Inline
from polyclinic.core.groups import groups_of
from polyclinic.core.plan import Plan
from polyclinic.models.learner import values
from polyclinic.models.survival.concordance import Pairs, concordance_of
from polyclinic.models.survival.kinds import HELD_OUT
from polyclinic.privacy.policy import Policy
from tests.models.survival.brca import TERMS, rows, sites, stratified

FOLDS = 3
pytestmark = pytest.mark.usefixtures("data_dir")


def counted(time, event, risk) -> np.ndarray:
    """Concordant, discordant and tied pairs of patients of whom it is known who was first."""
    found = np.zeros(3, dtype=np.int64)
    for i in np.flatnonzero(event):
        later = (time > time[i]) | ((time == time[i]) & ~event)
        sides = [risk < risk[i], risk > risk[i], risk == risk[i]]
        found += [np.sum(later & side) for side in sides]
    return found


def by_hand(theta, keys, site, size: int) -> np.ndarray:
    """Pairs within sites and folds; risks of `size` patients count as one."""
    columns, total = rows().columns, np.zeros(3, dtype=np.int64)
    x = np.column_stack([columns[name] for name in TERMS])
    for place in np.unique(site):
        for fold in range(FOLDS):
            at = np.flatnonzero((site == place) & (keys % FOLDS == fold))
            risk = x[at] @ theta[fold]
            group = risk if size == 1 else groups_of(risk, keys[at], size)
            if len(np.unique(group)) > 1:
                total += counted(columns["T"][at], columns["E"][at] == 1, group)
    return total


def plan(theta, spec, task=HELD_OUT[0], folds=FOLDS, **more) -> Plan:
    at = np.ldexp(theta, spec.design.exponents)
    return Plan(task, values(spec, theta=at, folds=folds), task, **more)


def test_pairs_of_folds_are_those_that_one_counts() -> None:
    theta = np.random.default_rng(1).normal(0, 0.02, (FOLDS, len(TERMS)))
    found = Domain(Inline(rows())).total(plan(theta, stratified()))
    wanted = by_hand(theta, rows().keys, rows().columns["site"], 1)
    assert_allclose(Pairs.of(found.values).counts, wanted, rtol=0)
    assert found.number("n") == len(rows().keys) and found.number("events") == 151


def test_a_cross_validation_is_that_of_the_pooled_rows() -> None:
    brca = pc.datasets.load("tcga_brca")
    model = pc.CoxRegression(diagnostics=False).fit(brca, f"Surv(T, E) ~ {' + '.join(TERMS)}")
    found = model.evaluate(folds=FOLDS, show_sites=False).measures["all"]
    site, columns = rows().columns["site"], rows().columns
    keys = np.concatenate([brca.rows(name, model.formula_data.cohort).keys for name in brca.names])
    x, theta = np.column_stack([columns[name] for name in TERMS]), []
    for fold in range(FOLDS):
        at = keys % FOLDS != fold
        alone = pc.CoxRegression(diagnostics=False)
        alone.fit(x[at], columns["T"][at], event=columns["E"][at], sites=site[at])
        theta.append(alone.coef_)
    wanted = by_hand(theta, keys, site, 5)
    assert found["pairs"] == wanted.sum()
    share = (wanted[0] + 0.5 * wanted[2]) / wanted.sum()
    assert found["concordance"]["value"] == pytest.approx(share, abs=1e-9)
    assert found["concordance"]["lower"] < share < found["concordance"]["upper"]


def test_a_site_refuses_few_patients_of_a_fold_and_pairs_of_single_ones() -> None:
    spec = stratified(least=5)
    theta = np.zeros((FOLDS, len(TERMS)))
    region = sites(Policy())

    def code(one: Plan) -> str:
        try:
            region.total(one)
        except PolyclinicError as error:
            return str(error.code)
        return ""

    spec = replace(spec, design=replace(spec.design, strata=()), levels=())
    assert code(plan(theta, replace(spec, least=1), to=("s0",))) == "LEVEL_TOO_SMALL"
    assert code(plan(theta, spec, to=("s0",))) == ""
    assert code(plan(np.zeros((40, 4)), spec, folds=40, to=("s0",))) == "LEVEL_TOO_SMALL"
    steep = np.array([[0.0] * 4, [1e4] + [0.0] * 3, [0.0] * 4])
    assert code(plan(steep, spec, to=("s0",))) == "EFFECTIVE_SIZE"
    assert code(plan(theta[:2], spec, to=("s0",))) == "BAD_MESSAGE"
    assert code(plan(theta, spec, HELD_OUT[1])) == "BAD_MESSAGE"  # not to be added up


@pytest.mark.parametrize(("least", "size"), [(6, 10)])
def test_groups_follow_from_the_policies(least: int, size: int) -> None:
    brca = pc.datasets.load("tcga_brca").with_policy(pc.Policy(min_patients=least))
    model = pc.CoxRegression().fit(brca, "Surv(T, E) ~ age_at_index")
    assert model.spec_.least == size and model.concordance_["c"] > 0.6


def test_no_pairs_have_no_concordance() -> None:
    assert np.isnan(concordance_of(Pairs.none())["c"])
