"""The keys of one batch: what every member advertises, and what all of them must see alike.

A batch holds the public masking keys of up to 64 rounds in advance. Each index of it hides one
vector only; the batch's digest T enters every key that is derived.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.core import codec
from polyclinic.privacy.secure import mask
from polyclinic.privacy.secure.envelope import (
    Place,
    check,
    fields,
    from_hex,
    from_words,
    sign,
    to_words,
)
from polyclinic.privacy.secure.errors import failure
from polyclinic.privacy.secure.identity import Identity, Roster

FEWEST_SITES, MOST_SITES = 3, 64
MOST_INDICES = 64
BATCH_BYTES = 16
SEED_BYTES = 32
THRESHOLDS = ("two_thirds", "majority")


def threshold_of(rule: str, sites: int) -> int:
    """How many of `sites` must agree: floor(2K/3) + 1, or floor(K/2) + 1 for "majority"."""
    if rule not in THRESHOLDS:
        raise ValueError(f"threshold is one of {THRESHOLDS}")
    return (2 * sites // 3 if rule == "two_thirds" else sites // 2) + 1


def fewest_of(threshold: int) -> int:
    """The least number of sites whose total may be opened, where so many must agree."""
    return max(threshold, FEWEST_SITES)


@dataclass(frozen=True)
class Secrets:
    """A site's own secrets of a batch: the sealing key, and per index masking key and self seed."""

    exchange: bytes
    masks: tuple[bytes, ...]
    seeds: tuple[bytes, ...]

    @staticmethod
    def generate(count: int) -> Secrets:
        """Fresh secrets for `count` indices."""
        masks = tuple(mask.new_key() for _ in range(count))
        seeds = tuple(secrets.token_bytes(SEED_BYTES) for _ in range(count))
        return Secrets(mask.new_key(), masks, seeds)


def commitment(run: str, batch: str, index: int, site: str, seed: bytes) -> bytes:
    """SHA-256 that binds a site to its self seed."""
    return bytes.fromhex(codec.digest(["b", run, batch, index, site, seed.hex()]))


def advertise(
    identity: Identity, site: str, run: str, batch: str, rule: str, own: Secrets
) -> dict[str, Any]:
    """The signed ADVERTISE message of a site."""
    seeds = (commitment(run, batch, i, site, seed) for i, seed in enumerate(own.seeds))
    count = len(own.masks)
    body = {
        "batch": batch,
        "count": count,
        "threshold": rule,
        "exchange": to_words(mask.public_of(own.exchange)),
        "masks": to_words(b"".join(map(mask.public_of, own.masks))).reshape(count, 4),
        "seeds": to_words(b"".join(seeds)).reshape(count, 4),
    }
    return sign(identity, site, "ADVERTISE", Place(run), body)


@dataclass(frozen=True)
class Keyring:
    """The public keys of one batch, all signatures checked.

    members     the sites of the batch, in order; site number x is members[x - 1]
    threshold   how many of them must agree, of all sites of the roster: two totals over different
                sites would need a site that agrees to both, also where their batches differ
    transcript  T: SHA-256 of all ADVERTISE messages
    exchange    by site: public sealing key
    masks       by site and index: public masking key
    seeds       by site and index: commitment to the self seed
    """

    run: str
    batch: str
    count: int
    members: tuple[str, ...]
    threshold: int
    transcript: bytes
    exchange: Mapping[str, bytes]
    masks: Mapping[str, tuple[bytes, ...]]
    seeds: Mapping[str, tuple[bytes, ...]]

    @staticmethod
    def open(
        roster: Roster, run: str, batch: str, rule: str, adverts: Mapping[str, Any]
    ) -> Keyring:
        """The keyring of a set of ADVERTISE messages.

        Raises
        ------
        SecureSumError : BELOW_THRESHOLD for fewer sites than must agree, or for another threshold
            than `rule`; BAD_SIGNATURE; KEY_SUBSTITUTED for a key that stands there twice.
        """
        members = tuple(sorted(adverts))
        threshold = threshold_of(rule, len(roster.sites))
        if len(members) < fewest_of(threshold):
            raise failure("BELOW_THRESHOLD", f"{len(members)} sites are too few for a secure sum")
        if len(members) > MOST_SITES:
            raise failure("TOO_MANY_SITES", f"{len(members)} are too many for a secure sum")
        opened = {name: _open_advert(roster, run, adverts[name], name) for name in members}
        count = opened[members[0]].count
        for name, advert in opened.items():
            if advert.batch != batch or advert.count != count:
                raise failure("KEY_SUBSTITUTED", f"the keys of {name} are of another batch", name)
            if advert.rule != rule:
                raise failure("BELOW_THRESHOLD", f"{name} has another threshold", name)
        keyring = Keyring(
            run,
            batch,
            count,
            members,
            threshold,
            bytes.fromhex(codec.digest({name: adverts[name] for name in members})),
            {name: advert.exchange for name, advert in opened.items()},
            {name: advert.masks for name, advert in opened.items()},
            {name: advert.seeds for name, advert in opened.items()},
        )
        keyring._check_distinct()
        return keyring

    @property
    def fewest(self) -> int:
        """The least number of sites whose total may be opened."""
        return fewest_of(self.threshold)

    def number(self, site: str) -> int:
        """The point at which a site holds its shares."""
        return self.members.index(site) + 1

    def _check_distinct(self) -> None:
        seen: set[bytes] = set()
        for name in self.members:
            for key in (self.exchange[name], *self.masks[name]):
                if key in seen:
                    raise failure("KEY_SUBSTITUTED", f"a key of {name} stands there twice", name)
                seen.add(key)


@dataclass(frozen=True)
class _Advert:
    batch: str
    count: int
    rule: str
    exchange: bytes
    masks: tuple[bytes, ...]
    seeds: tuple[bytes, ...]


def _open_advert(roster: Roster, run: str, value: Any, name: str) -> _Advert:
    body = check(roster, value, name, "ADVERTISE", Place(run)).body
    arrays = {"exchange", "masks", "seeds"}
    fields(body, batch=str, count=int, threshold=str, **{n: type(body.get(n)) for n in arrays})
    batch, count = from_hex(body["batch"], BATCH_BYTES).hex(), body["count"]
    if not 0 < count <= MOST_INDICES:
        raise failure("BAD_MESSAGE", f"{name} has advertised too many keys or none", name)
    masks, seeds = (tuple(_rows(from_words(body[n], (count, 4)))) for n in ("masks", "seeds"))
    exchange = from_words(body["exchange"], (4,))
    return _Advert(batch, count, body["threshold"], exchange, masks, seeds)


def _rows(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 32] for at in range(0, len(data), 32))
