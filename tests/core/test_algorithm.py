from __future__ import annotations

import pytest

from polyclinic.core.algorithm import Stages
from polyclinic.core.checkpoint import Checkpoint
from polyclinic.core.codec import encode
from polyclinic.core.fit import fit
from tests.core.toy import Descend
from tests.core.wiring import cut, federation

PARTS = cut({"x": [float(v) for v in range(40)]}, (25, 15))
THREE = Stages(
    (
        lambda _: Descend(2),
        lambda results: Descend(
            0 if results[0]["mean"] > 100 else 1, rate=results[0]["mean"] / 100
        ),
        lambda results: Descend(len(results) + 1),
    )
)


def test_each_stage_sees_the_results_before_it():
    run = fit(THREE, federation(PARTS), seed=1)
    first = fit(Descend(2), federation(PARTS), seed=1).model
    second = fit(Descend(1, rate=first["mean"] / 100), federation(PARTS), seed=1).model
    assert run.model[:2] == [first, second]
    assert len(run.model) == 3
    assert len(run.rounds) == 2 + 1 + 3


@pytest.mark.parametrize("empty", [(), (0,), (0, 0), (0, 2), (2, 0), (2, 0, 0, 1)])
def test_stages_with_nothing_to_ask_are_passed_over(empty):
    stages = Stages(tuple(lambda _, n=n: Descend(n) for n in empty))
    run = fit(stages, federation(PARTS), seed=3)
    assert len(run.rounds) == sum(empty)
    assert run.model == [fit(Descend(n), federation(PARTS), seed=3).model for n in empty]


def test_stages_nest():
    nested = Stages((lambda _: THREE, lambda results: Descend(len(results[0]))))
    run = fit(nested, federation(PARTS), seed=1)
    assert run.model[0] == fit(THREE, federation(PARTS), seed=1).model
    assert len(run.rounds) == 6 + 3


def test_interrupted_stages_resume_to_the_same_bytes(tmp_path):
    undisturbed = fit(THREE, federation(PARTS), seed=1)
    store = Checkpoint(tmp_path / "state")

    class Killed(Exception):
        pass

    def kill(_):
        raise Killed

    for _ in undisturbed.rounds:
        with pytest.raises(Killed):
            fit(THREE, federation(PARTS), seed=1, store=store, callbacks=[kill])
    resumed = fit(THREE, federation(PARTS), seed=1, store=store)
    assert encode(resumed.state) == encode(undisturbed.state)
    assert resumed.model == undisturbed.model


def test_a_plan_is_pure():
    state = THREE.init(1)
    before = encode(state)
    assert THREE.plan(state).to_bytes() == THREE.plan(state).to_bytes()
    assert encode(state) == before


def test_progress_is_the_current_stages_own():
    state = THREE.init(1)
    assert THREE.progress(state)["at"] == 1.0
    assert Stages(()).progress(Stages(()).init(0)) == {}
    run = fit(THREE, federation(PARTS), seed=1)
    assert run.rounds[-1].figures == THREE.progress(run.state) != {}  # of the last one's end
