"""Who a site is: an Ed25519 key, and the roster of all sites' keys that each of them has pinned."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from polyclinic.core import codec
from polyclinic.core.errors import InputError
from polyclinic.privacy.secure.errors import failure

_DOMAIN = "polyclinic roster 1"
_KEY = 32
_LONGEST_NAME = 64


class Identity:
    """A long-term signing key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public: bytes = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Identity:
        """A new identity from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, data: bytes) -> Identity:
        """The identity of 32 private bytes."""
        if len(data) != _KEY:
            raise InputError(
                "a private key has the wrong length",
                code="BAD_KEY",
                rule="an Ed25519 key is 32 bytes",
            )
        return cls(Ed25519PrivateKey.from_private_bytes(data))

    def private_bytes(self) -> bytes:
        """The 32 secret bytes."""
        return self._key.private_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the signature over `data`."""
        return self._key.sign(data)

    def __repr__(self) -> str:
        return f"Identity({self.public.hex()[:16]})"


class Roster:
    """The public keys of all sites, by name.

    Parameters
    ----------
    sites : name of each site -> its Ed25519 public key, 32 bytes.

    Raises
    ------
    InputError : BAD_ROSTER for a wrong name, a wrong key, or a key that stands there twice.
    """

    def __init__(self, sites: Mapping[str, bytes]) -> None:
        keys = {name: bytes(sites[name]) for name in sorted(sites)}
        good = all(
            0 < len(name) <= _LONGEST_NAME and len(key) == _KEY for name, key in keys.items()
        )
        if not good or len(set(keys.values())) != len(keys):
            raise InputError(
                "the roster is not usable",
                code="BAD_ROSTER",
                rule="every site has a name of 1 to 64 characters and an Ed25519 key of its own",
                next="write the sites' public keys into the roster again",
            )
        self._keys = keys
        self._verifiers = {n: Ed25519PublicKey.from_public_bytes(k) for n, k in keys.items()}
        self.digest: str = codec.digest(self._content())

    @property
    def sites(self) -> tuple[str, ...]:
        """All names, in order."""
        return tuple(self._keys)

    def __contains__(self, name: object) -> bool:
        return name in self._keys

    def public(self, name: str) -> bytes:
        """The public key of a site."""
        return self._keys[name]

    def verify(self, name: str, signature: bytes, data: bytes) -> None:
        """Raises BAD_SIGNATURE unless `name` stands in the roster and has signed `data`."""
        try:
            if name not in self._verifiers:
                raise InvalidSignature
            self._verifiers[name].verify(signature, data)
        except InvalidSignature:
            raise failure("BAD_SIGNATURE", f"a message is not signed by {name}", name) from None

    def signed(self, consortium: Identity) -> bytes:
        """The roster as bytes that the consortium has signed."""
        content = self._content()
        signature = consortium.sign(codec.encode(content)).hex()
        return codec.encode({"roster": content, "signature": signature})

    @staticmethod
    def open(data: bytes, consortium_public: bytes) -> Roster:
        """The roster in signed bytes. Raises BAD_SIGNATURE unless the consortium has signed it."""
        value = codec.decode(data)
        try:
            content, signature = value["roster"], bytes.fromhex(value["signature"])
            verifier = Ed25519PublicKey.from_public_bytes(consortium_public)
            verifier.verify(signature, codec.encode(content))
            if content["domain"] != _DOMAIN or set(value) != {"roster", "signature"}:
                raise ValueError
            return Roster({name: bytes.fromhex(key) for name, key in content["sites"].items()})
        except (InvalidSignature, TypeError, ValueError, KeyError, AttributeError):
            raise failure("BAD_SIGNATURE", "the roster is not signed by the consortium") from None

    def _content(self) -> dict[str, object]:
        sites = {name: key.hex() for name, key in self._keys.items()}
        return {"domain": _DOMAIN, "sites": sites}
