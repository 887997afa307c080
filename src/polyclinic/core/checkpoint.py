"""The state of a run on disk: written whole or not at all, and checked when read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from polyclinic.core import codec
from polyclinic.core.errors import InputError, Stopped

PART = ".part"  # ends the name of a file that is being written
_HASH = 32


class Checkpoint:
    """A `Store` in one file. The hash of what it holds stands in front of it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def load(self) -> Mapping[str, Any] | None:
        """The saved value, or None. Raises CHECKPOINT_DAMAGED when the file is not as written."""
        if not self.path.exists():
            return None
        try:
            value: Mapping[str, Any] = unseal(self.path.read_bytes())
        except codec.CodecError:
            raise InputError(
                f"{self.path}: the checkpoint is not as it was written",
                code="CHECKPOINT_DAMAGED",
                rule="a checkpoint is read only when its SHA-256 fits",
                next="restore the file from a backup, or delete it and run the study anew",
                kept="the damaged file is left as it is",
            ) from None
        return value

    def save(self, value: Mapping[str, Any]) -> None:
        """Replace the file in one step. Raises CANNOT_WRITE and keeps the file before it."""
        write_atomic(self.path, seal(value))


def seal(value: Mapping[str, Any]) -> bytes:
    """Canonical bytes with their SHA-256 in front."""
    body = codec.encode(value)
    return hashlib.sha256(body).digest() + body


def unseal(data: bytes) -> Any:
    """The value of sealed bytes. Raises CodecError when they are not as they were sealed."""
    if hashlib.sha256(data[_HASH:]).digest() != data[:_HASH]:
        raise codec.CodecError("the hash does not fit", code="BAD_MESSAGE")
    return codec.decode(data[_HASH:])


def write_atomic(path: Path, data: bytes, private: bool = False) -> None:
    """Write to a temporary file, fsync, rename, fsync the folder: old or new, never between.

    private  for its owner alone, from its first byte on
    """
    temporary = path.with_name(path.name + PART)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            if private:
                os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise Stopped(
            f"{path}: {error.strerror or error}",
            code="CANNOT_WRITE",
            rule="a file is written whole or not at all, the state of a run after every round",
            next="free some space or choose another folder, then run again; a run with --resume",
            kept="the file as it was before" if os.path.exists(path) else "nothing yet",
        ) from error


def sync_folder(folder: Path) -> None:
    """Have the disk know the names in `folder`, those of new and renamed files."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
