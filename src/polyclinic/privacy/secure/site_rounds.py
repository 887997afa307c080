"""The rounds of a site: from the plan to the erased keys.

What leaves the site: the masked vector, a signature on who has sent one, and of every member either
the share of its self mask or that of its masking key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.privacy.secure import mask
from polyclinic.privacy.secure.agreement import agreement_body, check_agreement
from polyclinic.privacy.secure.encoding import frame, profile_of
from polyclinic.privacy.secure.envelope import Request, body_digest, fields, from_hex, same, sign
from polyclinic.privacy.secure.errors import failure
from polyclinic.privacy.secure.identity import Identity, Roster
from polyclinic.privacy.secure.keyring import Keyring
from polyclinic.privacy.secure.records import (
    AGREED,
    CLOSED,
    PLANNED,
    REVEALED,
    UPLOADED,
    Changes,
    Records,
    Row,
)
from polyclinic.privacy.secure.round import Round
from polyclinic.privacy.secure.site_keys import SiteKeys


class RoundPlan(dict[str, Any]):
    """The plan of a round. `members` are the sites whose vectors its total may hold, `profile` is
    the ring in which it was asked for."""

    def __init__(self, plan: Mapping[str, Any], members: tuple[str, ...], profile: str) -> None:
        super().__init__(plan)
        self.members, self.profile = members, profile


Contribute = Callable[[RoundPlan], "np.ndarray[Any, Any]"]
Record = Callable[..., object]


class SiteRounds:
    """The state machine of each index at one site. `record` is told what is opened."""

    def __init__(
        self,
        name: str,
        identity: Identity,
        roster: Roster,
        records: Records,
        keys: SiteKeys,
        fixed: bool,
        record: Record,
    ) -> None:
        self._name, self._identity, self._roster = name, identity, roster
        self._records, self._keys, self._fixed = records, keys, fixed
        self._record = record

    def upload(self, request: Request, contribute: Contribute) -> bytes:
        """PLAN -> MASKED."""
        kinds: dict[str, type] = {"plan": dict, "profile": str, "size": int}
        kinds |= {"batch": str, "index": int, "transcript": str, "members": list}
        body = fields(request.body, **kinds)
        profile_of(body["profile"], body["size"])
        keyring = self._keys.ready(body["batch"])
        fits = body["transcript"] == keyring.transcript.hex()
        if not fits or not 0 <= body["index"] < keyring.count:
            raise failure("BAD_MESSAGE", "a plan does not fit its batch")
        if not same(body["members"], keyring.members):
            raise failure("MEMBERSHIP_CHANGED", "a plan is not for the members of its batch")
        plan, profile, size = codec.digest(body["plan"]), body["profile"], body["size"]
        about = Round(keyring, request.place, body["index"], plan, profile, size)
        sent = self._plan(about, request.digest)
        if sent is None:
            words = contribute(RoundPlan(body["plan"], keyring.members, profile))
            sent = self._mask(about, request.digest, words)
        return sent

    def _plan(self, about: Round, asked: str) -> bytes | None:
        """Journal the plan; or the answer that this very request already had."""
        place, index = about.place, (about.keyring.batch, about.index)
        row = self._records.row("index", *index)
        if row.value is not None:
            if row.value["request"] != asked or row.value["state"] == CLOSED:
                raise failure("INDEX_REUSED", "an index was planned before")
            return self._records.reply(*index, "MASKED")
        run, round = self._records.row("run"), self._records.row("round", place.round)
        before = {"members": None, "open": None, "opened": None, **(run.value or {})}
        earlier = round.value or {"plan": about.plan, "attempt": -1, "survivors": None}
        if self._fixed and before["members"] not in (None, list(about.keyring.members)):
            raise failure("MEMBERSHIP_CHANGED", "the sites are not those of the first round")
        if not set(before["opened"] or ()) <= set(about.keyring.members):
            raise failure("MEMBERSHIP_CHANGED", "a total was opened over a site that is not asked")
        if earlier["plan"] != about.plan:
            raise failure("INDEX_REUSED", "a round stands for one plan")
        if place.attempt <= earlier["attempt"]:
            raise failure("DEADLINE", "an attempt is over")
        changes: Changes = {}
        if before["open"] is not None:
            changes = self._closing(self._records.row("index", *before["open"]))
        planned = {"state": PLANNED, "round": place.round, "attempt": place.attempt}
        changes[row.name] = {**planned, "request": asked}
        changes[round.name] = {**earlier, "attempt": place.attempt}
        changes[run.name] = {**before, "open": list(index)}
        self._write(changes, row, run, round)
        return None

    def _mask(self, about: Round, asked: str, words: Any) -> bytes:
        """Mask, journal, and only then answer."""
        index = (about.keyring.batch, about.index)
        row, run = self._records.row("index", *index), self._records.row("run")
        secret = self._keys.secret(*index)
        if row.value is None or row.value["state"] != PLANNED or secret.value is None:
            return self._already(index, asked)
        vector = frame(about.ring, words, about.size, about.canary())
        private, seed = (bytes.fromhex(text) for text in secret.value["own"])
        pairs = about.pair_keys(private, self._name)
        plus = [seed, *(key for peer, key in pairs.items() if peer > self._name)]
        mask.apply(vector, plus, [key for peer, key in pairs.items() if peer < self._name])
        body = {**about.head(), "vector": vector}
        digest = body_digest(body)
        signed = sign(self._identity, self._name, "MASKED", about.place, body, digest)
        changes: Changes = {
            row.name: {**row.value, "state": UPLOADED, "vector": digest},
            run.name: {**(run.value or {}), "members": list(about.keyring.members)},
            secret.name: {**secret.value, "own": None},
            ("reply", *index, "MASKED"): codec.encode(signed),
        }
        self._records.write(changes, [row, run, secret])
        # What is in the journal is what leaves, whichever process has written it.
        return self._already(index, asked)

    def _already(self, index: tuple[str, int], asked: str) -> bytes:
        """The answer that the journal holds for this very request."""
        row, reply = self._records.row("index", *index), self._records.reply(*index, "MASKED")
        if reply is None or row.value is None or row.value["request"] != asked:
            raise failure("INDEX_REUSED", "an index was used meanwhile")
        return reply

    def agree(self, request: Request) -> bytes:
        """SURVIVORS -> AGREE: sign the one set of sites, with what each has sent."""
        body = fields(request.body, batch=str, index=int, survivors=dict)
        batch, index, survivors = body["batch"], body["index"], body["survivors"]
        row, found = self._open_row(request, batch, index)
        if found["state"] in (AGREED, REVEALED):
            reply = self._records.reply(batch, index, "AGREE")
            if reply is None or not same(found["survivors"], survivors):
                raise failure("U2_EQUIVOCATION", "another set of sites was agreed upon")
            return reply
        if found["state"] != UPLOADED:
            raise failure("BAD_MESSAGE", "nothing was sent under this index")
        keyring = self._keys.keyring(batch)
        run, round = self._records.row("run"), self._records.row("round", request.place.round)
        self._check_survivors(keyring, survivors, found["vector"])
        self._check_earlier(survivors, run.value or {}, round.value or {})
        answer = agreement_body(keyring, index, survivors)
        reply = codec.encode(sign(self._identity, self._name, "AGREE", request.place, answer))
        changes: Changes = {
            row.name: {**found, "state": AGREED, "survivors": survivors},
            round.name: {**(round.value or {}), "survivors": sorted(survivors)},
            ("reply", batch, index, "AGREE"): reply,
        }
        self._write(changes, row, run, round)
        return reply

    def _check_survivors(self, keyring: Keyring, survivors: Mapping[str, Any], own: str) -> None:
        for digest in survivors.values():
            from_hex(digest, 32)
        if not set(survivors) <= set(keyring.members):
            raise failure("MEMBERSHIP_CHANGED", "a survivor is no member of the batch")
        if survivors.get(self._name) != own:
            raise failure("U2_EQUIVOCATION", "this site's vector is not the one it has sent")
        if self._fixed and set(survivors) != set(keyring.members):
            raise failure("MEMBERSHIP_CHANGED", "a site was lost, and the sites are fixed")
        if len(survivors) < keyring.fewest:
            raise failure("BELOW_THRESHOLD", "too few sites have sent their vector")

    def _check_earlier(
        self, survivors: Mapping[str, Any], run: Mapping[str, Any], round: Mapping[str, Any]
    ) -> None:
        """One set of sites: in a round from the first agreement on, in a run from a total on."""
        same_sites = (None, sorted(survivors))
        if round.get("survivors") not in same_sites:
            raise failure("U2_EQUIVOCATION", "another set of sites was agreed upon in this round")
        if run.get("opened") not in same_sites:
            raise failure("MEMBERSHIP_CHANGED", "a total was opened over other sites")

    def reveal(self, request: Request) -> bytes:
        """PROOF -> UNMASK: only for the set that enough sites have signed."""
        body = fields(request.body, batch=str, index=int, survivors=dict, lost=list, agrees=dict)
        batch, index, survivors = body["batch"], body["index"], body["survivors"]
        row, found = self._open_row(request, batch, index)
        if found["state"] not in (AGREED, REVEALED):
            raise failure("BAD_MESSAGE", "this site has not agreed yet")
        keyring = self._keys.keyring(batch)
        if set(survivors) & {name for name in body["lost"] if isinstance(name, str)}:
            raise failure("OVERLAPPING_UNMASK", "a site is asked for as survivor and as lost")
        if not same(survivors, found["survivors"]):
            code = "OVERLAPPING_UNMASK" if found["state"] == REVEALED else "U2_EQUIVOCATION"
            raise failure(code, "another set of sites was agreed upon")
        if not same(body["lost"], [name for name in keyring.members if name not in survivors]):
            raise failure("BAD_MESSAGE", "the lost sites are not the rest of the members")
        reply = self._records.reply(batch, index, "UNMASK")
        if reply is not None:
            return reply
        check_agreement(self._roster, keyring, request.place, index, survivors, body["agrees"])
        secret = self._keys.secret(batch, index)
        if secret.value is None:
            raise failure("DEADLINE", "the shares of this index are erased")
        run = self._records.row("run")
        answer = self._shares(keyring, index, survivors, secret.value["shares"])
        reply = codec.encode(sign(self._identity, self._name, "UNMASK", request.place, answer))
        changes: Changes = {
            row.name: {**found, "state": REVEALED},
            run.name: {**(run.value or {}), "opened": sorted(survivors)},
            secret.name: None,
            ("reply", batch, index, "UNMASK"): reply,
        }
        self._tell("secure_revealed", request, sites=sorted(survivors))
        self._write(changes, row, run, secret)
        return reply

    def _shares(
        self,
        keyring: Keyring,
        index: int,
        survivors: Mapping[str, str],
        held: Mapping[str, list[str]],
    ) -> dict[str, Any]:
        """Of each member one share: the self mask of a survivor, the masking key of a lost site."""
        return {
            **agreement_body(keyring, index, survivors),
            "seed": {name: held[name][1] for name in keyring.members if name in survivors},
            "mask": {name: held[name][0] for name in keyring.members if name not in survivors},
        }

    def close(self, request: Request) -> bytes:
        """RESULT -> CLOSED: the total is known; all that belongs to the index is erased."""
        body = fields(request.body, batch=str, index=int, survivors=list, total=str)
        batch, index = body["batch"], body["index"]
        from_hex(body["total"], 32)
        row = self._records.row("index", batch, index)
        found = self._placed(request, row)
        if found["state"] != CLOSED:
            if found["state"] not in (AGREED, REVEALED):
                raise failure("BAD_MESSAGE", "there is no result before this site has agreed")
            if not same(body["survivors"], sorted(found["survivors"])):
                raise failure("U2_EQUIVOCATION", "another set of sites was agreed upon")
            run, sites = self._records.row("run"), sorted(found["survivors"])
            changes = self._closing(row)
            changes[row.name] = {**found, "state": CLOSED, "total": body["total"]}
            changes[run.name] = {**(run.value or {}), "opened": sites}
            self._tell("secure_closed", request, sites=sites, total_sha256=body["total"])
            self._write(changes, row, run)
        answer = {"batch": batch, "index": index}
        return codec.encode(sign(self._identity, self._name, "CLOSED", request.place, answer))

    def _open_row(self, request: Request, batch: str, index: int) -> tuple[Row, dict[str, Any]]:
        row = self._records.row("index", batch, index)
        found = self._placed(request, row)
        if found["state"] == CLOSED:
            raise failure("DEADLINE", "an attempt is over")
        return row, found

    def _placed(self, request: Request, row: Row) -> dict[str, Any]:
        found, place = row.value, request.place
        if found is None or (found["round"], found["attempt"]) != (place.round, place.attempt):
            raise failure("BAD_MESSAGE", "nothing was planned at this place")
        return found

    def _closing(self, row: Row) -> Changes:
        _, batch, index = row.name
        erased: list[tuple[Any, ...]] = [("secret", batch, index)]
        erased += [("reply", batch, index, kind) for kind in ("MASKED", "AGREE", "UNMASK")]
        return {row.name: {**(row.value or {}), "state": CLOSED}, **dict.fromkeys(erased)}

    def _tell(self, event: str, request: Request, **details: Any) -> None:
        """Before it is done: what cannot be written down does not happen."""
        place = request.place
        about = {"run": place.run, "round": place.round, "attempt": place.attempt}
        self._record(event, **about, **details)

    def _write(self, changes: Changes, *seen: Row) -> None:
        if not self._records.write(changes, seen):
            raise failure("DEADLINE", "another process has gone on with this run meanwhile")
