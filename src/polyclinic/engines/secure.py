"""Secure sums over any transport, and the choice between them and clear sums.

A round may ask twice. Where a rule of saturation stops a site, all sites first add up what is safe
at each of them (see `polyclinic.privacy.disclosure`); the signed record of that sum goes back to
every site, which recomputes it before it leans on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from polyclinic.core import codec
from polyclinic.core.exposure import Exposing
from polyclinic.core.federation import MAY, Ask, ClearSums, Summed, Summing, codes_of, refused_by
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.privacy import disclosure, vector
from polyclinic.privacy.gate import MIN_SECURE
from polyclinic.privacy.noisy import noise_of
from polyclinic.privacy.secure import Opened, Roster, SecureCoordinator, SiteRefused, drive
from polyclinic.privacy.secure.encoding import PROFILES
from polyclinic.privacy.secure.keyring import threshold_of


class SecureSums:
    """Only totals are seen. One object per run: its keys and its round numbers are used once.

    Parameters
    ----------
    roster : the sites' public keys, as every site has pinned them.
    run : name of the analysis, the same at every site.
    threshold : the sites' own setting.
    """

    secure = True

    def __init__(self, roster: Roster, run: str, threshold: str = "two_thirds") -> None:
        self.roster, self.run = roster, run
        self.refusals: dict[str, str] = {}
        self._threshold = threshold
        self._coordinator = SecureCoordinator(roster, run=run, threshold=threshold)
        self._round = 0
        self._leaning = False  # a site has needed the others before

    def memory(self) -> dict[str, Any]:
        """Whether the sites lean on each other."""
        return {"leaning": self._leaning}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on as before."""
        self._leaning = bool(memory["leaning"])

    def total(self, plan: Plan, leaves: Sequence[Leaf], sites: Sequence[str], ask: Ask) -> Summed:
        """The sum, never of rounded numbers. Raises Refused, or a SecureSumError."""
        plan, size = plan.exact(), vector.length(leaves)
        if not self._leaning:
            self._leaning = self._must_lean(plan, sites, ask)
        about, shared = _values(plan), 0
        if self._leaning:
            about["record"], shared = self._share(plan, sites, ask)
        profile = vector.profile(leaves)
        opened = self._ask(about, plan, size, sites, ask, profile)
        words, hidden = vector.split(leaves, opened.words)
        sizes = dict.fromkeys(sites, PROFILES[profile].bytes(size))
        least = threshold_of(self._threshold, len(self.roster.sites))
        return Summed(words, hidden, sizes, f"total of {len(sites)}", least, shared)

    def _must_lean(self, plan: Plan, sites: Sequence[str], ask: Ask) -> bool:
        """Whether a site breaks a rule by itself for which the others can make up."""
        codes = refusals_of(plan, sites, ask, secure=True)
        if codes and (noise_of(plan) is not None or not set(codes.values()) <= disclosure.SHARED):
            raise refused_by(causes(codes, disclosure.SHARED), plan)
        return bool(codes)

    def _share(self, plan: Plan, sites: Sequence[str], ask: Ask) -> tuple[Mapping[str, Any], int]:
        """The signed record of the sum of what is safe at each site, and how many numbers it is."""
        task = lookup(plan.task, plan.version)
        size = disclosure.share_size(task, plan) if isinstance(task, Exposing) else 1
        about = {"what": "share", "plan": plan.to_data()}
        opened = self._ask(about, plan, size, sites, ask, "exact128")
        record: Mapping[str, Any] = codec.decode(opened.transcript)
        return record, size

    def _ask(
        self,
        about: Mapping[str, Any],
        plan: Plan,
        size: int,
        sites: Sequence[str],
        ask: Ask,
        profile: str,
    ) -> Opened:
        self._round += 1
        steps = self._coordinator.total(
            about, size, profile=profile, round=self._round, sites=sites
        )
        try:
            return drive(steps, lambda asked: {s: bytes(r) for s, r in ask(asked).items()})
        except SiteRefused as error:
            raise refused_by(error.refusals, plan) from None


def refusals_of(plan: Plan, sites: Sequence[str], ask: Ask, secure: bool) -> dict[str, str]:
    """The codes of the sites that would not answer, alone or in a total; nothing else leaves."""
    message = codec.encode({"kind": MAY, "secure": secure, "plan": plan.to_data()})
    return codes_of(ask(dict.fromkeys(sites, message)))


def causes(codes: Mapping[str, str], together: Collection[str]) -> Mapping[str, str]:
    """The refusals to mend: those that a total with the others would not have mended, if any."""
    return {site: code for site, code in codes.items() if code not in together} or codes


def _values(plan: Plan) -> dict[str, Any]:
    return {"what": "values", "plan": plan.to_data()}


class AutoSums:
    """Clear sums until a site may not release alone; from then on secure sums.

    `refusals` tells which sites refused and why, once secure sums are on.
    """

    def __init__(self, secure: SecureSums) -> None:
        self._clear, self._secure = ClearSums(), secure
        self.refusals: dict[str, str] = {}

    def memory(self) -> dict[str, Any]:
        """Which sites may not release alone, and what secure sums have learnt."""
        return {"refusals": dict(self.refusals), **self._secure.memory()}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on as before: what was summed securely is not asked in the clear."""
        self.refusals = dict(memory["refusals"])
        self._secure.recall(memory)

    @property
    def secure(self) -> bool:
        """True from the first refusal on."""
        return bool(self.refusals)

    def total(self, plan: Plan, leaves: Sequence[Leaf], sites: Sequence[str], ask: Ask) -> Summed:
        """The sum. Raises Refused, or a SecureSumError.

        All are asked first whether they would release alone: where one would not, none does, or
        its sum would be the total less theirs.
        """
        if not self.secure and len(sites) >= MIN_SECURE:
            codes = refusals_of(plan, sites, ask, secure=False)
            if codes and not set(codes.values()) <= disclosure.ALONE:
                raise refused_by(causes(codes, disclosure.ALONE), plan)
            broken = {site: code for site, code in codes.items() if code != "SEEN_TOGETHER"}
            self.refusals = broken or codes
        summing: Summing = self._secure if self.secure else self._clear
        return summing.total(plan, leaves, sites, ask)
