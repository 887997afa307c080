"""One hospital as it answers: rows that a cohort selects, a gate, and one door.

What it is asked and what it answers are bytes, the same in this process and over a network. A
message is a plan, answered with a release, or a step of a secure sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec, ring
from polyclinic.core.codes import PASSING
from polyclinic.core.compress import Known, known_after, sent
from polyclinic.core.contribution import Release, Sum
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.exposure import Exposing, Members
from polyclinic.core.federation import HEADS, MAY, Cohort
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Rows
from polyclinic.core.plan import Plan
from polyclinic.core.task import Remembering, goes_on_from, lookup
from polyclinic.engines import candidates
from polyclinic.engines.books import Books, Kept, Memory
from polyclinic.engines.computed import Computed
from polyclinic.engines.workers import Held
from polyclinic.privacy import disclosure, vector
from polyclinic.privacy.disclosure import Selection
from polyclinic.privacy.gate import Audience, Gate, Rounding
from polyclinic.privacy.ledger import Asked
from polyclinic.privacy.noisy import noise_of
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import Roster, SecureSite, verify_transcript
from polyclinic.privacy.secure.keyring import threshold_of
from polyclinic.privacy.secure.site_rounds import RoundPlan

SHARE = "share"
HeldBy = Callable[[Cohort | None], Held]


@dataclass(frozen=True)
class Pinned:
    """What a site has agreed with the others for one run: the roster and the run's name."""

    roster: Roster
    run: str


class Site:
    """Answers plans; see the module.

    Parameters
    ----------
    gate : what may leave.
    rows : from a cohort (plain data, as it stands in a plan) to the workers that hold its rows.
    books : what the site remembers.
    sites : how many take part.
    study : its name, for the site's own records.
    pinned : for secure sums; None: only clear ones.
    admits : raises for a plan that nobody has agreed to here; None: the gate alone decides.
    leaves : called before anything is computed from rows that leaves; what it raises stops it.
    """

    def __init__(
        self,
        gate: Gate,
        rows: HeldBy,
        books: Books,
        sites: int = 1,
        study: str = "",
        pinned: Pinned | None = None,
        admits: Callable[[Plan], None] | None = None,
        leaves: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.gate, self.books, self._rows = gate.site, gate, books, rows
        self._n_sites, self._study, self._pinned = sites, study, pinned
        self._admits, self._leaves = admits, leaves
        self._party = None if pinned is None else self._join(pinned)
        self._last: Computed | None = None
        self.log: list[Exception] = []

    def answer(self, message: codec.Bytes) -> bytes:
        """What is asked for, or the code of a refusal, as bytes."""
        plan = None
        try:
            value = codec.decode(message)
            if isinstance(value, dict) and "kind" in value:
                if value["kind"] == MAY:
                    plan = Plan.from_data(value.get("plan"))
                    return self._may(plan, value.get("secure") is True)
                if value["kind"] == HEADS:
                    return self._heads(value)
                return self._secure(bytes(message))
            plan = Plan.from_data(value)
            release = self._release(plan, Audience(self._n_sites))
            return release.to_bytes(packed=bool(plan.compress) or _packs(plan))
        except PolyclinicError as error:
            return self._code(error, plan)
        except MemoryError:
            short = PolyclinicError("the memory here is too small", code="OUT_OF_MEMORY")
            return self._code(short, plan)
        except Exception as error:  # whatever it was, no more than a code may cross the border
            self.log.append(error)
            return codec.encode({"code": "SITE_FAILED"})

    def _code(self, error: PolyclinicError, plan: Plan | None) -> bytes:
        """All of a refusal that crosses the border, also where it cannot be written down."""
        try:
            self._refused(error, plan)
        except Exception as worse:
            self.log.append(worse)
            return codec.encode({"code": unwritten(worse)})
        return codec.encode({"code": error.code})

    def _join(self, pinned: Pinned) -> SecureSite:
        return SecureSite(
            self.name,
            self.books.identity,
            pinned.roster,
            self.books.journal,
            run=pinned.run,
            threshold=self.gate.policy.threshold,
            record=self.books.record,
        )

    def _may(self, plan: Plan, secure: bool) -> bytes:
        """Whether this site would answer alone, or in a total without leaning on the others.

        Nothing of the answer leaves here.
        """
        audience = self._audience() if secure else Audience(self._n_sites)
        self._admit(plan, audience)
        if noise_of(plan) is None:
            asked = self._asked(plan, audience)
            self.gate.check_shown(plan, self.books.ledger.shown(asked.question), audience)
            found = self._compute(plan, audience)
            release = self._gated(plan, found, audience)
            if not secure and self.gate.shows_nothing(found.exposure):
                raise self.gate.refuse(plan, "EFFECTIVE_SIZE", "few patients carry the weights")
            members = found.shown(release)
            if len(members) > 1 or not self.gate.withheld(plan, found.leaves):
                self.books.check(members, _population(found.rows), self.gate.policy)
            if not secure and self.books.ledger.added_up(asked.question):
                return codec.encode({"code": "SEEN_TOGETHER"})  # no rule is broken, no one refused
        return codec.encode({"may": True})

    def _release(self, plan: Plan, audience: Audience) -> Release:
        """The stored release of the same content, or a new one: computed, judged, stored."""
        self._admit(plan, audience)
        asked = self._asked(plan, audience)
        self.gate.check_shown(plan, self.books.ledger.shown(asked.question), audience)
        self._leaves()
        key = self._key(plan, audience)
        stored = self.books.before(key)
        if stored is None:
            try:
                found = self._compute(plan, audience)
                stored = self._stored(key, plan, found, audience)
            except Refused as error:
                stored = self._hidden(key, plan, audience, error)
        return self.gate.again(plan, *stored)

    def _admit(self, plan: Plan, audience: Audience) -> None:
        """What is refused whether or not it was released before."""
        if self._admits is not None:
            self._admits(plan)
        self.gate.admit(plan, audience)
        if plan.compress and (audience.secure or noise_of(plan) is not None):
            # Each site rounds to a step of its own: the low digits of a total would be one site's.
            raise self.gate.refuse(plan, "BAD_MESSAGE", "only sums that are seen alone are rounded")
        if audience.secure and _packs(plan):
            raise self.gate.refuse(
                plan, "UPDATE_ALONE", "a masked number has the bytes of its mask"
            )
        self.gate.check_columns(plan, self._rows(plan.cohort).rows.columns)

    def _gated(self, plan: Plan, found: Computed, audience: Audience) -> Release:
        return self.gate.release(
            plan,
            found.leaves,
            found.sum,
            found.exposure,
            audience,
            _selection(found.rows),
            self._rounding(plan, found.leaves),
            found.left_out,
        )

    def _stored(self, key: str, plan: Plan, found: Computed, audience: Audience) -> Kept:
        """What the ledger holds for this release from now on, or from before."""
        release = self._gated(plan, found, audience)
        members = found.shown(release)
        try:
            return self._commit(key, plan, release, found, audience, members)
        except Refused as error:
            if found.may_leave_out(error):
                return self._stored(key, plan, self._without(found), audience)
            # A subgroup that would show a few patients beside what is out is hidden like a cell.
            hidden = self.gate.withheld(plan, found.leaves) if len(members) == 1 else None
            if error.code != "COHORT_TOO_CLOSE" or hidden is None:
                raise
            return self._commit(key, plan, hidden, found, audience, ())

    def _hidden(self, key: str, plan: Plan, audience: Audience, error: Refused) -> Kept:
        """All of an answer by name hidden, so that one hospital does not end a study."""
        leaves = lookup(plan.task, plan.version).leaves(plan)
        hidden = self.gate.withheld(plan, leaves) if plan.combine == "collect" else None
        if hidden is None or error.code not in disclosure.ALONE:
            raise error
        self._refused(error, plan)
        return hidden.words, hidden.hidden

    def _commit(
        self,
        key: str,
        plan: Plan,
        release: Release,
        found: Computed,
        audience: Audience,
        members: Sequence[Members],
        kind: str = "values",
    ) -> Kept:
        """Writes a release, with the members behind it, into the ledger and the log."""
        known: Known | None = None
        size: dict[str, int] = {}
        if plan.compress:
            known = known_after(found.leaves, release.words, self._known(plan), plan.row)
            size = {"bytes": len(release.to_bytes(packed=True))}
        stored = self.books.commit(
            key,
            release,
            members=members,
            asked=self._asked(plan, audience, kind),
            policy=self.gate.policy,
            population=_population(found.rows),
            spend=self._spend(plan),
            entry={
                "study": self._study,
                "step": plan.step or plan.task,
                "task": plan.task,
                "combine": plan.combine,
                "n_sums": sum(len(words) for words in release.words.values()),
                "patients": found.sum.evidence.patients,
                "seen_as": _seen_as(audience),
                **size,
            },
            known=known,
            memory=found.memory if kind == "values" else None,
        )
        seen = _seen_as(audience)
        self.books.record("released", plan=plan.content_hash, step=plan.step, seen_as=seen)
        return stored

    def _spend(self, plan: Plan) -> dict[str, Any] | None:
        noise = noise_of(plan)
        return None if noise is None else noise.event

    def _key(self, plan: Plan, audience: Audience, kind: str = "values") -> str:
        """What is released once: the content, and over which sites only their total is seen."""
        return f"{self.books.base(plan, kind)}+{self._members(audience)}"

    def _asked(self, plan: Plan, audience: Audience, kind: str = "values") -> Asked:
        """The question, for what was shown of it before. Noise is drawn anew for every audience."""
        if noise_of(plan) is not None:
            return Asked()
        others = audience.others
        all_shown = others is not None and others.shown >= audience.sites
        question = codec.digest([kind, plan.question, self.books.dataset])
        return Asked(question, self._members(audience), all_shown)

    def _members(self, audience: Audience) -> str:
        """The sites over which a total is seen; "": none, this site is seen alone."""
        if not audience.secure or self._pinned is None:
            return ""
        return codec.digest(list(self._pinned.roster.sites))

    def _refused(self, error: PolyclinicError, plan: Plan | None) -> None:
        """Write a refusal down, in the words that only this site reads; what may be released when
        it is asked for again is none."""
        self.log.append(error)
        if error.code in PASSING:
            return
        step, task = (plan.step or plan.task, plan.task) if plan else ("", "")
        self.books.ledger.refuse(
            study=self._study, step=step, task=task, code=error.code, note=error.what
        )
        self.books.record("refused", plan=plan.content_hash if plan else "", code=error.code)

    def _compute(self, plan: Plan, audience: Audience) -> Computed:
        """The site's own sum; kept for the further steps of the same round.

        Too few patients are refused before anything is computed from them.
        """
        rows = self._rows(plan.cohort).rows
        self.gate.check_patients(plan, rows.n_patients, audience, _selection(rows))
        return self._summed(plan)

    def _rounding(self, plan: Plan, leaves: Sequence[Leaf]) -> Rounding | None:
        """What becomes of a leaf that the gate lets out; see `polyclinic.core.compress`."""
        if not plan.compress:
            return None
        if not any(leaf.lossy for leaf in leaves):
            raise self.gate.refuse(plan, "BAD_MESSAGE", "none of its sums may be rounded")
        known = self._known(plan)
        return lambda leaf, words: sent(leaf, words, plan.compress, known, plan.row)

    def _known(self, plan: Plan) -> Known | None:
        """What those who ask know of the sums from which rounded differences are taken.

        An answer that was seen in a total only is no base: beside the exact sum the difference
        would show it.
        """
        known = self.books.known(f"{self.books.kept_as(plan.base)}+") if plan.base else None
        if plan.base and known is None:
            raise self.gate.refuse(plan, "LEFTOVER_LOST")
        return known

    def _summed(self, plan: Plan) -> Computed:
        last, workers = self._last, self._rows(plan.cohort)
        if last is None or last.plan.round_hash != plan.round_hash:
            task = lookup(plan.task, plan.version)
            if not isinstance(task, Exposing) and noise_of(plan) is None:
                raise self.gate.refuse(plan, "NOT_JUDGED")
            plan.looked_up(lambda after: self._lent(after, plan.cohort))
            summed, memory = self._sum(plan, workers)
            exposure, rows = workers.exposure(plan, summed), workers.rows
            policy, population = self.gate.policy, _population(rows)

            def check(members: Members) -> None:
                self.books.check([members], population, policy)

            out = None
            if isinstance(policy, Policy):
                out = candidates.left_out(exposure, population, policy, check)
            last = Computed(plan, task.leaves(plan), summed, exposure, rows, out, memory)
            self._last = last
        return last

    def _sum(self, plan: Plan, workers: Held) -> tuple[Sum, Memory | None]:
        """The site's sum, and what it keeps for a later round. Raises Refused (LEFTOVER_LOST)."""
        if not isinstance(lookup(plan.task, plan.version), Remembering):
            return workers.sum(plan), None
        before = self._kept(after, plan.cohort) if (after := goes_on_from(plan)) else Memory({})
        if before is None:
            raise self.gate.refuse(plan, "LEFTOVER_LOST")
        summed, kept = workers.remember(plan, before.kept)
        return summed, Memory(kept, before.chain)

    def _kept(self, after: str, cohort: Cohort | None) -> Memory | None:
        """What was kept at the round of the plan with this `bare_hash`, however that was seen."""
        base = self.books.kept_over(after, cohort)
        every = {"", codec.digest(list(self._pinned.roster.sites)) if self._pinned else ""}
        found = (self.books.memory(f"{base}+{members}") for members in sorted(every))
        return next((one for one in found if one is not None), None)

    def _lent(self, after: str, cohort: Cohort | None) -> Mapping[str, Any] | None:
        found = self._kept(after, cohort)
        return None if found is None else found.kept

    def _heads(self, value: Mapping[str, Any]) -> bytes:
        """Take the signed heads of the other sites' logs, and show this one's."""
        log, heads = self.books.log, value.get("heads")
        if log is None or self._pinned is None or not isinstance(heads, dict):
            return codec.encode({"head": ""})
        for site in sorted(set(heads) & set(self._pinned.roster.sites) - {self.name}):
            log.receive_head(site, bytes.fromhex(heads[site]), self._pinned.roster.public(site))
        return codec.encode({"head": log.signed_head().hex()})

    def _secure(self, message: bytes) -> bytes:
        if self._party is None:
            raise PolyclinicError(
                f"{self.name} has no roster for secure sums",
                code="ALONE_NOT_ALLOWED",
                rule="a secure sum needs keys that every site has pinned",
            )
        return self._party.receive(message, self._contribute)

    def _contribute(self, asked: RoundPlan) -> NDArray[np.uint64]:
        """The vector that a secure sum asks for; the code of a refusal leaves instead."""
        plan = Plan.from_data(asked.get("plan"))
        try:
            share = asked.get("what") == "share"
            leaves = lookup(plan.task, plan.version).leaves(plan)
            if asked.profile != ("exact128" if share else vector.profile(leaves)):
                raise self.gate.refuse(plan, "SCHEMA_MISMATCH", asked.profile)
            if share:
                return self._share(plan)
            audience = self._audience(self._totals(plan, asked.get("record")))
            return vector.join(leaves, self._release(plan, audience))
        except PolyclinicError as error:
            self._refused(error, plan)
            raise

    def _audience(self, others: disclosure.Totals | None = None) -> Audience:
        """That of a secure sum."""
        least = threshold_of(self.gate.policy.threshold, self._n_sites)
        return Audience(self._n_sites, True, others, least)

    def _share(self, plan: Plan) -> NDArray[np.uint64]:
        """What is safe here, for a total on which other sites lean; a release like any other."""
        audience = self._audience()
        self._admit(plan, audience)
        self._leaves()
        key = self._key(plan, audience, SHARE)
        stored = self.books.before(key)
        if stored is None:
            stored = self._shared_of(key, plan, self._summed(plan), audience)
        return np.asarray(stored[0]["share"])

    def _without(self, found: Computed) -> Computed:
        """The same answer, of which no candidate leaves."""
        out = np.ones_like(found.left_out, dtype=bool)
        self._last = replace(found, left_out=out)
        return self._last

    def _shared_of(self, key: str, plan: Plan, found: Computed, audience: Audience) -> Kept:
        task = lookup(plan.task, plan.version)
        shown = self.books.ledger.shown(self._asked(plan, audience).question)
        slots = task.slots(plan) if isinstance(task, Exposing) else ()
        release = self.gate.share(
            plan,
            found.exposure,
            found.sum.evidence,
            slots,
            _selection(found.rows),
            shown,
            found.left_out,
        )
        return self._shared(key, plan, release, found, audience)

    def _shared(
        self, key: str, plan: Plan, release: Release, found: Computed, audience: Audience
    ) -> Kept:
        """What is safe, or nothing at all where the answer itself will be hidden."""
        about = replace(plan, step=f"{plan.step or plan.task}: what is safe", _derived={})
        # Of cells nothing is shared, only of all patients together.
        some = candidates.shown(found.exposure.members, found.left_out)
        members = [one for one in some if one.cell is None]
        try:
            return self._commit(key, about, release, found, audience, members, SHARE)
        except Refused as error:
            if found.may_leave_out(error):
                return self._shared_of(key, plan, self._without(found), audience)
            hidden = len(members) == 1 and self.gate.withheld(plan, found.leaves)
            if error.code != "COHORT_TOO_CLOSE" or not hidden:
                raise
            empty = {name: np.zeros_like(words) for name, words in release.words.items()}
            nothing = self.gate.again(plan, empty, {})
            return self._commit(key, about, nothing, found, audience, (), SHARE)

    def _totals(self, plan: Plan, record: Any) -> disclosure.Totals | None:
        """Totals over all sites, recomputed from what all of them have signed."""
        if record is None or self._pinned is None:
            return None
        about = {"what": "share", "plan": plan.to_data()}
        pinned = self._pinned
        words = verify_transcript(
            pinned.roster,
            codec.encode(record),
            plan=about,
            run=pinned.run,
            threshold=self.gate.policy.threshold,
        )
        task = lookup(plan.task, plan.version)
        if not isinstance(task, Exposing):
            return disclosure.totals(ring.decode(words), (), ())
        return disclosure.totals(ring.decode(words), task.slots(plan), task.candidates(plan)[0])


def unwritten(error: Exception) -> str:
    """The code of a refusal that could not be written down: of a full disk, or of anything."""
    full = isinstance(error, PolyclinicError) and error.code == "CANNOT_WRITE"
    return "CANNOT_WRITE" if full else "SITE_FAILED"


def _packs(plan: Plan) -> bool:
    """Whether its task rounds what leaves to few bytes."""
    return any(leaf.packed for leaf in lookup(plan.task, plan.version).leaves(plan))


def _population(rows: Rows) -> int:
    return rows.population or rows.n_patients


def _selection(rows: Rows) -> Selection:
    return Selection(rows.outside, _population(rows) > rows.n_patients)


def _seen_as(audience: Audience) -> str:
    return f"total of {audience.sites}" if audience.secure else "this site"
