"""A site's policy as a file, and beside it the signature and the text that was signed.

The signature covers every byte; without it nothing is allowed. The text is there to compare with.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from polyclinic.core.checkpoint import write_atomic
from polyclinic.core.errors import InputError
from polyclinic.governance.officer import plain
from polyclinic.governance.policy_text import REFUSES, parse, template, wrong
from polyclinic.governance.signing import fingerprint, signed_by
from polyclinic.privacy.policy import Closed, Policy

if TYPE_CHECKING:
    from polyclinic.privacy.secure.identity import Identity

__all__ = [
    "closed",
    "difference",
    "load",
    "load_signed",
    "parse",
    "save",
    "sign",
    "signed_text",
    "template",
]

_DOMAIN = b"polyclinic/policy/1\0"
_NEXT = {
    "POLICY_UNSIGNED": "read the policy, then sign it: polyclinic site policy --sign",
    "POLICY_CHANGED": "compare it with what was signed: polyclinic site policy; then restore that, "
    "or sign this",
    "BAD_SIGNATURE": "read the policy and find out who changed it; then restore it, or sign it",
}
_TOLD = {  # what the asker is told of a policy that is not in force
    "POLICY_UNSIGNED": "POLICY_UNSIGNED",
    "POLICY_CHANGED": "POLICY_CHANGED",
    "BAD_SIGNATURE": "POLICY_CHANGED",
}


def load(path: str | os.PathLike[str]) -> Policy:
    """The policy in a file, signed or not. Raises InputError as `parse`, or NO_FILE."""
    return parse(_decoded(_bytes(Path(path)), path), str(path))


def save(path: str | os.PathLike[str], policy: Policy) -> None:
    """Write `policy` as a template. A signature that stood beside the file no longer fits it."""
    write_atomic(Path(path), template(policy).encode())


def sign(path: str | os.PathLike[str], identity: Identity) -> str:
    """Sign the file, when it holds a valid policy, keep a copy of it, and return its SHA-256."""
    data = _bytes(Path(path))
    parse(_decoded(data, path), str(path))
    digest = hashlib.sha256(data).hexdigest()
    text = (
        f'fingerprint = "{fingerprint(identity.public)}"\n'
        f'sha256 = "{digest}"\n'
        f'signature = "{identity.sign(_DOMAIN + data).hex()}"\n'
    )
    write_atomic(_copy_path(path), data)
    write_atomic(_signature_path(path), text.encode())
    return digest


def signed_text(path: str | os.PathLike[str], public_key: bytes) -> str | None:
    """The text that was signed last, from the copy; None where the signature does not cover it."""
    try:
        data = _bytes(_copy_path(path))
        signature = _read_signature(_signature_path(path))
    except InputError:
        return None
    covered = signed_by(public_key, bytes.fromhex(signature["signature"]), _DOMAIN + data)
    return data.decode() if covered else None


def difference(path: str | os.PathLike[str], public_key: bytes) -> list[str]:
    """Lines in which the policy differs from what was signed: ``-`` signed, ``+`` now.

    Empty where nothing differs, and where what was signed is not known any more.
    """
    before, path = signed_text(path, public_key), Path(path)
    if before is None:
        return []
    now = path.read_bytes().decode(errors="backslashreplace") if path.is_file() else ""
    names = f"{path} as it was signed", f"{path} as it is"
    found = difflib.unified_diff(before.split("\n"), now.split("\n"), *names, "", "", 0, "")
    return [plain(line) for line in found]


def closed(error: InputError) -> Closed:
    """The policy of a site whose own is not in force, for the reason that `load_signed` gave."""
    return Closed(code=_TOLD.get(error.code, "POLICY_UNREADABLE"), reason=error.what)


def load_signed(path: str | os.PathLike[str], public_key: bytes) -> Policy:
    """The policy in `path`, when `public_key` signed exactly these bytes.

    Raises
    ------
    InputError : POLICY_UNSIGNED (no policy or no signature), POLICY_CHANGED (edited after it was
        signed), BAD_SIGNATURE (another key, or not a signature); else as `parse`.
    """
    path = Path(path)
    if not path.is_file():
        raise _unsafe(f"{path}: there is no policy", "POLICY_UNSIGNED")
    if not _signature_path(path).is_file():
        raise _unsafe(f"{path}: the policy is not signed", "POLICY_UNSIGNED")
    data = _bytes(path)
    signature = _read_signature(_signature_path(path))
    if signature["fingerprint"] != fingerprint(public_key):
        raise _unsafe(f"{path}: the policy is signed with another key", "BAD_SIGNATURE")
    if signature["sha256"] != hashlib.sha256(data).hexdigest():
        raise _unsafe(f"{path}: the policy was edited after it was signed", "POLICY_CHANGED")
    if not signed_by(public_key, bytes.fromhex(signature["signature"]), _DOMAIN + data):
        raise _unsafe(f"{path}: the signature does not fit the policy", "BAD_SIGNATURE")
    return parse(_decoded(data, path), str(path))


def _signature_path(path: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(path)}.sig")


def _copy_path(path: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(path)}.signed")


def _read_signature(path: Path) -> dict[str, str]:
    shape = {"fingerprint": r"([0-9a-f]{4} ){3}[0-9a-f]{4}", "sha256": r"[0-9a-f]{64}"}
    shape["signature"] = r"[0-9a-f]{128}"
    try:
        found = tomllib.loads(_bytes(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        found = {}
    good = set(found) == set(shape) and all(
        isinstance(found[key], str) and re.fullmatch(shape[key], found[key]) for key in shape
    )
    if not good:
        raise _unsafe(f"{path}: this is no signature of a policy", "BAD_SIGNATURE")
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise wrong(
            f"{path}: {error.strerror}", "the policy is a file", code="NO_FILE", next="check it"
        ) from None


def _decoded(data: bytes, path: str | os.PathLike[str]) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise wrong(f"{path}: it is not UTF-8 text", "the file is UTF-8 TOML") from None


def _unsafe(what: str, code: str) -> InputError:
    return InputError(
        what,
        code=code,
        rule=REFUSES,
        next=_NEXT[code],
        kept="nothing left a hospital",
    )
