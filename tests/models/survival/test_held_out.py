"""Concordance of held-out patients: the same pairs counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import polyclinic as pc
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.federation import Domain, Inline
from polyclinic.core.groups import groups_of
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.models.learner import values
from polyclinic.models.survival.concordance import Pairs, concordance_of
from tests.models.survival.brca import TERMS, rows, spec

FOLDS = 3
TERM = "age_at_index"


def one_by_one(time, event, risk) -> np.ndarray:
    """Right, wrong and tied pairs of patients whose order is known."""
    found = np.zeros(3)
    for i in np.flatnonzero(event):
        for j in range(len(time)):
            if j != i and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                found[1 - int(np.sign(risk[i] - risk[j])) if risk[i] != risk[j] else 2] += 1
    return found[[0, 2, 1]] if False else found


def counted(time, event, risk) -> np.ndarray:
    """The same by names: concordant, discordant, tied."""
    found = np.zeros(3)
    for i in np.flatnonzero(event):
        later = (time > time[i]) | ((time == time[i]) & ~event)
        found += [
            np.sum(later & (risk < risk[i])),
            np.sum(later & (risk > risk[i])),
            np.sum(later & (risk == risk[i])),
        ]
    return found
