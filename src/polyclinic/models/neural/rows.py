"""The rows that a plan of a network is about, and what it asks of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.sampling import uniform
from polyclinic.models.learner import FORM, NOISY_FORM, spec_in
from polyclinic.models.neural.inputs import Inputs, Scaling, inputs_of
from polyclinic.models.neural.network import sizes
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.train import Question
from polyclinic.privacy import noisy

Ints = NDArray[np.int64]
WATCHED = 1  # place of the validation patients' draw beside all other draws of a seed


def spec_of(plan: Plan) -> NeuralSpec:
    """The spec of a plan, made once."""
    form = NOISY_FORM if noisy.KEY in plan.values else FORM
    spec: NeuralSpec = spec_in(plan, NeuralSpec.from_data, form)
    return spec


def plain(plan: Plan) -> Plan:
    """The plan about the same rows of the generalised linear model with the same columns."""
    return plan.once("neural plain", lambda: _plain(plan))


def _plain(plan: Plan) -> Plan:
    spec = spec_of(plan).plain()
    values = spec.values(response_exponent=spec.response_exponent, class_weight=np.zeros(0))
    if "shift" in plan.values["state"]:
        values["shift"] = plan.values["state"]["shift"]
    return Plan("glm.moments", values)


def numbers(plan: Plan, partition: Partition) -> Partition:
    """The rows as moments are taken of them: a mask is no number, so 0 stands in its place."""
    spec = spec_of(plan)
    if not spec.output:
        return partition
    nothing = {spec.design.response: np.zeros(partition.n_rows)}

    def make() -> Partition:
        return replace(partition, columns={**partition.columns, **nothing}, cache={})

    found: Partition = partition.cached("neural without masks", make)
    return found


def scaling_of(plan: Plan) -> Scaling:
    """What is done to the table's columns first."""
    given = plan.values["state"]["scaling"]
    return Scaling(np.asarray(given["centre"]), np.asarray(given["spread"]))


def question(plan: Plan) -> Question:
    """What is asked, made once. Raises BAD_MESSAGE where it does not fit the network."""
    return plan.once("neural question", lambda: _question(plan))


def _question(plan: Plan) -> Question:
    state = plan.values["state"]
    weights, beside = (np.asarray(state[name]) for name in ("weights", "beside"))
    if ((len(weights),), (len(beside),)) != tuple((n,) for n in sizes(spec_of(plan))):
        raise PolyclinicError("the weights do not fit the network", code="BAD_MESSAGE")
    return Question(
        weights,
        beside,
        int(state["round"]),
        float(state["lr"]),
        np.asarray(state["class_weight"]),
        {name: np.asarray(value) for name, value in state.get("extra", {}).items()},
    )


def inputs(plan: Plan, partition: Partition) -> Inputs:
    """The rows of a partition as the network reads them, built once per study."""
    spec, scaling = spec_of(plan), scaling_of(plan)
    fixed = {"design": spec.design.to_data(), "scaling": scaling.to_data()}
    name = plan.once("neural inputs", lambda: f"inputs {codec.digest(fixed)}")
    found: Inputs = partition.cached(name, lambda: inputs_of(spec, scaling, partition))
    return replace(found, device=partition.device)


def split(plan: Plan, partition: Partition) -> tuple[Ints, Ints]:
    """Rows that are trained on, and rows whose loss is watched; by patient."""
    return divided(spec_of(plan), partition.keys, partition.site)


def divided(spec: NeuralSpec, keys: Ints, site: str) -> tuple[Ints, Ints]:
    """The same of rows of these patients of a site."""
    inside = np.ones(len(keys), dtype=bool)
    if "folds" in spec.rows:
        inside = keys % spec.rows["folds"] != spec.rows["without"]
    watched = inside & (uniform(keys, spec.seed, WATCHED, site) < spec.validation)
    return np.flatnonzero(inside & ~watched), np.flatnonzero(watched)


def used(plan: Plan, partition: Partition) -> NDArray[np.bool_]:
    """Rows that anything of an answer is about."""
    trained, watched = split(plan, partition)
    found = np.zeros(partition.n_rows, dtype=bool)
    found[trained] = found[watched] = True
    return found
