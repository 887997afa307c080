"""Opening a total: read the sites' answers, reconstruct what removes the masks, and check it.

The same steps serve the coordinator and everybody who checks its transcript.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polyclinic.privacy.secure import mask, shamir
from polyclinic.privacy.secure.agreement import agreement_body
from polyclinic.privacy.secure.encoding import Words, unframe
from polyclinic.privacy.secure.envelope import check, from_hex, same
from polyclinic.privacy.secure.errors import failure
from polyclinic.privacy.secure.identity import Roster
from polyclinic.privacy.secure.keyring import SEED_BYTES, commitment
from polyclinic.privacy.secure.round import Round

Shares = Mapping[str, Mapping[str, bytes]]  # by holder and dealer


def read_masked(about: Round, roster: Roster, value: Any, site: str) -> tuple[Words, str]:
    """The vector of a MASKED message, and the digest that stands for it.

    Raises
    ------
    SecureSumError : BAD_SIGNATURE, or SCHEMA_MISMATCH when it is not of this round.
    """
    signed = check(roster, value, site, "MASKED", about.place)
    body = dict(signed.body)
    vector = body.pop("vector", None)
    if (
        not same(body, about.head())
        or not isinstance(vector, np.ndarray)
        or vector.dtype != np.uint64
        or vector.shape != about.framed_shape
    ):
        raise failure("SCHEMA_MISMATCH", f"the vector of {site} is not of this round", site)
    return vector, signed.digest


def read_shares(
    about: Round, roster: Roster, value: Any, site: str, survivors: Mapping[str, str]
) -> dict[str, bytes]:
    """The shares of an UNMASK message by dealer: of a survivor's seed, of a lost site's key.

    Raises
    ------
    SecureSumError : BAD_SIGNATURE, BAD_MESSAGE, or SHARE_INVALID naming the site.
    """
    signed = check(roster, value, site, "UNMASK", about.place)
    body = dict(signed.body)
    seeds, masks = body.pop("seed", None), body.pop("mask", None)
    lost = set(about.keyring.members) - set(survivors)
    if (
        not same(body, agreement_body(about.keyring, about.index, survivors))
        or not (isinstance(seeds, dict) and set(seeds) == set(survivors))
        or not (isinstance(masks, dict) and set(masks) == lost)
    ):
        raise failure("BAD_MESSAGE", f"the shares of {site} are not of this round", site)
    shares = {d: from_hex(text, shamir.SHARE_BYTES) for d, text in {**seeds, **masks}.items()}
    try:
        for share in shares.values():
            shamir.from_bytes(share)
    except ValueError:
        raise failure("SHARE_INVALID", f"{site} gave shares that are none", site) from None
    return shares


def open_sum(about: Round, total: Words, survivors: Mapping[str, str], shares: Shares) -> Words:
    """The payload of `total`, the sum of the survivors' vectors; `total` is changed.

    Raises
    ------
    SecureSumError : BELOW_THRESHOLD; SHARE_INVALID, naming the dealer, when a secret is not the
        advertised one; CANARY_MISMATCH, GUARD.
    """
    secrets = _reconstruct(about, shares)
    plus: list[bytes] = []
    minus: list[bytes] = []
    for site in about.keyring.members:
        _check_secret(about, site, secrets[site], survives=site in survivors)
        if site in survivors:
            minus.append(secrets[site])
            continue
        for peer, key in about.pair_keys(secrets[site], site).items():
            if peer in survivors:
                (minus if site > peer else plus).append(key)
    mask.apply(total, plus, minus)
    return unframe(about.ring, total, about.canary(), len(survivors))


def _reconstruct(about: Round, shares: Shares) -> dict[str, bytes]:
    ring = about.keyring
    holders = sorted(shares)[: ring.threshold]
    if len(holders) < ring.threshold:
        raise failure("BELOW_THRESHOLD", "too few sites have given their shares")
    points = {holder: ring.number(holder) for holder in holders}
    weight = shamir.weights(list(points.values()))
    secrets = {}
    for dealer in ring.members:
        held = {points[h]: shamir.from_bytes(shares[h][dealer]) for h in holders}
        try:
            secrets[dealer] = shamir.combine(held, weight).to_bytes(SEED_BYTES, "little")
        except OverflowError:
            raise _invalid(dealer) from None
    return secrets


def _check_secret(about: Round, site: str, secret: bytes, survives: bool) -> None:
    ring, index = about.keyring, about.index
    if survives:
        good = commitment(ring.run, ring.batch, index, site, secret) == ring.seeds[site][index]
    else:
        good = mask.public_of(secret) == ring.masks[site][index]
    if not good:
        raise _invalid(site)


def _invalid(dealer: str) -> Exception:
    return failure("SHARE_INVALID", f"the shares of {dealer} give another secret", dealer)
