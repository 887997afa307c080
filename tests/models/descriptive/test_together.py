from __future__ import annotations

import pytest

from polyclinic.core.checkpoint import Checkpoint
from polyclinic.core.codec import decode, encode
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.fit import fit
from polyclinic.core.plan import Plan
from polyclinic.core.task import register
from polyclinic.models.descriptive import EachSite, Levels, Moments, Quantiles, Together
from polyclinic.models.descriptive.moments import MomentsTask
from polyclinic.privacy.policy import Policy
from tests.core import toy  # noqa: F401  (installs toy.sum)
from tests.core.wiring import cut, domain, federation, partition
from tests.models.descriptive.patients import AGE, DOSE, SEX, SIZES, columns

PARTS = {"moments": Moments((AGE, DOSE)), "quantiles": Quantiles((AGE,)), "levels": Levels((SEX,))}


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_the_parts_give_what_they_give_alone(partitions):
    for engine in (
        federation(cut(columns(), SIZES), partitions=partitions),
        domain(partition(columns()), partitions),
    ):
        together = fit(Together(PARTS), engine)
        alone = {name: fit(part, engine) for name, part in PARTS.items()}
        assert together.model == {name: run.model for name, run in alone.items()}
        assert len(together.rounds) == max(len(run.rounds) for run in alone.values())


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_each_site_gives_what_the_site_gives_alone(part):
    parts = cut(columns(), SIZES)
    found = fit(EachSite(part), federation(parts, partitions=3)).model
    assert list(found) == list(parts)
    for name, one in parts.items():
        assert found[name] == fit(part, federation({name: one}, partitions=3)).model


def test_sites_that_finish_early_wait_for_the_others():
    data = columns()
    data["age"][: SIZES[0]] = 50.0  # one round settles site a
    parts = cut(data, SIZES)
    run = fit(EachSite(Quantiles((AGE,))), federation(parts))
    alone = {name: fit(Quantiles((AGE,)), federation({name: one})) for name, one in parts.items()}
    assert run.model == {name: one.model for name, one in alone.items()}
    lengths = [len(one.rounds) for one in alone.values()]
    assert min(lengths) < max(lengths) == len(run.rounds)


def test_a_site_with_nothing_left_to_say_answers_zeros():
    parts = cut(columns(), (100, 100))
    first = EachSite(Moments((AGE,))).plan(EachSite(Moments((AGE,))).init(0))
    plan = Plan(
        first.task,
        {**first.values, "sites": {"a": first.values["sites"][""], "b": None}},
        combine="collect",
    )
    total = federation(parts).total(plan)
    assert total.by_site["a"]["n"] > 0
    assert all(not array.any() for array in total.by_site["b"].values.values())
    assert all(not flags.any() for flags in total.by_site["b"].hidden.values())


def test_in_one_domain_there_is_one_site_without_a_name():
    part = partition(columns(), site="a")
    found = fit(EachSite(Moments((AGE,))), domain(part, 3)).model
    assert found == {"": fit(Moments((AGE,)), domain(part, 3)).model}


def test_nested_and_collected():
    each = {name: EachSite(part) for name, part in PARTS.items()}
    parts = cut(columns(), SIZES)
    found = fit(Together(each, combine="collect"), federation(parts)).model
    assert found == {name: fit(part, federation(parts)).model for name, part in each.items()}


def test_the_gate_sees_the_parts_evidence():
    parts = cut(columns(), (3, 200))
    with pytest.raises(Refused) as caught:
        fit(Together(PARTS), federation(parts))
    assert caught.value.code == "TOO_FEW_PATIENTS"


def test_resumed_after_every_round_the_same_bytes(tmp_path):
    algorithm = Together(
        {"each": EachSite(Quantiles((AGE, DOSE))), "m": EachSite(Moments((AGE,)))},
        combine="collect",
    )
    engine = federation(cut(columns(), SIZES))
    undisturbed = fit(algorithm, engine)
    store = Checkpoint(tmp_path / "state")

    class Stop(Exception):
        pass

    def stop(_):
        raise Stop

    for _ in undisturbed.rounds:
        with pytest.raises(Stop):
            fit(algorithm, engine, store=store, callbacks=[stop])
    resumed = fit(algorithm, engine, store=store)
    assert encode(resumed.state) == encode(undisturbed.state)
    assert resumed.model == undisturbed.model


def test_the_permission_to_collect_tables_is_no_permission_for_other_tasks():
    whole = MomentsTask("descriptive.whole_site", grain="site")
    register([whole])
    engine = federation(cut(columns(), SIZES), Policy(collect=("descriptive.together",)))
    for task in ("toy.sum", "descriptive.whole_site"):
        ask = {"task": task, "version": 1, "values": {"centre": 0.0, "rate": 1.0}}
        plan = Plan("descriptive.together", {"parts": {"p": ask}}, combine="collect")
        with pytest.raises(PolyclinicError) as caught:
            engine.total(plan)
        assert caught.value.code == "UNKNOWN_TASK"
        message = plan.to_bytes()  # the coordinator's check is not the site's
        assert decode(engine.transport.sites["a"].answer(message)) == {"code": "UNKNOWN_TASK"}
