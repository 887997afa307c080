"""What an approved study would mean for a hospital, as plain data for its officer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.data.codebook import Codebook
from polyclinic.data.expression import parse
from polyclinic.evaluation.masks import NAME as MASKS
from polyclinic.governance.scope_glm import TITLES
from polyclinic.governance.study_file import Session, Study
from polyclinic.models.learner import kind_of

if TYPE_CHECKING:
    from polyclinic.governance.scope import Scope

ROUNDED = {"float16": "16 bits", "int8": "8 bits"}
NAMES = {
    **TITLES,
    "descriptive": "descriptive statistics",
    "evaluation": "evaluation of models",
}


def _named(algorithm: str) -> str:
    return NAMES[algorithm] if algorithm in NAMES else kind_of(algorithm).title


def summary(scope: Scope) -> dict[str, Any]:
    """What `polyclinic site review` shows: reads, computes, round, rounded, apart, once, rounds,
    cost, steps."""
    study = scope.paper.study
    if isinstance(study, Session):
        algorithms = [_named(name) for name in study.session.algorithms]
        return {
            "reads": stored(study.session.columns, scope.paper.codebook),
            "computes": algorithms,
            "round": None,
            "rounded": "",
            "apart": "",
            "once": [],
            "rounds": None,
            "cost": "",
            "open": True,
            "steps": _steps_of_session(study),
        }
    where = parse(study.fitted_on).columns if study.fitted_on else ()
    noise = study.privacy.noise
    return {
        "reads": stored((*scope.columns, *where), scope.paper.codebook),
        "computes": _computes(scope),
        "round": _numbers(scope),
        "rounded": _rounded(study),
        "apart": getattr(scope.model, "apart", ""),
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


def _rounded(study: Study) -> str:
    return ROUNDED.get(study.solver.compress or "", "")


def _computes(scope: Scope) -> list[str]:
    found = [f"{scope.model.title}, at most {scope.model.most_rounds:,} rounds"]
    if scope.folds:
        found.append(f"{scope.folds} validation fits")
    if scope.exchanges:
        many = sum(one.repeats for one in scope.exchanges.values() if one.column)
        found.append(f"the loss after {many} exchanges of a column between its patients")
    return [*found, "Table 1"]


def _numbers(scope: Scope) -> int | None:
    """How many sums leave in the largest round of the fit that is known beforehand."""
    plans = [plan for plan in scope.model.fit_plans if plan.task != "glm.moments"]
    declared = [lookup(one.task, 1).leaves(one) for one in plans]
    return max((sum(leaf.filled or leaf.size for leaf in one) for one in declared), default=None)


def _once(scope: Scope, study: Study) -> list[str]:
    found = list(scope.model.collected.values())
    if "evaluation.own" in scope.tasks:
        found.append("this site's own AUROC, observed and predicted risk")
    elif study.privacy.show_sites and (scope.outcome or MASKS in scope.tasks):
        found.append("this site's own measures of the model")
    elif set(scope.model.held_out[1:]) & set(scope.tasks):
        found.append("this site's own concordance")
    if scope.model.by_name:
        found.append(f"the {scope.model.title} in this site by itself")
    if "evaluation.alone" in scope.tasks:
        found.append("AUROC of a model of this site's own")
    if study.privacy.show_sites:
        found.append("this site's own Table 1")
    return [*found, "this site's own numbers of rows, patients and events"]


def _steps(scope: Scope) -> list[Plan]:
    """One plan for each step, for a dry run of what a policy says of it."""
    fits = {plan.task: plan for plan in scope.model.fit_plans}
    cohort, purpose = scope.cohort.to_data(), scope.paper.study.study.purpose
    columns = {"columns": stored(scope.columns, scope.paper.codebook), "own": list(scope.columns)}
    found = []
    for task in scope.tasks:
        values = fits[task].values if task in fits else columns
        combines = ["collect"] if task in scope.collected else []
        if task not in (*_BY_NAME, *scope.model.collected, *scope.model.held_out[1:]):
            combines = ["sum", *combines]
        for combine in combines:
            found.append(Plan(task, values, task, 1, combine, cohort, purpose))  # type: ignore[arg-type]
    return found


def _steps_of_session(study: Session) -> list[Plan]:
    values = {"columns": list(study.session.columns)}
    names = [task for one in study.session.algorithms for task in _tasks_of(one)]
    models = [kind_of(one) for one in study.session.algorithms if one not in NAMES]
    collected = {task for kind in models for task in (*kind.collected, *(kind.held_out or ())[1:])}
    purpose = study.study.purpose
    return [
        Plan(name, values, name, 1, "collect" if name in collected else "sum", purpose=purpose)
        for name in dict.fromkeys(names)
    ]


def _tasks_of(algorithm: str) -> list[str]:
    tasks = {"descriptive": ["descriptive.moments"], "evaluation": ["evaluation.scores"]}
    if algorithm in tasks:
        return tasks[algorithm]
    if algorithm in TITLES:
        return _GLM
    kind = kind_of(algorithm)
    return [*kind.tasks, *kind.foreign]


_GLM = ["glm.moments", "glm.derivatives"]
_BY_NAME = ("descriptive.levels", "evaluation.own", "evaluation.alone")
