"""Invented patients for the tests of the statistics, with a plain pooled frame beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from polyclinic.core.task import register
from polyclinic.models.descriptive import Column, tasks

register(tasks)

AGE = Column("age", "integer", lower=18, upper=110, bound=110)
DOSE = Column("dose", "number", lower=-10, upper=60, bound=60)
SEX = Column("sex", "binary", ("female", "male"))
PAIN = Column("pain", "category", ("none", "some", "much"))
SIZES = (199, 172, 30, 85)


def columns(seed: int = 7, n: int = sum(SIZES)) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    age = np.clip(np.rint(draw.normal(55, 12, n)), 18, 110)
    dose = draw.gamma(2.0, 4.0, n)
    sex = draw.integers(0, 2, n).astype(float)
    pain = draw.choice(3, n, p=[0.3, 0.3, 0.4]).astype(float)
    for values, share in ((age, 0.05), (dose, 0.2), (sex, 0.1), (pain, 0.1)):
        values[draw.random(n) < share] = np.nan
    return {"age": age, "dose": dose, "sex": sex, "pain": pain}


def frame(seed: int = 7) -> pd.DataFrame:
    return pd.DataFrame(columns(seed))
