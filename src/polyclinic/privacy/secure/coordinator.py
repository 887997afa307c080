"""The coordinator's side of the secure sum: a generator of messages, without any input or output.

It sees masked vectors, signatures and shares; of the sites' numbers it learns the total only. Lost
answers are None; what a lost site would have said is never waited for here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError
from polyclinic.privacy.secure import mask
from polyclinic.privacy.secure.agreement import check_agreement
from polyclinic.privacy.secure.encoding import Words, profile_of
from polyclinic.privacy.secure.envelope import (
    Place,
    Signed,
    check,
    check_run,
    from_words,
    refused,
    request,
    same,
)
from polyclinic.privacy.secure.errors import SecureSumError, SiteRefused, failure
from polyclinic.privacy.secure.identity import Roster
from polyclinic.privacy.secure.keyring import (
    BATCH_BYTES,
    MOST_INDICES,
    MOST_SITES,
    THRESHOLDS,
    Keyring,
    fewest_of,
    threshold_of,
)
from polyclinic.privacy.secure.opening import open_sum, read_masked, read_shares
from polyclinic.privacy.secure.round import Round
from polyclinic.privacy.secure.sharing import KINDS, share_digest
from polyclinic.privacy.secure.transcript import write_transcript

Messages = dict[str, bytes]
Replies = Mapping[str, "bytes | None"]
_ROOM = 4096  # bytes of a message beside what its schema declares


@dataclass(frozen=True)
class Opened:
    """A total.

    words   of the payload, as the profile holds them
    sites   whose vectors are in it (U2)
    """

    words: Words
    sites: tuple[str, ...]
    _record: Callable[[], bytes] = field(repr=False)

    @cached_property
    def transcript(self) -> bytes:
        """The signed messages from which `verify_transcript` recomputes the total."""
        return self._record()


@dataclass
class _Batch:
    keyring: Keyring
    adverts: Mapping[str, Any]
    rows: Mapping[str, Words]  # by dealer: digests of its shares, (members, indices, 2, 4)
    used: int = 0


class SecureCoordinator:
    """Totals of one run, one after the other.

    Parameters
    ----------
    roster : the sites' public keys.
    run : name of the analysis.
    threshold : the sites' own setting, "two_thirds" or "majority".
    batch : for how many rounds keys are set up at once, 1..64.
    """

    def __init__(
        self, roster: Roster, *, run: str, threshold: str = "two_thirds", batch: int = 16
    ) -> None:
        if threshold not in THRESHOLDS or not 0 < batch <= MOST_INDICES:
            raise ValueError("threshold or batch is not one of the allowed settings")
        check_run(run)
        self._roster, self._run, self._rule, self._count = roster, run, threshold, batch
        self._batches: dict[tuple[str, ...], _Batch] = {}
        self._opened: tuple[str, ...] = ()  # over which a total was opened

    def total(
        self,
        plan: Mapping[str, Any],
        size: int,
        *,
        profile: str = "exact128",
        round: int,
        attempt: int = 0,
        sites: Iterable[str] | None = None,
    ) -> Generator[Messages, Replies, Opened]:
        """The sum of all sites' vectors of `size` numbers for `plan`.

        Yields messages by site, and is sent the answers by site (None: lost). After a failure ask
        again with a higher `attempt`. Once a total is opened, only its sites are asked.

        Raises
        ------
        SiteRefused : sites that did not let their vector out.
        SecureSumError : every other failure, with its code and the site at fault.
        """
        profile_of(profile, size)
        names = self._names(self._roster.sites if sites is None else sites)
        try:
            batch = self._batches.get(names)
            if batch is None or batch.used == batch.keyring.count:
                batch = self._batches[names] = yield from self._set_up(names)
            batch.used += 1
            place = Place(self._run, round, attempt)
            about = Round(batch.keyring, place, batch.used - 1, codec.digest(plan), profile, size)
            opened = yield from _Attempt(self._roster, batch, about).run(plan)
        except BaseException:
            # Whatever went wrong, its keys are not used again.
            self._batches.pop(names, None)
            raise
        self._opened = opened.sites
        return opened

    def _names(self, sites: Iterable[str]) -> tuple[str, ...]:
        """Of `sites`, those that are asked."""
        asked, roster = set(sites), self._roster.sites
        if not asked <= set(roster):
            raise failure("BAD_MESSAGE", "the sites are not those of the roster")
        if len(asked) > MOST_SITES:
            raise failure("TOO_MANY_SITES", f"{len(asked)} hospitals are too many for a secure sum")
        if not set(self._opened) <= asked:
            raise failure("MEMBERSHIP_CHANGED", "a total was opened over a site that is not asked")
        if len(asked) < fewest_of(threshold_of(self._rule, len(roster))):
            raise failure("BELOW_THRESHOLD", f"{len(asked)} sites are too few for a secure sum")
        return self._opened or tuple(sorted(asked))

    def _set_up(self, names: tuple[str, ...]) -> Generator[Messages, Replies, _Batch]:
        """BATCH, KEYS and SHARES: fresh keys, which all sites must have seen alike."""
        place, batch = Place(self._run), secrets.token_hex(BATCH_BYTES)
        ask = request("BATCH", place, {"batch": batch, "count": self._count})
        replies = yield dict.fromkeys(names, ask)
        room = 128 * self._count
        adverts = {n: _answer(replies, n, room) for n in names}
        keyring = Keyring.open(self._roster, self._run, batch, self._rule, adverts)
        ask = request("KEYS", place, {"batch": batch, "adverts": adverts})
        replies = yield dict.fromkeys(names, ask)
        room = len(names) * (self._count * 256 + 1024)
        dealt = {}
        for name in names:
            value = _answer(replies, name, room)
            signed = check(self._roster, value, name, "SHARES", place)
            dealt[name] = _dealt(keyring, signed, name)
        replies = yield {
            name: request("SHARES", place, _delivery(keyring, dealt, name)) for name in names
        }
        for name in names:
            value = _answer(replies, name, 0)
            body = check(self._roster, value, name, "READY", place).body
            if not same(body, {"batch": batch, "transcript": keyring.transcript.hex()}):
                raise failure("BAD_MESSAGE", f"{name} is ready for another batch", name)
        return _Batch(keyring, adverts, {name: rows for name, (rows, _) in dealt.items()})


class _Attempt:
    """One attempt at one round."""

    def __init__(self, roster: Roster, batch: _Batch, about: Round) -> None:
        self._roster, self._batch, self._about = roster, batch, about
        self._ring = batch.keyring
        self._head = {"batch": self._ring.batch, "index": about.index}
        self._masked: dict[str, bytes] = {}

    def run(self, plan: Mapping[str, Any]) -> Generator[Messages, Replies, Opened]:
        total, survivors = yield from self._collect(plan)
        agrees = yield from self._agree(survivors)
        unmasks, shares = yield from self._unmask(survivors, agrees)
        words = open_sum(self._about, total, survivors, shares)
        sites = tuple(sorted(survivors))
        result = {**self._head, "survivors": list(sites), "total": codec.digest(words)}
        yield dict.fromkeys(sites, self._request("RESULT", result))
        adverts, masked, about = self._batch.adverts, self._masked, self._about
        return Opened(
            words, sites, lambda: write_transcript(about, adverts, masked, agrees, unmasks)
        )

    def _collect(
        self, plan: Mapping[str, Any]
    ) -> Generator[Messages, Replies, tuple[Words, dict[str, str]]]:
        """PLAN -> MASKED: the sum of what arrives, and its digests by site."""
        about = self._about
        body = {
            **self._head,
            "transcript": self._ring.transcript.hex(),
            "members": list(self._ring.members),
            "plan": dict(plan),
            "profile": about.profile,
            "size": about.size,
        }
        replies = yield dict.fromkeys(self._ring.members, self._request("PLAN", body))
        refusals, survivors = {}, {}
        total = np.zeros(about.framed_shape, dtype=np.uint64)
        for site in self._ring.members:
            data = replies.get(site)
            if data is None:
                continue
            value = _decode(data, site, about.ring.bytes(about.size))
            code = refused(value)
            if code is not None:
                refusals[site] = code
                continue
            vector, survivors[site] = read_masked(about, self._roster, value, site)
            mask.add(total, vector)
            self._masked[site] = data
        if refusals:
            raise SiteRefused(refusals)
        self._enough(survivors, self._ring.fewest, "sent their vector")
        return total, survivors

    def _agree(self, survivors: dict[str, str]) -> Generator[Messages, Replies, dict[str, Any]]:
        """SURVIVORS -> AGREE: enough signatures on one set of sites."""
        ask = self._request("SURVIVORS", {**self._head, "survivors": survivors})
        replies = yield dict.fromkeys(survivors, ask)
        agrees = self._answers(replies, survivors, 0)
        self._enough(agrees, self._ring.threshold, "agreed")
        about = self._about
        check_agreement(self._roster, self._ring, about.place, about.index, survivors, agrees)
        return agrees

    def _unmask(
        self, survivors: dict[str, str], agrees: dict[str, Any]
    ) -> Generator[Messages, Replies, tuple[dict[str, Any], dict[str, dict[str, bytes]]]]:
        """PROOF -> UNMASK: each site's share for each member."""
        lost = [name for name in self._ring.members if name not in survivors]
        proof = {**self._head, "survivors": survivors, "lost": lost, "agrees": agrees}
        replies = yield dict.fromkeys(agrees, self._request("PROOF", proof))
        room = len(self._ring.members) * 1024
        unmasks = self._answers(replies, survivors, room)
        shares = {}
        for site, value in unmasks.items():
            shares[site] = read_shares(self._about, self._roster, value, site, survivors)
            self._check_shares(site, shares[site], lost)
        self._enough(shares, self._ring.threshold, "given their shares")
        return unmasks, shares

    def _check_shares(self, holder: str, shares: Mapping[str, bytes], lost: list[str]) -> None:
        """Against the digests that came with them when they were dealt."""
        at = self._ring.number(holder) - 1
        for dealer, share in shares.items():
            kind = KINDS.index("mask" if dealer in lost else "seed")
            digest = self._batch.rows[dealer][at, self._about.index, kind]
            if from_words(digest, (4,)) != share_digest(share):
                raise failure("SHARE_INVALID", f"{holder} gave a share of another secret", holder)

    def _answers(self, replies: Replies, survivors: Mapping[str, str], room: int) -> dict[str, Any]:
        """The answers that came; where sites object to a loss, the lost one is at fault."""
        lost = [name for name in self._ring.members if name not in survivors]
        try:
            return {
                site: _answer(replies, site, room)
                for site in survivors
                if replies.get(site) is not None
            }
        except SecureSumError as error:
            if error.code != "MEMBERSHIP_CHANGED" or not lost:
                raise
            what = f"{', '.join(lost)} sent nothing, and the sites of this analysis are fixed"
            raise failure(error.code, what, lost[0]) from None

    def _enough(self, answers: Mapping[str, Any], fewest: int, what: str) -> None:
        if len(answers) < fewest:
            silent = [name for name in self._ring.members if name not in answers]
            only = silent[0] if len(silent) == 1 else None
            raise failure(
                "BELOW_THRESHOLD", f"too few sites have {what}; silent: {', '.join(silent)}", only
            )

    def _request(self, kind: str, body: dict[str, Any]) -> bytes:
        return request(kind, self._about.place, body)


def drive(
    generator: Generator[Messages, Replies, Opened], ask: Callable[[Messages], Replies]
) -> Opened:
    """Run a generator against `ask`, which carries messages to sites and brings their answers."""
    try:
        messages = next(generator)
        while True:
            messages = generator.send(ask(messages))
    except StopIteration as stop:
        opened: Opened = stop.value
        return opened


def _answer(replies: Replies, site: str, room: int) -> Any:
    """The value that a site has answered; SITE_LOST or its own code where there is none."""
    data = replies.get(site)
    if data is None:
        raise failure("SITE_LOST", f"{site} does not answer", site)
    value = _decode(data, site, room)
    code = refused(value)
    if code is not None:
        _refuse(code, site)
    return value


def _decode(data: bytes, site: str, room: int) -> Any:
    if len(data) > room + _ROOM:
        raise failure("SCHEMA_MISMATCH", f"an answer of {site} is longer than declared", site)
    try:
        return codec.decode(data)
    except PolyclinicError:
        raise failure("BAD_MESSAGE", f"an answer of {site} is malformed", site) from None


def _refuse(code: str, site: str) -> NoReturn:
    raise failure(code, f"{site} did not go on with the secure sum", site)


def _dealt(keyring: Keyring, signed: Signed, site: str) -> tuple[Words, dict[str, Words]]:
    """The digests and sealed shares in a SHARES message."""
    body = dict(signed.body)
    rows, sealed = body.pop("rows", None), body.pop("sealed", None)
    shape = (len(keyring.members), keyring.count, 2, 4)
    whole = same(body, {"batch": keyring.batch, "transcript": keyring.transcript.hex()})
    if not whole or not isinstance(sealed, dict) or set(sealed) != set(keyring.members) - {site}:
        raise failure("SHARE_INVALID", f"{site} has not dealt shares to all members", site)
    from_words(rows, shape)
    return rows, sealed


def _delivery(
    keyring: Keyring, dealt: Mapping[str, tuple[Words, dict[str, Words]]], site: str
) -> dict[str, Any]:
    """What all peers have dealt to one site."""
    at = keyring.number(site) - 1
    peers = [name for name in keyring.members if name != site]
    return {
        "batch": keyring.batch,
        "sealed": {name: dealt[name][1][site] for name in peers},
        "rows": {name: dealt[name][0][at] for name in peers},
    }
