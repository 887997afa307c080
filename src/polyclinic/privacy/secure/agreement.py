"""What the survivors of a round sign: the one set of sites whose total may be opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyclinic.core import codec
from polyclinic.privacy.secure.envelope import Place, check
from polyclinic.privacy.secure.errors import failure
from polyclinic.privacy.secure.identity import Roster
from polyclinic.privacy.secure.keyring import Keyring


def agreement_body(keyring: Keyring, index: int, survivors: Mapping[str, str]) -> dict[str, Any]:
    """What a site signs when it agrees: the batch, the index, and who has sent what."""
    return {
        "batch": keyring.batch,
        "index": index,
        "transcript": keyring.transcript.hex(),
        "survivors": codec.digest(survivors),
    }


def check_agreement(
    roster: Roster,
    keyring: Keyring,
    place: Place,
    index: int,
    survivors: Mapping[str, str],
    agrees: Mapping[str, Any],
) -> None:
    """Raises unless enough survivors have signed exactly this set: BELOW_THRESHOLD, BAD_SIGNATURE,
    U2_EQUIVOCATION."""
    wanted = codec.digest(agreement_body(keyring, index, survivors))
    if not set(agrees) <= set(survivors):
        raise failure("BAD_MESSAGE", "someone has agreed who is no survivor")
    for name, value in agrees.items():
        if check(roster, value, name, "AGREE", place).digest != wanted:
            raise failure("U2_EQUIVOCATION", f"{name} has agreed upon another set", name)
    if len(agrees) < keyring.threshold:
        raise failure("BELOW_THRESHOLD", "too few sites have agreed")
