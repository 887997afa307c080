"""Rows that are written once, as Parquet in a folder of their own, and read in parts from there.

So that no round sees other rows than the one before it, whatever happens to where they came from.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.data.file_systems import Unreached, opened, reason

ROWS = 100_000  # of a row group
PREFIX = "polyclinic-rows-"


class Kept:
    """Rows that were written: they are removed with the last that holds this, at the latest when
    the process ends."""

    def __init__(self, remove: Callable[[], None]) -> None:
        weakref.finalize(self, remove)


def new_folder(below: str | Path | None) -> tuple[str, Callable[[], None]]:
    """The address of a folder that is not there yet, inside a new one that nobody else may enter,
    and what removes both.

    below  a folder, or an address that pyarrow's file systems know; None: this account's temporary
           files

    Raises
    ------
    InputError : WRONG_VALUE.
    """
    try:
        if below is None or "://" not in str(below):
            made = tempfile.mkdtemp(prefix=PREFIX, dir=below)
            return (Path(made) / "rows").as_uri(), partial(shutil.rmtree, made, ignore_errors=True)
    except OSError as error:
        raise _not_writable(below, error) from None
    return _at_address(str(below))


def _at_address(below: str) -> tuple[str, Callable[[], None]]:
    """The same where pyarrow reaches it, so that nothing is written that cannot be removed."""
    from pyarrow import ArrowException

    place, _, options = below.partition("?")
    where, options = f"{place.rstrip('/')}/{PREFIX}{uuid.uuid4().hex}", options and f"?{options}"
    try:
        system, path = opened(where + options)
        system.create_dir(path)
    except (OSError, ArrowException) as error:
        raise _not_writable(below, error) from None
    return f"{where}/rows{options}", partial(_removed, system, path)


def _removed(system: Any, path: str) -> None:
    if system.get_file_info([path])[0].type.name == "Directory":
        system.delete_dir(path)


def _not_writable(below: str | Path | None, error: Exception) -> InputError:
    return InputError(
        f"{below or 'the temporary folder'} cannot be written to from here ({reason(error)})",
        code="WRONG_VALUE",
        rule="whoever computes reads the rows through pyarrow's file systems",
        next=error.next
        if isinstance(error, Unreached)
        else "name a folder that pyarrow.fs reaches",
    )


def write(batches: Any, where: str) -> tuple[str, int]:
    """Write a reader of arrow batches, one row group in memory at a time; gives the digest of what
    was written, which is the same for the same rows in the same order, and how many they were.

    Raises
    ------
    PolyclinicError : CANNOT_KEEP. What the reader raises.
    """
    from pyarrow import ArrowException, PythonFile, parquet

    n_rows = 0
    system, path = opened(where)
    try:
        system.create_dir(path)
        with system.open_output_stream(f"{path}/rows.parquet") as raw:
            hashed = _Hashed(raw)
            with (
                PythonFile(hashed, mode="w") as out,
                parquet.ParquetWriter(out, batches.schema) as writer,
            ):
                for rows in _groups(batches):
                    n_rows += rows.num_rows
                    writer.write_table(rows, row_group_size=ROWS)
    except (OSError, ArrowException) as error:
        raise PolyclinicError(
            f"the rows could not be written ({reason(error)})",
            code="CANNOT_KEEP",
            rule="rows of a query, or in another order, are written once, for all rounds",
            next="free some space, or name another folder: folder=",
        ) from None
    return hashed.digest.hexdigest(), n_rows


def _groups(batches: Any) -> Iterator[Any]:
    """Tables of `ROWS` rows, and one of the rest."""
    import pyarrow as pa

    held: list[Any] = []
    for batch in batches:
        held.append(batch)
        while sum(one.num_rows for one in held) >= ROWS:
            table = pa.Table.from_batches(held)
            yield table.slice(0, ROWS)
            held = table.slice(ROWS).to_batches()
    if sum(one.num_rows for one in held):
        yield pa.Table.from_batches(held)


class _Hashed:
    """A file that is written to and hashed."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest, self.closed = file, hashlib.sha256(), False

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.file.write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        self.closed = True
