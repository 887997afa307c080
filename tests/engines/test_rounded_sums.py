"""Sums that leave a site rounded: what is sent, what is remembered, what nobody learns by it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from polyclinic.core import codec, ring
from polyclinic.core.compress import rounded
from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import Refused
from polyclinic.core.federation import MAY, Federation
from polyclinic.core.leaf import Leaf
from polyclinic.core.packing import unpack
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import register
from polyclinic.engines.books import Books
from polyclinic.engines.embedded import Embedded
from polyclinic.engines.site import Site
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.models.glm import Spec
from polyclinic.privacy.gate import Audience, Gate
from polyclinic.privacy.ledger import Ledger
from polyclinic.privacy.policy import Policy, open_policy
from polyclinic.privacy.secure import Identity, MemoryJournal

SITES = {"a": 1, "b": 2, "c": 3}
ROWS = 300


def data(seed, columns=3):
    rng = np.random.default_rng(seed)
    found = {f"x{j}": rng.normal(size=ROWS) for j in range(columns)}
    return Partition({**found, "y": (rng.uniform(size=ROWS) < 0.4).astype(float)}, None, str(seed))


def books(path=None):
    return Books(Identity.generate(), Ledger(path), MemoryJournal())


def site(keep=None, columns=3, policy=None):
    rows = ThreadWorkers(data(1, columns))
    return Site(Gate("a", policy or open_policy()), lambda cohort: rows, keep or books())


def gradients(theta, **more):
    """The plan of loss and gradient at the rows of `theta`, intercept first."""
    theta = np.atleast_2d(theta)
    names = [f"x{j}" for j in range(theta.shape[1] - 1)]
    design = Design(tuple(Term(name, (Factor("value", name),), 8.0) for name in names), "y")
    values = Spec(design, "binomial", 2).values(
        theta=theta,
        order=1,
        shift=np.zeros(len(names)),
        class_weight=np.zeros(0),
        response_exponent=0,
    )
    return Plan("glm.derivatives", values, "gradient round", **more)


int8 = partial(gradients, compress="int8")
START, NEXT = np.zeros(4), [[0.1, -0.2, 0.0, 0.3], [0.2, -0.4, 0.0, 0.6]]


def answer(site, plan):
    return codec.decode(site.answer(plan.to_bytes()))


def sent(reply):
    return ring.decode(unpack(reply["words"]["gradient"]))


def exact(theta):
    return ring.decode(answer(site(), gradients(theta))["words"]["gradient"])


def test_what_leaves_is_the_rounded_difference_and_so_stands_in_the_ledger():
    one = site()
    first, second = int8(START), int8(NEXT, base=int8(START).content_hash)
    start = answer(one, first)
    np.testing.assert_array_equal(sent(start), rounded(exact(START), "int8"))
    reply = answer(one, second)
    difference = exact(NEXT) - np.tile(sent(start), 2)
    np.testing.assert_array_equal(sent(reply), rounded(difference, "int8"))
    kept, _ = one.books.before(one.books.base(second) + "+")
    np.testing.assert_array_equal(ring.decode(kept["gradient"]), sent(reply))
    loss = ring.decode(unpack(reply["words"]["loss"]))
    plain = answer(site(), gradients(NEXT))["words"]["loss"]
    np.testing.assert_array_equal(loss, ring.decode(plain))  # never rounded


def test_the_row_says_from_which_candidate_the_difference_is_taken():
    one = site()
    second = int8(NEXT, base=int8(START).content_hash)
    third = int8(START + 0.1, base=second.content_hash, row=1)
    start, reply = answer(one, int8(START)), answer(one, second)
    known = (np.tile(sent(start), 2) + sent(reply))[4:]
    np.testing.assert_array_equal(
        sent(answer(one, third)), rounded(exact(START + 0.1) - known, "int8")
    )
    assert answer(one, replace(third, row=2, _derived={})) == {"code": "BAD_MESSAGE"}


@pytest.mark.parametrize(("kind", "times"), [("int8", 5), ("float16", 4)])
def test_few_bytes_leave(kind, times):
    """200 columns, three candidates."""
    thetas = np.random.default_rng(5).normal(size=(3, 201)) * 0.01
    plans = [gradients(thetas), gradients(thetas, compress=kind)]
    whole, less = (site(columns=200).answer(plan.to_bytes()) for plan in plans)
    assert len(less) * times < len(whole)
    packed = codec.decode(less)["words"]["gradient"]["values"]
    assert packed.nbytes == 603 * {"int8": 1, "float16": 2}[kind]
    one = site(columns=200)
    one.answer(plans[1].to_bytes())
    (row,) = one.books.ledger.rows()
    assert row["bytes"] == len(less)


def rounds(make_site):
    """The answers to a chain of plans, each by the site that `make_site` gives."""
    found, base = [], ""
    for k in range(5):
        plan = int8(np.full(4, 0.1 * k), base=base).at(k + 1, f"{k}")
        found.append(make_site(k).answer(plan.to_bytes()))
        base = plan.content_hash
    return found


def test_a_site_that_was_opened_anew_between_rounds_sends_the_same_bytes(tmp_path):
    one = site()
    keys = Identity.generate()

    def reopened(k):
        return site(Books(keys, Ledger(tmp_path / "ledger.sqlite"), MemoryJournal()))

    undisturbed = rounds(lambda k: one)
    assert rounds(reopened) == undisturbed
    assert rounds(reopened) == undisturbed  # asked again, all of it


@pytest.mark.parametrize("before", [True, False])
def test_what_rounding_took_off_is_sent_once_whenever_a_site_dies(tmp_path, monkeypatch, before):
    """Before its ledger holds a release, and after."""
    one = site()
    undisturbed = rounds(lambda k: one)
    keys, real = Identity.generate(), Ledger.commit

    def dying(ledger, *args, **more):
        if not before:
            real(ledger, *args, **more)
        raise OSError("killed")

    def killed_first(k):
        path = tmp_path / "ledger.sqlite"
        plan = int8(np.full(4, 0.1 * k), base=bases[k]).at(k + 1, f"{k}")
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "commit", dying)
            dead = site(Books(keys, Ledger(path), MemoryJournal()))
            assert answer(dead, plan) == {"code": "SITE_FAILED"}
        return site(Books(keys, Ledger(path), MemoryJournal()))

    bases = [""]
    for k in range(5):
        bases.append(int8(np.full(4, 0.1 * k), base=bases[-1]).content_hash)
    assert rounds(killed_first) == undisturbed


def test_another_parent_gets_the_stored_bytes():
    one = site()
    answer(one, int8(START))
    plan = int8(NEXT, base=int8(START).content_hash)
    first = answer(one, plan.at(2, "f" * 64))
    for parent in ("", "0" * 64, int8(START).content_hash):
        again = plan.at(9, parent)
        reply = answer(one, again)
        assert reply.pop("plan") == again.round_hash
        assert codec.encode(reply) == codec.encode({k: first[k] for k in reply})
    assert max(row["times"] for row in one.books.ledger.rows()) == 4


def test_no_base_gives_more_than_the_exact_sum():
    """Whatever a question is compared with, what is known after it is a rounding of the one sum."""
    one = site()
    bases = [int8(np.full(4, 0.5 * k)) for k in range(4)]
    wanted = exact(NEXT)
    for base in bases:
        known = np.tile(sent(answer(one, base)), 2)
        part = sent(answer(one, int8(NEXT, base=base.content_hash)))
        worst = np.abs(wanted - known).max() / 127
        assert np.abs(known + part - wanted).max() <= worst


def test_an_answer_that_was_never_given_is_no_base():
    one = site()
    for base in ("f" * 64, int8(START).content_hash, "x"):
        assert answer(one, int8(NEXT, base=base)) == {"code": "LEFTOVER_LOST"}
    answer(one, gradients(START))
    base = gradients(START).content_hash  # released, but exactly
    assert answer(one, int8(NEXT, base=base)) == {"code": "LEFTOVER_LOST"}
    answer(one, int8(START))
    other = site(replace(one.books, dataset="other"))
    asked = int8(NEXT, base=int8(START).content_hash)
    assert answer(other, asked) == {"code": "LEFTOVER_LOST"}
    assert "words" in answer(one, asked)


class _Lossy:
    """A bounded sum that could be rounded."""

    name, version, grain = "toy.lossy", 1, "row"

    def leaves(self, plan):
        return (Leaf("sum", (4,), bound=1.0, lossy=True),)

    def local(self, plan, partition):
        return Contribution({"sum": np.zeros(4)}, Evidence(partition.n_patients))


register([_Lossy()])


def test_nothing_else_is_rounded():
    values = {**gradients(START).values, "order": 0}
    assert answer(site(), replace(int8(START), values=values, _derived={})) == {
        "code": "BAD_MESSAGE"
    }
    noisy = Plan("toy.lossy", {"noise": {"multiplier": 7.0}})
    assert "words" in answer(site(), noisy)
    assert answer(site(), replace(noisy, compress="int8", _derived={})) == {"code": "BAD_MESSAGE"}


def federation(keep, sums="clear", **policies):
    rows = {name: (lambda cohort, seed=seed: data(seed)) for name, seed in SITES.items()}
    policies = {**dict.fromkeys(SITES, open_policy()), **policies}
    return Embedded().federation(rows, policies, books=keep, sums=sums)


def totals(engine, n=4):
    found, base = [], ""
    for k in range(n):
        plan = int8(np.full(4, 0.1 * k), base=base).at(k + 1, f"{k}")
        found.append(engine.total(plan)["gradient"].tobytes())
        base = plan.content_hash
    return found


def test_secure_sums_are_exact_whatever_a_plan_says():
    """Each site has a step of its own, so the low digits of a rounded total would be one site's."""
    wanted = []
    for k in range(4):
        exactly = federation({name: books() for name in SITES}, "secure")
        wanted.append(exactly.total(gradients(np.full(4, 0.1 * k)))["gradient"].tobytes())
    assert totals(federation({name: books() for name in SITES}, "secure")) == wanted
    assert totals(federation({name: books() for name in SITES}, "auto")) != wanted


def test_where_a_site_is_not_seen_alone_the_first_sum_is_exact_already():
    engine = federation({name: books() for name in SITES}, "auto", c=Policy(release_alone=False))
    wanted = federation({name: books() for name in SITES}, "secure").total(gradients(START))
    assert engine.total(int8(START))["gradient"].tobytes() == wanted["gradient"].tobytes()
    assert engine.summing.secure


def test_a_run_that_goes_over_to_secure_sums_goes_on_exactly():
    keep = {name: books() for name in SITES}
    engine = federation(keep, "auto")
    first = int8(START).at(1, "")
    engine.total(first)
    engine.summing.refusals = {"a": "LEVERAGE"}  # from now on no site is seen alone
    second = int8(NEXT, base=first.content_hash).at(2, "1")
    wanted = federation({name: books() for name in SITES}, "secure").total(gradients(NEXT))
    assert engine.total(second)["gradient"].tobytes() == wanted["gradient"].tobytes()
    third = int8(START + 0.3, base=second.content_hash).at(3, "2")
    assert np.isfinite(engine.total(third)["gradient"]).all()


def test_a_site_refuses_to_round_what_is_masked():
    keep = {name: books() for name in SITES}
    one = federation(keep, "secure").transport.sites["a"]
    may = {"kind": MAY, "secure": True, "plan": int8(START).to_data()}
    assert codec.decode(one.answer(codec.encode(may))) == {"code": "BAD_MESSAGE"}
    with pytest.raises(Refused, match="BAD_MESSAGE"):
        one._release(int8(START), Audience(3, True))


def test_a_candidate_that_is_kept_back_changes_no_bit_of_the_others():
    """Else the size of the common step would tell how large its gradient is: a patient's value."""

    def counts(theta, **more):
        design = Design(tuple(Term(n, (Factor("value", n),), 8.0) for n in ("x0", "x1")), "n")
        values = Spec(design, "poisson").values(
            theta=np.atleast_2d(theta),
            order=1,
            shift=np.zeros(2),
            class_weight=np.zeros(0),
            response_exponent=0,
        )
        return Plan("glm.derivatives", values, "gradient round", compress="int8", **more)

    def asked(theta, **more):
        rng = np.random.default_rng(3)
        columns = {name: rng.normal(size=ROWS) for name in ("x0", "x1")}
        columns["n"] = rng.poisson(1.0, ROWS).astype(float)
        columns["x0"][0] = 6.8125
        rows = ThreadWorkers(Partition(columns, None, "a"))
        return answer(Site(Gate("a", Policy()), lambda cohort: rows, books()), counts(theta))

    harmless = np.zeros(3)
    alone = sent(asked(harmless))
    for far in (24.0, 40.0, 80.0):
        reply = asked([harmless, [0.0, far, 0.0]])
        both = sent(reply).reshape(2, -1)
        assert not both[1].any() and list(unpack(reply["words"]["too_large"])) == [0, 1]
        np.testing.assert_array_equal(both[0], alone)


def test_a_federation_goes_on_from_its_memory():
    keep = {name: books() for name in SITES}
    whole, engine = totals(federation(keep)), federation(keep)
    totals(engine, 2)
    later = federation(keep)
    later.recall(codec.decode(codec.encode(engine.memory())))
    base = int8(np.full(4, 0.1), base=int8(START).content_hash).content_hash
    total = later.total(int8(np.full(4, 0.2), base=base).at(3, "2"))
    assert total["gradient"].tobytes() == whole[2]
    assert federation(keep).memory().keys() == federation(keep).summing.memory().keys()


def test_a_sum_that_only_a_total_has_shown_is_no_base_for_one_seen_alone():
    """Beside a site's exact sum such a difference would be the sum that is seen in totals only."""
    keep = {name: books() for name in SITES}
    federation(keep, "secure").total(int8(START))
    one = federation(keep).transport.sites["a"]
    for base in (int8(START), gradients(START)):
        plan = replace(int8(NEXT, base=base.content_hash), cohort=None, _derived={})
        assert answer(one, plan) == {"code": "LEFTOVER_LOST"}


@pytest.mark.parametrize(("first", "then"), [(int8, gradients), (gradients, int8)])
def test_rounded_or_not_a_sum_is_seen_alone_or_in_a_total(first, then):
    keep = {name: books() for name in SITES}
    some = {name: site for name, site in federation(keep).transport.sites.items() if name == "a"}
    answer(some["a"], first(START))
    with pytest.raises(Refused, match="SEEN_ALONE"):
        federation(keep, "secure").total(then(START))


class Once:
    """A transport that gives one answer."""

    def __init__(self, reply):
        self.reply = reply

    def ask(self, messages):
        return dict.fromkeys(messages, self.reply)


@pytest.mark.parametrize(
    ("plan", "packed", "code"),
    [(int8(START), False, "BAD_MESSAGE"), (gradients(START), True, "SCHEMA_MISMATCH")],
)
def test_who_asks_takes_one_form_of_an_answer_only(plan, packed, code):
    one = site()
    good = one.answer(plan.to_bytes())
    leaves = Federation(Once(good), ["a"]).total(plan)
    assert np.isfinite(leaves["gradient"]).all()
    release = one._release(plan, Audience())
    other = codec.decode(release.to_bytes(packed=packed))
    with pytest.raises(Refused, match=code):
        Federation(Once(codec.encode(other)), ["a"]).total(plan)
