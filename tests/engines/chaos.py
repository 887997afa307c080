"""Kills workers of a cluster at random points of fits: `scripts/chaos cluster --kills 20`.

Scheduler and workers are processes of their own, as they are started at a hospital; who is killed
(SIGKILL) is replaced, a few seconds later. Every fit must end by itself, with the model, the rounds
and the audit of a fit in one process, byte by byte.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.engines.clusters import Cluster
from polyclinic.engines.machines import Arrived, Talk, Tree
from polyclinic.study.homes import ledger_of
from tests.engines.cluster_stage import Stage
from tests.engines.near import BOOK, FORMULA, visits, write

PARTS = 8
PER_RUN = 4  # kills in a fit
BEFORE_TWO = 0.5  # share of kills before which a second worker is waited for
SAME = 0.5  # share of workers that are started anew at their old address
MOMENTS = ("asked", "computing", "answering", "between")
TIMES = ("time", "seq", "prev", "sig", "hash", "key", "fingerprint")  # of a log: not of the study


@dataclass
class Blow:
    """A kill.

    at      messages to the workers go out in turns: of which turn
    moment  "asked": as they go out; "computing": after a share of the time that the turn takes;
            "answering": when the first answer comes in; "between": before they go out
    share   of that time
    pick    which worker, of those that are asked
    alone   whether it may be the last one that is there
    same    whether the one that takes its place has its address
    struck  what the worker was at; "": there was nobody to be killed yet
    """

    at: int
    moment: str
    share: float
    pick: float
    alone: bool
    same: bool
    struck: str = ""


@dataclass
class Turn:
    """Messages to the workers, and who has not answered yet."""

    op: str = ""
    waiting: dict[str, str] = field(default_factory=dict)
    begun: float = 0.0
    seconds: float = 0.0
    reads: bool = False


class Striker:
    """Sees what goes to the workers and what comes back, and kills between.

    blows  in the order of their turns
    like   turns of an undisturbed fit, for how long each takes
    """

    def __init__(self, stage: Stage, blows: Sequence[Blow] = (), like: Sequence[Turn] = ()) -> None:
        self.stage, self.left, self.like = stage, list(blows), like
        self.turns: list[Turn] = []
        self._lock = threading.Lock()
        self._timers: list[threading.Timer] = []

    @contextmanager
    def at(self, machines: Any) -> Iterator[Striker]:
        """Stand between these machines and who asks them."""
        plain = machines.talk

        def talk() -> Line:
            self._begin()
            return Line(plain(), self)

        machines.talk = talk
        try:
            yield self
        finally:
            del machines.talk
            for timer in self._timers:
                timer.cancel()

    def _due(self, moment: str) -> Blow | None:
        at = len(self.turns) - 1
        if not self.left or self.left[0].at > at:
            return None
        blow = self.left[0]
        return blow if moment == blow.moment else None

    def _begin(self) -> None:
        self.turns.append(Turn())
        at = len(self.turns) - 1
        for blow in [one for one in self.left if one.at <= at]:
            self.stage.until(1 if blow.alone else 2)
            if blow.moment == "between" or blow.at < at:  # who has answered too soon
                self._strike(blow, self.stage.there())

    def posted(self, messages: Mapping[str, tuple[str, bytes]]) -> None:
        """They have gone out."""
        turn = self.turns[-1]
        asked = [codec.decode(message) for _, message in messages.values()]
        turn.op, turn.begun = turn.op or asked[0]["op"], turn.begun or time.monotonic()
        turn.reads |= any("source" in one for one in asked)
        turn.waiting |= {name: address for name, (address, _) in messages.items()}
        victims = list(turn.waiting.values())
        if blow := self._due("asked"):
            self._strike(blow, victims)
        elif blow := self._due("computing") or (len(victims) == 1 and self._due("answering")):
            at = min(len(self.turns) - 1, len(self.like) - 1)
            seconds = blow.share * self.like[at].seconds
            timer = threading.Timer(seconds, self._strike, (blow, victims))
            self._timers.append(timer)
            timer.start()

    def arrived(self, found: Sequence[Arrived]) -> None:
        """These have come in."""
        turn = self.turns[-1]
        for one in found:
            turn.waiting.pop(one.name, None)
        turn.seconds = time.monotonic() - turn.begun
        if found and turn.waiting and (blow := self._due("answering")):
            self._strike(blow, list(turn.waiting.values()))

    def _strike(self, blow: Blow, victims: Sequence[str]) -> None:
        with self._lock:
            if blow.struck or blow not in self.left:
                return
            there = self.stage.there()
            victims = sorted(set(victims) & set(there)) or sorted(there)
            if not victims:
                return
            turn, at = self.turns[-1], self.turns[-1].waiting
            victim = victims[int(blow.pick * len(victims))]
            what = f"{turn.op}{' and read' if turn.reads else ''}"
            doing = f"{blow.moment} to {what}" if victim in at.values() else "between turns"
            self.stage.kill(victim)
            self.stage.add(victim if blow.same else "")
            blow.struck = f"{doing}{', the last one' if len(there) == 1 else ''}"
            self.left.remove(blow)


class Line:
    """A talk that a striker listens to."""

    def __init__(self, talk: Talk, striker: Striker) -> None:
        self.talk, self.striker, self.drop = talk, striker, talk.drop

    def post(self, messages: Mapping[str, tuple[str, bytes]]) -> None:
        self.talk.post(messages)
        self.striker.posted(messages)

    def wait(self, seconds: float | None = None) -> list[Arrived]:
        found = self.talk.wait(seconds)
        self.striker.arrived(found)
        return found


# what is fitted


@dataclass(frozen=True)
class Learner:
    """A fit: in a folder of its own, on an engine; what it gives is compared byte by byte."""

    name: str
    fit: Callable[[Path, pc.Embedded], dict[str, Any]]


def regression(rows: int) -> Learner:
    """Logistic regression over files, through a hospital's gate."""
    return Learner(
        f"logistic regression over {rows:,} rows in files",
        lambda folder, engine: over_files(folder, engine, rows, pc.LogisticRegression(), FORMULA),
    )


def trees_over_files(rows: int) -> Learner:
    """Boosting over files, through a hospital's gate: chunk by chunk."""
    model = pc.GradientBoostingClassifier(n_estimators=3, max_depth=2)
    return Learner(
        f"boosting over {rows:,} rows in files",
        lambda folder, engine: over_files(folder, engine, rows, model, "readmitted ~ age + hba1c"),
    )


def trees(rows: int, n: int = 10) -> Learner:
    """Boosting over arrays, in one trust domain."""

    def fit(folder: Path, engine: pc.Embedded) -> dict[str, Any]:
        x = np.random.default_rng(0).standard_normal((rows, 10))
        y = (x[:, 0] * x[:, 1] + np.random.default_rng(1).logistic(size=rows) > 0).astype(float)
        model = pc.GradientBoostingClassifier(n_estimators=n)
        return found_of(folder, model.fit(x, y, engine=engine))

    return Learner(f"boosting over {rows:,} rows in memory", fit)


def over_files(
    folder: Path, engine: pc.Embedded, rows: int, model: Any, formula: str
) -> dict[str, Any]:
    """A fit over a scan, with the hospital's own books."""
    files = folder.parent / f"visits-{rows}"
    if not files.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write(visits(rows), files, 4, max(100, rows // 10))
    scan = pc.scan(files / "*.parquet", BOOK)
    data = pc.read({"hospital": scan}, BOOK).at_home(folder / "home")
    return found_of(folder, model.fit(data, formula, engine=engine))


def found_of(folder: Path, model: Any) -> dict[str, Any]:
    """What is compared: the model as it is saved, its rounds, and what left the hospital."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.pcm")
    found = {"model": (folder / "model.pcm").read_bytes()}
    found["rounds"] = [replace(one, seconds=0.0) for one in model.rounds_]
    home = folder / "home" / "hospital"
    if home.is_dir():
        log = [json.loads(line) for line in (home / "audit.jsonl").read_text().splitlines()]
        found["log"] = [_timeless(line) for line in log if line["event"] == "released"]
        found["ledger"] = ledger_of(home, data=True)
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(one) for one in value]
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in TIMES}
    return value


# what is played


def drawn(kills: int, turns: int, rng: random.Random) -> list[Blow]:
    """Kills at random turns, one in each of as many stretches of the fit, and at each moment."""
    edges = [(turns - 1) * k // kills for k in range(kills + 1)]
    moments = [MOMENTS[k % len(MOMENTS)] for k in range(kills)]
    rng.shuffle(moments)
    return [
        Blow(
            rng.randrange(first, max(stop, first + 1)),
            moment,
            0.8 * rng.random(),
            rng.random(),
            rng.random() < BEFORE_TWO,
            rng.random() < SAME,
        )
        for (first, stop), moment in zip(pairwise(edges), moments, strict=True)
    ]


@dataclass
class Found:
    """How a fit went; "" in `wrong`: as it must."""

    seconds: float
    struck: list[str]
    wrong: str


class Play:
    """A learner on a stage: first undisturbed, then with kills."""

    def __init__(self, stage: Stage, machines: Any, learner: Learner, folder: Path) -> None:
        self.stage, self.machines, self.learner, self.folder = stage, machines, learner, folder
        self.expected = learner.fit(folder / "here", pc.Embedded(PARTS))
        self.runs = 0
        self.turns: list[Turn] = []
        self.whole = self._fit([])

    def strike(self, blows: Sequence[Blow]) -> Found:
        """A fit with these."""
        return self._fit(list(blows))

    def _fit(self, blows: list[Blow]) -> Found:
        self.stage.until(self.stage.wanted)
        self.runs += 1
        began = time.monotonic()
        with Striker(self.stage, blows, self.turns).at(self.machines) as striker:
            engine = Cluster(PARTS, machines=self.machines)
            found = self.learner.fit(self.folder / f"there-{self.runs}", engine)
        self.turns = self.turns or striker.turns
        other = [part for part in self.expected if found[part] != self.expected[part]]
        missed = [blow for blow in blows if not blow.struck]
        wrong = f"other bytes: {', '.join(other)}" if other else ""
        wrong = wrong or (f"{len(missed)} kills were not dealt" if missed else "")
        return Found(time.monotonic() - began, [blow.struck for blow in blows], wrong)


def main() -> int:
    """All of it."""
    parser = argparse.ArgumentParser(prog="scripts/chaos cluster", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each learner")
    parser.add_argument("--per-run", type=int, default=PER_RUN, help="in one fit")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all that runs is stopped
    learners = [regression(20_000), trees(200_000), trees_over_files(2_000)]
    wrong = 0
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as name,
        Stage(options.workers) as stage,
        pc.cluster(stage.address, patience=60, spool=name) as cluster,
    ):
        for number, learner in enumerate(learners):
            play = Play(stage, cluster.machines, learner, Path(name) / str(number))
            wrong += _played(play, options, number)
    return 1 if wrong else 0


def _played(play: Play, options: argparse.Namespace, number: int) -> int:
    print(f"{play.learner.name}: {len(play.turns)} turns of messages", flush=True)
    print(f"  undisturbed {play.whole.seconds:.1f} s  {play.whole.wrong or 'same bytes'}")
    rng, wrong, done = random.Random(f"{options.seed} {number}"), bool(play.whole.wrong), 0
    struck: Counter[str] = Counter()
    while done < options.kills:
        kills = min(options.per_run, options.kills - done)
        trees_too = Tree(fan_in=2, workers=2, bytes=0) if play.runs % 3 == 0 else Tree()
        play.machines.tree = trees_too
        blows = drawn(kills, len(play.turns), rng)
        if play.runs < 3:  # files are looked at once in a fit, and read once if nobody is lost
            at = 0 if play.runs == 1 else [turn.reads for turn in play.turns].index(True)
            blows[0].at, blows[0].moment = at, rng.choice(MOMENTS[:2])
        found = play.strike(blows)
        done, wrong = done + kills, wrong + bool(found.wrong)
        struck.update(found.struck)
        said = f"WRONG  {found.wrong}" if found.wrong else "same bytes"
        print(f"  {found.seconds:5.1f} s  {'; '.join(found.struck)}  {said}", flush=True)
    for what, times in sorted(struck.items()):
        print(f"    {times:3}  {what}")
    print(f"  {done} kills, {wrong} fits wrong", flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
