"""Three hospitals with one patient whom an attacker is after, and what an attacker can send.

The victim is row `VICTIM` of hospital ``a``. The attacker knows the codebook and every number that
an estimator needs, but no row; under secure sums only totals are seen, so there the victim's rare
values are made to be rare over all hospitals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

import polyclinic as pc
from polyclinic.core.contribution import Total
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import Refused
from polyclinic.core.federation import Domain
from polyclinic.core.plan import Plan
from polyclinic.core.task import register
from polyclinic.data.codebook import Codebook
from polyclinic.data.cohort import Cohort
from polyclinic.data.read import split_frame
from polyclinic.data.table import Table
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.evaluation import tasks as evaluation_tasks
from polyclinic.models import tasks as model_tasks
from polyclinic.models.glm.scale import unpack
from polyclinic.privacy.policy import Policy, open_policy

register(model_tasks)
register(evaluation_tasks)

SITES, EACH, VICTIM = ("a", "b", "c"), 240, 17
LEVELS = {"no": "no", "yes": "yes"}
BOOK = Codebook.from_dict(
    {
        "name": "world",
        "columns": {
            "site": {"type": "text"},
            "age": {"type": "integer", "unit": "a", "range": [18, 100]},
            "chol": {"type": "number", "range": [0, 512]},
            "cost": {"type": "number", "range": [0, 2.0**20]},
            "visits": {"type": "integer", "range": [0, 1000]},
            "lab": {"type": "number", "range": [0, 64]},
            "sex": {"type": "binary", "levels": {"female": "", "male": ""}},
            "rare": {"type": "binary", "levels": LEVELS},
            "pain": {"type": "category", "levels": {"none": "", "some": "", "much": "", "odd": ""}},
            "few": {"type": "integer", "range": [0, 3]},
            "group": {"type": "binary", "levels": LEVELS},
            "drug": {"type": "binary", "levels": LEVELS},
            "sick": {"type": "binary", "levels": LEVELS},
        },
    }
)


def frame() -> pd.DataFrame:
    """All rows. In `group` and `drug` there are many, in both only the victim."""
    draw = np.random.default_rng(5)
    n = EACH * len(SITES)
    site = np.repeat(SITES, EACH)
    age = np.clip(np.rint(draw.normal(60, 12, n)), 20, 95)
    group = draw.random(n) < 0.1
    drug = (draw.random(n) < 0.12) & ~group
    found = pd.DataFrame(
        {
            "site": site,
            "age": age,
            "chol": np.round(draw.normal(240, 45, n).clip(100, 500), 2),
            "cost": np.round(draw.gamma(4.0, 800.0, n), 2),
            "visits": draw.poisson(3.0, n),
            "lab": np.round(draw.gamma(3.0, 3.0, n).clip(0, 60), 3),
            "sex": np.where(draw.random(n) < 0.5, "male", "female"),
            "rare": "no",
            "pain": draw.choice(["none", "some", "much"], n),
            "few": 0,
            "group": np.where(group, "yes", "no"),
            "drug": np.where(drug, "yes", "no"),
            "sick": np.where(draw.random(n) < 1 / (1 + np.exp(-(age - 60) / 12)), "yes", "no"),
        }
    )
    found.loc[found.index % 3 == 0, "few"] = 1
    found.loc[[5, 29], "few"] = [2, 3]
    victim = {"age": 71, "chol": 412.37, "cost": 9431.26, "visits": 7, "lab": 13.377}
    for name, value in (victim | {"rare": "yes", "pain": "odd", "sick": "yes"}).items():
        found.loc[VICTIM, name] = value
    found.loc[VICTIM, ["group", "drug", "sex"]] = ["yes", "yes", "female"]
    return found


FRAME = frame()
TABLES = split_frame(FRAME, "site", BOOK)
SECRET = {name: float(FRAME.loc[VICTIM, name]) for name in ("age", "chol", "cost", "lab")}


_read: dict[tuple[Any, ...], dict[str, Table]] = {}


def tables_of(data: pd.DataFrame) -> dict[str, Table]:
    """The tables of a frame; the same rows are read once."""
    rows = pd.util.hash_pandas_object(data, index=False).to_numpy().tobytes()
    key = (rows, tuple(data.columns), tuple(map(str, data.dtypes)))
    if key not in _read:
        _read[key] = split_frame(data, "site", BOOK)
    return _read[key]


def hospitals(policy: Policy | None = None, data: pd.DataFrame | None = None) -> pc.Sites:
    """The hospitals with nothing released yet."""
    tables = TABLES if data is None else tables_of(data)
    return pc.Sites(tables, BOOK, policy=policy)


def exposed(data: pd.DataFrame | None = None) -> pc.Sites:
    """The hospitals without disclosure control."""
    return hospitals(open_policy(), data)


def ask(sites: pc.Sites, plan: Plan, sums: str = "clear", where: str | None = None) -> Total:
    """The answer to a plan of the attacker's own, about all rows or those of a condition."""
    cohort = None if where is None else Cohort(where=where)
    return sites.federation(cohort=cohort, sums=sums).total(plan)  # type: ignore[arg-type]


def unguarded(plan: Plan, data: pd.DataFrame | None = None) -> Total:
    """The sum of hospital ``a`` as its own workers have it, before any gate."""
    return Domain(ThreadWorkers(exposed(data).rows("a", None))).total(plan)


def refusal(ask_it: Callable[[], Any]) -> str:
    """The code with which it is refused; "" when it is not."""
    try:
        ask_it()
    except Refused as error:
        return error.code
    return ""


def value(column: str) -> Factor:
    return Factor("value", column)


def level(column: str, name: str) -> Factor:
    return Factor("level", column, (float(BOOK.level_names(column).index(name)),))


def design(*terms: Sequence[Factor] | Factor, response: str = "sick", **more: Any) -> Design:
    """A model matrix of products of factors, with an intercept unless said otherwise."""
    made = []
    for one in terms:
        factors = (one,) if isinstance(one, Factor) else tuple(one)
        name = ":".join(f"{f.kind} {f.column} {f.args}" for f in factors)
        bound = float(np.prod([_bound(f) for f in factors]))
        made.append(Term(name, factors, bound))
    return Design(tuple(made), response, response_bound=BOOK.bound(response), **more)


def _bound(factor: Factor) -> float:
    return BOOK.bound(factor.column) if factor.kind == "value" else 1.0


def glm_values(what: Design, family: str = "binomial", **more: Any) -> dict[str, Any]:
    classes = 2 if family == "binomial" else 0
    return {"design": what.to_data(), "family": family, "classes": classes, "rows": {}, **more}


def moments(what: Design, family: str = "gaussian", **more: Any) -> Plan:
    return Plan("glm.moments", glm_values(what, family, **more), "moments")


def derivatives(
    what: Design, theta: Any, family: str = "binomial", order: int = 2, **more: Any
) -> Plan:
    """`theta` (m, size) or (size,) of raw columns, which is turned into the plan's units."""
    lead = np.zeros(int(what.intercept), dtype=np.int64)
    e = np.concatenate([lead, what.exponents])
    raw = np.atleast_2d(np.asarray(theta, dtype=np.float64))
    values = glm_values(
        what,
        family,
        **{
            "theta": np.ldexp(raw, np.tile(e, raw.shape[1] // len(e))),
            "order": order,
            "shift": np.zeros(len(what.terms)),
            "class_weight": np.zeros(0),
            "response_exponent": 0,
            **more,
        },
    )
    return Plan("glm.derivatives", values, "derivatives")


def hessian(total: Total, what: Design, at: int = 0) -> Any:
    """The Hessian of a candidate in raw columns, intercept first."""
    lead = np.zeros(int(what.intercept), dtype=np.int64)
    e = np.concatenate([lead, what.exponents])
    packed = np.ldexp(unpack(total["hessian"][at], len(e)), e[:, None] + e)
    return packed


def gradient(total: Total, what: Design, at: int = 0) -> Any:
    lead = np.zeros(int(what.intercept), dtype=np.int64)
    return np.ldexp(total["gradient"][at], np.concatenate([lead, what.exponents]))


def column_sums(total: Total, what: Design) -> Any:
    """Sums of the terms in raw columns."""
    return np.ldexp(total["x"], what.exponents)


def scoring(
    what: Design, coefficients: Sequence[Any], folds: int = 0, where: dict[str, Any] | None = None
) -> Plan:
    """Scores under predictors of the attacker's own, one per fold."""
    predictors = [
        {
            "kind": "glm",
            "design": what.to_data(),
            "family": "binomial",
            "coef": np.atleast_2d(np.asarray(coef, dtype=np.float64)),
        }
        for coef in coefficients
    ]
    values = {
        "predictors": predictors,
        "outcome": "binary",
        "folds": folds,
        "thresholds": [],
        "least": 5,
        "exponent": 0,
        "where": where,
    }
    return Plan("evaluation.scores", values, "scores")


def close(found: Any, secret: Any) -> bool:
    """Whether an attacker has the number, to a millionth."""
    return bool(np.allclose(found, secret, rtol=1e-6, atol=0.0))


def descriptive(task: str, **values: Any) -> Plan:
    return Plan(f"descriptive.{task}", values, task)
