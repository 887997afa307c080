"""Models that a site trains on its own rows alone: what is fitted, and what of it leaves.

A regression leaves as its coefficients; another kind of model as the arrays of its predictor's
`Form`. A model that has no form, or that holds patients' rows, does not leave a site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.core.exposure import Exposure
from polyclinic.core.federation import Domain, Inline
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models import glm
from polyclinic.models.ensembles import neighbours
from polyclinic.models.glm import exposure as judged
from polyclinic.models.glm.alone import predictor_of
from polyclinic.models.glm.predictor import GLMPredictor
from polyclinic.models.glm.tasks import DerivativesTask
from polyclinic.models.learner import Asked, check_options, kind_of, kinds, last
from polyclinic.models.predictor import Form, Predictor, form_of, predictor_from

Floats = NDArray[np.float64]
Arrays = Mapping[str, Floats]
REGRESSIONS = {"logistic": "binomial", "linear": "gaussian"}
LARGEST = 2.0**50  # of a number that leaves


class Base(Protocol):
    """A kind of model with its settings.

    design       its model matrix, outcome and weight
    holds_rows   whether the fitted model consists of patients' rows
    """

    @property
    def design(self) -> Design: ...
    @property
    def holds_rows(self) -> bool: ...
    def to_data(self) -> dict[str, Any]:
        """Plain data without the design."""
        ...

    def shapes(self, room: int) -> dict[str, tuple[int, ...]]:
        """Of the arrays that leave; `room` rows where the model holds rows."""
        ...

    def fit(self, rows: Partition, design: Design, room: int) -> dict[str, Floats]:
        """The model of these rows; `design` names the weight. Raises what a fit raises."""
        ...

    def predictor(self, arrays: Arrays) -> Predictor:
        """What predicts with a fitted model. Raises ValueError for arrays that are none."""
        ...

    def exposure(self, rows: Partition, design: Design, arrays: Arrays | None) -> Exposure:
        """How patients share in the model; `arrays` None: it could not be fitted."""
        ...


def explains(name: str) -> str:
    """What a base explains: "binary", "classes", "number" or "any". Raises WRONG_VALUE."""
    if name in REGRESSIONS:
        return "number" if name == "linear" else "binary"
    if name in neighbours.MADE:
        return "binary"
    if name not in kinds() or not kind_of(name).predicts or kind_of(name).collected:
        raise wrong_base(name)
    return kind_of(name).explains


def wrong_base(name: str) -> InputError:
    """The error for a base that there is not."""
    return InputError(
        f"base = {name!r}",
        code="WRONG_VALUE",
        rule=f"a base is one of {', '.join([*REGRESSIONS, *neighbours.MADE])}, or another kind of "
        "model that predicts and is no ensemble itself",
        next="correct the value",
    )


def base_of(name: str, asked: Asked, options: Mapping[str, Any]) -> Base:
    """The base of that name with its options.

    Raises
    ------
    InputError : UNKNOWN_OPTION, WRONG_VALUE; HOLDS_ROWS for a model that may not leave a hospital.
    """
    explains(name)
    if name in REGRESSIONS:
        return RegressionBase.asked(name, asked, options)
    if name in neighbours.MADE:
        if asked.sites:
            raise holds_rows(name)
        return RowsBase(name, asked.design, neighbours.checked(name, options), asked.classes)
    kind = kind_of(name)
    data = kind.spec(replace(asked, options=dict(options))).to_data()
    design = Design.from_data(data.pop("design"))
    del data["rows"]
    if form_of(kind.predicts_as or kind.name) is None:
        raise holds_rows(name)
    return LearnerBase(name, design, data, asked.classes)


def holds_rows(name: str) -> InputError:
    """The error for a model that may not leave a hospital."""
    return InputError(
        f"a base of kind {name} does not leave a hospital",
        code="HOLDS_ROWS",
        rule="what leaves a hospital is a few numbers per coefficient: a model that consists of "
        "patients' rows, or whose numbers have no fixed form, stays",
        next="use another base; arrays in one trust domain take any",
    )


def base_from(data: Mapping[str, Any], design: Design, classes: int) -> Base:
    """The base of `Base.to_data`."""
    name, settings = str(data["name"]), dict(data["settings"])
    if name in REGRESSIONS:
        return RegressionBase(name, design, settings, classes)
    if name in neighbours.MADE:
        return RowsBase(name, design, settings, classes)
    return LearnerBase(name, design, settings, classes)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < np.inf


def _is_class_weight(value: Any) -> bool:
    if value in (None, "balanced"):
        return True
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))


@dataclass(frozen=True)
class RegressionBase:
    """A logistic or linear regression: its coefficients leave, intercept first."""

    name: str
    design: Design
    settings: Mapping[str, Any]
    classes: int
    holds_rows: bool = False

    @staticmethod
    def asked(name: str, asked: Asked, options: Mapping[str, Any]) -> RegressionBase:
        """Of these options."""
        known: dict[str, Callable[[Any], bool]] = {"l2": _is_number, "l1": _is_number}
        rule = "l2 and l1 are 0 or more"
        if name == "logistic":
            known["class_weight"] = _is_class_weight
            rule += '; class_weight is "balanced" or the weights of both classes'
        check_options(options, known, rule)
        settings: dict[str, Any] = {n: float(options.get(n, 0.0)) for n in ("l2", "l1")}
        if name == "logistic":
            weight = options.get("class_weight")
            given = [float(w) for w in weight] if isinstance(weight, (list, tuple)) else weight
            settings["class_weight"] = given
        return RegressionBase(name, asked.design, settings, asked.classes)

    def to_data(self) -> dict[str, Any]:
        return {"name": self.name, "settings": dict(self.settings)}

    def _spec(self, design: Design) -> glm.Spec:
        weight = self.settings.get("class_weight")
        return glm.Spec(
            design,
            REGRESSIONS[self.name],
            self.classes,
            self.settings["l2"],
            self.settings["l1"],
            tuple(weight) if isinstance(weight, list) else weight,
            solver=glm.Solver(warm_rows=0),
        )

    @property
    def _width(self) -> int:
        return len(self.design.terms) + int(self.design.intercept)

    def shapes(self, room: int) -> dict[str, tuple[int, ...]]:
        return {"coef": (self._width,)}

    def fit(self, rows: Partition, design: Design, room: int) -> dict[str, Floats]:
        found = fit(glm.glm(self._spec(design)), Domain(Inline(rows))).model[-1]
        return {"coef": predictor_of(found).coef[0]}

    def predictor(self, arrays: Arrays) -> Predictor:
        return GLMPredictor(self.design, REGRESSIONS[self.name], np.atleast_2d(arrays["coef"]))

    def exposure(self, rows: Partition, design: Design, arrays: Arrays | None) -> Exposure:
        """As of the sums from which these coefficients could be solved: the derivatives there."""
        if arrays is None:
            return unfitted(self._spec(design), rows)
        spec = self._spec(design)
        e, r = design.exponents, spec.response_exponent
        lead = np.zeros(int(design.intercept), dtype=np.int64)
        theta = np.ldexp(arrays["coef"], np.concatenate([lead, e]) - r)[None]
        values = spec.values(
            theta=theta,
            order=2,
            shift=np.zeros(len(design.terms)),
            class_weight=self._class_weight(rows, design),
            response_exponent=r,
        )
        plan = Plan("glm.derivatives", values)
        curved = spec.family != "gaussian" or bool(design.weight)
        own = {"hessian": np.asarray(DerivativesTask().local(plan, rows).leaves["hessian"])}
        return judged.exposure(plan, rows, own, judged.Asked(theta, 2, False, True, curved))

    def _class_weight(self, rows: Partition, design: Design) -> Floats:
        chosen = self.settings.get("class_weight")
        if chosen != "balanced":
            return np.asarray(chosen or [], dtype=np.float64)
        y = rows.columns[design.response].astype(np.int64)
        weight = rows.columns[design.weight] if design.weight else None
        by_class = np.bincount(y, weights=weight, minlength=2).astype(np.float64)
        return np.asarray(by_class.sum() / (2 * np.maximum(by_class, 1e-300)))


def unfitted(spec: glm.Spec, rows: Partition, coefficients: int = 0) -> Exposure:
    """As of the moments before a fit; `coefficients` where there are more than terms."""
    plan = Plan("glm.moments", spec.values(response_exponent=spec.response_exponent))
    own = {"counts": np.zeros(0), "n": np.array(rows.n_rows)}
    found = judged.exposure(plan, rows, own, judged.Asked(None, 2, False, False))
    return replace(found, coefficients=max(found.coefficients, coefficients))


@dataclass(frozen=True)
class LearnerBase:
    """Another kind of model: the arrays of its predictor's form leave."""

    name: str
    design: Design
    settings: Mapping[str, Any]
    classes: int
    holds_rows: bool = False

    def to_data(self) -> dict[str, Any]:
        return {"name": self.name, "settings": dict(self.settings)}

    @property
    def _kind(self) -> str:
        return kind_of(self.name).predicts_as or self.name

    @property
    def _form(self) -> Form:
        found = form_of(self._kind)
        if found is None:
            raise holds_rows(self.name)
        return found

    def _spec(self, design: Design) -> Any:
        data = {**self.settings, "design": design.to_data(), "rows": {}}
        return kind_of(self.name).from_data(data)

    def shapes(self, room: int) -> dict[str, tuple[int, ...]]:
        return dict(self._form.shapes(self._spec(self.design)))

    def fit(self, rows: Partition, design: Design, room: int) -> dict[str, Floats]:
        spec = self._spec(design)
        found = last(fit(spec.algorithm(), Domain(Inline(rows))).model).predictor()
        return dict(self._form.to_arrays(spec, found.to_data()))

    def _data(self, arrays: Arrays) -> dict[str, Any]:
        return self._form.from_arrays(self._spec(self.design), arrays)

    def predictor(self, arrays: Arrays) -> Predictor:
        return predictor_from(self._data(arrays))

    def exposure(self, rows: Partition, design: Design, arrays: Arrays | None) -> Exposure:
        """As of the moments, with as many coefficients, and whoever stands behind its parts."""
        family = "binomial" if self.classes else "gaussian"
        spec = glm.Spec(design, family, self.classes)
        form = self._form
        found = unfitted(spec, rows, form.coefficients(self._spec(design)))
        behind = {} if arrays is None else form.behind(self._data(arrays), rows)
        return replace(found, slots={**found.slots, **behind})


@dataclass(frozen=True)
class RowsBase:
    """Nearest neighbours or a kernel machine of scikit-learn: rows, for one trust domain only."""

    name: str
    design: Design
    settings: Mapping[str, Any]
    classes: int
    holds_rows: bool = True

    def to_data(self) -> dict[str, Any]:
        return {"name": self.name, "settings": dict(self.settings)}

    def shapes(self, room: int) -> dict[str, tuple[int, ...]]:
        return {"x": (room, len(self.design.terms)), "y": (room,), "w": (room,), "n": ()}

    def fit(self, rows: Partition, design: Design, room: int) -> dict[str, Floats]:
        x, y = design.matrix(rows.columns, rows.site), rows.columns[design.response]
        w = rows.columns[design.weight] if design.weight else np.ones(len(y))
        if len(np.unique(y[w > 0])) < 2:
            raise ValueError("one class")
        found = {name: np.zeros(shape) for name, shape in self.shapes(room).items()}
        for name, values in (("x", x), ("y", y), ("w", w)):
            found[name][: len(y)] = values
        return {**found, "n": np.asarray(float(len(y)))}

    def predictor(self, arrays: Arrays) -> Predictor:
        n = int(arrays["n"])
        rows = (np.asarray(arrays[name])[:n] for name in ("x", "y", "w"))
        return neighbours.RowsPredictor(self.design, self.name, self.settings, *rows)

    def exposure(self, rows: Partition, design: Design, arrays: Arrays | None) -> Exposure:
        raise holds_rows(self.name)


def check_arrays(base: Base, arrays: Any) -> None:
    """Raises ValueError for arrays that are no model of `base` over sites."""
    if base.holds_rows or not isinstance(arrays, Mapping):
        raise ValueError("no model that leaves a hospital")
    shapes = base.shapes(0)
    if set(arrays) != set(shapes):
        raise ValueError("another model")
    for name, shape in shapes.items():
        found = arrays[name]
        fits = isinstance(found, np.ndarray) and found.shape == shape and found.dtype.kind == "f"
        if not fits or not np.all(np.abs(found) <= LARGEST):
            raise ValueError("another model")
    base.predictor(arrays)
