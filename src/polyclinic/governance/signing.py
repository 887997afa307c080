"""The site's Ed25519 key as a file that only its owner can read, and what a key is called."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from polyclinic.core.errors import InputError
from polyclinic.privacy.secure.identity import Identity

NO_KEY_USED = "no key was read or written"


def generate(path: str | os.PathLike[str]) -> Identity:
    """Make a key and write it to `path` (PEM PKCS8, mode 0600), in a folder of mode 0700.

    Raises
    ------
    InputError : KEY_EXISTS, a key is never overwritten; KEY_EXPOSED, others can enter the folder.
    """
    path = Path(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_folder(path)
    identity = Identity.generate()
    pem = Ed25519PrivateKey.from_private_bytes(identity.private_bytes()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(
            f"{path}: a key is here already",
            code="KEY_EXISTS",
            rule="a key is never overwritten",
            next="move the old key away first, if it is no longer the site's",
            kept=NO_KEY_USED,
        ) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(handle)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise
    return identity


def load(path: str | os.PathLike[str]) -> Identity:
    """The key in `path`.

    Raises
    ------
    InputError : NO_KEY, KEY_EXPOSED when file or folder is open to anyone but the owner, BAD_KEY.
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}",
            code="NO_KEY",
            rule="the site's key is a plain file, made once when the site is set up",
            next="restore the key from your backup",
            kept=NO_KEY_USED,
        ) from None
    with os.fdopen(handle, "rb") as file:
        _check_folder(path)
        _check_closed(path, os.fstat(handle), "600")
        pem = file.read(65_536)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(
            f"{path}: this is no Ed25519 key",
            code="BAD_KEY",
            rule="the site's key is an Ed25519 key in PEM PKCS8, without a password",
            next="restore the key from your backup",
            kept=NO_KEY_USED,
        )
    return Identity.from_private_bytes(key.private_bytes_raw())


def fingerprint(public: bytes) -> str:
    """The name of a public key that people compare by telephone: ``"4f1c 90ab 77e2 d3b0"``."""
    text = hashlib.sha256(public).hexdigest()
    return " ".join(text[start : start + 4] for start in range(0, 16, 4))


def signed_by(public: bytes, signature: bytes, data: bytes) -> bool:
    """Is `signature` that of `data` under the 32-byte key `public`?"""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def unhex(text: Any) -> bytes:
    """The bytes of lower-case hex; none for any other text, so that bytes have one spelling."""
    try:
        data = bytes.fromhex(text)
    except (TypeError, ValueError):
        return b""
    return data if data.hex() == text else b""


def _check_folder(path: Path) -> None:
    _check_closed(path.parent, os.stat(path.parent), "700")


def _check_closed(path: Path, status: os.stat_result, mode: str) -> None:
    """Refuse what group or others can touch, or what belongs to someone else."""
    foreign = os.geteuid() not in (0, status.st_uid)
    if foreign or stat.S_IMODE(status.st_mode) & 0o077:
        raise InputError(
            f"{path}: others than you can read or change this",
            code="KEY_EXPOSED",
            rule=f"a private key lies in a file of mode 600 in a folder of mode 700, both yours; "
            f"here: {stat.S_IMODE(status.st_mode):o}",
            next=f"chmod {mode} {path}; if others may have read it, make a new key",
            kept=NO_KEY_USED,
        )
