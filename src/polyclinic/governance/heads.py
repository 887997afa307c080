"""Signed heads of audit logs: what a site tells the others about its log, for them to keep.

Lines cut off at the end of a log are seen only by a head that is kept elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError
from polyclinic.governance.signing import signed_by, unhex

if TYPE_CHECKING:
    from polyclinic.privacy.secure.identity import Identity

_LONGEST_HEAD = 1_024
_HEAD_DOMAIN = b"polyclinic/audit-head/1\0"


@dataclass(frozen=True)
class Held:
    """A signed head of a log, and the site that holds it; "": it was given."""

    data: bytes
    holder: str = ""

    @cached_property
    def _head(self) -> dict[str, Any]:
        try:
            return _parse_head(self.data)
        except PolyclinicError:
            return {"seq": 0, "hash": ""}

    @property
    def seq(self) -> int:
        """The number of the line that it is about; 0: it is no head."""
        return int(self._head["seq"])

    @property
    def hash(self) -> str:
        """That line's."""
        return str(self._head["hash"])

    def signed_by(self, public_key: bytes) -> bool:
        """Is it a head of the log whose site has this key?"""
        try:
            return bool(open_head(self.data, public_key))
        except PolyclinicError:
            return False

    def __str__(self) -> str:
        return f"the head that {self.holder} holds" if self.holder else "a head that was given"


def sign_head(seq: int, hash: str, identity: Identity) -> bytes:
    """Canonical bytes that say: my log has `seq` lines and the last one has this hash."""
    body = {"seq": seq, "hash": hash}
    signature = identity.sign(_HEAD_DOMAIN + codec.encode(body))
    return codec.encode({**body, "signature": signature.hex()})


def open_head(data: bytes, public_key: bytes) -> dict[str, Any]:
    """``{"seq", "hash"}`` of a signed head.

    Raises
    ------
    PolyclinicError : BAD_MESSAGE when the bytes are no head, BAD_SIGNATURE when another key signed.
    """
    head = _parse_head(data)
    body = {"seq": head["seq"], "hash": head["hash"]}
    if not signed_by(public_key, unhex(head["signature"]), _HEAD_DOMAIN + codec.encode(body)):
        raise PolyclinicError(
            "the head of an audit log is not signed by the key that was pinned for that site",
            code="BAD_SIGNATURE",
            rule="a head counts only with the signature of the site whose log it describes",
            next="compare the site's fingerprint by telephone",
        )
    return body


def _parse_head(data: bytes) -> dict[str, Any]:
    head = codec.decode(data) if len(data) <= _LONGEST_HEAD else None
    if (
        not isinstance(head, dict)
        or set(head) != {"seq", "hash", "signature"}
        or type(head["seq"]) is not int
        or head["seq"] < 1
        or not isinstance(head["hash"], str)
    ):
        raise codec.CodecError("this is no head of an audit log", code="BAD_MESSAGE")
    return head
