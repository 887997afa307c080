"""The public record of one round: anyone with the roster recomputes the total from it.

It holds the signed ADVERTISE, MASKED, AGREE and UNMASK messages. All of them are already known to
the coordinator; they open the total over the survivors and no site's own vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.privacy.secure import mask
from polyclinic.privacy.secure.agreement import check_agreement
from polyclinic.privacy.secure.encoding import Words, profile_of
from polyclinic.privacy.secure.envelope import VERSION, Place, fields
from polyclinic.privacy.secure.errors import failure
from polyclinic.privacy.secure.identity import Roster
from polyclinic.privacy.secure.keyring import Keyring
from polyclinic.privacy.secure.opening import open_sum, read_masked, read_shares
from polyclinic.privacy.secure.round import Round

_KINDS: dict[str, type] = {
    "version": int,
    "run": str,
    "round": int,
    "attempt": int,
    "batch": str,
    "index": int,
    "profile": str,
    "size": int,
    "advertise": dict,
    "masked": dict,
    "agree": dict,
    "unmask": dict,
}


def write_transcript(
    round: Round,
    adverts: Mapping[str, Any],
    masked: Mapping[str, bytes],
    agrees: Mapping[str, Any],
    unmasks: Mapping[str, Any],
) -> bytes:
    """The record of an opened round, from the answers of its sites."""
    return codec.encode(
        {
            "version": VERSION,
            "run": round.place.run,
            "round": round.place.round,
            "attempt": round.place.attempt,
            "batch": round.keyring.batch,
            "index": round.index,
            "profile": round.profile,
            "size": round.size,
            "advertise": dict(adverts),
            "masked": {site: codec.decode(data) for site, data in masked.items()},
            "agree": dict(agrees),
            "unmask": dict(unmasks),
        }
    )


def verify_transcript(
    roster: Roster,
    transcript: bytes,
    *,
    plan: Mapping[str, Any],
    run: str,
    round: int | None = None,
    threshold: str = "two_thirds",
) -> Words:
    """The total of a round, recomputed from its public record.

    Parameters
    ----------
    roster : the pinned roster.
    plan : the plan whose total this must be.
    round : where given, the round it must be of.
    threshold : the rule that the reader holds all sites to.

    Raises
    ------
    SecureSumError : BAD_MESSAGE, VERSION_MISMATCH, BAD_SIGNATURE, KEY_SUBSTITUTED, SCHEMA_MISMATCH,
        BELOW_THRESHOLD, U2_EQUIVOCATION, SHARE_INVALID, CANARY_MISMATCH, GUARD.
    """
    value = codec.decode(transcript)
    opened = _round_of(roster, value, plan, run, threshold)
    if round is not None and opened.place.round != round:
        raise failure("BAD_MESSAGE", "the record is of another round")
    ring, masked = opened.keyring, value["masked"]
    if not set(masked) <= set(ring.members) or len(masked) < ring.fewest:
        raise failure("BELOW_THRESHOLD", "too few sites stand behind the record")
    total = np.zeros(opened.framed_shape, np.uint64)
    survivors = {}
    for site in sorted(masked):
        vector, survivors[site] = read_masked(opened, roster, masked[site], site)
        mask.add(total, vector)
    check_agreement(roster, ring, opened.place, opened.index, survivors, value["agree"])
    if not set(value["unmask"]) <= set(ring.members):
        raise failure("BAD_MESSAGE", "shares of a site that is no member")
    shares = {
        site: read_shares(opened, roster, answer, site, survivors)
        for site, answer in value["unmask"].items()
    }
    return open_sum(opened, total, survivors, shares)


def _round_of(
    roster: Roster, value: Any, plan: Mapping[str, Any], run: str, threshold: str
) -> Round:
    version = value.get("version") if isinstance(value, dict) else None
    if type(version) is int and version != VERSION:
        raise failure("VERSION_MISMATCH", "the record has another version")
    fields(value, **_KINDS)
    if value["run"] != run:
        raise failure("BAD_MESSAGE", "the record is of another run")
    ring = Keyring.open(roster, run, value["batch"], threshold, value["advertise"])
    if not 0 <= value["index"] < ring.count or min(value["round"], value["attempt"]) < 0:
        raise failure("BAD_MESSAGE", "the record has no such index")
    profile_of(value["profile"], value["size"])
    if value["size"] * 8 > sum(getattr(v, "nbytes", 0) for v in _vectors(value["masked"])):
        raise failure("SCHEMA_MISMATCH", "the record is shorter than its size")
    place = Place(run, value["round"], value["attempt"])
    return Round(ring, place, value["index"], codec.digest(plan), value["profile"], value["size"])


def _vectors(masked: Mapping[str, Any]) -> list[Any]:
    bodies = [value.get("body") for value in masked.values() if isinstance(value, dict)]
    return [body.get("vector") for body in bodies if isinstance(body, dict)]
