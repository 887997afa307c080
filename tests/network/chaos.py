"""Kills, cuts and fills what a study over a network lives on: `python -m tests.network.chaos`.

Every run must end by itself, with the bytes of an undisturbed run in one process, and
`polyclinic hub status` must be true all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyclinic.governance.study_file import load_study
from polyclinic.study import hubrun, hubstore
from polyclinic.study.run import run
from tests.network.chaos_stage import HUB, Chaos, finished

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("POLYCLINIC_DATA") or ROOT.parent / "shared" / "data")
SITES = ("cleveland", "hungarian", "va")
ONE = "va"  # the hospital that has the trouble
LONGEST = 150.0  # seconds for a run with its troubles
SAME = ("model.pcm", "coefficients.csv")
STUDY = """format = 1
seed = 2026
[study]
name = "{name}"
purpose = "Going on after trouble"
[data]
schema = "{schema}"
{source}
[cohort]
where = "age >= 18"
[model]
kind = "logistic"
formula = "disease ~ age + sex + thalach"
l2 = {l2}
[privacy]
secure_sums = true
[evaluation]
validate = "cross-validation"
folds = 2
[federation]
round_timeout = "{timeout}"
"""


@dataclass(frozen=True)
class Blow:
    """One trouble, and when it comes.

    at     "offered", "waiting", "half" (some have approved), "approved", "running", "round N",
           "file NAME" of the result, or "done"
    after  seconds after that
    what   done to the stage
    then   how it ends, after `pause` seconds
    """

    at: str
    after: float
    name: str
    what: Callable[[Chaos], object]
    then: Callable[[Chaos], object] = lambda stage: None
    pause: float = 0.3


@dataclass
class Case:
    """A study and its troubles, in their order."""

    blows: Sequence[Blow]
    timeout: str = "60 s"
    check: Callable[[Chaos, str], str] = lambda stage, run: ""


@dataclass
class Found:
    """How a case ended; "" in `wrong`: as it must."""

    name: str
    seconds: float
    struck: list[str] = field(default_factory=list)
    wrong: str = ""


class Play:
    """One case on a stage that is up."""

    def __init__(self, stage: Chaos, name: str, case: Case, l2: float) -> None:
        self.stage, self.name, self.case = stage, name, case
        self.home, self.l2 = stage.hub_home, l2
        self.events: list[dict[str, Any]] = []
        self._offset, self._left = 0, set(stage.files)
        self._seen: dict[str, float] = {}
        self._asked = 0.0
        self.found = Found(name, 0.0)

    def run(self) -> Found:
        """Hand the study in, strike, and compare the bytes."""
        began, lies = time.monotonic(), len(self.stage.eyes.lies)
        self._told("offered")
        hubrun.submit(self.home, self._file(hub=True))
        try:
            with ThreadPoolExecutor(1) as beside:
                expected = beside.submit(self._expected)
                self._until_over()
                self.found.wrong = self._wrong(expected.result())
        except AssertionError as error:
            self.found.wrong = str(error)
        told = self.stage.eyes.lies[lies:]
        if told and not self.found.wrong:
            self.found.wrong = f"hub status: {told[0]}"
        self.found.seconds = time.monotonic() - began
        return self.found

    def _until_over(self) -> None:
        blows, until = list(self.case.blows), time.monotonic() + LONGEST
        while blows or not finished(self.stage, self.name):
            assert time.monotonic() < until, f"not over after {LONGEST:.0f} s: {self._state()}"
            if blows and self._due(blows[0]):
                self._strike(blows.pop(0))
                continue
            if finished(self.stage, self.name) and blows:
                self._look()
                if not self._due(blows[0], ever=True):
                    raise AssertionError(f"over before {blows[0].at}: {self._state()}")
            if not blows or blows[0].at not in ("offered", "waiting"):
                self._approve(1 if blows and blows[0].at == "half" else 0)
            time.sleep(0.01)

    def _strike(self, blow: Blow) -> None:
        self.found.struck.append(f"{blow.name} at {blow.at}+{blow.after:g}")
        blow.what(self.stage)
        if said := self.case.check(self.stage, self.name):
            raise AssertionError(said)
        time.sleep(blow.pause)
        blow.then(self.stage)

    def _approve(self, leave: int) -> None:
        if len(self._left) <= leave or time.monotonic() - self._asked < 0.25:
            return
        self._asked = time.monotonic()
        site = sorted(self._left)[0]
        if self.stage.approve(site, self.name):
            self._left.discard(site)
            if not self._left:
                self._told("approved")

    def _told(self, moment: str) -> None:
        self._seen.setdefault(moment, time.monotonic())

    def _look(self) -> None:
        found, self._offset = hubrun.events_of(self.home, self.name).read(self._offset)
        for one in found:
            if one["event"] in ("round", "step"):
                self._told(f"round {one['n']}")
            elif one["event"] == "decision":
                self._told("half")
            elif one["event"] == "state":
                self._told({hubstore.WAITING_APPROVAL: "waiting"}.get(one["state"], one["state"]))

    def _due(self, blow: Blow, ever: bool = False) -> bool:
        self._look()
        if blow.at.startswith("file "):
            path = self.home.run_folder(self.name) / "result" / blow.at.removeprefix("file ")
            if path.exists():
                self._told(blow.at)
        since = self._seen.get(blow.at)
        return since is not None and (ever or time.monotonic() - since >= blow.after)

    def _state(self) -> str:
        found = self.home.store.run(self.name)
        return f"{found.state}, round {found.round}: {found.detail}"

    def _wrong(self, here: Path) -> str:
        state = finished(self.stage, self.name)
        if state != hubstore.DONE:
            return self._state()
        there = self.home.run_folder(self.name) / "result"
        for name in SAME:
            if (here / name).read_bytes() != (there / name).read_bytes():
                return f"{name} has other bytes"
        mine, theirs = (
            json.loads((folder / "metrics.json").read_bytes()) for folder in (here, there)
        )
        parts = ("evaluation", "model", "table_one")
        other = [part for part in parts if mine.get(part) != theirs.get(part)]
        if other or "evaluation" not in mine:
            return f"metrics.json: {', '.join(other)} differ"
        return "" if (there / "report.html").is_file() else "there is no report"

    def _expected(self) -> Path:
        return run(load_study(self._file(hub=False)), self.stage.folder / "here" / self.name).folder

    def _file(self, hub: bool) -> Path:
        files = ", ".join(f'{site} = "{path}"' for site, path in self.stage.files.items())
        source = f'hub = "{self.stage.hub}"' if hub else f"sites = {{ {files} }}"
        path = self.stage.folder / f"{self.name}{'' if hub else '-here'}.toml"
        text = STUDY.format(
            name=self.name,
            schema=self.stage.schema,
            source=source,
            l2=self.l2,
            timeout=self.case.timeout,
        )
        path.write_text(text, encoding="utf-8")
        return path


# troubles


def killed(at: str, after: float, whom: str, part: str = "", pause: float = 0.3) -> Blow:
    """kill -9 of the hub, the hospital, or "both"; of all processes or one part."""
    both = (HUB, ONE) if whom == "both" else (whom,)

    def what(stage: Chaos) -> None:
        for one in both:
            stage.kill(one, part)

    def then(stage: Chaos) -> None:
        threads = [threading.Thread(target=stage.raise_up, args=[one]) for one in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return Blow(at, after, f"kill {whom}{' ' + part if part else ''}", what, then, pause)


def slow(at: str, seconds: float) -> Blow:
    """200 ms on every way, for some seconds."""

    def what(stage: Chaos) -> None:
        for proxy in stage.proxies.values():
            proxy.delay = 0.2

    return Blow(at, 0.0, "200 ms of delay", what, mend, seconds)


def cut(at: str, after: float, seconds: float = 5.0, silent: bool = False) -> Blow:
    """The hospital's connections broken, or half open and silent."""

    def what(stage: Chaos) -> None:
        proxy = stage.proxies[ONE]
        proxy.hush() if silent else proxy.cut()

    name = f"{seconds:g} s of silence" if silent else f"a cut of {seconds:g} s"
    return Blow(at, after, name, what, mend, seconds)


def mend(stage: Chaos) -> None:
    """The network as it was."""
    for proxy in stage.proxies.values():
        proxy.mend()


def named_within(seconds: float) -> Callable[[Chaos, str], str]:
    """The hospital that is lost is named so soon; what is wrong, else ""."""

    def check(stage: Chaos, run: str) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if stage.hub_home.store.run(run).state == hubstore.WAITING_FOR + ONE:
                return ""
            time.sleep(0.05)
        state = stage.hub_home.store.run(run).state
        return f"{state} instead of waiting for {ONE} after {seconds:g} s"

    return check


def full(at: str, who: str, seconds: float = 3.0, kill: bool = False) -> Blow:
    """No byte left on a disk, and with `kill` the processes start on it."""

    def what(stage: Chaos) -> None:
        stage.fill(who)
        if kill:
            stage.kill(who)

    def then(stage: Chaos) -> None:
        if kill:
            beside = threading.Thread(target=stage.raise_up, args=[who])
            beside.start()
            time.sleep(4.0)
        stage.make_room(who)
        if kill:
            beside.join()

    name = "the hub" if who == HUB else who
    return Blow(at, 0.0, f"full disk of {name}{', killed' if kill else ''}", what, then, seconds)


# what is played

LIFE = (
    ("offered", 0.0),
    ("offered", 0.6),
    ("offered", 1.2),
    ("waiting", 0.0),
    ("waiting", 0.4),
    ("half", 0.0),
    ("approved", 0.0),
    ("approved", 0.4),
    ("running", 0.0),
    ("running", 0.1),
    ("round 1", 0.02),
    ("round 2", 0.1),
    ("round 4", 0.0),
    ("round 6", 0.15),
    ("round 9", 0.05),
    ("round 12", 0.1),
    ("round 16", 0.02),
    ("round 21", 0.13),
    ("round 27", 0.07),
    ("round 33", 0.0),
    ("round 38", 0.1),
    ("file model.pcm", 0.0),
    ("file metrics.json", 0.0),
    ("file report.html", 0.0),
    ("done", 0.0),
)


def kills(per_run: int) -> list[Case]:
    """A kill at every moment of a run: of hub, hospital and both, `per_run` of them in a run."""
    cases = []
    for whom, parts in (
        (HUB, ("", "driver", "", "server", "", "supervisor")),
        (ONE, ("", "agent", "", "client")),
        ("both", ("",)),
    ):
        for shift in range(-(-len(LIFE) // per_run)):
            moments = LIFE[shift :: -(-len(LIFE) // per_run)]
            blows = []
            for n, (at, after) in enumerate(moments):
                part = parts[(LIFE.index((at, after))) % len(parts)]
                blows.append(killed(at, after, whom, part, pause=0.1 + 0.9 * ((n + shift) % 3)))
            cases.append(Case(blows))
    return cases


def network() -> list[Case]:
    """Slow, cut, and silent."""
    return [
        Case([slow("offered", 12.0)]),
        Case([slow("running", 15.0)]),
        Case([cut("waiting", 0.1), cut("round 3", 0.1), cut("round 20", 0.05)]),
        Case([cut("round 5", 0.0, 1.0), cut("round 12", 0.0, 1.0), cut("round 25", 0.0, 12.0)]),
        Case([cut("round 4", 0.1, 20.0, silent=True)]),
        Case([cut("round 15", 0.1, 20.0, silent=True)], timeout="8 s"),
        Case([cut("round 7", 0.1, 8.0)], timeout="5 s", check=named_within(5.0 + 2.0)),
    ]


def disks() -> list[Case]:
    """Full, at the hub and at the hospital."""
    return [
        Case([full("waiting", HUB), full("round 5", HUB), full("round 20", HUB)]),
        Case([full("waiting", ONE), full("round 5", ONE), full("round 20", ONE)]),
        Case([full("file model.pcm", HUB), full("done", HUB)]),
        Case([full("round 8", HUB, 1.0, kill=True)]),
        Case([full("round 8", ONE, 1.0, kill=True)]),
    ]


def some() -> list[Case]:
    """A few of each."""
    return [
        Case([killed("waiting", 0.0, HUB), killed("round 9", 0.05, HUB), killed("done", 0.0, HUB)]),
        Case(
            [killed("offered", 0.3, ONE), killed("round 5", 0.1, ONE), killed("round 20", 0, ONE)]
        ),
        Case([killed("running", 0.1, "both"), killed("file model.pcm", 0.0, "both")]),
        Case([killed("round 6", 0.1, HUB, "driver"), killed("round 20", 0.1, ONE, "agent")]),
        Case([killed("round 4", 0.1, HUB, "server"), killed("round 22", 0.1, ONE, "client")]),
        Case([cut("round 4", 0.1), slow("round 20", 4.0)]),
        Case([full("round 5", HUB, 2.0), full("round 20", ONE, 2.0)]),
    ]


@contextmanager
def stage_of(folder: Path, data: Path = DATA) -> Iterator[Chaos]:
    """A hub and three hospitals over the heart data, up."""
    files = {site: data / f"heart-disease/processed.{site}.data" for site in SITES}
    with Chaos(folder, files, ROOT / "examples" / "heart.toml", disks=(HUB, ONE)) as stage:
        yield stage


def play(stage: Chaos, name: str, case: Case, number: int) -> Found:
    """Play a case; every number asks questions that no other one has asked."""
    if not stage.disks and any("disk" in blow.name for blow in case.blows):
        return Found(name, 0.0, [], "")
    return Play(stage, name, case, l2=0.01 * (number + 1)).run()


def main() -> int:
    """All of it, or a part."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each, in 2-3 minutes")
    parser.add_argument("--only", choices=("kills", "network", "disks"), help="one kind")
    parser.add_argument("--per-run", type=int, default=3, help="kills in the life of a run")
    parser.add_argument("--from", type=int, default=0, dest="first", help="begin with this case")
    parser.add_argument("--to", type=int, default=None, dest="last", help="end before this one")
    parser.add_argument("--out", type=Path, help="keep all folders here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all that runs is stopped
    kinds = {"kills": lambda: kills(options.per_run), "network": network, "disks": disks}
    chosen = [options.only] if options.only else list(kinds)
    cases = some() if options.quick else [case for kind in chosen for case in kinds[kind]()]
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = options.out or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        with stage_of(folder) as stage:
            return _all(stage, list(enumerate(cases))[options.first : options.last])


def _all(stage: Chaos, cases: Sequence[tuple[int, Case]]) -> int:
    began, wrong, points, same = time.monotonic(), 0, 0, 0
    if not stage.disks:
        print("no small disks here: mounting needs root; their cases are left out", flush=True)
    for number, case in cases:
        found = play(stage, f"case-{number}", case, number)
        points += len(found.struck)
        same += bool(found.struck and not found.wrong)
        wrong += bool(found.wrong)
        said = f"WRONG  {found.wrong}" if found.wrong else "same bytes"
        print(
            f"{found.name:<9}{found.seconds:>6.1f} s  {'; '.join(found.struck)}  {said}", flush=True
        )
    print(
        f"{points} troubles in {same + wrong} runs: {same} with the bytes of an undisturbed run, "
        f"{wrong} wrong; {stage.eyes.looks} looks at the status, {len(stage.eyes.lies)} untrue; "
        f"{time.monotonic() - began:.0f} s"
    )
    for lie in stage.eyes.lies[:20]:
        print(f"untrue  {lie}")
    return 1 if wrong or stage.eyes.lies else 0


if __name__ == "__main__":
    sys.exit(main())
