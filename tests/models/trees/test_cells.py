"""What a hospital lets out of its trees, asked by someone who wants to know one patient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.learner import values
from polyclinic.models.trees import Feature
from polyclinic.models.trees.cells import CellsTask, RoutedRows, joint_of
from polyclinic.models.trees.level import roots
from polyclinic.models.trees.rows import State, same_rows, spec_of, state_of
from polyclinic.models.trees.stack import Stack
from polyclinic.privacy.policy import Policy
from tests.models.trees import world

LEAST = 5
FINE = {"names": ("a", "b", "d"), "bins": 200, "loss": "logistic", "classes": 2, "depth": 4}


def site(columns, policy=None, key=None):
    """One hospital behind its gate."""
    import polyclinic as pc

    part = Partition(columns, key=key, site="s")
    makers = {"s": lambda cohort: part}
    return pc.Embedded().federation(makers, {"s": policy or Policy()}, sums="clear")


def asked_for(spec, tree=None, nodes=(0,), base=None, task="trees.cells"):
    """A plan that someone sends: any tree, any node."""
    grow = tree or roots(spec, 1)[1]
    state = State(
        np.zeros(spec.lanes) if base is None else np.asarray(base, dtype=float),
        np.zeros(0),
        Stack.none(spec.width),
        grow,
        np.array([(0, node) for node in nodes]),
    )
    return Plan(task, values(spec, **state.to_data()))


def grouped(plan, part):
    """The rows of a hospital at a plan, and the cells of a node of its growing trees."""
    CellsTask().local(plan, part)
    state, joint = state_of(plan), joint_of(plan, part.cache)
    rows = same_rows(spec_of(plan), state, part, RoutedRows)
    return rows, lambda tree, node: joint.cells[state.trees.trees + tree, node]


def one_split(spec, feature, split):
    """A tree with one split."""
    pair = np.array([feature, 0, 0]), np.array([split, -1, -1]), np.zeros(3, np.int64)
    left = np.array([1, -1, -1])
    return Stack(np.array([0, 3]), *pair, np.ones(3, np.int64), left, np.zeros((3, spec.width)))


def patients_of(n):
    """Rows of patients who have up to three each."""
    rng = np.random.default_rng(2)
    return np.unique(np.sort(rng.integers(0, n // 2, n)), return_inverse=True)[1]


@pytest.mark.parametrize("several_rows", [False, True])
def test_no_number_has_fewer_patients_than_the_minimum(several_rows):
    columns = world.rows(400, gaps=0.05)
    spec = world.spec(columns, "event", **FINE, trees=4, rate=0.5, l2=1.0, cell=LEAST)
    key = patients_of(400) if several_rows else None
    seen = []
    engine = site(columns, key=key)
    asked = engine.total

    def watched(plan):
        total = asked(plan)
        if plan.task == "trees.cells":
            seen.append((plan, total))
        return total

    engine.total = watched
    found = fit(spec.algorithm(), engine).model
    assert found.trees.trees == 4 and np.any(found.trees.left >= 0) and len(seen) >= 12
    part = Partition(columns, key=key, site="s")
    for plan, total in seen:
        n = total["n"]
        assert np.all((n == 0) | (n >= LEAST))
        assert np.all((total["h"] == 0) == (n == 0))
        rows, cells_of = grouped(plan, part)
        for i, (tree, node) in enumerate(plan.values["state"]["asked"]):
            held = rows.nodes[tree].rows(int(node))
            for line in range(3):
                where = cells_of(tree, int(node)).where[line][rows.bins[held, line]]
                for b in np.unique(where):
                    behind = len(np.unique(rows.keys[held[where == b]]))
                    assert behind >= LEAST and n[i, line, b] == np.sum(where == b)
        assert all(np.ptp(n[i].sum(axis=1)) == 0 for i in range(len(n)))  # lines add up alike


def test_edges_that_isolate_a_patient_show_five():
    columns = world.rows(300)
    target = float(np.sort(columns["a"])[150])
    near = (
        np.nextafter(np.float32(target), np.float32(-9)),
        np.nextafter(np.float32(target), np.float32(9)),
    )
    spec = world.spec(columns, "event", **FINE, cell=LEAST)
    spec = replace(spec, features=(Feature("a", tuple(map(float, near))), *spec.features[1:]))
    n = site(columns).total(asked_for(spec))["n"][0, 0, :3]
    assert n[1] == 0 and n.sum() == 300
    with pytest.raises(Refused) as refused:
        site(columns).total(asked_for(replace(spec, cell=1)))
    assert refused.value.code == "CELL_TOO_SMALL"


def test_a_tree_that_isolates_a_patient_moves_whole_cells():
    columns = world.rows(300)
    spec = world.spec(columns, "event", **FINE, cell=LEAST)
    spec = replace(
        spec,
        features=(Feature("a", (float(np.float32(np.sort(columns["a"])[1])),)), *spec.features[1:]),
    )
    for split in (0, 1):
        total = site(columns).total(asked_for(spec, one_split(spec, 0, split), (1, 2)))
        assert sorted(total["n"][:, 1].sum(axis=1)) == [0, 300]
    with pytest.raises(Refused) as refused:
        site(columns).total(asked_for(replace(spec, cell=1), one_split(spec, 0, 0), (1,)))
    assert refused.value.code == "CELL_TOO_SMALL"


def test_margins_that_leave_one_patient_in_a_sum_are_refused():
    columns = world.rows(300)
    columns["number"] = np.zeros(300)
    columns["number"][17] = 50.0
    spec = world.spec(columns, "number", names=("a", "b"), bins=20, cell=LEAST)
    with pytest.raises(Refused) as refused:
        site(columns).total(asked_for(spec))
    assert refused.value.code == "CELL_TOO_SMALL"
    with pytest.raises(Refused) as refused:
        fit(spec.algorithm(), site(columns))
    assert refused.value.code == "EFFECTIVE_SIZE" and refused.value.step == "start of the trees"


def test_a_large_residual_is_joined_with_others():
    columns = world.rows(300)
    columns["number"][17] = 400.0
    spec = world.spec(columns, "number", names=("a", "b"), bins=40, depth=2, cell=LEAST)
    found = fit(spec.algorithm(), site(columns)).model  # the gate refuses a cell of one's own
    assert np.any(found.trees.left >= 0)


def test_a_chosen_start_never_leaves_one_residual_in_a_cell():
    columns = world.rows(300)
    columns["number"] = np.round(columns["number"])
    spec = world.spec(columns, "number", names=("a", "b"), bins=30, cell=LEAST)
    for start in np.unique(columns["number"]):
        part = Partition(columns, site="s")
        plan = asked_for(spec, base=[start])
        lines = grouped(plan, part)[1](0, 0).lines
        try:
            site(columns).total(plan)
        except Refused as error:
            assert error.code == "CELL_TOO_SMALL"
            continue
        top = lines.first[..., 0]
        assert np.all((top == 0) | (lines.total[..., 0] - top - lines.second[..., 0] >= 0.1 * top))


def released_sets(rows, cells_of, tree, nodes, line):
    """Rows behind every number of one column's lines, as 0/1 rows of a matrix."""
    sets = []
    for node in nodes:
        held = rows.nodes[tree].rows(node)
        where = cells_of(tree, node).where[line][rows.bins[held, line]]
        for b in np.unique(where):
            one = np.zeros(len(rows.y))
            one[held[where == b]] = 1.0
            sets.append(one)
    return np.array(sets)


def exposed(sets):
    """Patients, and pairs of them, whose sum or difference follows from the released sums."""
    basis = np.linalg.svd(sets, full_matrices=False)
    keep = basis[2][basis[1] > 1e-9 * basis[1][0]]
    outside = np.eye(sets.shape[1]) - keep.T @ keep
    length = np.diag(outside)
    plus = length[:, None] + length[None] + 2 * outside
    minus = length[:, None] + length[None] - 2 * outside
    pairs = (np.minimum(plus, minus) < 1e-9) & ~np.eye(len(length), dtype=bool)
    return int(np.sum(length < 1e-9)), int(pairs.sum() // 2)


@pytest.mark.parametrize("seed", range(6))
def test_parents_less_children_show_no_patient(seed):
    columns = world.rows(150, seed)
    spec = world.spec(columns, "event", **{**FINE, "bins": 40, "depth": 2}, cell=LEAST, leaf=10)
    part = Partition(columns, site="s")
    found = fit(spec.algorithm(), site(columns)).model
    tree = found.trees.tree(0)
    assert len(tree.left) >= 5
    leaves = np.flatnonzero(tree.left < 0).tolist()
    rows, cells_of = grouped(asked_for(spec, tree, leaves, found.base), part)
    nodes = range(len(tree.left))
    for line in range(3):
        sets = released_sets(rows, cells_of, 0, nodes, line)
        assert sets.sum(axis=1).min() >= LEAST
        assert exposed(sets) == (0, 0)


def test_samples_that_differ_by_a_few_patients_are_refused():
    columns = world.rows(300)
    spec = world.spec(columns, "event", **{**FINE, "depth": 1}, trees=4, cell=LEAST)
    halves = fit(replace(spec, rows_share=0.5).algorithm(), site(columns)).model
    assert halves.trees.trees == 4
    with pytest.raises(Refused) as refused:
        fit(replace(spec, rows_share=0.995).algorithm(), site(columns))
    assert refused.value.code == "COHORT_TOO_CLOSE"


@pytest.mark.parametrize("forest", [False, True])
def test_what_was_asked_before_changes_no_answer(forest):
    columns, seen = world.rows(200), []
    spec = world.spec(columns, "event", **{**FINE, "depth": 2}, trees=3, cell=LEAST, forest=forest)
    task, part = CellsTask(), Partition(columns, site="s")
    engine = site(columns)
    asked = engine.total
    engine.total = lambda plan: (seen.append(plan), asked(plan))[1]
    fit(spec.algorithm(), engine)
    plans = [plan for plan in seen if plan.task == "trees.cells"]
    tree = one_split(spec, 0, 90)
    plans += [asked_for(spec, tree, nodes=(1, 2), base=base) for base in ([0.0], [0.4])]
    order = np.random.default_rng(0).permutation(len(plans)).tolist()
    for plan in (plans[i] for i in [*order, *range(len(plans))]):
        fresh = task.local(plan, Partition(columns, site="s"))
        kept = task.local(plan, part)
        for name, sums in fresh.leaves.items():
            np.testing.assert_array_equal(kept.leaves[name], sums)
            np.testing.assert_array_equal(kept.evidence.cells[name], fresh.evidence.cells[name])
        shown = [task.exposure(plan, one, {}) for one in (Partition(columns, site="s"), part)]
        for name, shares in shown[0].cells.items():
            for part_of, numbers in vars(shares).items():
                np.testing.assert_array_equal(getattr(shown[1].cells[name], part_of), numbers)


def test_sums_without_shares_never_cross_a_border():
    columns = world.rows(300)
    spec = world.spec(columns, "event", **FINE, cell=LEAST)
    with pytest.raises(Refused) as refused:
        site(columns).total(asked_for(spec, task="trees.sums"))
    assert refused.value.code == "NOT_JUDGED"


def test_a_small_class_and_a_small_hospital_are_refused():
    columns = world.rows(300)
    spec = world.spec(columns, "event", **FINE, cell=LEAST)
    start = Plan("trees.start", values(spec))
    few = {**columns, "event": np.r_[np.ones(3), np.zeros(297)]}
    for rows, code in (
        (few, "LEVEL_TOO_SMALL"),
        ({k: v[:4] for k, v in columns.items()}, "TOO_FEW_PATIENTS"),
    ):
        with pytest.raises(Refused) as refused:
            site(rows).total(start)
        assert refused.value.code == code


def changed(plan, *path, to):
    inner = state = {**plan.values["state"]}
    for key in path[:-1]:
        inner[key] = {**inner[key]}
        inner = inner[key]
    inner[path[-1]] = to
    return replace(plan, values={**plan.values, "state": state}, _derived={})


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("base",), np.array([np.nan])),
        (("base",), np.zeros(2)),
        (("class_weight",), np.ones(5)),
        (("asked",), np.array([[0, 9]])),
        (("asked",), np.array([[0, 1], [0, 1]])),
        (("asked",), np.array([[0, 0]])),
        (("asked",), np.array([[0.0, 1.0]])),
        (("grow", "left"), np.array([0, -1, -1])),
        (("grow", "left"), np.array([2, -1, -1])),
        (("grow", "left"), np.array([-1, -1, -1])),
        (("grow", "feature"), np.array([3, 0, 0])),
        (("grow", "split"), np.array([10**6, -1, -1])),
        (("grow", "set"), np.array([1, 0, 0])),
        (("grow", "value"), np.full((3, 1), np.inf)),
        (("grow", "start"), np.array([0, 1, 3])),
        (("grow", "more"), 1),
        (("more",), 1),
    ],
)
def test_trees_that_no_study_grows_are_refused(path, to):
    columns = world.rows(300)
    spec = world.spec(columns, "event", **FINE, cell=LEAST)
    plan = asked_for(spec, one_split(spec, 0, 90), (1, 2))
    assert site(columns).total(plan)["n"].sum() == 900
    with pytest.raises(PolyclinicError) as refused:
        site(columns).total(changed(plan, *path, to=to))
    assert refused.value.code == "BAD_MESSAGE"
    assert spec_of(plan) == spec


def test_deeper_than_agreed_is_refused():
    columns = world.rows(300)
    spec = replace(world.spec(columns, "event", **FINE, cell=LEAST), depth=0)
    with pytest.raises(PolyclinicError, match="more levels"):
        site(columns).total(asked_for(spec, one_split(spec, 0, 90), (1, 2)))
