"""What one attempt at one round is about. It enters every key that masks a vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyclinic.core import codec
from polyclinic.privacy.secure import mask
from polyclinic.privacy.secure.encoding import EXTRA, Profile, profile_of
from polyclinic.privacy.secure.envelope import Place
from polyclinic.privacy.secure.keyring import Keyring


@dataclass(frozen=True)
class Round:
    """One index of a batch, used at one place for one plan.

    Two sites that were asked for different plans derive different mask keys, so the sum of such
    vectors cannot be opened.

    plan     SHA-256 of the plan
    profile  name of the ring, `size` numbers of it
    """

    keyring: Keyring
    place: Place
    index: int
    plan: str
    profile: str
    size: int

    @property
    def ring(self) -> Profile:
        """The profile itself."""
        return profile_of(self.profile, self.size)

    @property
    def framed_shape(self) -> tuple[int, ...]:
        """Shape of the vector with the known constants around it."""
        return self.ring.shape(self.size + EXTRA)

    def head(self) -> dict[str, Any]:
        """What a MASKED message says beside its vector."""
        return {
            "batch": self.keyring.batch,
            "index": self.index,
            "transcript": self.keyring.transcript.hex(),
            "plan": self.plan,
            "profile": self.profile,
            "size": self.size,
        }

    def pair_keys(self, private: bytes, own: str) -> dict[str, bytes]:
        """The mask keys of `own` with every peer; each of the two derives the same one."""
        agreement, ring = mask.Agreement(private), self.keyring
        about = [codec.digest(list(ring.members)), *self._about()]
        return {
            peer: agreement.key(
                ring.masks[peer][self.index],
                ring.transcript,
                ["mask", *about, min(own, peer), max(own, peer)],
            )
            for peer in ring.members
            if peer != own
        }

    def canary(self) -> bytes:
        """32 bytes that all members know, for the two constants of a vector."""
        return mask.derive(self.keyring.transcript, b"", ["canary", *self._about()])

    def _about(self) -> list[Any]:
        where = [self.place.run, self.keyring.batch, self.index, self.place.round]
        return [*where, self.place.attempt, self.plan, self.profile, self.size]
