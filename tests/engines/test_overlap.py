"""Rounds of sgd that overlap: workers with threads of their own, of which one is slow or lost."""

from __future__ import annotations

import warnings
from itertools import groupby

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import polyclinic as pc
from polyclinic.engines.clusters import Cluster
from polyclinic.engines.machines import Together
from tests.engines.near import BOOK, FORMULA, Apart, visits

PARTS, ROUNDS = 8, 40


@pytest.fixture
def machines(tmp_path):
    found = Apart(tmp_path, {"w0": 0.0005, "w1": 0.002})  # one is four times as slow
    yield found
    found.close()


def sample(n=4000):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 3))
    eta = x @ [1.0, -0.5, 0.2] - 0.3
    return x, (rng.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float)


X, Y = sample()


def fitted(engine, staleness=None, rounds=ROUNDS, batch=0.25, **more):
    options = {"batch": batch} if staleness is None else {"batch": batch, "staleness": staleness}
    model = pc.LogisticRegression(solver="sgd", max_rounds=rounds, solver_options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, Y, engine=engine, **more)


def numbers(model):
    return model.result_.coef.tobytes(), model.result_.covariance.tobytes(), model.result_.loss


def check(model, bound, rounds=ROUNDS):
    """Every row counts once in every round, and no gradient is older than the bound."""
    rows = [(number, list(each)) for number, each in groupby(model.events_, lambda one: one[0])]
    assert [number for number, _ in rows] == list(range(rows[0][0], rows[0][0] + rounds))
    for _, each in rows:
        edges = [edge for _, first, stop, _ in each for edge in (first, stop)]
        assert edges[0] == 0 and edges[-1] == len(Y) and edges[1:-1:2] == edges[2:-1:2]
    ages = {age for *_, age in model.events_}
    assert ages <= set(range(bound + 1))
    return ages


def test_without_staleness_the_bytes_are_those_of_waiting(machines):
    waiting = fitted(pc.Embedded(PARTS))
    model = fitted(Cluster(PARTS, machines=machines), 0)
    assert numbers(model) == numbers(waiting)
    assert check(model, 0) == {0}


@pytest.mark.parametrize("policy", ["least_load", "round_robin"])
def test_the_bound_holds_and_the_order_can_be_gone_through_again(machines, policy):
    machines.policy, machines.speculate = policy, False
    model = fitted(Cluster(PARTS, machines=machines), 2)
    ages = check(model, 2)
    assert 2 in ages or policy == "least_load"  # nobody helps: the fast one is at the bound
    assert max(ages) > 0 and (machines.activity.moved > 0) == (policy == "least_load")
    again = fitted(pc.Embedded(PARTS, arrivals=model.events_), 2)
    assert numbers(again) == numbers(model) and again.events_ == model.events_
    assert numbers(model) != numbers(fitted(pc.Embedded(PARTS)))


def test_the_loss_is_that_of_newton(machines):
    newton = pc.LogisticRegression().fit(X, Y)
    model = fitted(Cluster(PARTS, machines=machines), 4, rounds=200)
    check(model, 4, 200)
    assert 0 <= model.result_.loss - newton.result_.loss < 0.02  # of about 2100
    off = (model.result_.coef - newton.result_.coef).ravel()
    assert np.abs(off / np.sqrt(np.diag(newton.result_.covariance))).max() < 0.2


def test_the_slow_worker_computes_less(machines):
    fitted(Cluster(PARTS, machines=machines), 4)
    asked = [(who, len(one["parts"])) for who, one, _ in machines.answered if one["op"] == "sum"]
    slow = sum(parts for who, parts in asked if who == "w1")
    assert 0 < slow < 0.4 * sum(parts for _, parts in asked)


def test_a_worker_that_stands_still_is_not_waited_for(machines):
    def stop(done):
        if done.number == 10:
            machines.holders["w1"].each = 30.0

    model = fitted(Cluster(PARTS, machines=machines), 2, callbacks=[stop])
    check(model, 2)
    assert machines.activity.copied > 0
    # A copy that begins when the next rounds do is at the coefficients of what it copies.
    assert numbers(fitted(pc.Embedded(PARTS, arrivals=model.events_), 2)) == numbers(model)


def test_a_lost_worker_does_not_stop_it(machines):
    def lose(done):
        if done.number == 10:
            machines.lost.add("w1")

    model = fitted(Cluster(PARTS, machines=machines), 3, callbacks=[lose])
    check(model, 3)
    assert machines.activity.lost == 1
    assert numbers(fitted(pc.Embedded(PARTS, arrivals=model.events_), 3)) == numbers(model)


def test_a_stopped_run_goes_on(machines, tmp_path):
    def stop(done):
        if done.number == 20:
            raise KeyboardInterrupt

    store, engine = pc.Checkpoint(tmp_path / "fit.pcm"), Cluster(PARTS, machines=machines)
    with pytest.raises(pc.Stopped):
        fitted(engine, 2, store=store, callbacks=[stop])
    check(fitted(engine, 2, store=store), 2)


def test_workers_who_answer_all_at_once_do_as_well(machines, monkeypatch):
    def ask(messages):
        return {address: machines.one(address, message) for address, message in messages.items()}

    monkeypatch.setattr(machines, "talk", lambda: Together(ask))
    check(fitted(Cluster(PARTS, machines=machines), 2), 2)


def test_a_reader_is_told(machines):
    model = fitted(Cluster(PARTS, machines=machines), 2, rounds=20)
    assert any("who was faster" in text for text, _ in model.warnings_())
    waiting = fitted(Cluster(PARTS, machines=machines), 0, rounds=20)
    assert not any("who was faster" in text for text, _ in waiting.warnings_())


def test_what_cannot_be_is_said(machines):
    def refused(**more):
        with pytest.raises(pc.InputError) as caught:
            fitted(**more)
        assert caught.value.code == "WRONG_VALUE"
        return caught.value

    assert "pc.cluster" in refused(engine=pc.Embedded(), staleness=4).next
    for wrong in (-1, 1.5, True, "4"):
        refused(engine=pc.Embedded(), staleness=wrong)
    model = fitted(Cluster(PARTS, machines=machines), 2)
    refused(engine=pc.Embedded(PARTS, arrivals=model.events_[3:]), staleness=2)
    refused(engine=pc.Embedded(PARTS, arrivals={"a": 1.0}), staleness=2)
    refused(engine=pc.Embedded(PARTS, arrivals=model.events_), staleness=2, rounds=ROUNDS + 1)
    for name, more in (("newton", {}), ("gd", {}), ("sgd", {"compress": "int8"})):
        options = {"staleness": 2, **more}
        with pytest.raises(pc.InputError, match="WRONG_VALUE"):
            pc.LogisticRegression(solver=name, solver_options=options).fit(X, Y)


def test_over_hospitals_it_is_refused_before_anything_is_asked():
    sites = pc.read({"a": visits(300, 1), "b": visits(400, 2)}, BOOK)
    rounds = []
    model = pc.LogisticRegression(solver="sgd", solver_options={"staleness": 2})
    with pytest.raises(pc.InputError) as caught:
        model.fit(sites, FORMULA, callbacks=[rounds.append])
    assert caught.value.code == "WRONG_VALUE" and "FedBuff" in caught.value.next
    assert not rounds


def test_late_gradients_are_those_of_delayed_descent_by_hand():
    """Zhang et al. (2016), equation 6: theta <- theta - eta / age * gradient at older theta. Here
    in numpy, over all rows, half of them two rounds late and half of them in time."""
    x = (X - X.mean(axis=0)) / X.std(axis=0)
    full, half, rounds = np.column_stack([np.ones(len(x)), x]), len(x) // 2, 12
    thetas = [np.array([np.log(Y.mean() / (1 - Y.mean())), 0.0, 0.0, 0.0])]
    for k in range(rounds):
        late = min(2, k)
        gradient = np.zeros(4)
        for rows, theta in ((slice(half), thetas[k - late]), (slice(half, None), thetas[k])):
            risk = 1 / (1 + np.exp(-full[rows] @ theta))
            gradient += full[rows].T @ (risk - Y[rows])
        eta = 4 / len(x) / (1 + 0.05 * (k + 1)) / (1 + late / 2)
        thetas.append(thetas[k] - eta * gradient)
    expected = np.mean(thetas[1 + rounds // 2 :], axis=0)

    events = [(k + 2, 0, half, min(2, k)) for k in range(rounds)]
    events += [(k + 2, half, len(x), 0) for k in range(rounds)]
    options = {"batch": 1.0, "staleness": 2}
    model = pc.LogisticRegression(solver="sgd", max_rounds=rounds, solver_options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, Y, engine=pc.Embedded(PARTS, arrivals=events))
    np.testing.assert_allclose(model.result_.coef[0], expected, rtol=1e-9)
