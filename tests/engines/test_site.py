"""A site's door: what it remembers, what it may read, and what its policy forbids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polyclinic.core import codec
from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.federation import HEADS, MAY, Federation
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import register
from polyclinic.engines.books import Books
from polyclinic.engines.site import Pinned, Site
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.ledger import Ledger
from polyclinic.privacy.noise import discrete_gaussian
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import Identity, MemoryJournal, Roster

X = np.arange(40.0)


def books(path=None):
    return Books(Identity.generate(), Ledger(path), MemoryJournal())


def site(policy=Policy(), keep=None, mask=None):
    rows = X if mask is None else X[mask]
    person = np.flatnonzero(np.ones(40, bool) if mask is None else mask)

    def make(cohort):
        columns = {"x": rows, "y": rows + 1.0}
        return ThreadWorkers(Partition(columns, None, "a", person=person, population=40))

    return Site(Gate("a", policy), make, keep or books())


def wide():
    return {"centre": np.zeros((1, 2)), "exponent": np.zeros((1, 2), dtype=np.int64)}


def moments(column="x", **more):
    one = np.zeros((1, 1))
    values = {
        "columns": [column],
        "by": None,
        "centre": one,
        "exponent": np.zeros((1, 1), dtype=np.int64),
        "powers": 2,
        "centred": False,
    }
    values = more.pop("values", values)
    return Plan("descriptive.moments", values, **{"step": "means", **more})


def answer(site, plan):
    return codec.decode(site.answer(plan.to_bytes()))


def test_the_same_content_is_released_once():
    one = site()
    first = answer(one, moments())
    for again in (
        moments(step="in other words"),
        moments(purpose="another"),
        moments().at(9, "f" * 64),
        moments(to=("a",)),
    ):
        reply = answer(one, again)
        assert reply["words"]["s1"].tobytes() == first["words"]["s1"].tobytes()
        assert reply["plan"] == again.round_hash  # it answers the round that asked
    (row,) = one.books.ledger.rows()
    assert row["times"] == 5 and row["patients"] == 40 and row["seen_as"] == "this site"


def test_noise_is_drawn_once_also_after_a_restart(tmp_path):
    path = tmp_path / "ledger.sqlite"
    plan = Plan("toy.bounded", {"noise": {"multiplier": 3.0}})
    first = answer(site(keep=books(path)), plan)
    again = answer(site(keep=books(path)), plan)
    assert first["words"]["sum"].tobytes() == again["words"]["sum"].tobytes()
    fresh = answer(site(), plan)
    assert first["words"]["sum"].tobytes() != fresh["words"]["sum"].tobytes()


def test_a_cohort_that_differs_by_a_few_patients_is_hidden_or_refused():
    keep = books()
    both = moments(values={**moments().values, "columns": ["x", "y"], **wide()})
    assert "words" in answer(site(keep=keep), both)
    for gone in (1, 4):
        mask = np.ones(40, dtype=bool)
        mask[:gone] = False
        cohort = {"where": f"{gone}"}
        reply = answer(site(keep=keep, mask=mask), moments(cohort=cohort))
        assert all(flags.all() for flags in reply["hidden"].values())  # one cohort: a cell of it
        assert not any(words.any() for words in reply["words"].values())
        reply = answer(site(keep=keep, mask=mask), replace(both, cohort=cohort, _derived={}))
        assert reply == {"code": "COHORT_TOO_CLOSE"}
    mask = np.ones(40, dtype=bool)
    mask[:5] = False
    assert "words" in answer(site(keep=keep, mask=mask), moments(cohort={"where": "5"}))


def test_another_column_is_another_question():
    """Means of x over all and of y over all but one give nobody's value away."""
    keep = books()
    assert "words" in answer(site(keep=keep), moments("x"))
    mask = np.ones(40, dtype=bool)
    mask[0] = False
    assert "words" in answer(site(keep=keep, mask=mask), moments("y", cohort={"where": "one"}))


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (Policy(algorithms=()), "ALGORITHM_NOT_ALLOWED"),
        (Policy(algorithms=("glm.*",)), "ALGORITHM_NOT_ALLOWED"),
        (Policy(algorithms=("descriptive.moments@2",)), "ALGORITHM_NOT_ALLOWED"),
        (Policy(columns={"*": ("y",)}), "COLUMN_NOT_ALLOWED"),
        (Policy(columns={"care": ("*",)}), "COLUMN_NOT_ALLOWED"),
        (Policy(columns={}), "COLUMN_NOT_ALLOWED"),
        (Policy(release_alone=False), "ALONE_NOT_ALLOWED"),
        (Policy(min_sites=2), "TOO_FEW_SITES"),
        (Policy(exact=False), "NOISE_REQUIRED"),
        (Policy(max_cohorts=0), "TOO_MANY_COHORTS"),
    ],
)
def test_what_a_policy_forbids(policy, code):
    one = site(policy)
    assert answer(one, moments(purpose="research")) == {"code": code}
    (refusal,) = one.books.ledger.refusals()
    assert refusal["code"] == code and refusal["step"] == "means"


def test_a_stored_release_is_no_way_round_the_purpose():
    one = site(Policy(columns={"care": ("*",)}))
    assert "words" in answer(one, moments(purpose="care"))
    assert answer(one, moments(purpose="sale")) == {"code": "COLUMN_NOT_ALLOWED"}


def test_columns_of_conditions_and_of_formulas_count():
    one = site(Policy(columns={"*": ("x",)}))
    for cohort in ({"where": "x > 1 and (y<3)"}, {"columns": ["y"]}, {"missing": {"y": "drop"}}):
        assert answer(one, moments(cohort=cohort)) == {"code": "COLUMN_NOT_ALLOWED"}
    assert "words" in answer(one, moments(cohort={"where": "yy > 1 and x < 3"}))


@pytest.mark.parametrize(
    "policy",
    [
        Policy(algorithms=("descriptive.*",)),
        Policy(algorithms=("descriptive.moments@1",)),
        Policy(columns={"*research*": ("x",)}),
        Policy(min_sites=1),
    ],
)
def test_what_a_policy_allows(policy):
    assert "words" in answer(site(policy), moments(purpose="basic research"))


def test_a_budget_is_spent_once_per_release_and_then_over():
    keep, policy = books(), Policy(epsilon=1.0, delta=1e-6)
    one = site(policy, keep)
    asked = [Plan("toy.bounded", {"noise": {"multiplier": 7.0}, "ask": k}) for k in range(4)]
    replies = [answer(one, plan) for plan in asked]
    assert "words" in replies[0]
    assert replies[-1] == {"code": "BUDGET_SPENT"}
    spent = len(keep.ledger.spent(keep.dataset))
    assert answer(one, asked[0])["words"]["sum"].tobytes() == replies[0]["words"]["sum"].tobytes()
    assert len(keep.ledger.spent(keep.dataset)) == spent


class _Bounded:
    """A sum that its task bounds."""

    name, version, grain = "toy.bounded", 1, "row"

    def leaves(self, plan):
        return (Leaf("sum", (4,), bound=1.0),)

    def local(self, plan, partition):
        return Contribution({"sum": np.zeros(4)}, Evidence(partition.n_patients))


register([_Bounded()])


def test_noise_comes_from_the_operating_system():
    assert discrete_gaussian(50.0, 20).tolist() != discrete_gaussian(50.0, 20).tolist()


def may(site, plan):
    return codec.decode(site.answer(codec.encode({"kind": MAY, "plan": plan.to_data()})))


def test_whether_it_would_answer_is_what_it_then_does():
    few = np.arange(40) < 7
    for policy, mask in ((Policy(), None), (Policy(min_patients=41), None), (Policy(), few)):
        one = site(policy, mask=mask)
        told = may(one, moments())
        assert told == {"may": True} or set(told) == {"code"}
        assert one.books.ledger.rows() == []
        found = answer(one, moments())
        assert found["words"] if told == {"may": True} else found == told


def test_a_cohort_that_is_too_close_is_told_beforehand():
    keep = books()
    both = moments(values={**moments().values, "columns": ["x", "y"], **wide()})
    answer(site(keep=keep), both)
    close = site(keep=keep, mask=np.arange(40) > 0)
    cohort = {"where": "1"}
    asked = replace(both, cohort=cohort, _derived={})
    assert may(close, asked) == {"code": "COHORT_TOO_CLOSE"}
    assert may(close, moments(cohort=cohort)) == {"may": True}  # it would be hidden like a cell


def test_an_answer_by_name_is_hidden_where_it_would_be_refused():
    """One hospital that may not show its own numbers does not end a study."""
    one = site(Policy(min_patients=41))
    assert answer(one, moments()) == {"code": "TOO_FEW_PATIENTS"}
    reply = answer(one, moments(combine="collect"))
    assert all(flags.all() for flags in reply["hidden"].values())
    assert not any(words.any() for words in reply["words"].values())
    assert one.books.ledger.rows() == []
    assert one.books.ledger.refusals()[0]["times"] == 2
    assert answer(site(Policy(collect=())), moments(combine="collect")) == {
        "code": "COLLECT_NOT_ALLOWED"
    }


def test_no_word_crosses_the_border_where_a_refusal_cannot_be_written(tmp_path):
    one = site(Policy(release_alone=False), books(tmp_path / "ledger.sqlite"))
    one.books.ledger._db.execute("PRAGMA query_only = ON")
    assert answer(one, moments()) == {"code": "CANNOT_WRITE"}
    assert "sqlite" in str(one.log[-1])
    one.books.ledger.refuse = None  # whatever else goes wrong
    assert answer(one, moments()) == {"code": "SITE_FAILED"}


def test_a_hospital_without_enough_memory_says_so():
    def make(cohort):
        return ThreadWorkers(Partition({"x": np.empty(2**58)}, None, "a"))

    one = Site(Gate("a", Policy()), make, books())
    assert answer(one, moments()) == {"code": "OUT_OF_MEMORY"}
    assert one.books.ledger.refusals()[0]["code"] == "OUT_OF_MEMORY"


class _Unjudged(_Bounded):
    name = "toy.unjudged"


register([_Unjudged()])


def test_a_task_that_does_not_say_how_patients_share_in_its_sums():
    assert answer(site(), Plan("toy.unjudged", {})) == {"code": "NOT_JUDGED"}
    assert "words" in answer(site(), Plan("toy.unjudged", {"noise": {"multiplier": 9.0}}))


def test_noise_without_a_budget_is_no_excuse():
    """So little of it that it hides nobody: cohorts are compared as those of exact sums."""
    free, keep = Policy(epsilon=None), books()
    plan = Plan("toy.bounded", {"noise": {"multiplier": 1e-9}})
    assert "words" in answer(site(free, keep), plan)
    close = site(free, keep, np.arange(40) > 0)
    asked = replace(plan, cohort={"where": "1"}, _derived={})
    assert answer(close, asked) == {"code": "COHORT_TOO_CLOSE"}
    assert answer(site(), plan) == {"code": "BUDGET_SPENT"}


def test_a_log_that_went_back_ends_the_round():
    class Log:
        def append(self, event, /, **details):
            return 0

        def signed_head(self):
            return b""

        def receive_head(self, site, data, public_key):
            raise PolyclinicError("shorter", code="HEAD_WENT_BACK")

    keep = replace(books(), log=Log())
    roster = Roster({"a": keep.identity.public, "b": Identity.generate().public})
    one = Site(Gate("a"), None, keep, 2, pinned=Pinned(roster, "run"))
    message = codec.encode({"kind": HEADS, "heads": {"b": "00"}})
    reply = one.answer(message)
    assert codec.decode(reply) == {"code": "HEAD_WENT_BACK"}

    class Transport:
        def ask(self, messages):
            return {"a": reply}

    with pytest.raises(Refused, match="HEAD_WENT_BACK"):
        Federation(Transport(), ["a"], witness=True)._exchange()
