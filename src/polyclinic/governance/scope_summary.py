"""What an approved study would mean for a hospital, as plain data for its officer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.data.codebook import Codebook
from polyclinic.data.expression import parse
from polyclinic.governance.study_file import Session, Study
from polyclinic.privacy import noisy

if TYPE_CHECKING:
    from polyclinic.governance.scope import Scope

ROUNDED = {"float16": "16 bits", "int8": "8 bits"}
NAMES = {
    "logistic": "logistic regression",
    "linear": "linear regression",
    "poisson": "Poisson regression",
    "gamma": "gamma regression",
    "descriptive": "descriptive statistics",
    "evaluation": "evaluation of models",
}


def summary(scope: Scope) -> dict[str, Any]:
    """reads, computes, round, rounded, once, rounds, cost, steps; see `polyclinic site review`."""
    study = scope.paper.study
    if isinstance(study, Session):
        algorithms = [NAMES[name] for name in study.session.algorithms]
        return {
            "reads": stored(study.session.columns, scope.paper.codebook),
            "computes": algorithms,
            "round": None,
            "rounded": "",
            "once": [],
            "rounds": None,
            "cost": "",
            "open": True,
            "steps": _steps_of_session(study),
        }
    where = parse(study.cohort.where).columns if study.cohort.where else ()
    noise = study.privacy.noise
    return {
        "reads": stored((*scope.columns, *where), scope.paper.codebook),
        "computes": _computes(scope, study),
        "round": _numbers(scope),
        "rounded": ROUNDED.get(scope.spec.solver.compress, ""),
        "once": _once(scope, study),
        "rounds": scope.rounds,
        "cost": "" if noise is None else f"epsilon {noise.epsilon:g}, delta {noise.delta:g}",
        "open": False,
        "steps": _steps(scope),
    }


def stored(columns: Iterable[str], codebook: Codebook) -> list[str]:
    """The columns of the file behind these, in the codebook's order."""
    found: set[str] = set()
    for name in columns:
        derived = codebook.derived.get(name)
        found |= {name} if derived is None else set(derived.expression.columns)
    return [name for name in codebook.columns if name in found]


def _computes(scope: Scope, study: Study) -> list[str]:
    rounds = scope.spec.solver.max_rounds
    if study.privacy.noise is not None:
        rounds = 1 if scope.spec.family == "gaussian" else _newton_rounds()
    found = [f"{NAMES[study.model.kind]}, at most {rounds:,} rounds"]
    if scope.folds:
        found.append(f"{scope.folds} validation fits")
    return [*found, "Table 1"]


def _newton_rounds() -> int:
    from polyclinic.models.glm.private import NEWTON_ROUNDS

    return NEWTON_ROUNDS


def _numbers(scope: Scope) -> int:
    """How many sums leave in a round of the fit."""
    (fit,) = [plan for plan in _fit_plans(scope) if plan.task != "glm.moments"]
    return sum(leaf.size for leaf in lookup(fit.task, 1).leaves(fit))


def _fit_plans(scope: Scope) -> list[Plan]:
    spec, size = scope.spec, scope.spec.size
    if scope.paper.study.privacy.noise is None:  # type: ignore[union-attr]
        shift = np.zeros(len(spec.design.terms))
        values = spec.values(theta=np.zeros((1, size)), order=2, shift=shift)
        return [Plan("glm.moments", spec.values()), Plan("glm.derivatives", values)]
    values = {
        "design": spec.design.to_data(),
        "family": spec.family,
        "rows": {},
        **scope.bounds.to_data(),
        noisy.KEY: {"multiplier": scope.multiplier},
    }
    if spec.family == "gaussian":
        return [Plan("glm.private_products", values)]
    theta = np.zeros(len(spec.design.terms) + 1)
    return [Plan("glm.private_newton", {**values, "theta": theta})]


def _once(scope: Scope, study: Study) -> list[str]:
    found = []
    if "evaluation.own" in scope.tasks:
        found.append("this site's own AUROC, observed and predicted risk")
    elif study.privacy.show_sites:
        found.append("this site's own measures of the model")
    if "evaluation.alone" in scope.tasks:
        found.append("AUROC of a model of this site's own")
    if study.privacy.show_sites:
        found.append("this site's own Table 1")
    return [*found, "this site's own numbers of rows, patients and events"]


def _steps(scope: Scope) -> list[Plan]:
    """One plan for each step, for a dry run of what a policy says of it."""
    fits = {plan.task: plan for plan in _fit_plans(scope)}
    cohort, purpose = scope.cohort.to_data(), scope.paper.study.study.purpose
    columns = {"columns": stored(scope.columns, scope.paper.codebook), "own": list(scope.columns)}
    found = []
    for task in scope.tasks:
        values = fits[task].values if task in fits else columns
        combines = ["collect"] if task in scope.collected else []
        if task not in ("descriptive.levels", "evaluation.own", "evaluation.alone"):
            combines = ["sum", *combines]
        for combine in combines:
            found.append(Plan(task, values, task, 1, combine, cohort, purpose))  # type: ignore[arg-type]
    return found


def _steps_of_session(study: Session) -> list[Plan]:
    values = {"columns": list(study.session.columns)}
    tasks = {"descriptive": ["descriptive.moments"], "evaluation": ["evaluation.scores"]}
    names = [task for one in study.session.algorithms for task in tasks.get(one, _GLM)]
    return [Plan(name, values, name, purpose=study.study.purpose) for name in dict.fromkeys(names)]


_GLM = ["glm.moments", "glm.derivatives"]
