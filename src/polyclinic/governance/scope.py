"""Which plans a study covers. A hospital that has approved the study answers these and no others.

A plan is compared, part by part, with what the study file says: its step, its patients, its
purpose, its columns, its model. What only a run can know stays free: coefficients, means that fill
gaps, edges of bins, sizes of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.design import exponent
from polyclinic.core.plan import Plan
from polyclinic.data.cohort import Cohort
from polyclinic.data.formula import formula_columns
from polyclinic.evaluation import Shuffle, exchanges
from polyclinic.evaluation.importance import NAME as IMPORTANCE
from polyclinic.evaluation.masks import NAME as MASKS
from polyclinic.governance.paper import Paper
from polyclinic.governance.scope_columns import Outside, columns_of_cohort, columns_read, require
from polyclinic.governance.scope_glm import FAMILIES, RegressionScope
from polyclinic.governance.scope_learner import LearnerScope
from polyclinic.governance.scope_rows import Agreed
from polyclinic.governance.study_file import REGRESSIONS, Session, Study
from polyclinic.models.descriptive import moments, quantiles
from polyclinic.models.glm.family import MULTINOMIAL
from polyclinic.models.learner import kind_of, kinds

TABLE_ROUNDS = moments.MAX_ROUNDS + quantiles.MAX_ROUNDS + 1
SESSION_ROUNDS = 100_000
_SCORES = {"predictors", "folds", "outcome", "thresholds", "where", "classes", "exponent", "least"}
_EXCHANGED = _SCORES | {"shuffle"}


@dataclass(frozen=True)
class Scope:
    """What may be asked for a paper; see the module."""

    paper: Paper

    @staticmethod
    def of(paper: Paper) -> Scope:
        """The scope of a paper. Raises InputError for a study that its codebook does not allow."""
        scope = Scope(paper)
        if isinstance(paper.study, Study):
            _ = scope.spec, scope.cohort, scope.exchanges
        else:
            for column in paper.study.session.columns:
                paper.codebook.spec(column)
        return scope

    def refuses(self, plan: Plan) -> str:
        """Why the study does not cover `plan`, for the hospital's own log; "": it does."""
        try:
            self._common(plan)
            if isinstance(self.paper.study, Session):
                self._in_session(plan, self.paper.study)
            else:
                self._in_study(plan)
        except Outside as error:
            return str(error)
        except Exception as error:  # whatever a hostile plan makes of the checks: it is not covered
            return f"the plan has another form ({type(error).__name__})"
        return ""

    def _common(self, plan: Plan) -> None:
        require(plan.purpose == self.paper.study.study.purpose, "another purpose")
        require(set(plan.to) <= set(self.paper.sites), "hospitals that do not take part")
        require(0 <= plan.round <= self.rounds, "more rounds than the study has")
        require(plan.version == 1, "another version of the step")

    @cached_property
    def agreed(self) -> Agreed:
        """The patients and the model matrix of a study."""
        return Agreed(self.paper)

    @cached_property
    def model(self) -> RegressionScope | LearnerScope:
        """The part that is about a study's model."""
        regression = self._study.model.kind in REGRESSIONS
        return RegressionScope(self.agreed) if regression else LearnerScope(self.agreed)

    @property
    def _study(self) -> Study:
        return self.agreed.study

    @property
    def spec(self) -> Any:
        """A study's model, without what is left open."""
        return self.model.spec

    @property
    def cohort(self) -> Cohort:
        """The patients of a study."""
        return self.agreed.cohort

    @property
    def folds(self) -> int:
        """Folds of a study's cross-validation; 0 without."""
        return self.agreed.folds if self.judges else 0

    @property
    def judges(self) -> bool:
        """Whether there is something of a study's model to evaluate."""
        return bool(self.outcome or self.model.held_out or self.model.other_outcome)

    @property
    def outcome(self) -> str:
        """What a study's model explains: "binary", "classes" or "number"; "": no outcome."""
        return self.model.outcome

    @cached_property
    def rounds(self) -> int:
        """How many different questions a run has at most."""
        if isinstance(self.paper.study, Session):
            return SESSION_ROUNDS
        subgroups = sum(
            len(self.paper.codebook.level_names(name)) for name in self._study.evaluation.subgroups
        )
        more = subgroups + len(self.exchanges) + 10
        return (self.folds + 1) * self.model.rounds + 2 * TABLE_ROUNDS + more

    @cached_property
    def exchanges(self) -> dict[str, Shuffle]:
        """What of the columns of a study is exchanged, by name; with the rows as they are, "".

        Raises WRONG_VALUE for parts of columns that have none.
        """
        asked = self._study.evaluation
        if not asked.importance:
            return {}
        given: Any = {"repeats": asked.importance, "seed": self._study.seed, "parts": asked.parts}
        design, codebook = self.agreed.design, self.paper.codebook
        return {"": Shuffle(""), **exchanges(design, codebook, **given)}

    @cached_property
    def tasks(self) -> dict[str, Callable[[Plan], None]]:
        """The steps of a study, each with its check."""
        found: dict[str, Callable[[Plan], None]] = {
            "descriptive.together": self._table,
            "descriptive.levels": self._counts,
        }
        if self.outcome:
            found["evaluation.scores"] = self._scores
        if self.exchanges:
            found[IMPORTANCE] = self._importance
        for name, check in self.model.tasks.items():
            found[name] = either(found[name], check) if name in found else check
        if not self._study.privacy.show_sites:
            for name in self.model.held_out[1:]:
                del found[name]
        if self.agreed.filled and self._study.privacy.noise is None:
            found["glm.present"] = self._present
        if self._study.privacy.show_sites and self.outcome == "binary":
            found["evaluation.own"] = self._scores
            if self._study.evaluation.alone and self.folds:
                found["evaluation.alone"] = self._alone
        return found

    def _present(self, plan: Plan) -> None:
        filled = self.agreed.filled
        require(set(plan.values) == {"columns", "exponents"}, "another form")
        require(tuple(plan.values["columns"]) == filled, "other columns")
        bounds = [exponent(self.paper.codebook.bound(name)) for name in filled]
        require(np.array_equal(plan.values["exponents"], bounds), "another form")

    def _alone(self, plan: Plan) -> None:
        """The model that a hospital fits by itself."""
        values = plan.values
        require(plan.combine == "collect", "another step")
        require(set(values) == {"spec", "folds", "least"}, "another form")
        require(type(values["folds"]) is int and values["folds"] == self.folds, "other validation")
        require(type(values["least"]) is int and values["least"] >= 1, "another form")
        self.model.check_alone(plan)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns that may be named."""
        study = self.paper.study
        if isinstance(study, Session):
            return tuple(study.session.columns)
        found = formula_columns(study.model.formula, self.paper.codebook)
        return tuple(dict.fromkeys((*found, *study.evaluation.subgroups)))

    @property
    def collected(self) -> tuple[str, ...]:
        """Steps that a hospital answers by itself."""
        by_name = ["descriptive.levels"]
        if self._study.privacy.show_sites:
            by_name += ["descriptive.together", "evaluation.own", "evaluation.alone", MASKS]
            by_name += [] if self.outcome == "binary" else ["evaluation.scores"]
        by_name += [*self.model.collected, *self.model.held_out[1:], *self.model.by_name]
        return tuple(name for name in by_name if name in self.tasks)

    def _in_study(self, plan: Plan) -> None:
        require(plan.task in self.tasks, f"{plan.task} is no step of it")
        require(codec.digest(plan.cohort) in self._patients(plan), "other patients")
        if plan.combine == "collect":
            require(plan.task in self.collected, f"{plan.task} by name is no step of it")
        require(plan.compress in ("", self.model.rounding(plan)), "rounded in another way")
        self.tasks[plan.task](plan)

    def _patients(self, plan: Plan) -> list[str]:
        """The cohorts that a step may be about; those who are set aside are judged on only."""
        cohorts = [self.cohort]
        judges = plan.task.startswith("evaluation.") or plan.task in self.model.held_out
        if judges and self.agreed.judged is not None:
            cohorts.append(self.agreed.judged)
        return [codec.digest(cohort.to_data()) for cohort in cohorts]

    def _coded(self, name: str) -> dict[str, Any]:
        return {"name": name, "levels": len(self.paper.codebook.level_names(name))}

    def _counts(self, plan: Plan) -> None:
        """Rows, patients and events of a hospital by itself."""
        outcome = self.agreed.design.response
        binary = bool(outcome) and len(self.paper.codebook.level_names(outcome)) == 2
        events = [self._coded(outcome)] if binary else []
        require(plan.combine == "collect", "another step")
        require(plan.values == {"by": None, "columns": events}, "other columns")

    def _table(self, plan: Plan) -> None:
        """Table 1, overall or of each hospital."""
        require(set(plan.values) == {"parts"}, "another form")
        for part, ask in plan.values["parts"].items():
            if plan.combine == "sum":
                require(set(ask) == {"task", "version", "values"}, "another form")
                self._part(part, ask, ask["values"])
                continue
            require(ask["task"] == "descriptive.each_site" and ask["version"] == 1, "another step")
            inner = ask["values"]
            require(set(inner) == {"task", "version", "sites"}, "another form")
            require(set(inner["sites"]) <= {"", *self.paper.sites}, "other hospitals")
            for values in inner["sites"].values():
                self._part(part, inner, values)

    def _part(self, part: str, ask: Mapping[str, Any], values: Any) -> None:
        tasks = {"levels": "levels", "moments": "moments", "quantiles": "histogram"}
        require(ask["task"] == f"descriptive.{tasks[part]}", "another step of Table 1")
        require(ask["version"] == 1, "another version of the step")
        if values is None:
            return
        codebook, outcome = self.paper.codebook, self.agreed.design.response
        left_out = {outcome, *codebook.media}
        names = [name for name in self.cohort.described if name not in left_out]
        coded = [self._coded(name) for name in names if codebook.level_names(name)]
        numbers = [name for name in names if not codebook.level_names(name)]
        by = self._coded(outcome) if outcome and codebook.level_names(outcome) else None
        require(values["by"] == by, "other groups in Table 1")
        if part == "levels":
            require(set(values) == {"by", "columns"}, "another form")
            require(list(values["columns"]) == coded, "other columns in Table 1")
        elif part == "moments":
            keys = {"by", "columns", "powers", "centre", "centred", "exponent"}
            require(set(values) == keys, "another form")
            require(list(values["columns"]) == numbers, "other columns in Table 1")
        else:
            require(set(values) == {"by", "edges"}, "another form")
            require(set(values["edges"]) <= set(numbers), "other columns in Table 1")

    def _scores(self, plan: Plan) -> None:
        values, folds = plan.values, plan.values["folds"]
        require(set(values) == _SCORES, "another form")
        require(plan.task != "evaluation.own" or plan.combine == "collect", "another step")
        require(type(folds) is int and folds in (0, self.folds), "another validation")
        require(len(values["predictors"]) == (folds or 1), "another validation")
        for data in values["predictors"]:
            self.model.check_predictor(data)
        require(values["outcome"] == self.outcome, "another outcome")
        thresholds = list(self._study.evaluation.thresholds)
        require(list(values["thresholds"]) == thresholds, "other thresholds")
        require(type(values["classes"]) is int and type(values["exponent"]) is int, "another form")
        require(type(values["least"]) is int and values["least"] >= 1, "another form")
        where = values["where"]
        if where is not None:
            require(plan.task == "evaluation.scores" and plan.combine == "sum", "a subgroup alone")
            require(set(where) == {"column", "level"}, "another form")
            require(where["column"] in self._study.evaluation.subgroups, "another subgroup")
            many = len(self.paper.codebook.level_names(where["column"]))
            require(where["level"] in range(many), "another subgroup")

    def _importance(self, plan: Plan) -> None:
        """The loss of the study's model, with one of its columns exchanged."""
        values = plan.values
        require(set(values) == _EXCHANGED, "another form")
        require(values["where"] is None and list(values["thresholds"]) == [], "another form")
        require(type(values["folds"]) is int and values["folds"] == 0, "another validation")
        require(len(values["predictors"]) == 1, "another validation")
        self.model.check_predictor(values["predictors"][0])
        require(values["outcome"] == (self.outcome or self.model.other_outcome), "another outcome")
        require(type(values["classes"]) is int and type(values["exponent"]) is int, "another form")
        require(type(values["least"]) is int and values["least"] >= 1, "another form")
        known = {codec.digest(one.to_data()) for one in self.exchanges.values()}
        require(codec.digest(values["shuffle"]) in known, "another exchange")

    def _in_session(self, plan: Plan, study: Session) -> None:
        """A session: any cohort over its columns, any step of its algorithms."""
        chosen, codebook = study.session.algorithms, self.paper.codebook
        group = plan.task.partition(".")[0]
        models = [name for name in chosen if name in FAMILIES]
        learners = [kind_of(name) for name in chosen if name in kinds()]
        steps = {task for kind in learners for task in (*kind.tasks, *kind.foreign)}
        if group == "glm" and plan.task not in steps:
            require(bool(models), f"{plan.task} is no step of it")
            families = {FAMILIES[name] for name in models}
            families |= {MULTINOMIAL} if "logistic" in models else set()
            family = plan.values.get("family")
            require(family is None or family in families, f"the {family} family is not in it")
        else:
            require(group in chosen or plan.task in steps, f"{plan.task} is no step of it")
        named = columns_read(plan.values, set(codebook.usable) | set(codebook.columns))
        named |= columns_of_cohort(plan.cohort)
        for column in sorted(named - set(self.columns)):
            raise Outside(f"{column} is none of its columns")

    def summary(self) -> dict[str, Any]:
        """What `polyclinic site review` tells of it, as plain data."""
        from polyclinic.governance.scope_summary import summary

        return summary(self)


def either(one: Callable[[Plan], None], two: Callable[[Plan], None]) -> Callable[[Plan], None]:
    """A step that is asked for two ends: what one of its checks covers is covered."""

    def check(plan: Plan) -> None:
        try:
            one(plan)
        except Outside:
            two(plan)

    return check
