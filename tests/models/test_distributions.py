"""The quantiles and tails are those of scipy.stats, which the models do not import."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from scipy import stats

from polyclinic.models import distributions as ours


def test_they_are_those_of_scipy_stats():
    p, x = np.array([1e-9, 0.2, 0.5, 0.975]), np.array([0.0, 0.3, 2.0, 40.0])
    pairs = [
        (ours.normal_quantile(p), stats.norm.ppf(p)),
        (ours.normal_tail(x), stats.norm.sf(x)),
        (ours.t_quantile(p, 3), stats.t.ppf(p, 3)),
        (ours.chi2_tail(x, 4), stats.chi2.sf(x, 4)),
        (ours.f_tail(x, 2, 17), stats.f.sf(x, 2, 17)),
    ]
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_a_hospital_starts_without_scipy_stats():
    script = (
        "import sys, polyclinic.models, polyclinic.evaluation; print('scipy.stats' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.strip() == "False", found.stderr
