"""Studies that are offered to a hospital: kept, decided about, withdrawn."""

from __future__ import annotations

from dataclasses import replace

from polyclinic.core import codec
from polyclinic.data.codebook import Codebook
from polyclinic.governance.paper import REFUSED, Decision, Notice
from polyclinic.privacy.secure import Identity
from polyclinic.site import review, service
from polyclinic.site.inbox import Inbox
from tests.site.world import codes, plan_of, study


def test_an_offer_is_kept_once_and_its_decision_travels_signed(world):
    paper, home = world.paper(), world.homes["north"]
    assert world.letter("north", kind="STATE", study=paper.hash) == {"code": "UNKNOWN_STUDY"}
    for _ in range(3):
        assert world.offer(paper) == {"state": "waiting", "decision": ""}
    assert len(world.log(event="study_offered")) == 1
    world.decide(paper)
    found = world.letter("north", kind="STATE", study=paper.hash)
    assert found["state"] == "approved" and world.offer(paper) == found
    signed = Decision.open(bytes.fromhex(found["decision"]), home.identity.public)
    assert signed == Decision("north", paper.hash, "approved")
    world.decide(paper, REFUSED, why="not this year")
    assert world.letter("north", kind="STATE", study=paper.hash)["state"] == "refused"
    assert [line["why"] for line in world.log(event="study_refused")] == ["not this year"]
    folder = home.folder / "studies"
    assert all(path.stat().st_mode & 0o077 == 0 for path in [folder, *folder.rglob("*")])


def test_offers_that_are_not_for_this_site_are_refused(world):
    stranger = Identity.generate()
    good = world.paper()
    other_book = Codebook.from_dict({**world.codebook.to_dict(), "title": "another"})
    mine = {**good.sites, "north": stranger.public}
    absent = {site: key for site, key in good.sites.items() if site != "north"}
    wrong = {
        "WRONG_HUB": world.paper(hub="lungs"),
        "CODEBOOK_DIFFERS": world.paper(codebook=other_book),
        "KEY_SUBSTITUTED": world.paper(sites=mine),
    }
    for code, paper in wrong.items():
        assert world.offer(paper) == {"code": code}
    assert world.offer(world.paper(sites=absent)) == {"code": "KEY_SUBSTITUTED"}
    foreign = replace(good, coordinator=stranger.public)
    assert world.offer(foreign, by=stranger) == {"code": "BAD_SIGNATURE"}
    assert world.offer(good, by=stranger) == {"code": "BAD_SIGNATURE"}
    tampered = good.signed(world.coordinator).replace(b"research", b"resell!!")
    assert world.letter("north", kind="OFFER", paper=tampered.hex()) == {"code": "BAD_SIGNATURE"}
    assert not (world.homes["north"].folder / "studies").exists()
    assert len(codes(world)) == 7


def test_the_keys_of_the_others_are_pinned_by_the_first_approval(world):
    paper = world.approved()
    changed = world.paper(study("ill ~ age"), sites={**paper.sites, "west": bytes(32)})
    changed = replace(changed, sites={**paper.sites, "west": Identity.generate().public})
    assert world.offer(changed) == {"code": "KEY_SUBSTITUTED"}
    assert world.offer(world.paper(study("ill ~ age")))["state"] == "waiting"
    # A pin that is changed afterwards stops the study that was approved with the old key.
    data = world.homes["north"].folder / "data.toml"
    text = data.read_text()
    data.write_text(text.replace(paper.sites["west"].hex(), Identity.generate().public.hex()))
    assert world.ask(paper, plan_of(paper).to_bytes()) == {"code": "KEY_SUBSTITUTED"}
    assert not world.left()


def test_a_decision_that_this_site_has_not_signed_counts_for_nothing(world):
    paper = world.paper()
    world.offer(paper)
    forged = Decision("north", paper.hash, "approved").signed(world.coordinator)
    (world.homes["north"].folder / "studies" / paper.hash / "decision.pcm").write_bytes(forged)
    assert world.ask(paper, plan_of(paper).to_bytes()) == {"code": "BAD_SIGNATURE"}
    own = world.homes["north"].identity
    other = Decision("north", "0" * 64, "approved").signed(own)
    (world.homes["north"].folder / "studies" / paper.hash / "decision.pcm").write_bytes(other)
    assert world.ask(paper, plan_of(paper).to_bytes()) == {"code": "BAD_SIGNATURE"}


def test_a_withdrawn_offer_waits_no_more_and_comes_back_when_it_is_offered_again(world):
    decided, paper = world.approved(), world.paper(study("ill ~ age", name="other"))
    world.offer(paper)
    inbox = Inbox(world.homes["north"])
    for study_hash in (paper.hash, decided.hash, "0" * 64, "../../keys", paper.hash):
        notice = Notice("north", "withdrawn", study_hash).signed(world.coordinator)
        assert codec.decode(world.agents["north"].receive(notice)) == {"ok": True}
    assert [one.hash for one in inbox.papers()] == [decided.hash]
    assert review.waiting(world.homes["north"]) == []
    assert world.log(event="study_withdrawn") == [{"study": paper.hash}]
    assert world.offer(paper)["state"] == "waiting"
    assert [one.hash for one in review.waiting(world.homes["north"])] == [paper.hash]


def test_an_offer_of_an_older_form_is_passed_over_and_comes_anew(world):
    paper = world.approved()
    old = paper._content()
    del old["instead_of"]
    signature = world.coordinator.sign(codec.encode(["polyclinic offer 1", old])).hex()
    home = world.homes["north"]
    folder = home.folder / "studies" / codec.digest(old)
    folder.mkdir()
    (folder / "offer.pcm").write_bytes(codec.encode({"offer": old, "signature": signature}))
    assert [one.hash for one in Inbox(home).papers()] == [paper.hash]
    assert [one[2] for one in service.status(home).studies] == ["approved"]
    assert review.waiting(home) == [] and "approved" in review.review(home, "wards")
    assert world.letter("north", kind="STATE", study=folder.name) == {"code": "BAD_MESSAGE"}


def test_a_hospital_keeps_so_many_offers_without_a_decision(world, monkeypatch):
    monkeypatch.setattr("polyclinic.site.inbox.MOST_WAITING", 2)
    papers = [world.paper(study(name=name)) for name in ("one", "two", "three")]
    found = [world.offer(paper) for paper in papers]
    assert found[0]["state"] == found[1]["state"] == "waiting"
    assert found[2] == {"code": "TOO_MANY_STUDIES"}
    assert world.offer(papers[0])["state"] == "waiting"  # it is here already
    world.decide(papers[0], REFUSED, why="no")
    assert world.offer(papers[2])["state"] == "waiting"
