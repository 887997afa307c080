"""The ring of a secure sum follows from what is summed; nobody who asks can choose it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import Refused
from polyclinic.core.exposure import Exposure, Members, Unaided
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import register
from polyclinic.engines import secure as secure_engine
from polyclinic.engines.embedded import Embedded
from polyclinic.privacy import vector
from polyclinic.privacy.policy import open_policy


class Whole(Unaided):
    """Sums of a column in steps, or of the column itself."""

    name, version, grain = "toy.whole", 1, "row"

    def leaves(self, plan):
        ring = plan.values["ring"]
        return (Leaf("n", (), "count", "int64"), Leaf("x", (3,), "sum", ring))

    def local(self, plan, partition):
        x = partition.columns["x"]
        value = np.rint(x * 2**20).astype(np.int64) if plan.values["ring"] == "int64" else x
        value = value.sum() * np.array([1, -1, plan.values.get("times", 1)])
        return Contribution({"n": len(x), "x": value}, Evidence(partition.n_patients))

    def exposure(self, plan, partition, own):
        return Exposure(members=(Members(("x",), np.unique(partition.persons)),))


register([Whole()])


def federation(sums):
    def held(name, times):
        return lambda cohort: Partition({"x": np.arange(20.0) * times}, None, name)

    rows = {name: held(name, times) for times, name in enumerate("abcd", 1)}
    return Embedded().federation(rows, dict.fromkeys(rows, open_policy(5)), sums=sums)


def plan(ring="int64", **more):
    return Plan("toy.whole", {"ring": ring, **more})


def test_whole_numbers_are_summed_in_the_small_ring_with_the_same_bytes():
    clear, secure = (federation(sums).total(plan()) for sums in ("clear", "secure"))
    for name in ("n", "x"):
        assert clear[name].tobytes() == secure[name].tobytes()
    assert secure["x"].tolist() == [190 * 10 * 2**20 * sign for sign in (1, -1, 1)]
    assert set(secure.bytes.values()) == {8 * (4 + 3)}
    wide = federation("secure").total(plan("exact128"))
    assert set(wide.bytes.values()) == {16 * (4 + 3)}
    assert wide["x"].tolist() == [1900.0, -1900.0, 1900.0]


@pytest.mark.parametrize(("ring", "other"), [("int64", "exact128"), ("exact128", "fast64")])
def test_a_ring_that_the_coordinator_chooses_is_refused_and_nothing_is_released(
    ring, other, monkeypatch
):
    asked = federation("secure")
    lying = SimpleNamespace(length=vector.length, profile=lambda leaves: other)
    monkeypatch.setattr(secure_engine, "vector", lying)
    with pytest.raises(Refused) as error:
        asked.total(plan(ring))
    assert error.value.code == "SCHEMA_MISMATCH"
    assert all(not site.books.ledger.rows() for site in asked.transport.sites.values())


def test_a_total_that_could_wrap_around_is_refused():
    with pytest.raises(Refused) as error:
        federation("secure").total(plan(times=2**30))
    assert error.value.code == "RANGE"
