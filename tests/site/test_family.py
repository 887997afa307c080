"""A hospital goes on without another one as its officer has approved, and never both ways."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polyclinic.core import codec
from polyclinic.core.errors import Refused
from polyclinic.core.federation import HEADS, MAY
from polyclinic.data.codebook import Codebook
from polyclinic.governance.home import SiteHome
from polyclinic.governance.paper import REFUSED, Decision
from polyclinic.governance.scope import Scope
from polyclinic.models.glm import glm
from polyclinic.privacy.secure import Identity
from polyclinic.site import family, service
from polyclinic.site.agent import Agent
from polyclinic.site.inbox import Inbox
from polyclinic.site.review import review
from tests.site.world import PURPOSE, SITES, study

CHANGED = {"code": "MEMBERSHIP_CHANGED"}


def may_shrink(required=2, **more):
    return study(federation={"when_lost": "restart_without", "required": required}, **more)


def plan_of(paper):
    """The first plan of a run, as it travels."""
    scope = Scope.of(paper)
    plan = glm(scope.spec).plan(glm(scope.spec).init(0))
    return replace(plan, cohort=scope.cohort.to_data(), purpose=PURPOSE, round=1)


def may(paper):
    return codec.encode({"kind": MAY, "secure": False, "plan": plan_of(paper).to_data()})


def answered(reply):
    return "words" in reply or "code" not in reply


@pytest.fixture
def first(world):
    return world.approved(may_shrink())


def test_fewer_hospitals_are_approved_as_the_officer_has_approved_it(world, first):
    fewer = first.over(["east", "north"])
    found = world.offer(fewer)
    assert found["state"] == "approved" and world.offer(fewer) == found
    public = world.homes["north"].identity.public
    signed = Decision.open(bytes.fromhex(found["decision"]), public)
    assert signed == Decision("north", fewer.hash, "approved")
    (line,) = world.log(event="study_may_go_on")
    assert (line["study"], line["without"]) == (fewer.hash, ["west"])
    assert world.log(event="study_goes_on") == []
    for run in ("r1", "r2"):
        assert answered(world.ask(fewer, plan_of(fewer).to_bytes(), run=run)) and world.left()
    (line,) = world.log(event="study_goes_on")
    assert (line["study"], line["without"]) == (fewer.hash, ["west"])
    # By its name the officer still finds what was approved.
    inbox = Inbox(SiteHome(world.homes["north"].folder))
    assert inbox.find("wards").hash == first.hash
    assert inbox.find(fewer.hash[:8]).hash == fewer.hash
    assert [one[2] for one in service.status(world.homes["north"]).studies] == [
        "approved", "approved, without west",
    ]  # fmt: skip
    text = " ".join(review(world.homes["north"], fewer.hash).split())
    assert f"without west: approved here with study {first.short_hash}" in text


def forged(world, first):
    """Offers that the approved study does not cover, with the code of the refusal."""
    stranger = Identity.generate()
    keys = dict(first.sites)
    fewer = first.over(["east", "north"])
    other_book = Codebook.from_dict({**world.codebook.to_dict(), "title": "another"})
    another = may_shrink(formula="ill ~ age + sex + chol")
    looser = may_shrink(required=["north"])
    return {
        "one alone": (first.over(["north"]), "OUTSIDE_STUDY"),
        "all of them": (first.over(SITES), "OUTSIDE_STUDY"),
        "not in it": (first.over(["east", "west"]), "KEY_SUBSTITUTED"),
        "another hospital in place of one": (
            replace(fewer, sites={"north": keys["north"], "south": stranger.public}),
            "OUTSIDE_STUDY",
        ),
        "another key": (
            replace(fewer, sites={"north": keys["north"], "east": stranger.public}),
            "KEY_SUBSTITUTED",
        ),
        "another study": (replace(fewer, study=another), "OUTSIDE_STUDY"),
        "other rules": (replace(fewer, study=looser), "OUTSIDE_STUDY"),
        "another codebook": (replace(fewer, codebook=other_book), "CODEBOOK_DIFFERS"),
        "another hub": (replace(fewer, hub="lungs"), "WRONG_HUB"),
        "of nothing": (replace(fewer, instead_of="0" * 64), "UNKNOWN_STUDY"),
        "of a path": (replace(fewer, instead_of="../../keys"), "UNKNOWN_STUDY"),
    }


def test_nothing_else_goes_on_by_itself(world, first):
    for what, (paper, code) in forged(world, first).items():
        assert world.offer(paper) == {"code": code}, what
        assert not (world.homes["north"].folder / "studies" / paper.hash).exists(), what
        assert world.ask(paper, plan_of(first).to_bytes()) == {"code": "UNKNOWN_STUDY"}, what
    fewer = first.over(["east", "north"])
    stranger = Identity.generate()
    assert world.offer(fewer, by=stranger) == {"code": "BAD_SIGNATURE"}
    world.offer(fewer)
    again = replace(fewer.over(["north"]), instead_of=fewer.hash)
    assert world.offer(again) == {"code": "OUTSIDE_STUDY"}
    assert not world.left()


@pytest.mark.parametrize("federation", [{}, {"when_lost": "abort"}])
def test_a_study_that_does_not_say_so_does_not_go_on(world, federation):
    first = world.approved(study(federation=federation))
    assert world.offer(first.over(["east", "north"])) == {"code": "OUTSIDE_STUDY"}


def test_hospitals_that_are_required_by_name_stay(world):
    first = world.approved(may_shrink(required=["west"]))
    assert world.offer(first.over(["east", "north"])) == {"code": "OUTSIDE_STUDY"}
    assert world.offer(first.over(["north", "west"]))["state"] == "approved"


def test_a_study_that_waits_or_is_taken_back_does_not_go_on(world):
    first = world.paper(may_shrink())
    fewer = first.over(["east", "north"])
    assert world.offer(fewer) == {"code": "UNKNOWN_STUDY"}
    world.offer(first)
    assert world.offer(fewer) == {"code": "NOT_APPROVED"}
    world.decide(first)
    assert world.offer(fewer)["state"] == "approved"
    world.decide(first, REFUSED, why="second thoughts")
    assert world.offer(fewer) == {"code": "STUDY_REFUSED"}
    assert world.ask(fewer, plan_of(fewer).to_bytes()) == {"code": "STUDY_REFUSED"}
    assert not world.left()


def restart(world, site="north"):
    """The agent's process anew: what it held in memory is gone."""
    world.agents[site].close()
    world.agents[site] = Agent(world.homes[site].folder)


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("order", ["all first", "fewer first"])
def test_what_has_answered_for_one_refuses_the_other(world, first, order, anew):
    fewer = first.over(["east", "north"])
    world.offer(fewer)
    one, other = (first, fewer) if order == "all first" else (fewer, first)
    # Asking whether it would answer, and heads of logs, show nothing: both may still be asked.
    heads = codec.encode({"kind": HEADS, "heads": {}})
    for n, paper in enumerate((one, other, one)):
        assert world.ask(paper, may(paper), run=f"may{n}") == {"may": True}
        assert "head" in world.ask(paper, heads, run=f"may{n}", n=2)
    assert answered(world.ask(one, plan_of(one).to_bytes(), run="one"))
    if anew:
        restart(world)
    for n, message in enumerate((plan_of(other).to_bytes(), may(other), heads)):
        assert world.ask(other, message, run=f"other{n}") == CHANGED
    third = first.over(["north", "west"])
    assert world.offer(third) == CHANGED
    assert world.ask(third, may(third)) == {"code": "UNKNOWN_STUDY"}
    if other is fewer:
        assert world.offer(fewer) == CHANGED
    assert answered(world.ask(one, plan_of(one).to_bytes(), run="more"))
    assert world.offer(one)["state"] == "approved"


def test_a_masked_vector_counts_as_an_answer(world, first):
    fewer = first.over(["east", "north"])
    world.fit(first, sums="secure")
    assert world.offer(fewer) == CHANGED


def test_so_does_what_is_safe_for_a_total_on_which_others_lean(world, first):
    fewer = first.over(["east", "north"])
    assert world.ask(first, may(first)) == {"may": True}
    world.agents["north"]._runs["r1"].site._share(plan_of(first))
    assert world.offer(fewer) == CHANGED


def test_it_is_written_down_before_anything_is_computed(world, first, monkeypatch):
    """Cut off there, nothing has left, and the hospital keeps to what it was about to answer."""
    fewer = first.over(["east", "north"])
    world.offer(fewer)

    class Killed(BaseException):
        pass

    def killed(*args, **named):
        raise Killed

    site = "polyclinic.engines.site.Site."
    with monkeypatch.context() as patch:
        patch.setattr(site + "_compute", killed)
        with pytest.raises(Killed):
            world.ask(first, plan_of(first).to_bytes())
    restart(world)
    assert not world.left()
    assert world.ask(fewer, plan_of(fewer).to_bytes()) == CHANGED


def test_what_cannot_be_written_down_does_not_leave(world, first, monkeypatch):
    def full(*args, **named):
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(family, "sync_folder", full)
        reply = world.ask(first, plan_of(first).to_bytes())
    assert reply == {"code": "CANNOT_WRITE"} and not world.left()
    assert answered(world.ask(first, plan_of(first).to_bytes(), run="again"))


def test_two_processes_do_not_keep_to_different_ones(world, first):
    fewer = first.over(["east", "north"])
    world.offer(fewer)
    folder = world.homes["north"].folder / "studies"
    told = []
    mine, theirs = (family.Families(folder, told.append) for _ in range(2))
    assert mine.fixed(first) == theirs.fixed(first) == []
    mine.fix(first)
    with pytest.raises(Refused, match="MEMBERSHIP_CHANGED"):
        theirs.fix(fewer)
    assert mine.fixed(fewer) == theirs.fixed(fewer) == [first.hash] and not told
    mine.fix(first)


def test_two_that_begin_at_the_same_time_are_both_refused(world, first, monkeypatch):
    """The other one's mark comes between the look and the own mark."""
    fewer = first.over(["east", "north"])
    world.offer(fewer)
    folder = world.homes["north"].folder / "studies"
    theirs = family.Families(folder, print)
    mine = family.Families(folder, lambda paper: theirs.fix(first))
    for paper in (fewer, first):
        with pytest.raises(Refused, match="MEMBERSHIP_CHANGED"):
            mine.fix(paper)
        with pytest.raises(Refused, match="MEMBERSHIP_CHANGED"):
            theirs.fix(paper)


def test_a_file_system_without_hard_links_will_do(world, first, monkeypatch):
    def none(*args, **named):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", none)
    assert answered(world.ask(first, plan_of(first).to_bytes()))


def test_so_many_ways_to_go_on_are_signed_for_one_approval(world, first, monkeypatch):
    monkeypatch.setattr("polyclinic.site.inbox.MOST_FEWER", 1)
    fewer, another = first.over(["east", "north"]), first.over(["north", "west"])
    assert world.offer(fewer)["state"] == "approved"
    assert world.offer(another) == {"code": "TOO_MANY_STUDIES"}
    assert not (world.homes["north"].folder / "studies" / another.hash).exists()
    assert world.offer(fewer)["state"] == "approved"
    other = world.approved(may_shrink(name="other"))
    assert world.offer(other.over(["east", "north"]))["state"] == "approved"


def test_where_no_hospital_may_be_left_out_nothing_is_written(world):
    paper = world.approved()
    assert answered(world.ask(paper, plan_of(paper).to_bytes()))
    assert not list(world.homes["north"].folder.glob("studies/*/fixed*"))


@pytest.mark.parametrize(
    ("required", "words"),
    [
        (2, "with at least 2 hospitals of these 3"),
        (["west", "north"], "with at least west and north of these 3"),
        (["west"], "with at least west and one other of these 3"),
    ],
)
def test_the_officer_reads_it_before_deciding(world, required, words):
    paper = world.paper(may_shrink(required=required))
    world.offer(paper)
    text = " ".join(review(world.homes["north"], paper.hash).split())
    assert "may go on without hospitals that do not answer for 10 min" in text and words in text
    plain = world.paper(study(name="plain"))
    world.offer(plain)
    assert "may go on without" not in " ".join(review(world.homes["north"], plain.hash).split())
