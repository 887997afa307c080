from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polyclinic
from polyclinic.core.contribution import Contribution, Evidence, Release, Sum, open_total
from polyclinic.core.errors import Refused
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.core.ring import RingError
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.policy import Policy

SOURCE = Path(polyclinic.__file__).parent
PLAN = Plan("toy.sum", {}, "descent")
HIDE = Leaf("cells", (4,), "histogram", "int64", support="cells", small="hide")
REFUSE = Leaf("cells", (4,), "cross-table", "int64", support="cells", small="refuse")
TOTAL = Leaf("sum", (2,))


def release(leaf, counts, patients, policy=None, plan=PLAN, values=None):
    if leaf.support == "cells":
        values = np.asarray(counts) * 10 if values is None else values
        evidence = Evidence(patients, {leaf.name: np.asarray(counts, dtype=np.int64)})
    else:
        values, evidence = np.array([1.5, -2.5]), Evidence(patients)
    summed = Sum.of([leaf], Contribution({leaf.name: values}, evidence))
    return Gate("va", policy or Policy()).release(plan, [leaf], summed)


def opened(leaf, out: Release):
    return open_total([leaf], out.words)[leaf.name].tolist()


def refused(code, *args, **more):
    with pytest.raises(Refused) as caught:
        release(*args, **more)
    assert (caught.value.code, caught.value.site, caught.value.step) == (code, "va", "descent")


@pytest.mark.parametrize("k", [2, 5, 10])
def test_patients_behind_a_total(k):
    policy = Policy(min_patients=k)
    for few in (1, k - 1):
        refused("TOO_FEW_PATIENTS", TOTAL, None, few, policy)
    for enough in (0, k, k + 1):
        assert opened(TOTAL, release(TOTAL, None, enough, policy)) == [1.5, -2.5]


@pytest.mark.parametrize("k", [2, 5, 10])
@pytest.mark.parametrize("at", range(4))
def test_patients_behind_a_cell_that_must_not_be_small(k, at):
    policy, cells = Policy(min_patients=k), [3 * k, 0, 4 * k, k]
    assert opened(REFUSE, release(REFUSE, cells, 100, policy)) == [10 * n for n in cells]
    for few in {1, k - 1}:
        cells[at] = few
        refused("CELL_TOO_SMALL", REFUSE, cells, 100, policy)


@pytest.mark.parametrize("k", [2, 5, 10])
def test_patients_behind_a_cell_that_may_be_hidden(k):
    policy, cells = Policy(min_patients=k), [k - 1, k, 0, 1]
    out = release(HIDE, cells, 100, policy)
    assert out.hidden["cells"].tolist() == [1, 0, 0, 1]
    assert opened(HIDE, out) == [0, 10 * k, 0, 0]


def test_a_hidden_float_is_zero_too():
    leaf = Leaf("sums", (2, 2), support="cells", small="hide")
    values = np.array([[1.5, np.pi], [-7.0, 2.0]])
    out = release(leaf, [[4, 5], [0, 1]], 50, values=values)
    assert opened(leaf, out) == [[0.0, np.pi], [-7.0, 0.0]]
    assert out.hidden["sums"].tolist() == [1, 0, 0, 1]


@given(st.lists(st.integers(0, 12), min_size=4, max_size=4), st.integers(1, 8))
def test_what_leaves_is_what_the_rule_says(cells, k):
    out = release(HIDE, cells, max(sum(cells), k), Policy(min_patients=k))
    shown = [10 * n if n == 0 or n >= k else 0 for n in cells]
    assert opened(HIDE, out) == shown
    assert out.hidden["cells"].tolist() == [int(0 < n < k) for n in cells]


def test_hiding_does_not_change_the_sites_own_sum():
    summed = Sum.of(
        [HIDE], Contribution({"cells": np.arange(4)}, Evidence(20, {"cells": np.arange(4)}))
    )
    Gate("va").release(PLAN, [HIDE], summed)
    assert summed.words["cells"].tolist() == [0, 1, 2, 3]


def test_cells_without_evidence_do_not_leave():
    for cells in ({}, {"cells": np.full(3, 9)}, {"other": np.full(4, 9)}):
        summed = Sum.of([HIDE], Contribution({"cells": np.full(4, 9)}, Evidence(36, cells)))
        with pytest.raises(Refused) as caught:
            Gate("va").release(PLAN, [HIDE], summed)
        assert caught.value.code == "SCHEMA_MISMATCH"


def test_only_the_declared_arrays_leave():
    summed = Sum.of([TOTAL], Contribution({"sum": np.ones(2)}, Evidence(9)))
    wrong = ([], [TOTAL, Leaf("more")], [Leaf("sum", (3,))], [Leaf("sum", (2,), ring="int64")])
    for leaves in wrong:
        with pytest.raises(Refused) as caught:
            Gate("va").release(PLAN, leaves, summed)
        assert caught.value.code == "SCHEMA_MISMATCH"


def test_collecting_needs_the_name_of_the_task():
    collect = Plan("toy.sum", {}, "descent", combine="collect")
    for allowed in (("*",), ("toy.sum",), ("a", "toy.sum")):
        assert release(TOTAL, None, 9, Policy(collect=allowed), collect)
    for allowed in ((), ("toy.other",), ("toy",)):
        refused("COLLECT_NOT_ALLOWED", TOTAL, None, 9, Policy(collect=allowed), collect)
        assert release(TOTAL, None, 9, Policy(collect=allowed))


def test_a_release_belongs_to_its_round_and_site():
    one, two = (release(TOTAL, None, 9, plan=PLAN.at(n, "")) for n in (1, 2))
    assert one.site == "va"
    assert one.plan == PLAN.at(1, "").round_hash != two.plan


@pytest.mark.parametrize(
    ("value", "code"), [(np.nan, "NONFINITE"), (np.inf, "NONFINITE"), (2.0**56, "RANGE")]
)
def test_no_number_outside_the_ring_reaches_the_gate(value, code):
    with pytest.raises(RingError) as caught:
        Sum.of([TOTAL], Contribution({"sum": np.array([1.0, value])}, Evidence(9)))
    assert caught.value.code == code


GATELESS = {"core/asking.py", "models/neural/virtual.py"}  # nothing; sites of one trust domain
WORKERS = {
    "engines/workers.py",
    "engines/held.py",
    "engines/spread.py",
    "engines/wire.py",  # adds what workers of one domain hold
    "engines/overlap.py",  # adds what workers of one domain have sent, as spread.py does
}


def makers(name):
    """Files that construct `name`, as a call of the class or of one of its static makers."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            plain = isinstance(called, ast.Name) and called.id == name
            dotted = isinstance(called, ast.Attribute) and (
                called.attr == name
                or (isinstance(called.value, ast.Name) and called.value.id == name)
            )
            if plain or dotted:
                found.add(path.relative_to(SOURCE).as_posix())
    return found


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("Release", {"privacy/gate.py"}),
        ("Sum", {"core/contribution.py", "core/federation.py", *WORKERS}),
        ("Total", {"core/contribution.py", "core/federation.py", *GATELESS}),
        ("open_total", {"core/federation.py"}),
    ],
)
def test_each_place_of_an_arrays_life_has_one_maker(name, places):
    assert makers(name) == places
