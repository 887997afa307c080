"""The process that holds a hospital's rows, its gate and its keys. It has no network code.

It reads questions from its standard input and writes answers to its standard output, in frames: an
id and a length, both of 8 bytes, little-endian, then the bytes. Whatever goes wrong, no more than a
code leaves, and the hospital's log has it.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from polyclinic.core import codec
from polyclinic.core.codes import RULES
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.plan import Plan
from polyclinic.data.cohort import Cohort, rows_of
from polyclinic.engines.books import Books
from polyclinic.engines.site import Pinned, Site, unwritten
from polyclinic.engines.workers import ThreadWorkers, single_threaded_blas
from polyclinic.governance.home import SiteHome, Standing
from polyclinic.governance.paper import (
    DONE,
    ENVELOPE,
    PROTOCOL,
    WITHDRAWN,
    Answer,
    Notice,
    Paper,
    Question,
    bad_message,
)
from polyclinic.governance.scope import Scope
from polyclinic.governance.signing import unhex
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.ledger import Ledger
from polyclinic.privacy.secure.journal import SQLiteJournal
from polyclinic.site.data import Joined, write_private
from polyclinic.site.inbox import Inbox, agent_log
from polyclinic.site.runs import NAME, RunNames, refusal

VERSION = version("polyclinic")  # of the program that runs, whatever is installed since
NOTE = 0  # number of a frame that is told, not asked
FRAME = struct.Struct("<QQ")
ROOM = 8192  # bytes for the signed head of an answer
MOST_COHORTS = 8  # whose rows are held at once
MOST_RUNS = 64
MOST_THREADS = 64


@dataclass
class _Run:
    """A run as this process knows it; n is the place of the last question."""

    study: str
    site: Site
    threshold: str
    n: int = 0


@dataclass
class _Asked:
    """The different questions of a study about these data, kept on disk; see `Scope.rounds`."""

    path: Path
    most: int
    known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.path.is_file():
            self.known |= set(self.path.read_text().split())

    def add(self, plan: Plan) -> bool:
        """Write a new one down; False where there are too many."""
        if plan.content_hash in self.known:
            return True
        if len(self.known) >= self.most:
            return False
        lines = [*sorted(self.known), plan.content_hash, ""]
        write_private(self.path, "\n".join(lines).encode())
        self.known.add(plan.content_hash)
        return True


class Agent:
    """One hospital.

    Parameters
    ----------
    home : the site's folder, after `polyclinic site join`.

    Raises
    ------
    InputError : NO_SITE, NOT_JOINED, LOG_DAMAGED, and what reading the data raises.
    """

    def __init__(self, home: Path) -> None:
        self.home = SiteHome.open(home)
        self.name, joined = self.home.name, Joined.load(home)
        self.table, self.cores = joined.read(self.name), joined.cores or None
        self.device = joined.device
        self.inbox = Inbox(self.home)
        self.books = Books(
            self.home.identity,
            Ledger(self.home.ledger_path),
            SQLiteJournal(self.home.journal_path),
            self.home.audit,
            self.table.fingerprint,
            self.table.codebook.name,
        )
        self._names = RunNames(self.home.folder / "runs")
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._asked: dict[str, _Asked] = {}
        self._held: OrderedDict[str, ThreadWorkers] = OrderedDict()
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._stack = ExitStack()
        self._stack.enter_context(single_threaded_blas())

    def close(self) -> None:
        """Close the books."""
        self.books.ledger.close()
        self._stack.close()

    def receive(self, data: codec.Bytes) -> bytes:
        """The answer to a letter or a question; never more than a code of what went wrong.

        What answers a question is signed with the hospital's key, a code too.
        """
        question = None
        try:
            if data[: len(ENVELOPE)] != ENVELOPE:
                return codec.encode(self._letter(data))
            question = Question.open(data, self.inbox.joined.coordinator)
            answer = self._question(question)
        except PolyclinicError as error:
            code = error.code if error.code in RULES else "SITE_FAILED"
            answer = self._refused(code, error, _about(question))
        except Exception as error:  # whatever it was, no more than a code may cross the border
            answer = self._refused("SITE_FAILED", error, _about(question))
        if question is None:
            return answer
        if len(answer) > codec.LONGEST - ROOM:
            answer = codec.encode({"code": "SITE_FAILED"})
        return Answer.to(question, answer).signed(self.home.identity)

    def _refused(self, code: str, error: Exception, about: Mapping[str, str]) -> bytes:
        try:
            if code == "SITE_FAILED":
                self._write_down(error)
            self.home.audit.append("refused", code=code, **about)
        except Exception as worse:  # a log that cannot be written lets nothing else out either
            with suppress(OSError):
                self._write_down(worse)
            code = unwritten(worse)
        return codec.encode({"code": code})

    def noted(self, data: codec.Bytes) -> None:
        """Write down what the hospital's own network process has refused; nothing is answered."""
        with suppress(Exception):
            about = codec.decode(data)
            texts = {key: str(about[key])[:64] for key in ("why", "peer", "origin", "topic")}
            channel, times = str(about["channel"])[:64], int(about["times"])
            self.home.audit.append("network_refused", **texts, channel=channel, times=times)

    def _letter(self, data: codec.Bytes) -> dict[str, Any]:
        letter = codec.decode(data)
        if isinstance(letter, dict) and "notice" in letter:
            return self._noticed(Notice.open(letter, self.inbox.joined.coordinator))
        kind = letter.get("kind") if isinstance(letter, dict) else None
        known: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "HELLO": self._hello,
            "OFFER": self._offer,
            "STATE": self._state,
        }
        if not isinstance(kind, str) or kind not in known:
            raise bad_message("a letter")
        texts = all(isinstance(value, str) for value in letter.values())
        wanted = {"OFFER": {"paper"}, "STATE": {"study"}}
        if not texts or set(letter) != {"kind", *wanted.get(kind, set())}:
            raise bad_message("a letter")
        return known[kind](letter)

    def _hello(self, letter: Mapping[str, Any]) -> dict[str, Any]:
        policy = self.home.policy().policy
        return {
            "site": self.name,
            "version": VERSION,
            "protocol": PROTOCOL,
            "public": self.home.identity.public.hex(),
            "codebook": self.table.codebook.content_hash,
            "min_patients": policy.min_patients,
            "threshold": policy.threshold,
        }

    def _offer(self, letter: Mapping[str, Any]) -> dict[str, Any]:
        return self._standing(self.inbox.offer(unhex(letter["paper"])))

    def _state(self, letter: Mapping[str, Any]) -> dict[str, Any]:
        return self._standing(self.inbox.paper(letter["study"]))

    def _standing(self, paper: Paper) -> dict[str, Any]:
        decision = self.inbox.signed_decision(paper.hash)
        return {"state": self.inbox.state(paper.hash), "decision": decision.hex()}

    def _noticed(self, notice: Notice) -> dict[str, Any]:
        """What the coordinator tells; an old withdrawal may come again, and so may the offer."""
        if notice.site != self.name:
            raise refusal("a notice for another hospital", "WRONG_SITE")
        if notice.what == WITHDRAWN:
            self.inbox.withdraw(notice.study)
        elif notice.what == DONE:
            with self._guard:
                run = self._runs.get(notice.run)
                if run is not None and run.study == notice.study:
                    del self._runs[notice.run]
        else:
            raise bad_message("a notice")
        return {"ok": True}

    def _question(self, question: Question) -> bytes:
        if question.site != self.name:
            raise refusal("a question for another hospital", "WRONG_SITE")
        self._in_turn(question)
        with self._lock(self.inbox.paper(question.study).family):
            # Read anew: what was edited or taken back counts at once.
            standing = self.home.policy()
            if not standing.signed:
                raise refusal(standing.reason, standing.code)
            paper = self.inbox.approved(question.study)
            self.inbox.families.check(paper)
            run = self._run(paper, question, standing)
            run.n = question.n
            run.site.gate = Gate(self.name, standing.policy)
            answer = run.site.answer(question.message)
            self._drained(run.site, _about(question))
        return answer

    def _lock(self, family: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(family, threading.Lock())

    def _in_turn(self, question: Question) -> _Run | None:
        """The run, where it is known. Raises REPLAYED for a question that was asked before."""
        with self._guard:
            run = self._runs.get(question.run)
        if run is not None and (run.study != question.study or question.n <= run.n):
            raise refusal("a question that was asked before", "REPLAYED")
        return run

    def _run(self, paper: Paper, question: Question, standing: Standing) -> _Run:
        """The run that a question belongs to; a new name opens one, and is used up by that."""
        run = self._in_turn(question)
        if run is not None and run.threshold != standing.policy.threshold:
            with self._guard:
                del self._runs[question.run]
            raise refusal("the policy has another threshold now", "RUN_LOST")
        if run is not None:
            return run
        if question.n < 1 or not NAME.fullmatch(question.run):
            raise bad_message("a question")
        self._names.use(question.run)
        self.home.audit.append("run_opened", study=question.study, run=question.run)
        run = _Run(question.study, self._site(paper, question.run), standing.policy.threshold)
        with self._guard:
            self._runs[question.run] = run
            while len(self._runs) > MOST_RUNS:
                self._runs.popitem(last=False)
        return run

    def _site(self, paper: Paper, run: str) -> Site:
        policy = self.home.policy().policy
        return Site(
            Gate(self.name, policy),
            self._rows,
            self.books,
            len(paper.sites),
            paper.study.study.name,
            Pinned(paper.roster, run),
            self._admits(paper),
            lambda: self.inbox.families.fix(paper),
        )

    def _admits(self, paper: Paper) -> Callable[[Plan], None]:
        """The check of every plan against the approved study."""
        scope = Scope.of(paper)
        if paper.hash not in self._asked:
            path = self.inbox.folder / paper.hash / f"asked-{self.table.fingerprint}"
            self._asked[paper.hash] = _Asked(path, scope.rounds)
        asked = self._asked[paper.hash]

        def admits(plan: Plan) -> None:
            note = scope.refuses(plan)
            if not note and plan.base and plan.base not in asked.known:
                note = "a difference to an answer of another study"
            if not note and not asked.add(plan):
                note = "more different questions than the study has"
            if note:
                step = plan.step or plan.task
                raise Refused(
                    f"{self.name} refused {step}: not in the approved study: {note}",
                    code="OUTSIDE_STUDY",
                    rule=RULES["OUTSIDE_STUDY"],
                    site=self.name,
                    step=plan.step,
                )

        return admits

    def _rows(self, cohort: Mapping[str, Any] | None) -> ThreadWorkers:
        """The rows of a cohort; those of the last few are held."""
        key = codec.digest(cohort)
        with self._guard:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        chosen = None if cohort is None else Cohort.from_data(cohort)
        rows = replace(rows_of(self.table, chosen), device=self.device)
        workers = ThreadWorkers(rows, threads=self.cores)
        with self._guard:
            self._held[key] = workers
            while len(self._held) > MOST_COHORTS:
                self._held.popitem(last=False)
        return workers

    def _drained(self, site: Site, about: Mapping[str, str]) -> None:
        """What nobody planned goes to the hospital's own log; the rest stands in its books."""
        for error in site.log:
            if not isinstance(error, PolyclinicError):
                self._write_down(error)
                self.home.audit.append("refused", code="SITE_FAILED", **about)
        site.log.clear()

    def _write_down(self, error: Exception) -> None:
        """The kind and the place of an error, without its words: they may hold a value."""
        path = agent_log(self.home.folder)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        frames = "".join(
            f"  {frame.filename}:{frame.lineno} {frame.name}\n"
            for frame in traceback.extract_tb(error.__traceback__)
        )
        with os.fdopen(handle, "w") as file:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            file.write(f"{now} {type(error).__name__}\n{frames}")


def _about(question: Question | None) -> dict[str, str]:
    return {} if question is None else {"study": question.study, "run": question.run}


def serve(agent: Agent, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer frames until the input ends; a thread for each question."""
    writing, room = threading.Lock(), threading.Semaphore(MOST_THREADS)

    def send(number: int, answer: bytes) -> None:
        with writing:
            answers.write(FRAME.pack(number, len(answer)))
            answers.write(answer)
            answers.flush()

    def one(number: int, data: codec.Bytes) -> None:
        try:
            if number == NOTE:
                return agent.noted(data)
            send(number, agent.receive(data))
        except OSError:
            os._exit(1)  # nobody is there to read it
        finally:
            room.release()

    while True:
        head = _exactly(questions, FRAME.size)
        if head is None:
            return
        number, length = FRAME.unpack(head)
        if length > codec.LONGEST:
            if not _skipped(questions, length):
                return
            send(number, agent.receive(b""))
            continue
        data = _exactly(questions, length)
        if data is None:
            return
        room.acquire()
        threading.Thread(target=one, args=(number, data), daemon=True).start()


def _exactly(stream: BinaryIO, length: int) -> memoryview | None:
    """So many bytes; None where the stream ends before."""
    found = codec.room(length)
    return found if stream.readinto(found) == length else None  # type: ignore[attr-defined]


def _skipped(stream: BinaryIO, length: int) -> bool:
    while length:
        found = stream.read(min(length, 1 << 20))
        if not found:
            return False
        length -= len(found)
    return True


def main() -> None:
    """`python -m polyclinic.site.agent HOME`, started by the FLARE client of the site."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is no frame
    try:
        agent = Agent(Path(sys.argv[1]))
    except PolyclinicError as error:
        print(error, file=sys.stderr)
        os._exit(error.exit_code)
    serve(agent, sys.stdin.buffer, answers)
    os._exit(0)  # threads that still compute have nobody to answer


if __name__ == "__main__":
    main()
