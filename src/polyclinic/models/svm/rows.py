"""The rows that a plan of a machine is about, and what it asks of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.glm import rows as plain_rows
from polyclinic.models.glm.family import FAMILIES
from polyclinic.models.glm.kernel import Rows
from polyclinic.models.learner import spec_in
from polyclinic.models.svm.kernel import Question
from polyclinic.models.svm.spec import SVMSpec

Floats = NDArray[np.float64]


def spec_of(plan: Plan) -> SVMSpec:
    """The spec of a plan, made once."""
    spec: SVMSpec = spec_in(plan, SVMSpec.from_data)
    return spec


def plain(plan: Plan) -> Plan:
    """The plan about the same rows of the generalised linear model with the same columns."""
    return plan.once("svm plain", lambda: _plain(plan))


def _plain(plan: Plan) -> Plan:
    spec, state = spec_of(plan).plain(), plan.values["state"]
    values = spec.values(response_exponent=spec.response_exponent, class_weight=np.zeros(0))
    values["rows"] = {**values["rows"], **state.get("sample", {})}
    if plan.task == "svm.moments" and "shift" in state:
        values["shift"] = state["shift"]
    return Plan("glm.moments", values)


def rows_of(plan: Plan, partition: Partition) -> tuple[Rows, int]:
    """Model matrix or features, outcome and weight, and the number of patients."""
    rows, patients = plain_rows.rows_of(plain(plan), partition)
    features, state = spec_of(plan).features, plan.values["state"]
    if features is None:
        return rows, patients

    def make() -> Floats:
        return features.map(rows.x, state["centre"], state["spread"])

    asked = (plan.values["spec"], state["centre"], state["spread"], state.get("sample"))
    name = plan.once("svm features", lambda: f"features {codec.digest(asked)}")
    x = partition.cached(name, make)
    return Rows(x, rows.y, rows.weight, None), patients


def exponents(plan: Plan) -> NDArray[np.int64]:
    """Power of two by which each coefficient is divided on its way, the intercept first."""
    return plan.once("svm exponents", lambda: _exponents(spec_of(plan)))


def _exponents(spec: SVMSpec) -> NDArray[np.int64]:
    lead = np.zeros(int(spec.design.intercept), dtype=np.int64)
    own = spec.design.exponents if spec.features is None else np.zeros(spec.features.components)
    return np.concatenate([lead, own.astype(np.int64)])


def shift_of(plan: Plan) -> Floats | None:
    """What is taken off each column first, in raw units; None: nothing."""
    return plan.once("svm shift", lambda: _shift(plan))


def _shift(plan: Plan) -> Floats | None:
    spec, shift = spec_of(plan), plan.values["state"]["shift"]
    if not np.any(shift):
        return None
    return np.asarray(np.ldexp(shift, exponents(plan)[int(spec.design.intercept) :]))


def question(plan: Plan) -> Question:
    """What is asked, made once. Raises BAD_MESSAGE where it does not fit the design."""
    return plan.once("svm question", lambda: _question(plan))


def _question(plan: Plan) -> Question:
    spec, state = spec_of(plan), plan.values["state"]
    theta, past = (np.asarray(state[name], dtype=np.float64) for name in ("theta", "past"))
    e = exponents(plan)
    if theta.ndim != 2 or theta.shape[1] != len(e) or past.shape != theta.shape:
        raise PolyclinicError("theta does not fit the design", code="BAD_MESSAGE")
    machine = np.asarray(state["machine"], dtype=np.int64)
    scale = spec.plain().response_exponent
    return Question(
        np.ldexp(theta, -e),
        machine,
        spec.squared,
        np.asarray(state["sharpness"], dtype=np.float64),
        np.ldexp(past, -e),
        np.asarray(state["past_sharpness"], dtype=np.float64),
        _weights(spec, machine, state["class_weight"]),
        spec.classes,
        float(np.ldexp(spec.epsilon, -scale)),
        spec.design.intercept,
    )


def _weights(spec: SVMSpec, machine: NDArray[np.int64], by_class: Any) -> Floats:
    """Of rows outside and inside each candidate's class, (m, 2).

    As in liblinear, of several classes only the one that a machine is about has a weight.
    """
    weight = np.ones((len(machine), 2))
    if len(by_class) and spec.classes:
        weight[:, 1] = np.asarray(by_class)[machine]
        if spec.classes == 2:
            weight[:, 0] = by_class[0]
    return weight


def curve(plan: Plan, partition: Partition) -> tuple[Floats, Floats, Floats, Floats]:
    """Decision value, and loss, slope and curvature of the probabilities' curve, (n_rows, m).

    The state holds "coef" of the machines, of each candidate "theta" its slope and intercept and
    "machine" its machine's place, and the probabilities that are aimed at.
    """
    spec, state = spec_of(plan), plan.values["state"]
    rows, _ = rows_of(plan, partition)
    shift, lead = shift_of(plan), int(spec.design.intercept)
    coef = np.ldexp(np.asarray(state["coef"]), -exponents(plan))
    place, theta = np.asarray(state["machine"]), np.asarray(state["theta"])

    def decide() -> Floats:
        x = rows.x if shift is None else rows.x - shift
        return np.asarray(x @ coef[:, lead:].T + (coef[:, 0] if lead else 0.0))

    asked = (plan.values["spec"], {**state, "theta": 0, "machine": 0})
    name = plan.once("svm decision", lambda: f"decision {codec.digest(asked)}")
    with np.errstate(over="ignore", invalid="ignore"):
        f = partition.cached(name, decide)[:, place]
        inside = rows.y[:, None] == np.asarray(spec.machines)[place]
        target = np.asarray(state["target"])[place]
        aim = np.where(inside, target[:, 1], target[:, 0])
        loss, first, second = FAMILIES["binomial"].derivatives(f * theta[:, 0] + theta[:, 1], aim)
    if rows.weight is not None:
        own = rows.weight[:, None]
        loss, first, second = loss * own, first * own, second * own
    return f, loss, first, second
