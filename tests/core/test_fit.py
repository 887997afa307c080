from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core.checkpoint import Checkpoint
from polyclinic.core.codec import encode
from polyclinic.core.errors import Stopped
from polyclinic.core.fit import fit
from tests.core.toy import Descend
from tests.core.wiring import cut, domain, federation, partition

X = np.random.default_rng(1).normal(2.0, 1.0, 90)


def sites():
    return federation(cut({"x": X}, (40, 30, 20)))


class Memory:
    """A store that keeps every state that it was given."""

    def __init__(self):
        self.saved = []

    def load(self):
        return self.saved[-1] if self.saved else None

    def save(self, value):
        self.saved.append(value)


def test_it_descends_to_the_mean():
    run = fit(Descend(60), sites())
    assert run.model["mean"] == pytest.approx(X.mean(), rel=1e-8)
    negative = [int(np.sum(x < 0)) for x in (X[:40], X[40:70], X[70:])]
    shown = sum(n for n in negative if n >= 5)  # a small cell is hidden
    assert run.model["signs"] == [shown, int(np.sum(X >= 0))]


def test_the_history_tells_what_left():
    run = fit(Descend(2), sites())
    first = run.rounds[0]
    assert [r.number for r in run.rounds] == [1, 2]
    assert (first.step, first.task, len(first.plan)) == ("descent", "toy.sum", 64)
    assert [(leaf["leaf"], leaf["bytes"]) for leaf in first.left] == [
        ("n", 8),
        ("sum", 16),
        ("signs", 32),  # two counts, and for each whether it is hidden
    ]
    assert first.left[0]["sites"] == ["a", "b", "c"]
    assert run.rounds[0].plan != run.rounds[1].plan


def test_figures_that_are_not_finite_are_left_out_of_the_history():
    class Endless(Descend):
        def progress(self, state):
            return {"at": state["at"], "left": float("inf")}

    assert all(set(r.figures) == {"at"} for r in fit(Endless(2), sites()).rounds)


@pytest.mark.parametrize("after", range(7))
def test_resumed_after_any_round_the_same_bytes(tmp_path, after):
    undisturbed = fit(Descend(), sites(), seed=5)
    store = Checkpoint(tmp_path / "state")

    class Killed(Exception):
        pass

    def kill(done):
        if done.number == after:
            raise Killed

    if after:
        with pytest.raises(Killed):
            fit(Descend(), sites(), seed=5, store=store, callbacks=[kill])
    resumed = (
        fit(Descend(), sites(), seed=99, store=store)
        if after
        else fit(Descend(), sites(), seed=5, store=store)
    )
    assert encode(resumed.state) == encode(undisturbed.state)
    assert [r.plan for r in resumed.rounds] == [r.plan for r in undisturbed.rounds]
    assert [r.left for r in resumed.rounds] == [r.left for r in undisturbed.rounds]
    again = fit(Descend(), sites(), store=store)
    assert encode(again.state) == encode(undisturbed.state)


def test_the_state_is_saved_before_callbacks_hear_of_it():
    store, seen = Memory(), []
    fit(
        Descend(3),
        sites(),
        store=store,
        callbacks=[lambda done: seen.append((done.number, len(store.saved)))],
    )
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_ctrl_c_in_a_callback_leaves_a_resumable_run(tmp_path):
    def press(done):
        if done.number == 2:
            raise KeyboardInterrupt

    store = Checkpoint(tmp_path / "state")
    with pytest.raises(Stopped) as caught:
        fit(Descend(), sites(), store=store, callbacks=[press])
    assert (caught.value.code, caught.value.kept) == ("INTERRUPTED", "rounds 1 to 2")
    assert caught.value.exit_code == 4
    assert encode(fit(Descend(), sites(), store=store).state) == encode(
        fit(Descend(), sites()).state
    )


@pytest.mark.parametrize("engine", [sites, lambda: domain(partition({"x": X}), 3)])
def test_ctrl_c_while_a_site_computes_leaves_the_rounds_before(tmp_path, engine):
    class Pressed(Descend):
        def plan(self, state):
            name = "toy.interrupt" if state["step"] == 2 else "toy.sum"
            return Descend(self.rounds, self.rate, name).plan(state)

    store = Checkpoint(tmp_path / "state")
    with pytest.raises(Stopped) as caught:
        fit(Pressed(), engine(), store=store)
    assert caught.value.kept == "rounds 1 to 2"
    assert encode(fit(Descend(), engine(), store=store).state) == encode(
        fit(Descend(), engine()).state
    )


def test_ctrl_c_without_a_store_says_that_nothing_is_kept():
    def press(_):
        raise KeyboardInterrupt

    with pytest.raises(Stopped) as caught:
        fit(Descend(), sites(), callbacks=[press])
    assert caught.value.kept == "nothing"


def test_a_full_disk_stops_the_run_and_it_resumes(tmp_path, monkeypatch):
    import os

    store, real, calls = Checkpoint(tmp_path / "state"), os.fsync, []

    def full_at_the_third(file):
        calls.append(file)
        if len(calls) == 5:  # two calls per save: the file, the folder
            raise OSError(28, "No space left on device")
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_at_the_third)
        with pytest.raises(Stopped) as caught:
            fit(Descend(), sites(), store=store)
    assert caught.value.code == "CANNOT_WRITE"
    assert len(store.load()["rounds"]) == 2
    assert encode(fit(Descend(), sites(), store=store).state) == encode(
        fit(Descend(), sites()).state
    )


def test_an_algorithm_with_nothing_to_ask_makes_no_round():
    run = fit(Descend(0), sites(), seed=4)
    assert run.rounds == ()
    assert run.model["mean"] == 4.0
