"""What every estimator shares: scikit-learn conventions over sites or arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from polyclinic.core.checkpoint import Checkpoint
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import DataWarning, InputError
from polyclinic.core.federation import Domain, Engine, Inline
from polyclinic.core.fit import Callback, Round, Run, fit
from polyclinic.core.partition import Partition
from polyclinic.core.task import register
from polyclinic.models import tasks
from polyclinic.models.glm import GLMFit, GLMPredictor, Solver, Spec, glm
from polyclinic.models.glm.alone import predictor_of
from polyclinic.models.glm.family import MULTINOMIAL
from polyclinic.models.glm.robust import cluster_covariance, robust_covariance
from polyclinic.study.arrays import Arrays, from_arrays
