"""A network as one algorithm: moments of the table's columns, then rounds of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.core.algorithm import Algorithm, Stages, State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.glm.moments import MomentsAlgorithm
from polyclinic.models.glm.spec import Moments
from polyclinic.models.learner import values
from polyclinic.models.neural import server
from polyclinic.models.neural.fixed import number
from polyclinic.models.neural.inputs import Scaling
from polyclinic.models.neural.network import Network
from polyclinic.models.neural.result import NeuralFit
from polyclinic.models.neural.spec import NeuralSpec


def neural(spec: NeuralSpec) -> Stages:
    """The algorithm that fits `spec`; its last result is a `NeuralFit`."""

    def moments(results: Sequence[Any]) -> Algorithm:
        return _Moments(spec)

    def rounds(results: Sequence[Any]) -> Algorithm:
        return Training(spec, results[0])

    return Stages((moments, rounds))


@dataclass(frozen=True)
class _Moments:
    """Counts and moments, asked for in a network's own name."""

    spec: NeuralSpec

    @property
    def _plain(self) -> MomentsAlgorithm:
        return MomentsAlgorithm(self.spec.plain())

    def init(self, seed: int) -> State:
        return self._plain.init(seed)

    def plan(self, state: State) -> Plan | None:
        plan = self._plain.plan(state)
        if plan is None:
            return None
        more = {name: plan.values[name] for name in ("shift",) if name in plan.values}
        return Plan("neural.moments", values(self.spec, **more), plan.step)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return self._plain.update(state, plan, total)

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> Moments:
        return self._plain.model(state)


@dataclass(frozen=True)
class Training:
    """Rounds of training; the state holds the common network and the coordinator's memory."""

    spec: NeuralSpec
    moments: Moments

    @property
    def scaling(self) -> Scaling:
        """What is done to the table's columns."""
        return scaling_of(self.spec, self.moments)

    def init(self, seed: int) -> State:
        network = Network(self.spec)
        weights = network.weights()
        return {
            "round": 0,
            "weights": weights,
            "beside": network.beside(),
            "memory": server.start(self.spec.strategy, len(weights)),
            "after": "",
            "history": [],
            "best": {},
            "end": "",
        }

    def plan(self, state: State) -> Plan | None:
        if state["end"]:
            return None
        given = self.moments.class_weight
        asked = values(
            self.spec,
            round=state["round"],
            weights=state["weights"],
            beside=state["beside"],
            lr=self.spec.strategy.lr_at(state["round"]),
            class_weight=np.zeros(0) if given is None else np.asarray(given),
            scaling=self.scaling.to_data(),
            after=state["after"],
        )
        return Plan("neural.train", asked, "round of training")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        weight = max(float(number(total["weight"])), 1e-12)
        change, beside = (number(total[name]) / weight for name in ("change", "beside"))
        strategy, done = self.spec.strategy, state["round"] + 1
        if strategy.gradients:  # sites answer with a step of size 1
            change = change * strategy.lr_at(state["round"])
        weights, memory = server.step(strategy, state["memory"], state["weights"], change)
        watched, rows = number(total["watched"])
        line = {"loss": float(number(total["loss"])) / weight}
        best = state["best"]
        if rows > 0:  # the loss of the weights that were sent, not of the next ones
            line["validation_loss"] = float(watched / rows)
            if not best or line["validation_loss"] < best["loss"]:
                best = {
                    "loss": line["validation_loss"],
                    "round": state["round"],
                    "weights": state["weights"],
                    "beside": state["beside"],
                }
        patience = strategy.stop_after
        waited = patience and best and state["round"] - best["round"] >= patience
        end = "stopped_early" if waited else "rounds" if done >= strategy.rounds else ""
        return {
            "round": done,
            "weights": weights,
            "beside": (state["beside"].astype(np.float64) + beside).astype(np.float32),
            "memory": memory,
            "after": plan.bare_hash,
            "history": [*state["history"], line],
            "best": best,
            "end": end,
        }

    def progress(self, state: State) -> Mapping[str, float]:
        return dict(state["history"][-1]) if state["history"] else {}

    def model(self, state: State) -> NeuralFit:
        chosen = state
        if self.spec.strategy.stop_after and state["best"]:
            chosen = state["best"]
        return NeuralFit(
            self.spec,
            self.moments.n,
            self.moments.patients,
            self.scaling,
            chosen["weights"],
            chosen["beside"],
            tuple(state["history"]),
            state["end"],
        )


def scaling_of(spec: NeuralSpec, moments: Moments) -> Scaling:
    """By the pooled mean and standard deviation, by the declared range, or not at all."""
    e, width = spec.design.exponents, spec.table
    if spec.scale == "pooled":
        spread = np.ldexp(np.where(moments.sd > 0, moments.sd, 1.0), e)
        return Scaling(np.ldexp(moments.mean, e), spread)
    if spec.scale == "range":
        return Scaling(np.zeros(width), np.array([term.bound for term in spec.design.terms]))
    return Scaling(np.zeros(width), np.ones(width))
