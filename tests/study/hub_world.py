"""A hub and four hospitals in this process: real agents behind a line that can be cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polyclinic as pc
from polyclinic.core.errors import Stopped
from polyclinic.governance import signing
from polyclinic.governance.home import SiteHome
from polyclinic.governance.paper import APPROVED
from polyclinic.governance.study_file import Study
from polyclinic.privacy.policy import Policy
from polyclinic.site.agent import Agent
from polyclinic.site.data import Joined
from polyclinic.study.hub import HubHome
from polyclinic.study.hubstore import HubStore

FOUR = ("cleveland", "hungarian", "switzerland", "va")
HOSPITALS = ("cleveland", "hungarian")  # two add up in the clear, which is quicker
CODEBOOK = Path(__file__).resolve().parents[2] / "examples" / "heart.toml"
STUDY: dict[str, Any] = {
    "format": 1,
    "seed": 2026,
    "study": {"name": "heart", "purpose": "Diagnostic model; research"},
    "data": {"schema": str(CODEBOOK), "hub": "test"},
    "cohort": {"where": "age >= 18"},
    "model": {"kind": "logistic", "formula": "disease ~ age + sex"},
    "evaluation": {"validate": "none"},
    "output": {"report": []},
}


def study_of(**changes: Any) -> Study:
    """The study with some sections changed."""
    return Study.model_validate({**STUDY, **changes})


class Line:
    """What `HubLine` is, with the agents in this process.

    away     hospitals that do not answer
    hub      False: the hub is not there
    trouble  called with the number of the question and the hospitals, before each question; it
             may change what is away, or raise
    """

    def __init__(self, world: World) -> None:
        self.world, self.away, self.hub = world, set[str](), True
        self.trouble: Callable[[int, Mapping[str, bytes]], None] = lambda n, messages: None
        self.asked = 0

    def _check(self) -> None:
        if not self.hub:
            raise Stopped("the hub is not there", code="HUB_LOST")

    def sites(self) -> dict[str, Any]:
        self._check()
        return {name: {"heard": 0.1} for name in self.world.agents if name not in self.away}

    def ask(self, messages: Mapping[str, bytes], timeout: float) -> dict[str, bytes]:
        self._check()
        if any(data.startswith(b"PCE1") for data in messages.values()):
            self.asked += 1
            self.trouble(self.asked, messages)
            self._check()
        return {
            name: self.world.agents[name].receive(data)
            for name, data in messages.items()
            if name not in self.away
        }

    def answers(self, messages: Mapping[str, bytes], timeout: float) -> list[tuple[str, bytes]]:
        return list(self.ask(messages, timeout).items())


class World:
    """A hub's folder without its server process, and agents of the heart hospitals."""

    def __init__(
        self, folder: Path, files: Mapping[str, Path], names: tuple[str, ...] = HOSPITALS
    ) -> None:
        self.home = hub_home(folder / "hubs" / "test")
        self.folders = {name: folder / "hospitals" / name for name in names}
        self.agents: dict[str, Agent] = {}
        for name, where in self.folders.items():
            site = SiteHome(where).init(name, Policy())
            Joined(
                files[name], CODEBOOK, "test", "localhost", 8102, self.home.identity.public
            ).save(where)
            token, _ = self.home.store.invite(name, 60.0)
            enrol(self.home.store, token, name, site.identity.public)
            self.start(name)
        self.line = Line(self)

    def start(self, name: str) -> None:
        """(Re)start a hospital's process: what it held in memory is gone."""
        if name in self.agents:
            self.agents[name].close()
        self.agents[name] = Agent(self.folders[name])

    def decide(self, verdict: str = APPROVED, why: str = "", only: tuple[str, ...] = ()) -> None:
        """The officers decide about everything that waits."""
        for name in only or self.agents:
            inbox = self.agents[name].inbox
            for paper in inbox.papers():
                if inbox.state(paper.hash) == "waiting":
                    inbox.decide(paper, verdict, why)

    def close(self) -> None:
        for agent in self.agents.values():
            agent.close()


def enrol(store: HubStore, token: str, name: str, public: bytes) -> None:
    from polyclinic.study.hubstore import hash_of

    assert store.enrol(hash_of(token), name, public, b"", "0.1.0")


def hub_home(folder: Path, port: int = 8102) -> HubHome:
    """A hub's folder with keys and store, without certificates and server kit."""
    (folder / "runs").mkdir(parents=True, mode=0o700)
    (folder / "socket").mkdir(mode=0o700)
    folder.chmod(0o700)
    signing.generate(folder / "keys" / "coordinator.key")
    text = f'format = 1\nname = "{folder.name}"\nhost = "localhost"\nport = {port}\n'
    (folder / "hub.toml").write_text(f"{text}enrol_port = {port + 1}\n")
    return HubHome(folder)


class Waits:
    """Stands for the driver's waiting: the n-th time it calls `then[n]`, the last one for ever."""

    def __init__(self, *then: Callable[[], object]) -> None:
        self.then, self.times = then, 0
        self.longest = 200

    def __call__(self, seconds: float) -> None:
        assert seconds > 0
        if self.then:
            self.then[min(self.times, len(self.then) - 1)]()
        self.times += 1
        assert self.times < self.longest, "the driver waits for ever"


def embedded(
    folder: Path, study: Study, files: Mapping[str, Path], names: tuple[str, ...] = HOSPITALS
) -> Path:
    """The same study in this process, over the same files."""
    sites = pc.read({name: files[name] for name in names}, schema=CODEBOOK)
    return pc.run(study, folder, sites=sites).folder
