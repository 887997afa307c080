"""The keys of a site: it advertises a batch, hands out shares of its secrets, and keeps its own.

Every answer is made once, journalled, and sent again unchanged when it is asked for again. Another
question about the same batch is refused: it would seal two messages with one key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyclinic.core import codec
from polyclinic.privacy.secure import sharing
from polyclinic.privacy.secure.envelope import Place, Request, fields, from_hex, sign
from polyclinic.privacy.secure.errors import failure
from polyclinic.privacy.secure.identity import Identity, Roster
from polyclinic.privacy.secure.keyring import (
    BATCH_BYTES,
    MOST_INDICES,
    Keyring,
    Secrets,
    advertise,
)
from polyclinic.privacy.secure.records import Changes, Records, Row

_ADVERTISED, _SHARED, _READY = "ADVERTISED", "SHARED", "READY"


class SiteKeys:
    """Set-up of batches at one site, and the secrets that belong to each index."""

    def __init__(
        self,
        name: str,
        identity: Identity,
        roster: Roster,
        records: Records,
        run: str,
        rule: str,
        fixed: bool,
    ) -> None:
        self._name, self._identity, self._roster = name, identity, roster
        self._records, self._run, self._rule, self._fixed = records, run, rule, fixed
        self._keyrings: dict[str, Keyring] = {}

    def advertise(self, request: Request) -> bytes:
        """BATCH -> ADVERTISE: fresh keys for `count` indices."""
        body = fields(request.body, batch=str, count=int)
        batch, count = from_hex(body["batch"], BATCH_BYTES).hex(), body["count"]
        if not 0 < count <= MOST_INDICES:
            raise failure("BAD_MESSAGE", "a batch has 1 to 64 indices")
        row = self._records.row("batch", batch)
        if row.value is None:
            own = Secrets.generate(count)
            advert = advertise(self._identity, self._name, self._run, batch, self._rule, own)
            batch_row = {
                "stage": _ADVERTISED,
                "count": count,
                "exchange": own.exchange.hex(),
                "advert": advert,
            }
            secrets = {
                ("secret", batch, i): {"own": [m.hex(), s.hex()], "shares": {}}
                for i, (m, s) in enumerate(zip(own.masks, own.seeds, strict=True))
            }
            self._records.write({**secrets, row.name: batch_row}, [row])
        found = self._value(self._records.row("batch", batch))
        if found["count"] != count:
            raise failure("INDEX_REUSED", "a batch is advertised once")
        return codec.encode(found["advert"])

    def share(self, request: Request) -> bytes:
        """KEYS -> SHARES: checks all sites' keys, then seals shares for each of them."""
        body = fields(request.body, batch=str, adverts=dict)
        batch, adverts = body["batch"], body["adverts"]
        row = self._records.row("batch", batch)
        found = self._value(row)
        if found["stage"] == _ADVERTISED:
            mine = adverts.get(self._name)
            if mine is None or codec.encode(mine) != codec.encode(found["advert"]):
                raise failure("KEY_SUBSTITUTED", "this site's own keys were changed")
            keyring = self._open(batch, adverts)
            changes = self._deal(keyring, found["exchange"])
            changes[row.name] = {**found, "stage": _SHARED}
            changes["adverts", batch] = adverts
            self._records.write(changes, [row])
        reply = self._records.reply(batch, "SHARES")
        if reply is None or self.keyring(batch).transcript.hex() != codec.digest(adverts):
            raise failure("KEY_SUBSTITUTED", "the keys of a batch have changed")
        return reply

    def receive(self, request: Request) -> bytes:
        """SHARES -> READY: opens and keeps the other sites' shares; the sealing key is erased."""
        body = fields(request.body, batch=str, sealed=dict, rows=dict)
        batch = body["batch"]
        row = self._records.row("batch", batch)
        found = self._value(row)
        keyring = self.keyring(batch)
        if found["stage"] == _SHARED:
            exchange = bytes.fromhex(found["exchange"])
            held = sharing.unseal(keyring, exchange, self._name, body["sealed"], body["rows"])
            ready = {**found, "stage": _READY, "exchange": None}
            self._records.write({**self._keep(keyring, held), row.name: ready}, [row])
        answer = {"batch": batch, "transcript": keyring.transcript.hex()}
        return codec.encode(sign(self._identity, self._name, "READY", Place(self._run), answer))

    def ready(self, batch: str) -> Keyring:
        """The keyring of a batch whose shares are all here. Raises BAD_MESSAGE otherwise."""
        if self._value(self._records.row("batch", batch))["stage"] != _READY:
            raise failure("BAD_MESSAGE", "a batch is not set up")
        return self.keyring(batch)

    def keyring(self, batch: str) -> Keyring:
        """The public keys of a batch. Raises BAD_MESSAGE before all of them are known."""
        if batch not in self._keyrings:
            adverts = self._value(self._records.row("adverts", batch))
            self._keyrings[batch] = self._open(batch, adverts)
        return self._keyrings[batch]

    def secret(self, batch: str, index: int) -> Row:
        """Own secrets and held shares of an index; without a value once they are erased."""
        return self._records.row("secret", batch, index)

    def _open(self, batch: str, adverts: Mapping[str, Any]) -> Keyring:
        keyring = Keyring.open(self._roster, self._run, batch, self._rule, adverts)
        if self._fixed and keyring.members != self._roster.sites:
            raise failure("MEMBERSHIP_CHANGED", "a batch is not for all sites of the roster")
        return keyring

    def _value(self, row: Row) -> dict[str, Any]:
        if row.value is None:
            raise failure("BAD_MESSAGE", "a batch is not known")
        return row.value

    def _deal(self, keyring: Keyring, exchange: str) -> Changes:
        """Shares for all: the answer for the peers, and the changes that keep this site's own."""
        secrets = [self._value(self.secret(keyring.batch, i)) for i in range(keyring.count)]
        masks, seeds = (tuple(bytes.fromhex(row["own"][k]) for row in secrets) for k in (0, 1))
        own = Secrets(bytes.fromhex(exchange), masks, seeds)
        shares = sharing.deal(keyring, own)
        table = sharing.digests(shares)
        body = {
            "batch": keyring.batch,
            "transcript": keyring.transcript.hex(),
            "rows": table,
            "sealed": sharing.seal(keyring, own.exchange, self._name, shares, table),
        }
        signed = sign(self._identity, self._name, "SHARES", Place(self._run), body)
        mine = shares[keyring.number(self._name) - 1]
        changes = self._keep(keyring, {self._name: mine})
        return {**changes, ("reply", keyring.batch, "SHARES"): codec.encode(signed)}

    def _keep(self, keyring: Keyring, held: Mapping[str, list[sharing.Pair]]) -> Changes:
        changes: Changes = {}
        for i in range(keyring.count):
            row = self.secret(keyring.batch, i)
            found = self._value(row)
            more = {dealer: [share.hex() for share in pairs[i]] for dealer, pairs in held.items()}
            changes[row.name] = {**found, "shares": {**found["shares"], **more}}
        return changes
