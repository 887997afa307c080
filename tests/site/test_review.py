"""The text that an officer reads before a decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polyclinic.cli.site_network import _status_text
from polyclinic.governance.home import SiteHome
from polyclinic.governance.paper import REFUSED
from polyclinic.governance.policy_file import save
from polyclinic.governance.signing import fingerprint
from polyclinic.governance.study_file import Session
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import Identity
from polyclinic.site import service
from polyclinic.site.data import Joined
from polyclinic.site.inbox import Inbox
from polyclinic.site.review import review, waiting
from tests.site.world import PURPOSE, study


def said(world, name="wards", site="north"):
    text = review(SiteHome(world.homes[site].folder), name)
    assert all(len(line) <= 80 and line.isascii() for line in text.splitlines()), text
    return " ".join(text.split())


def test_a_review_in_plain_words(world):
    paper = world.paper(study("ill ~ age + sex + ward", cohort={"where": "age >= 40"}))
    world.offer(paper)
    text = said(world)
    key = fingerprint(paper.coordinator)
    patients = int((world.agents["north"].table.columns["age"] >= 40).sum())
    for words in (
        f"hash {paper.short_hash}",
        f"asked by the coordinator of heart, fingerprint {key}",
        f"purpose {PURPOSE}",
        f"patients {patients} of your 120: age >= 40, complete in 4 columns",
        "reads sex age ward ill",
        "computes logistic regression, at most 25 rounds; Table 1",
        f"would leave a round: 16 sums over {patients} patients",
        "once: this site's own AUROC, observed and predicted risk",
        "never leaves rows, ids, dates, free text, error texts",
        "privacy cost none (exact sums)",
        "your policy allows all of it",
        "next polyclinic site approve wards",
    ):
        assert words in text, (words, text)
    assert "waiting since" in text and "east, west" in text
    named = [f"{site} {fingerprint(paper.sites[site])}" for site in ("east", "west")]
    assert f"new keys {'; '.join(named)}: compare them by telephone" in text
    world.decide(paper)
    assert "new keys" not in said(world)


def test_a_long_name_leaves_no_line_wider_than_a_terminal(world):
    name = "a-study-with-a-name-of-sixty-four-letters-" + "x" * 22
    world.offer(world.paper(study(name=name)))
    assert "waiting since" in said(world, name)
    found = service.status(SiteHome(world.homes["north"].folder))
    folder = " --home /srv/" + "/".join(["deep"] * 12)
    text = _status_text(found, folder)
    assert name in text and "waiting" in text
    assert "certificate" not in text
    soon = _status_text(replace(found, certificate_days=41), folder)
    assert "! ends in 41 days: join again with a new invite, the same folder" in soon
    wide = [line for line in text.splitlines() if len(line) > 80]
    assert wide == [], text


def test_rounding_is_said_in_plain_words(world):
    solver = {"name": "gd", "compress": "int8"}
    world.offer(world.paper(study("ill ~ age", solver=solver)))
    assert "gradients are rounded to 8 bits; what is lost is sent later" in said(world)


def test_a_policy_that_would_refuse_is_shown_with_its_rules(world):
    world.offer(world.paper(study("ill ~ age + ward")))
    home = world.homes["north"]
    policy = Policy(algorithms=("glm.*",), columns={PURPOSE: ("age", "ill")}, epsilon=2.0)
    save(home.policy_path, policy)
    text = said(world)
    assert "your policy refuses everything" in text and "policy --sign" in text
    home.sign_policy()
    text = said(world)
    assert "would refuse:" in text
    for words in (
        "glm.derivatives (COLUMN_NOT_ALLOWED)",
        "evaluation.scores (ALGORITHM_NOT_ALLOWED)",
        "the hospital's policy lists the columns that may be read for a purpose",
    ):
        assert words in text


def test_noise_has_a_cost(world):
    world.offer(world.paper(study(privacy={"epsilon": 2.0, "delta": 1e-6})))
    text = said(world)
    assert "privacy cost epsilon 2, delta 1e-06" in text and "sums with noise over" in text
    assert "at most 5 rounds" in text


def test_a_session_is_said_to_be_open(world):
    content = {
        "format": 1,
        "study": {"name": "week", "purpose": PURPOSE},
        "data": {"hub": "heart", "schema": "wards.toml"},
        "session": {"columns": ["age", "ill"], "algorithms": ["logistic", "descriptive"]},
    }
    world.offer(world.paper(Session.model_validate(content)))
    text = said(world, "week")
    assert "questions are open within these columns and algorithms" in text
    assert "any of your 120" in text and "reads age ill" in text
    assert "logistic regression; descriptive statistics" in text
    assert "your policy allows all of it" in text


def test_names_of_other_machines_do_no_harm_to_a_terminal(world):
    asked = study(name="wards")
    about = asked.study.model_copy(update={"title": "\x1b[2Jcleared \u202e name"})
    world.offer(world.paper(asked.model_copy(update={"study": about})))
    assert "\\u001b[2Jcleared" in said(world)


def test_what_was_decided_no_longer_waits(world):
    paper, other = world.paper(), world.paper(study("ill ~ age", name="other"))
    world.offer(paper)
    world.offer(other)
    home = SiteHome(world.homes["north"].folder)
    assert {one.hash for one in waiting(home)} == {paper.hash, other.hash}
    world.decide(paper)
    world.decide(other, REFUSED, why="no")
    assert waiting(home) == []
    assert "approved, hash" in said(world) and "take it back" in said(world)
    assert Inbox(home).find(other.hash[:8]) == Inbox(home).find("other")
    with pytest.raises(ValueError, match="no study 'third'"):
        review(home, "third")


def test_studies_of_a_hub_that_the_site_has_left_are_passed_over(world):
    world.offer(world.paper(study("ill ~ age + ward")))
    folder = world.homes["north"].folder
    assert len(waiting(SiteHome(folder))) == 1
    joined = Joined.load(folder)
    replace(joined, coordinator=Identity.generate().public).save(folder)
    assert waiting(SiteHome(folder)) == []
