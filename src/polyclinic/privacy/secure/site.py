"""A site's side of the secure sum: one door, and a journal behind it.

What leaves the site: public keys, sealed shares, the masked vector, signatures on who has sent one,
and of every site either the share of its self mask or that of its masking key. Every index goes
PLANNED -> UPLOADED -> AGREED -> REVEALED -> CLOSED; the journal holds a step before its answer is
returned, and asking again gives the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.privacy.secure.envelope import Request, check_run, is_code, read_request, refusal
from polyclinic.privacy.secure.errors import failure
from polyclinic.privacy.secure.identity import Identity, Roster
from polyclinic.privacy.secure.journal import Journal
from polyclinic.privacy.secure.keyring import THRESHOLDS
from polyclinic.privacy.secure.records import CLOSED, Changes, Records
from polyclinic.privacy.secure.site_keys import SiteKeys
from polyclinic.privacy.secure.site_rounds import Contribute, Record, SiteRounds

_log = logging.getLogger(__name__)


class SecureSite:
    """One site in one run.

    Parameters
    ----------
    name : the site's name in the roster.
    identity : its key, the one that stands in the roster.
    roster : the pinned roster, or its signed bytes with the `consortium`'s public key.
    journal : what survives a crash.
    run : name of the analysis; all messages carry it.
    threshold : "two_thirds", or "majority" where the coordinator is trusted to be only curious.
    membership : "fixed": all totals are over all sites of the roster; "survivors": sites may drop
        out, down to the threshold, until a total is opened; the others are over the same sites.
    consortium : public key that has signed the roster, 32 bytes.
    record : called as record(event, **details) to write an event down; an answer that it fails on
        does not leave. Events: "secure_refused" (code, kind, run, round), "secure_revealed" before
        the shares leave that open a total, "secure_closed" when the total is known (both: run,
        round, attempt, sites; the latter the SHA-256 of the total). None: not written down.

    Raises
    ------
    InputError : BAD_ROSTER when the roster does not hold this site with this key.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        roster: bytes | Roster,
        journal: Journal,
        *,
        run: str,
        threshold: Literal["two_thirds", "majority"] = "two_thirds",
        membership: Literal["fixed", "survivors"] = "fixed",
        consortium: bytes | None = None,
        record: Record | None = None,
    ) -> None:
        check_run(run)
        roster = roster if isinstance(roster, Roster) else Roster.open(roster, consortium or b"")
        if threshold not in THRESHOLDS or membership not in ("fixed", "survivors"):
            raise ValueError("threshold or membership is not one of the allowed settings")
        if name not in roster or roster.public(name) != identity.public:
            raise InputError(
                f"the roster does not hold {name} with its key",
                code="BAD_ROSTER",
                rule="a site takes part under the name and key that all others have pinned",
                next="send the site's public key to the consortium for a new roster",
            )
        self.name, self.run = name, run
        self.records = Records(journal, name, run)
        fixed, self._record = membership == "fixed", record or _unrecorded
        self.keys = SiteKeys(name, identity, roster, self.records, run, threshold, fixed)
        self.rounds = SiteRounds(
            name, identity, roster, self.records, self.keys, fixed, self._record
        )
        self._steps: Mapping[str, Callable[[Request], bytes]] = {
            "BATCH": self.keys.advertise,
            "KEYS": self.keys.share,
            "SHARES": self.keys.receive,
            "SURVIVORS": self.rounds.agree,
            "PROOF": self.rounds.reveal,
            "RESULT": self.rounds.close,
        }

    def receive(self, message: bytes, contribute: Contribute) -> bytes:
        """The answer to a message of the coordinator: a signed step, or a code alone.

        contribute : called with the plan of a round, whose `members` are the sites of its batch;
            returns the ring vector, or raises a PolyclinicError whose code is then the answer.
        """
        request = None
        try:
            request = read_request(message, self.run)
            if (self.records.row("run").value or {}).get("ended"):
                raise failure("DEADLINE", "the run is over")
            if request.kind == "PLAN":
                return self.rounds.upload(request, contribute)
            if request.kind not in self._steps:
                raise failure("BAD_MESSAGE", "a request of an unknown kind")
            return self._steps[request.kind](request)
        except PolyclinicError as error:
            code = error.code if is_code(error.code) else "SITE_FAILED"
        except Exception:
            _log.exception("%s: a step of the secure sum failed", self.name)
            code = "SITE_FAILED"
        return refusal(self._refused(code, request))

    def _refused(self, code: str, request: Request | None) -> str:
        """Write a refusal down; its code, or another one where that cannot be done."""
        kind = "" if request is None else request.kind
        details: dict[str, Any] = {
            "kind": kind if kind in (*self._steps, "PLAN") else "unknown",
            "run": self.run,
            "round": None if request is None else request.place.round,
        }
        try:
            self._record("secure_refused", code=code, **details)
        except Exception as error:
            _log.exception("%s: a refusal could not be written down", self.name)
            full = isinstance(error, PolyclinicError) and error.code == "CANNOT_WRITE"
            return "CANNOT_WRITE" if full else "SITE_FAILED"
        return code

    def end(self) -> None:
        """Erase all secrets of this run; nothing of it can be asked any more."""
        run = self.records.row("run")
        changes: Changes = {run.name: {**(run.value or {}), "ended": True}}
        for kind in ("secret", "reply"):
            changes.update(dict.fromkeys(self.records.names(kind)))
        for kind in ("batch", "index"):
            for name in self.records.names(kind):
                found = self.records.row(*name).value or {}
                ended = {"exchange": None} if kind == "batch" else {"state": CLOSED}
                changes[name] = {**found, **ended}
        self.records.write(changes)


def _unrecorded(event: str, /, **details: Any) -> None:
    """Where nobody keeps a log."""
