"""Asynchronous training with a buffer: no site waits for another (FedBuff).

A site that is free trains the newest weights w_v and sends its change d. With t versions since it
began, its change counts s(t) = (1 + t)**-staleness. After K changes, of whichever sites,

    w_(v+1) = server step from w_v along  sum_i n_i s(t_i) d_i / sum_i n_i

where n_i are a site's rows, or 1 (`weigh = "sites"`, as in the paper). With K of all sites, which
then wait for each other, it is FedAvg. Who trains what is kept by `desk`, the order of the answers
stands in the state, and in it the run can be gone through again.

Each answer is one site's own: see `tasks` for what leaves. A sum of whichever sites come first
would have another membership each time, and two such sums could show one site's part; so there is
none, and a gate lets a change out by itself or not at all.

Reference: Nguyen et al. (2022), "Federated learning with buffered asynchronous aggregation".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.core.algorithm import State
from polyclinic.core.asking import FirstOf
from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.contribution import Total
from polyclinic.core.errors import Stopped
from polyclinic.core.plan import Plan
from polyclinic.models.glm.spec import Moments
from polyclinic.models.learner import values
from polyclinic.models.neural import server
from polyclinic.models.neural.arrivals import Arrivals, Event
from polyclinic.models.neural.desk import Desk, Step
from polyclinic.models.neural.fixed import number
from polyclinic.models.neural.network import Network
from polyclinic.models.neural.private import check_private, noise_for
from polyclinic.models.neural.result import NeuralFit
from polyclinic.models.neural.scaling import scaling_by
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.privacy.noisy import KEY


@dataclass(frozen=True)
class Buffered:
    """Training in which each site answers by itself.

    moments         of the columns; None: under differential privacy
    patients, each  noisy number of all, and of a hospital on average, under differential privacy
    arrivals        in which order answers come; None: as they do
    """

    spec: NeuralSpec
    moments: Moments | None
    patients: float = 0.0
    each: float = 0.0
    arrivals: Arrivals | None = None

    def init(self, seed: int) -> State:
        if self.spec.privacy:
            check_private(self.spec)
        network = Network(self.spec)
        weights, beside = network.weights(), network.beside()
        desk = Desk(self.spec.sites or ("",))
        state = {
            "desk": desk.to_data(),
            "weights": weights,
            "beside": beside,
            "memory": server.start(self.spec.strategy, len(weights)),
            "starts": {},
            "after": {},
            "buffer": _nothing(len(weights), len(beside)),
            "events": [],
            "history": [],
            "now": 0.0,
            "due": self._due(desk.asked, 0.0),
        }
        return self._losses(state)

    def plan(self, state: State) -> Plan | None:
        several = self.several(state)
        return next(iter(several.plans.values())) if several else None

    def several(self, state: State) -> FirstOf | None:
        """What the sites that train are asked; where the order is known, the next one only."""
        desk = Desk.from_data(state["desk"])
        if desk.version >= self.spec.strategy.rounds:
            return None
        event = self._next(state, desk)
        sites = tuple(desk.asked) if event is None else (event[0],)
        return FirstOf({site: self._asked(state, desk, site) for site in sites})

    def update(self, state: State, plan: Plan, total: Total) -> State:
        (site,) = plan.to
        desk = Desk.from_data(state["desk"])
        version, strategy = desk.asked[site], self.spec.strategy
        events = [*state["events"], [site, version, total.lost]]
        now = state["due"].get(site, 0.0)
        state = {**state, "events": events, "now": now}
        if not total.lost:
            taken = self._taken(total, 1.0 + desk.version - version)
            buffer = {**state["buffer"], **{n: state["buffer"][n] + taken[n] for n in taken}}
            after = {**state["after"], site: plan.bare_hash}
            state = {**state, "buffer": buffer, "after": after}
        step = desk.lost if total.lost else desk.answered
        return self._losses(self._followed(state, *step(site, strategy.buffer, strategy.rounds)))

    def progress(self, state: State) -> Mapping[str, float]:
        return dict(state["history"][-1]) if state["history"] else {}

    def model(self, state: State) -> NeuralFit:
        found = self.moments
        n = max(round(self.patients), 0) if found is None else found.n
        return NeuralFit(
            self.spec,
            n,
            n if found is None else found.patients,
            scaling_by(self.spec, found),
            state["weights"],
            state["beside"],
            tuple(state["history"]),
            "rounds",
            events=tuple((site, version, code) for site, version, code in state["events"]),
        )

    def _asked(self, state: State, desk: Desk, site: str) -> Plan:
        version = desk.asked[site]
        start = state if version == desk.version else state["starts"][str(version)]
        given = self.moments.class_weight if self.moments else self.spec.class_weight
        private = {"extra": {"patients": np.asarray(self.each)}} if self.spec.privacy else {}
        asked = values(
            self.spec,
            round=version,
            weights=start["weights"],
            beside=start["beside"],
            lr=self.spec.strategy.lr_at(version),
            class_weight=np.zeros(0) if given is None else np.asarray(given),
            scaling=scaling_by(self.spec, self.moments).to_data(),
            after=state["after"].get(site, ""),
            **private,
        )
        if private:
            asked[KEY] = noise_for(self.spec, counts=False)
        step = "training at a hospital's own pace"
        return Plan("neural.train", asked, step, to=(site,), round=version + 1, parent=site)

    def _taken(self, total: Total, age: float) -> dict[str, Any]:
        """What an answer adds to the buffer."""
        strategy, private = self.spec.strategy, bool(self.spec.privacy)
        stale, change = age**-strategy.staleness, number(total["change"])
        if private:
            return {"change": stale * change, "count": 1.0, "staleness": age - 1.0, "answers": 1}
        weight = float(number(total["weight"]))
        alike = strategy.weigh == "sites"
        factor = stale / max(weight, 1e-12) if alike else stale
        return {
            "change": factor * change,
            "beside": factor * number(total["beside"]),
            "count": 1.0 if alike else weight,
            "rows": weight,
            "loss": float(number(total["loss"])),
            "watched": number(total["watched"]),
            "staleness": age - 1.0,
            "answers": 1,
        }

    def _followed(self, state: State, desk: Desk, steps: list[Step]) -> State:
        """The state after the steps that follow from an answer or a loss."""
        before = Desk.from_data(state["desk"])
        if ("stop", "") in steps:
            raise _all_lost(desk.away)
        if any(name == "version" for name, _ in steps):
            state = self._next_version(state, before)
        asked = {site: desk.version for name, site in steps if name == "train"}
        due = {site: state["due"][site] for site in desk.asked if site in state["due"]}
        starts = {name: one for name, one in state["starts"].items() if int(name) in _trained(desk)}
        due |= self._due(asked, state["now"])
        return {**state, "desk": desk.to_data(), "starts": starts, "due": due}

    def _next_version(self, state: State, desk: Desk) -> State:
        """Common weights from a full buffer; those before are kept for whoever trains them."""
        buffer = state["buffer"]
        count = max(buffer["count"], 1e-12)
        weights, memory = server.step(
            self.spec.strategy,
            desk.version,
            state["memory"],
            state["weights"],
            buffer["change"] / count,
        )
        line: dict[str, float] = {}
        if not self.spec.privacy:
            line = {"loss": buffer["loss"] / max(buffer["rows"], 1e-12)}
            watched, rows = buffer["watched"]
            line |= {"validation_loss": float(watched / rows)} if rows > 0 else {}
        line["staleness"] = buffer["staleness"] / buffer["answers"]
        line |= {"time": state["now"]} if state["due"] else {}
        start = {"weights": state["weights"], "beside": state["beside"]}
        beside = state["beside"].astype(np.float64) + buffer["beside"] / count
        return {
            **state,
            "weights": weights,
            "beside": beside.astype(np.float32),
            "memory": memory,
            "starts": {**state["starts"], str(desk.version): start},
            "buffer": _nothing(len(weights), len(beside)),
            "history": [*state["history"], line],
        }

    def _losses(self, state: State) -> State:
        """The state after losses that come next in a known order."""
        strategy = self.spec.strategy
        while (desk := Desk.from_data(state["desk"])).version < strategy.rounds:
            event = self._next(state, desk)
            if event is None or not event[2]:
                break
            state = {**state, "events": [*state["events"], list(event)]}
            step = desk.lost(event[0], strategy.buffer, strategy.rounds)
            state = self._followed(state, *step)
        return state

    def _next(self, state: State, desk: Desk) -> Event | None:
        if self.arrivals is None:
            return None
        past = [(site, version, code) for site, version, code in state["events"]]
        return self.arrivals.next(past, desk.asked, state["due"])

    def _due(self, asked: Mapping[str, int], now: float) -> dict[str, float]:
        """When sites will be ready, where a clock says so."""
        if self.arrivals is None:
            return {}
        each = {site: self.arrivals.seconds(site, version) for site, version in asked.items()}
        return {site: now + seconds for site, seconds in each.items() if seconds is not None}


def _trained(desk: Desk) -> set[int]:
    """Versions before the newest that somebody trains."""
    return set(desk.asked.values()) - {desk.version}


def _nothing(weights: int, beside: int) -> dict[str, Any]:
    """An empty buffer."""
    numbers = dict.fromkeys(("count", "rows", "loss", "staleness"), 0.0)
    arrays = {"change": weights, "beside": beside, "watched": 2}
    return {**numbers, "answers": 0, **{name: np.zeros(size) for name, size in arrays.items()}}


def _all_lost(sites: tuple[str, ...]) -> Stopped:
    return Stopped(
        f"{', '.join(sites)}: no hospital is left that answers",
        code="SITE_LOST",
        site=", ".join(sites),
        rule=RULES["SITE_LOST"],
        next=NEXT.get("SITE_LOST", ""),
        kept="everything up to the last answer",
    )
