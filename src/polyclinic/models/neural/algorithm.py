"""A network as one algorithm: moments of the table's columns, then rounds of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import Algorithm, Stages, State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.glm.spec import Moments
from polyclinic.models.learner import Fixed, values
from polyclinic.models.neural import server
from polyclinic.models.neural.arrivals import Arrivals
from polyclinic.models.neural.buffered import Buffered
from polyclinic.models.neural.fixed import number
from polyclinic.models.neural.inputs import Scaling
from polyclinic.models.neural.network import Network
from polyclinic.models.neural.private import check_private, noise_for
from polyclinic.models.neural.result import NeuralFit
from polyclinic.models.neural.scaling import scaling_by
from polyclinic.models.neural.smaller import asks_whole, places_after, received
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.tasks import WORK
from polyclinic.models.neural.turns import turns
from polyclinic.models.own_moments import OwnMoments
from polyclinic.privacy.noisy import KEY


def neural(spec: NeuralSpec, arrivals: Arrivals | None = None) -> Stages:
    """The algorithm that fits `spec`; its last result is a `NeuralFit`.

    arrivals  in which order sites answer that are not waited for; None: as they come
    """

    def moments(results: Sequence[Any]) -> Algorithm:
        return _Count(spec) if spec.privacy else OwnMoments(spec, "neural.moments")

    def rounds(results: Sequence[Any]) -> Algorithm:
        if spec.strategy.buffered:
            if spec.privacy:
                patients, each = results[0]
                return Buffered(spec, None, patients, each, arrivals)
            return Buffered(spec, results[0], arrivals=arrivals)
        if spec.privacy:
            return PrivateTraining(spec, *results[0])
        return Training(spec, results[0])

    return Stages((moments, rounds))


@dataclass(frozen=True)
class _Count:
    """A noisy count of patients: over all hospitals, and the mean of one, 1 at least."""

    spec: NeuralSpec

    def init(self, seed: int) -> State:
        return {"patients": None}

    def plan(self, state: State) -> Plan | None:
        if state["patients"] is not None:
            return None
        asked = {**values(self.spec), KEY: noise_for(self.spec, counts=True)}
        return Plan("neural.count", asked, "noisy count of patients")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return {"patients": total.number("patients"), "sites": max(len(total.sites), 1)}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> tuple[float, float]:
        return state["patients"], max(state["patients"] / state["sites"], 1.0)


@dataclass(frozen=True)
class PrivateTraining:
    """Rounds under differential privacy: the hospitals' noisy changes, one as much as the other.

    patients  noisy number of all; `each`: of a hospital on average
    """

    spec: NeuralSpec
    patients: float
    each: float

    def init(self, seed: int) -> State:
        check_private(self.spec)
        network = Network(self.spec)
        weights, beside = network.weights(), network.beside()
        return {"round": 0, "weights": weights, "beside": beside, "after": ""}

    def plan(self, state: State) -> Plan | None:
        if state["round"] >= self.spec.strategy.rounds:
            return None
        asked = values(
            self.spec,
            round=state["round"],
            weights=state["weights"],
            beside=state["beside"],
            lr=self.spec.strategy.lr_at(state["round"]),
            class_weight=np.asarray(self.spec.class_weight or ()),
            scaling=scaling_by(self.spec, None).to_data(),
            after=state["after"],
            extra={"patients": np.asarray(self.each)},
        )
        asked[KEY] = noise_for(self.spec, counts=False)
        return Plan("neural.train", asked, "round of training with noise")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        mean = number(total["change"]) / max(len(total.sites), 1)
        weights, _ = server.step(
            self.spec.strategy, state["round"], {}, state["weights"], mean.astype(np.float64)
        )
        done = {"round": state["round"] + 1, "weights": weights, "after": plan.bare_hash}
        return {**state, **done}

    def progress(self, state: State) -> Mapping[str, float]:
        if not state["round"]:
            return {}
        return {"round": state["round"], "rounds": self.spec.strategy.rounds}

    def model(self, state: State) -> NeuralFit:
        n = max(round(self.patients), 0)
        history: tuple[Mapping[str, float], ...] = ({},) * state["round"]
        scaling = scaling_by(self.spec, None)
        weights, beside = state["weights"], state["beside"]
        return NeuralFit(self.spec, n, n, scaling, weights, beside, history, "rounds")


@dataclass(frozen=True)
class Training:
    """Rounds of training; the state holds the common network and the coordinator's memory."""

    spec: NeuralSpec
    moments: Moments

    @property
    def scaling(self) -> Scaling:
        """What is done to the table's columns."""
        return scaling_by(self.spec, self.moments)

    @cached_property
    def _fixed(self) -> Fixed:
        return Fixed(self.spec)

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
            "tuned": "",
            "places": np.zeros(0, dtype=np.int64),
        }

    def plan(self, state: State) -> Plan | None:
        if state["end"]:
            if not self.spec.strategy.fine_tune or state["tuned"]:
                return None
            state = {**self._chosen(state), "memory": state["memory"]}
            return self._asked(state, self.spec.strategy.rounds, "training on at each hospital")
        return self._asked(state, state["round"], "round of training")

    def _asked(self, state: State, round: int, step: str) -> Plan:
        """The plan of a round over the network of `state`."""
        given, strategy = self.moments.class_weight, self.spec.strategy
        extra: dict[str, Any] = server.extra(strategy, state["memory"])
        if not asks_whole(strategy, round):
            extra["places"] = state["places"]
        asked = self._fixed.plan_values(
            round=round,
            weights=state["weights"],
            beside=state["beside"],
            lr=strategy.lr_at(round),
            class_weight=np.zeros(0) if given is None else np.asarray(given),
            scaling=self.scaling.to_data(),
            after=state["after"],
            **({"extra": extra} if extra else {}),
        )
        return Plan("neural.train", asked, step)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        if state["end"]:
            return {**state, "tuned": plan.bare_hash}
        weight = max(float(number(total["weight"])), 1e-12)
        strategy, done = self.spec.strategy, state["round"] + 1
        part = None if asks_whole(strategy, state["round"]) else state["places"]
        change = received(total["change"], len(state["weights"]), part) / weight
        beside = number(total["beside"]) / weight
        if "work" in total.values:  # of FedNova: the mean step, as many as a site takes on average
            change = change * (float(number(total["work"])) * WORK / weight)
        control: NDArray[np.float64] | None = None
        if "control" in total.values:
            control = number(total["control"]) / max(float(number(total["everyone"])), 1e-12)
        weights, memory = server.step(
            strategy, state["round"], state["memory"], state["weights"], change, control
        )
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
                    "after": state["after"],
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
            "tuned": "",
            "places": places_after(strategy, change) if part is None else part,
        }

    def progress(self, state: State) -> Mapping[str, float]:
        if not state["history"] or state["tuned"]:
            return {}
        spec, round = self.spec, state["round"]
        found = {**state["history"][-1], "round": round, "rounds": spec.strategy.rounds}
        if not spec.sites:
            return found
        many = turns(spec, round - 1)
        return {**found, "sites": len(spec.sites) if many is None else many}

    def model(self, state: State) -> NeuralFit:
        chosen, strategy = self._chosen(state), self.spec.strategy
        kept = chosen["after"] if strategy.personal else ""
        return NeuralFit(
            self.spec,
            self.moments.n,
            self.moments.patients,
            self.scaling,
            chosen["weights"],
            chosen["beside"],
            tuple(state["history"]),
            state["end"],
            state["tuned"] or kept,
        )

    def _chosen(self, state: State) -> State:
        """The round whose network is the result."""
        watched = self.spec.strategy.stop_after and state["best"]
        found: State = state["best"] if watched else state
        return found
