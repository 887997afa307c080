"""Which plans of a learner a study covers.

The fixed part of a plan is what this hospital makes of the approved study by itself; what only a
run can know is checked by the kind of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from polyclinic.core import codec
from polyclinic.core.groups import SMALLEST, group_size
from polyclinic.core.plan import Plan
from polyclinic.evaluation.masks import NAME as MASKS
from polyclinic.evaluation.pairs import TASKS as PAIRS
from polyclinic.governance.asked import asked
from polyclinic.governance.scope_columns import Outside, require
from polyclinic.governance.scope_rows import Agreed
from polyclinic.models.learner import FORM, NOISY_FORM, Check, Kind, Spec, kind_of
from polyclinic.privacy import accounting, noisy


@dataclass(frozen=True)
class LearnerScope:
    """The part of a scope that is about a learner."""

    agreed: Agreed

    @property
    def kind(self) -> Kind:
        """The kind of the model."""
        return kind_of(self.agreed.study.model.kind)

    @cached_property
    def spec(self) -> Spec:
        """What the study fixes; its fills are left open."""
        return self._spec(SMALLEST)

    def _spec(self, least: int) -> Spec:
        study, paper = self.agreed.study, self.agreed.paper
        found: Spec = self.kind.spec(
            asked(
                self.kind,
                self.agreed.design,
                paper.codebook,
                study.options,
                sites=tuple(paper.sites),
                seed=study.seed,
                least=least,
                privacy=study.privacy.noise,
            )
        )
        return found

    def _alike(self, data: Mapping[str, Any]) -> Spec:
        """What the study fixes, with the smallest group of patients that these data name.

        What the policies of the other hospitals ask for is not known here; this one's own stands in
        its gate. Of the sizes of groups none but nested ones are allowed.
        """
        least = data.get(self.kind.least)
        if type(least) is not int or least <= SMALLEST or group_size(least) != least:
            return self.spec
        if least not in self._made:
            self._made[least] = self._spec(least)
        return self._made[least]

    @cached_property
    def _made(self) -> dict[int, Spec]:
        return {}

    @property
    def outcome(self) -> str:
        """What the model explains: "binary", "classes", "number", or "" """
        if not self.kind.predicts or getattr(self.spec, "explains", "") in ("survival", "mask"):
            return ""
        classes = len(self.agreed.paper.codebook.level_names(self.agreed.design.response))
        return "number" if not classes else "binary" if classes == 2 else "classes"

    @property
    def other_outcome(self) -> str:
        """What a network explains that is no risk, class or number: "survival", "mask", or ""."""
        if getattr(self.spec, "explains", "") == "mask":
            return "mask"
        return "survival" if self.held_out == PAIRS else ""

    @property
    def rounds(self) -> int:
        """How many different questions a fit asks at most."""
        return self.kind.rounds(self.spec)

    most_rounds = rounds

    @property
    def title(self) -> str:
        """As officers know it."""
        return self.kind.title

    @cached_property
    def tasks(self) -> dict[str, Callable[[Plan], None]]:
        """The steps of the fit, each with its check."""
        own = {name: partial(self._own, check) for name, check in self.kind.tasks.items()}
        foreign = {n: partial(self._checked, check) for n, check in self.kind.foreign.items()}
        found: dict[str, Callable[[Plan], None]] = {**own, **foreign}
        asks = self.kind.asks
        found = found if asks is None else {name: found[name] for name in asks(self.spec)}
        found |= {MASKS: self._masks} if self.other_outcome == "mask" else {}
        return found | (dict.fromkeys(PAIRS, self._pairs) if self.held_out == PAIRS else {})

    @property
    def private(self) -> bool:
        """Whether all of the fit's sums have noise."""
        return self.agreed.study.privacy.noise is not None

    @cached_property
    def multiplier(self) -> float:
        """The noise of each round that a study's epsilon takes; 0: none."""
        noise = self.agreed.study.privacy.noise
        if noise is None:
            return 0.0
        return float(accounting.calibrate(noise.epsilon, noise.delta, self.rounds))

    @property
    def fit_plans(self) -> list[Plan]:
        """The first round and the largest, for a dry run."""
        algorithm = self.spec.algorithm()
        plan = algorithm.plan(algorithm.init(self.agreed.study.seed))
        later = [] if self.kind.later is None else [self.kind.later(self.spec)]
        return later if plan is None else [plan, *later]

    def rounding(self, plan: Plan) -> str:
        """No step of a learner is rounded."""
        return ""

    @property
    def held_out(self) -> tuple[str, ...]:
        """Steps that judge it on held-out patients, the last one by name."""
        if getattr(self.spec, "explains", "") == "survival" and not self.kind.held_out:
            return PAIRS
        return self.kind.held_out or ()

    @property
    def by_name(self) -> tuple[str, ...]:
        """Steps that a hospital may also be asked by itself, where hospitals are shown."""
        return self.kind.by_name if self.agreed.study.privacy.show_sites else ()

    @property
    def collected(self) -> dict[str, str]:
        """Steps of the fit that a hospital answers by itself, with what leaves, in words."""
        return dict(self.kind.collected)

    @property
    def apart(self) -> str:
        """What of each round a hospital answers by itself, in words; "": nothing."""
        return "" if self.kind.apart is None else self.kind.apart(self.spec)

    def _own(self, check: Check, plan: Plan) -> None:
        require(set(plan.values) == (NOISY_FORM if self.private else FORM), "another form")
        if self.private and self.kind.noise is not None:
            wanted = codec.digest(self.kind.noise(self.spec, plan))
            require(codec.digest(plan.values[noisy.KEY]) == wanted, "other noise")
        elif self.private:
            noise = plan.values[noisy.KEY]
            require(set(noise) == {"multiplier"}, "other noise")
            require(noise["multiplier"] >= self.multiplier * (1 - 1e-9), "less noise")
        by_name = plan.task in (*self.kind.collected, *self.held_out[1:])
        if plan.combine == "sum" or plan.task not in self.by_name:
            require((plan.combine == "collect") == by_name, "another step")
        if plan.task in self.held_out:
            folds = plan.values["state"].get("folds")
            require(type(folds) is int and folds in (0, self.agreed.folds), "another validation")
        self._fixed(plan.values["spec"])
        require(not self.agreed.check_rows(plan.values["rows"]), "other rows")
        self._checked(check, plan)

    def _fixed(self, data: Mapping[str, Any]) -> None:
        """Compare the fixed part of a plan, the design first."""
        given = dict(data)
        self.agreed.check_design(given.pop("design"), self.spec.design)
        wanted = self._alike(data).to_data()
        del wanted["design"], wanted["rows"]
        given = given if self.kind.closed is None else dict(self.kind.closed(given))
        require(codec.digest(given) == codec.digest(wanted), "another model")

    def _checked(self, check: Check, plan: Plan) -> None:
        try:
            check(self._alike(plan.values.get("spec", plan.values)), plan)
        except (ValueError, KeyError, TypeError) as error:
            raise Outside(f"another form: {error}") from None

    def check_predictor(self, data: Mapping[str, Any]) -> None:
        """Compare a predictor with the model."""
        check = self.kind.predictor
        if check is None:
            raise Outside("no model that predicts")
        require(data["kind"] == (self.kind.predicts_as or self.kind.name), "another kind of model")
        self.agreed.check_design(data["design"], self.spec.design)
        try:
            check(self._alike(data.get("spec", {})), data)
        except (ValueError, KeyError, TypeError) as error:
            raise Outside(f"another form: {error}") from None

    def _pairs(self, plan: Plan) -> None:
        """The concordance of a network of durations."""
        given = plan.values
        require(set(given) == {"predictors", "folds", "outcome", "where", "least"}, "another form")
        require((plan.combine == "collect") == (plan.task == PAIRS[1]), "another step")
        require(given["outcome"] == "survival", "another outcome")
        require(type(given["least"]) is int and given["least"] >= 1, "another form")
        self._of_all(plan)

    def _masks(self, plan: Plan) -> None:
        """How well a network finds masks."""
        require(set(plan.values) == {"predictors", "folds", "where"}, "another form")
        self._of_all(plan)

    def _of_all(self, plan: Plan) -> None:
        """The study's models, one or one a fold, on all rows."""
        given, folds = plan.values, plan.values["folds"]
        require(given["where"] is None, "a subgroup")
        require(type(folds) is int and folds in (0, self.agreed.folds), "another validation")
        require(len(given["predictors"]) == (folds or 1), "another validation")
        for data in given["predictors"]:
            self.check_predictor(data)

    def check_alone(self, plan: Plan) -> None:
        """Compare the model that a hospital is to fit by itself."""
        given = dict(plan.values["spec"])
        require(given.pop("learner") == self.kind.name, "another model")
        require(given.pop("rows") == {}, "other rows")
        self._fixed(given)
