"""FedBuff: the paper's steps in numpy, FedAvg as its limit, real threads, losses and gates."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.checkpoint import Checkpoint
from polyclinic.core.errors import DataWarning, InputError, Refused, Stopped
from polyclinic.core.fit import fit
from polyclinic.core.plan import Plan
from polyclinic.models.neural.buffered import Buffered
from polyclinic.models.neural.kinds import check_train
from polyclinic.study.formula import from_formula
from tests.models.neural.reference import Server, descend

FORMULA = "ill ~ u + v + w"
SEEN = pc.Policy(updates_alone=True, patients_per_coefficient=1)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    draw = np.random.default_rng(5)
    found = pd.DataFrame(draw.normal(size=(160, 3)).round(3), columns=["u", "v", "w"])
    found["ill"] = (found.u - found.v + draw.logistic(size=160) > 0).astype(int)
    found["hospital"] = np.repeat(["a", "b", "c", "d"], [30, 35, 45, 50])
    return found


def model(strategy: Any, **more: Any) -> Any:
    return pc.NeuralNetwork("linear", strategy=strategy, scale="none", random_state=2, **more)


def over_sites(frame: pd.DataFrame, strategy: Any, policy: Any = SEEN, **more: Any) -> Any:
    sites = pc.split(frame, by="hospital", policy=policy)
    return model(strategy).fit(sites, FORMULA, **more)


def as_array(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return frame[["u", "v", "w"]].to_numpy(), frame.ill.to_numpy()


def fedbuff(strategy: Any, sites: dict, order: list[str], w: np.ndarray, seed: int) -> np.ndarray:
    """Algorithm 1 of the paper over answers in a given order, in numpy."""
    rule = "fedavg" if strategy.server == "average" else f"fed{strategy.server}"
    weights, server = {0: w}, Server(replace(strategy, name=rule), w)
    asked, buffer, version = dict.fromkeys(sites, 0), [], 0
    for name in order:
        began = asked.pop(name)
        after, _ = descend(weights[began], sites[name], strategy, began, seed, np.zeros_like)
        rows = len(sites[name][1]) if strategy.weigh == "rows" else 1
        scale = 1 / (1 + version - began) ** strategy.staleness
        buffer.append((scale * rows * (after - weights[began]), rows))
        if len(buffer) == strategy.buffer:
            change = sum(d for d, _ in buffer) / sum(n for _, n in buffer)
            server.step(version, change)
            version, buffer = version + 1, []
            weights[version] = server.w
            for free in sites:
                asked.setdefault(free, version)
    return server.w


def events(order: list[str], buffer: int) -> list[tuple[str, int, str]]:
    """The order with the version that each site has."""
    asked, found, waiting, version = dict.fromkeys("abc", 0), [], 0, 0
    for name in order:
        found.append((name, asked.pop(name), ""))
        waiting += 1
        if waiting == buffer:
            version, waiting = version + 1, 0
            for free in "abc":
                asked.setdefault(free, version)
    return found


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"weigh": "sites"},
        {"staleness": 0.0, "local_steps": 3},
        {"staleness": 1.0, "server_lr": 0.5},
        {"server": "adam", "server_lr": 0.1},
        {"server": "yogi", "server_lr": 0.1, "lr_schedule": "cosine"},
    ],
    ids=str,
)
def test_it_is_the_paper_in_numpy(rows, more):
    order = ["a", "b", "a", "c", "b", "a", "b", "a", "c", "b", "a", "b"]
    strategy = pc.FedBuff(6, 2, lr=0.3, batch_size=8, **more)
    found = rows.fit(strategy, engine=pc.Embedded(arrivals=events(order, 2)))
    assert [site for site, _, _ in found.events_] == order
    assert max(found.history_.staleness) >= 1  # c is stale
    begin = Buffered(found.spec_, None).init(3)["weights"].astype(float)
    sites = dict(zip("abc", rows.sites, strict=True))
    wanted = fedbuff(strategy, sites, order, begin, 3)
    tolerance = 1e-5 if more.get("server") else 1e-6
    assert np.allclose(found.result_.weights, wanted, atol=tolerance, rtol=0)
    assert np.abs(wanted - begin).max() > 0.05


@pytest.mark.parametrize("compress", ["", "int8"])
def test_a_buffer_of_all_sites_is_fedavg(rows, compress):
    options = {"lr": 0.2, "batch_size": 8, "momentum": 0.5, "compress": compress}
    wanted, found = rows.fit(pc.FedAvg(5, **options)), rows.fit(pc.FedBuff(5, 3, **options))
    assert found.result_.weights.tobytes() == wanted.result_.weights.tobytes()
    assert found.history_.loss.tolist() == wanted.history_.loss.tolist()
    assert not found.history_.staleness.any()


def test_a_slow_site_costs_less_time_than_waiting_for_it(frame):
    x, y = as_array(frame)
    clock = pc.Embedded(arrivals={"a": 1.0, "b": 1.0, "c": 1.0, "d": 10.0})
    labels = frame.hospital.to_numpy()
    local = {"lr": 0.3, "local_steps": 3}
    rounds = model(pc.FedAvg(8, **local)).fit(x, y, sites=labels, engine=clock)
    assert rounds.history_.time.tolist() == [30.0 * i for i in range(1, 9)]
    buffered = model(pc.FedBuff(36, 3, **local)).fit(x, y, sites=labels, engine=clock)

    def loss(fitted: Any) -> float:
        p = fitted.predict_proba(x)[:, 1]
        return float(-np.mean(np.log(np.where(y == 1, p, 1 - p))))

    assert loss(buffered) <= loss(rounds) + 1e-3
    assert buffered.history_.time.iloc[-1] < 0.5 * rounds.history_.time.iloc[-1]
    assert "d" in {site for site, _, _ in buffered.events_}  # it takes part, at its own pace
    times = buffered.history_.time
    assert times.is_monotonic_increasing


def test_a_clock_may_change_with_the_version(frame):
    x, y = as_array(frame)
    clock = pc.Embedded(arrivals=lambda site, version: 9.0 if (site, version) == ("a", 0) else 1.0)
    strategy = pc.FedBuff(3, 3, local_steps=1)
    found = model(strategy).fit(x, y, sites=frame.hospital.to_numpy(), engine=clock)
    assert [e[0] for e in found.events_[:3]] == ["b", "c", "d"]
    assert found.history_.time.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "arrivals", [{"a": 1.0}, {"a": 0.0}, 7, [("a", 0)], [("a", 3, "")], {"a": np.inf}], ids=str
)
def test_a_wrong_order_is_an_error(rows, arrivals):
    with pytest.raises(InputError) as found:
        rows.fit(pc.FedBuff(2, 2), engine=pc.Embedded(arrivals=arrivals))
    assert found.value.code == "WRONG_VALUE"


def test_over_hospitals_it_is_replayed_to_the_same_bytes(frame):
    found = over_sites(frame, pc.FedBuff(4, 2, lr=0.3, compress="float16"))
    again = over_sites(
        frame,
        pc.FedBuff(4, 2, lr=0.3, compress="float16"),
        engine=pc.Embedded(arrivals=found.events_),
    )
    assert again.events_ == found.events_
    assert again.result_.weights.tobytes() == found.result_.weights.tobytes()
    x, y = as_array(frame)
    domain = model(pc.FedBuff(4, 2, lr=0.3, compress="float16")).fit(
        x, y, sites=frame.hospital.to_numpy(), engine=pc.Embedded(arrivals=found.events_)
    )
    assert domain.result_.weights.tobytes() == found.result_.weights.tobytes()


class Killed(Exception):
    """Something stopped the run."""


def test_a_run_goes_on_from_its_checkpoint(frame, tmp_path):
    sites = pc.split(frame, by="hospital", policy=SEEN)
    strategy, store = pc.FedBuff(4, 2, lr=0.3), Checkpoint(tmp_path / "run")

    def stop(done):
        if done.number == 6:
            raise Killed

    with pytest.raises(Killed):
        model(strategy).fit(sites, FORMULA, store=store, callbacks=[stop])
    before = store.load()["state"]["inner"]["events"]
    found = model(strategy).fit(sites, FORMULA, store=store)
    assert [list(event) for event in found.events_[:5]] == before
    assert [done.number for done in found.rounds_] == list(range(1, 10))
    again = over_sites(frame, strategy, engine=pc.Embedded(arrivals=found.events_))
    assert again.result_.weights.tobytes() == found.result_.weights.tobytes()


class Line:
    """A line on which some sites are slow, or lost for some of their questions."""

    def __init__(self, inner: Any, slow: str = "", lost: Any = lambda site, n: False) -> None:
        self.inner, self.slow, self.lost = inner, slow, lost
        self.free, self.asked = threading.Event(), dict.fromkeys("abcd", 0)
        self.session, self.busy, self.both = inner.session, "", 0

    def ask(self, messages):
        self.both += self.busy in messages
        return self.inner.ask(messages)

    def apart(self, messages):
        (site,) = messages
        self.asked[site] += 1
        if self.lost(site, self.asked[site]):
            raise Stopped("gone", code="SITE_LOST", rule="", site=site)
        if site == self.slow:
            self.busy = site
            if not self.free.wait(30):
                raise TimeoutError
            self.busy = ""
        return self.inner.ask(messages)


def on_a_line(frame: pd.DataFrame, strategy: Any, line: Any, **more: Any) -> Any:
    sites, engine = pc.split(frame, by="hospital", policy=SEEN), pc.Embedded()
    data = from_formula(sites, FORMULA, engine)
    data.federation.transport = line = line(data.federation.transport)
    return model(strategy)._fit_data(data, engine, **more), line


def test_a_site_that_blocks_keeps_nobody_waiting(frame):
    found, line = on_a_line(frame, pc.FedBuff(5, 3, lr=0.3), lambda inner: Line(inner, "d"))
    assert not line.free.is_set() and len(found.events_) == 15
    assert {site for site, _, _ in found.events_} == set("abc")
    threading.Timer(0.2, line.free.set).start()
    found.evaluate(validate="none")  # a question to all waits for it
    assert line.both == 0 and not line.busy


def test_a_lost_site_is_named_and_left_out(frame):
    def gone(inner):
        return Line(inner, lost=lambda site, n: site == "d")

    with pytest.warns(DataWarning, match="d did not answer"):
        found, _ = on_a_line(frame, pc.FedBuff(3, 4, lr=0.3), gone)
    assert found.result_.rounds == 3
    assert next(code for site, _, code in found.events_ if site == "d") == "SITE_LOST"
    arrivals = found.tables()["arrivals"]
    assert set(arrivals.site[arrivals.lost == "SITE_LOST"]) == {"d"}
    with pytest.warns(DataWarning):
        again = over_sites(
            frame, pc.FedBuff(3, 4, lr=0.3), engine=pc.Embedded(arrivals=found.events_)
        )
    assert again.result_.weights.tobytes() == found.result_.weights.tobytes()


def test_a_site_that_is_back_takes_part_again(frame):
    def away(inner):
        return Line(inner, lost=lambda site, n: site == "d" and n == 1)

    with pytest.warns(DataWarning, match="d did not answer"):
        found, _ = on_a_line(frame, pc.FedBuff(6, 4, lr=0.3), away)
    mine = [(version, code) for site, version, code in found.events_ if site == "d"]
    assert mine[0] == (0, "SITE_LOST") and mine[1] == (1, "")


def test_it_stops_where_all_are_lost(frame):
    with pytest.raises(Stopped) as found:
        on_a_line(frame, pc.FedBuff(3, 2), lambda inner: Line(inner, lost=lambda site, n: n > 1))
    assert found.value.code == "SITE_LOST"


def test_no_update_is_seen_alone_without_the_hospitals_policy(frame):
    with pytest.raises(Refused) as found:
        over_sites(frame, pc.FedBuff(2, 2), policy=pc.Policy())
    assert found.value.code == "UPDATE_ALONE" and "FedAvg" in found.value.next
    with pytest.raises(InputError) as wrong:
        over_sites(frame, pc.FedBuff(2, 2), privacy=pc.SecureSum())
    assert wrong.value.code == "NOT_SECURE"


@pytest.mark.parametrize("unit", ["patient", "hospital"])
def test_with_noise_each_release_is_paid_for_by_itself(frame, unit):
    noise = {"unit": unit, "clip": 0.5, "rate": 1.0}
    sites = pc.split(frame, by="hospital", policy=pc.Policy())
    private = pc.NeuralNetwork("linear", strategy=pc.FedBuff(2, 2), scale="range", noise=noise)
    found = private.fit(sites, FORMULA, privacy=pc.DifferentialPrivacy(4.0, 1e-5))
    given = [site for site, _, _ in found.events_]
    assert len(given) == 4 and "loss" not in found.history_
    found._data.federation._outstanding.wait("abcd")
    for site, spent in paid(found).items():  # one count, and an update for each answer
        assert spent - 1 - given.count(site) in (0, 1)  # one may have been under way at the end


def paid(found: Any) -> dict[str, int]:
    """Noisy releases in each ledger."""
    books = {name: one.books for name, one in found._data.federation.transport.sites.items()}
    return {name: len(one.ledger.spent(one.budget or one.dataset)) for name, one in books.items()}


HOSTILE = {
    "a version that is not": {"round": 4},
    "another step size": {"lr": 5.0},
    "an earlier round of the first": {"after": "f" * 64},
    "something beside the weights": {"extra": {"control": np.zeros(4)}},
    "huge weights": {"weights": np.full(4, 1e30)},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_plans_are_refused(rows, name):
    found = rows.fit(pc.FedBuff(4, 2))
    algorithm = Buffered(found.spec_, fit(found.spec_.algorithm(), rows.domain()).model[0])
    plan = algorithm.plan(algorithm.init(2))
    check_train(found.spec_, plan)
    late = Plan(plan.task, {**plan.values, "state": {**plan.values["state"], "round": 3}})
    check_train(found.spec_, late)  # a site that was lost until now
    state = {**plan.values["state"], **HOSTILE[name]}
    with pytest.raises((ValueError, TypeError)):
        check_train(found.spec_, Plan(plan.task, {**plan.values, "state": state}))


@pytest.mark.parametrize(
    "wrong", [{"buffer": 0}, {"staleness": -1.0}, {"weigh": "x"}, {"clients": 0.5}], ids=str
)
def test_wrong_options(wrong):
    with pytest.raises(InputError) as found:
        pc.FedBuff(**wrong)
    assert found.value.code in ("WRONG_VALUE", "UNKNOWN_OPTION")


def test_a_hospital_alone_trains_as_with_fedavg(rows):
    spec = rows.fit(pc.FedBuff(2, 2, momentum=0.5)).spec_
    assert (spec.alone().strategy.name, spec.alone().strategy.momentum) == ("fedavg", 0.5)
    assert spec.alone().sites == ()
