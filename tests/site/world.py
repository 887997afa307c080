"""Three hospitals that have joined a hub, without its network: they are handed what a hub sends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from polyclinic.core import codec
from polyclinic.core.federation import ClearSums, Federation
from polyclinic.core.fit import fit
from polyclinic.data.codebook import Codebook
from polyclinic.engines.secure import AutoSums, SecureSums
from polyclinic.governance.chain import entries
from polyclinic.governance.home import SiteHome
from polyclinic.governance.paper import APPROVED, Paper, Question
from polyclinic.governance.scope import Scope
from polyclinic.governance.study_file import Study
from polyclinic.models.glm import glm
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import Identity
from polyclinic.site.agent import Agent
from polyclinic.site.data import Joined
from polyclinic.site.inbox import Inbox

SITES = ("east", "north", "west")
ROWS = 120
SCHEMA = """
format = 1
name = "wards"
[columns]
sex = { type = "binary", levels = { 1 = "male", 0 = "female" } }
age = { type = "integer", unit = "a", range = [18, 110] }
chol = { type = "number", unit = "mg/dL", range = [50, 800] }
ward = { type = "category", levels = { b = "second", a = "first" } }
ill = { type = "binary", levels = { 0 = "no", 1 = "yes" } }
"""
PURPOSE = "who falls ill; research"


def rows(seed):
    """A hospital's file; nobody's real data."""
    rng = np.random.default_rng(seed)
    age, sex = rng.integers(20, 90, ROWS), rng.integers(0, 2, ROWS)
    chol = np.round(rng.normal(220, 40, ROWS), 3).clip(60, 700)
    ward = np.where(rng.random(ROWS) < 0.4, "a", "b")
    ill = rng.random(ROWS) < 1 / (1 + np.exp(-(age - 55) / 20 - 0.4 * sex))
    lines = [",".join(map(str, row)) for row in zip(sex, age, chol, ward, ill.astype(int))]  # noqa: B905
    return "sex,age,chol,ward,ill\n" + "\n".join(lines) + "\n"


def study(formula="ill ~ age + sex", name="wards", **more):
    content = {
        "format": 1,
        "study": {"name": name, "purpose": PURPOSE},
        "data": {"hub": "heart", "schema": "wards.toml"},
        "model": {"kind": "logistic", "formula": formula},
        "evaluation": {"validate": "none"},
        **more,
    }
    return Study.model_validate(content)


@dataclass
class World:
    """The hospitals, and the coordinator who asks them."""

    folder: object
    coordinator: Identity = field(default_factory=Identity.generate)
    homes: dict = field(default_factory=dict)
    agents: dict = field(default_factory=dict)

    def __post_init__(self):
        schema = self.folder / "wards.toml"
        schema.write_text(SCHEMA)
        self.codebook = Codebook.load(schema)
        for seed, site in enumerate(SITES):
            data = self.folder / f"{site}.csv"
            data.write_text(rows(seed))
            home = SiteHome(self.folder / site).init(site, Policy())
            joined = Joined(data, schema, "heart", "localhost", 8002, self.coordinator.public)
            joined.save(home.folder)
            self.homes[site] = home
            self.agents[site] = Agent(home.folder)

    def close(self):
        for agent in self.agents.values():
            agent.close()

    def paper(self, asked=None, **changed):
        keys = {site: home.identity.public for site, home in self.homes.items()}
        paper = Paper(asked or study(), self.codebook, keys, "heart", self.coordinator.public)
        return Paper(**{**{k: getattr(paper, k) for k in paper.__dataclass_fields__}, **changed})

    def letter(self, site, **content):
        return codec.decode(self.agents[site].receive(codec.encode(content)))

    def offer(self, paper, site="north", by=None):
        signed = paper.signed(by or self.coordinator)
        return self.letter(site, kind="OFFER", paper=signed.hex())

    def decide(self, paper, verdict=APPROVED, site="north", why=""):
        """As the officer's command does it: in another process than the agent's."""
        Inbox(SiteHome(self.homes[site].folder)).decide(paper, verdict, why)

    def approved(self, asked=None):
        paper = self.paper(asked)
        for site in SITES:
            assert self.offer(paper, site) == {"state": "waiting", "decision": ""}
            self.decide(paper, site=site)
        return paper

    def sealed(self, paper, message, n=1, run="r1", site="north", by=None):
        question = Question(site, paper.hash, run, n, message)
        return question.sealed(by or self.coordinator)

    def ask(self, paper, message, site="north", **place):
        return codec.decode(self.carry(site, self.sealed(paper, message, site=site, **place)))

    def carry(self, site, sealed):
        """The message in a hospital's answer, which its key has signed for this very question."""
        question = Question.open(sealed, self.coordinator.public)
        return self.signed(site, question, self.agents[site].receive(sealed))

    def signed(self, site, question, reply):
        return question.answered(reply, self.homes[site].identity.public)

    def log(self, site="north", event="refused"):
        path = self.homes[site].audit_path
        return [line["details"] for line in entries(path) if line["event"] == event]

    def left(self, site="north"):
        """What has left a hospital, by its own ledger."""
        return self.agents[site].books.ledger.rows()

    def federation(self, paper, run="r1", sums="auto"):
        secure = SecureSums(paper.roster, run)
        summing = {"auto": AutoSums(secure), "secure": secure, "clear": ClearSums()}[sums]
        cohort = Scope.of(paper).cohort.to_data()
        wire = Wire(self, paper, run)
        return Federation(wire, SITES, cohort, summing, PURPOSE, witness=True)

    def fit(self, paper, **how):
        return fit(glm(Scope.of(paper).spec), self.federation(paper, **how)).model[-1]


@dataclass
class Wire:
    """Questions in their envelopes, as a hub carries them; all of them are kept."""

    world: World
    paper: Paper
    run: str
    sent: list = field(default_factory=list)
    replies: list = field(default_factory=list)

    def __post_init__(self):
        self.numbers = count(1)

    def ask(self, messages):
        n, found = next(self.numbers), {}
        for site, message in messages.items():
            sealed = self.world.sealed(self.paper, message, n, self.run, site)
            found[site] = self.world.carry(site, sealed)
            self.sent.append((site, sealed))
            self.replies.append(found[site])
        return found

    @contextmanager
    def session(self) -> Iterator[None]:
        yield


def codes(world, site="north"):
    return [line["code"] for line in world.log(site)]


def plan_of(paper):
    """The first plan of a run, as it travels."""
    scope = Scope.of(paper)
    plan = glm(scope.spec).plan(glm(scope.spec).init(0))
    return replace(plan, cohort=scope.cohort.to_data(), purpose=PURPOSE, round=1)
