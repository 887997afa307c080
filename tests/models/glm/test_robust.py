"""Sandwich errors against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from polyclinic.models.glm.robust import robust_covariance, scores_plan

from .conftest import federation, sample
from .test_pooled import FAMILIES, reference


@pytest.mark.parametrize("family", FAMILIES)
def test_hc0_and_clustered_by_site(fit_glm, family):
    x, y = sample(family)
    cuts = [120, 260, 300, 450, 520]
    ours = fit_glm(x, y, family, cuts=cuts)
    sites = np.searchsorted(cuts, np.arange(len(y)), side="right")
    engine = federation({"X": x, "y": y}, cuts)
    for by, options in (
        ("row", {"cov_type": "HC0"}),
        ("site", {"cov_type": "cluster", "cov_kwds": {"groups": sites}}),
    ):
        model = sm.GLM(y, sm.add_constant(x), family=FAMILIES[family])
        theirs = model.fit(tol=1e-14, maxiter=200, **options)
        covariance = robust_covariance(ours, engine.total(scores_plan(ours, by)), by)
        np.testing.assert_allclose(np.sqrt(np.diag(covariance)), theirs.bse, rtol=1e-8)
    assert reference(x, y, family).bse[1] != theirs.bse[1]


def test_multinomial_hc0(fit_glm):
    x, y = sample("multinomial")
    x = x * [1.0, 0.1, 1000.0, 1.0] - [0.0, 0.0, 0.0, 2000.0]
    ours = fit_glm(x, y, "multinomial", cuts=[300])
    theirs = sm.MNLogit(y, sm.add_constant(x)).fit(
        method="newton", maxiter=100, disp=0, cov_type="HC0"
    )
    total = federation({"X": x, "y": y}, [300]).total(scores_plan(ours, "row"))
    se = np.sqrt(np.diag(robust_covariance(ours, total, "row"))).reshape(2, -1)
    np.testing.assert_allclose(se, theirs.bse.T, rtol=1e-6)
