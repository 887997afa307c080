"""Studies that were offered to a hospital, and what its officer has decided about each.

Below ``studies/HASH``: the offer as the coordinator signed it, and the decision with the signature
of this hospital. Both are verified again whenever they are read.
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.data.codebook import Codebook
from polyclinic.governance.home import SiteHome
from polyclinic.governance.paper import APPROVED, Decision, Paper
from polyclinic.governance.paper import REFUSED as REFUSED
from polyclinic.governance.scope import Scope
from polyclinic.site.data import FILE, Fresh, Joined, write_private
from polyclinic.site.family import Families

WAITING = "waiting"
MOST_WAITING = 1000
MOST_FEWER = 8  # papers over fewer hospitals that one approval covers
_HASH = re.compile(r"[0-9a-f]{64}")


class Inbox:
    """The studies of one hospital.

    Files are read again whenever they have changed on disk.
    """

    def __init__(self, home: SiteHome) -> None:
        self.home, self.folder = home, home.folder / "studies"
        self._joined = Fresh(home.folder / FILE, lambda path: Joined.load(path.parent))
        self._codebooks: dict[Path, Fresh[str]] = {}
        self._papers: dict[str, Paper] = {}
        self._guard = threading.Lock()
        self.families = Families(self.folder, self._goes_on)

    @property
    def joined(self) -> Joined:
        """What this hospital has pinned. Raises NOT_JOINED."""
        return self._joined()

    def _codebook(self) -> str:
        path = self.joined.schema
        if path not in self._codebooks:
            self._codebooks[path] = Fresh(path, lambda at: Codebook.load(at).content_hash)
        return self._codebooks[path]()

    def offer(self, data: bytes) -> Paper:
        """Take an offer in; a known one changes nothing.

        One that goes on without hospitals of an approved study is approved with that study.

        Raises
        ------
        PolyclinicError : BAD_MESSAGE, BAD_SIGNATURE, TOO_MANY_STUDIES, and what `check` and
            `_check_fewer` raise.
        """
        paper = Paper.open(data, self.joined.coordinator)
        self.check(paper)
        Scope.of(paper)
        if paper.instead_of:
            self._check_fewer(paper)
        path, name = self.folder / paper.hash / "offer.pcm", paper.study.study.name
        with self._guard:
            if not path.is_file():
                self._room(paper)
                self.home.audit.append("study_offered", study=paper.hash, name=name)
                write_private(path, data)
            if paper.instead_of and not self.signed_decision(paper.hash):
                self._sign(paper, APPROVED, "study_may_go_on", without=self.left_out(paper))
        return paper

    def _room(self, paper: Paper) -> None:
        """Raises TOO_MANY_STUDIES where no further offer is taken."""
        if paper.instead_of:
            alike = sum(one.instead_of == paper.instead_of for one in self.papers())
            if alike >= MOST_FEWER:
                what = f"too many ways to go on with {paper.study.study.name}"
                raise _wrong(what, "TOO_MANY_STUDIES")
            return
        offers = self.folder.glob("*/offer.pcm")
        if sum(not one.with_name("decision.pcm").is_file() for one in offers) >= MOST_WAITING:
            raise _wrong("too many studies wait for a decision", "TOO_MANY_STUDIES")

    def _goes_on(self, paper: Paper) -> None:
        name, without = paper.study.study.name, self.left_out(paper)
        self.home.audit.append("study_goes_on", study=paper.hash, name=name, without=without)

    def withdraw(self, study: str) -> None:
        """Let an offer go that nobody has decided about; it comes back when it is offered again."""
        folder = self.folder / study
        with self._guard:
            if not _HASH.fullmatch(study) or not (folder / "offer.pcm").is_file():
                return
            if not self.signed_decision(study):
                self.home.audit.append("study_withdrawn", study=study)
                (folder / "offer.pcm").unlink()
                with suppress(OSError):  # something else lies there, too
                    folder.rmdir()

    def _check_fewer(self, paper: Paper) -> None:
        """Whether the study that was approved allows to go on with these hospitals alone.

        Raises
        ------
        PolyclinicError : what `approved` raises of that study, OUTSIDE_STUDY, MEMBERSHIP_CHANGED.
        """
        first = self.approved(paper.instead_of)
        may = first.study.federation.allows(paper.sites, first.sites)
        if first.instead_of or not may or first.over(paper.sites).hash != paper.hash:
            raise _wrong("not as the approved study goes on without hospitals", "OUTSIDE_STUDY")
        self.families.check(paper)

    def left_out(self, paper: Paper) -> list[str]:
        """Hospitals of the approved study that a paper goes on without."""
        if not paper.instead_of:
            return []
        return sorted(set(self.paper(paper.instead_of).sites) - set(paper.sites))

    def check(self, paper: Paper) -> None:
        """Whether a paper is for this hospital, by the keys and columns that are known here.

        Raises
        ------
        InputError : WRONG_HUB, KEY_SUBSTITUTED, CODEBOOK_DIFFERS.
        """
        joined, name = self.joined, self.home.name
        if paper.hub != joined.hub:
            raise _wrong(f"a study for the hub {paper.hub!r}, not {joined.hub!r}", "WRONG_HUB")
        if paper.sites.get(name) != self.home.identity.public:
            raise _wrong(f"a study in which {name} has another key", "KEY_SUBSTITUTED")
        for site, key in joined.pinned.items():
            if paper.sites.get(site, key) != key:
                raise InputError(
                    f"a study in which {site} has another key than before",
                    code="KEY_SUBSTITUTED",
                    rule=RULES["KEY_SUBSTITUTED"],
                    next=f"compare it with {site} by telephone; if it is theirs, take the old one "
                    f"out of [pinned] in {self.home.folder / FILE}",
                )
        if paper.codebook.content_hash != self._codebook():
            raise _wrong("a study by another codebook", "CODEBOOK_DIFFERS")

    def paper(self, study: str) -> Paper:
        """The paper with this hash. Raises UNKNOWN_STUDY."""
        path = self.folder / study / "offer.pcm"
        if not _HASH.fullmatch(study) or not path.is_file():
            raise _wrong("there is no such study here", "UNKNOWN_STUDY")
        if study not in self._papers:
            paper = Paper.open(path.read_bytes(), self.joined.coordinator)
            if paper.hash != study:
                raise _wrong("an offer lies under the hash of another", "UNKNOWN_STUDY")
            self._papers[study] = paper
        return self._papers[study]

    def papers(self) -> list[Paper]:
        """All that the hub's coordinator has offered, the first one first.

        Those of a hub that the site has left are passed over, and those whose form an earlier
        version had: they are offered and decided anew.
        """
        found = []
        for path in sorted(self.folder.glob("*/offer.pcm"), key=_written):
            try:
                found.append(self.paper(path.parent.name))
            except PolyclinicError as error:
                older = error.code in ("BAD_SIGNATURE", "BAD_MESSAGE")
                if not older and path.is_file():  # else just withdrawn
                    raise
        return found

    def since(self, study: str) -> datetime:
        """When it was offered."""
        at = (self.folder / study / "offer.pcm").stat().st_mtime
        return datetime.fromtimestamp(at, UTC).astimezone()

    def decision(self, study: str) -> Decision | None:
        """What this hospital has signed about a study; None: nothing yet.

        Raises
        ------
        PolyclinicError : BAD_SIGNATURE, BAD_MESSAGE for a decision that is not this hospital's.
        """
        data = self.signed_decision(study)
        if not data:
            return None
        found = Decision.open(data, self.home.identity.public)
        if (found.site, found.study) != (self.home.name, study):
            raise _wrong("a decision about another study", "BAD_SIGNATURE")
        return found

    def signed_decision(self, study: str) -> bytes:
        """The decision as it travels to the hub; empty: none yet."""
        path = self.folder / study / "decision.pcm"
        return path.read_bytes() if path.is_file() else b""

    def state(self, study: str) -> str:
        """ "waiting", "approved" or "refused"."""
        found = self.decision(study)
        return WAITING if found is None else found.verdict

    def approved(self, study: str) -> Paper:
        """The paper of an approved study, checked again by what is pinned now.

        Raises
        ------
        PolyclinicError : UNKNOWN_STUDY, NOT_APPROVED, STUDY_REFUSED, and what `check` raises.
        """
        paper, state = self.paper(study), self.state(study)
        if state == WAITING:
            raise _wrong(f"{paper.study.study.name} is not approved", "NOT_APPROVED")
        if state != APPROVED:
            raise _wrong(f"{paper.study.study.name} is refused", "STUDY_REFUSED")
        if paper.instead_of:
            self.approved(paper.instead_of)
        self.check(paper)
        return paper

    def decide(self, paper: Paper, verdict: str, why: str = "") -> int:
        """Sign a decision; the entry of the log. An approval pins the other hospitals' keys."""
        if verdict == APPROVED:
            self.check(paper)
        return self._sign(paper, verdict, f"study_{verdict}", why=why)

    def _sign(self, paper: Paper, verdict: str, event: str, why: str = "", **more: Any) -> int:
        """Log, pin and write a decision."""
        name = paper.study.study.name
        signed = Decision(self.home.name, paper.hash, verdict, why).signed(self.home.identity)
        entry = self.home.audit.append(event, study=paper.hash, name=name, why=why, **more)
        if verdict == APPROVED:
            joined = self.joined
            others = {site: key for site, key in paper.sites.items() if site != self.home.name}
            if not others.items() <= joined.pinned.items():
                replace(joined, pinned={**joined.pinned, **others}).save(self.home.folder)
        write_private(self.folder / paper.hash / "decision.pcm", signed)
        return entry

    def find(self, name: str) -> Paper:
        """The study of this name, or whose hash begins so; the latest of several.

        By its name a study is found as it was approved, not as it goes on without a hospital:
        a decision about it is about all that goes on instead of it.

        Raises
        ------
        InputError : UNKNOWN_STUDY, with the studies that are here.
        """
        papers, short = self.papers(), name.replace(" ", "")
        for paper in reversed(papers):
            begins = len(short) >= 8 and paper.hash.startswith(short)
            if begins or (paper.study.study.name == name and not paper.instead_of):
                return paper
        known = ", ".join(dict.fromkeys(paper.study.study.name for paper in papers)) or "none"
        raise InputError(
            f"no study {name!r} was offered to this site",
            code="UNKNOWN_STUDY",
            rule=f"studies here: {known}",
            next="polyclinic site review shows those that wait",
            kept="",
        )


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _wrong(what: str, code: str) -> PolyclinicError:
    return InputError(what, code=code, rule=RULES[code], next=NEXT.get(code, ""))


def agent_log(home: Path) -> Path:
    """Where the agent writes what went wrong, for the hospital's own people."""
    return home / "log" / "agent.log"
