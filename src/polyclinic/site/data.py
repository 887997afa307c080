"""What a hospital that has joined a hub knows: where its rows are, and who may ask (data.toml)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from polyclinic.core.checkpoint import write_atomic
from polyclinic.core.device import PATTERN
from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.read import read_table
from polyclinic.data.table import Table
from polyclinic.data.toml import load_toml
from polyclinic.governance.signing import unhex

FILE = "data.toml"
T = TypeVar("T")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int
    data: str
    schema_file: str
    table: str = ""
    cores: Annotated[int, Field(ge=0)] = 0
    device: Annotated[str, Field(pattern=rf"^({PATTERN})?$")] = ""
    hub: str
    host: str
    port: int
    coordinator: str
    pinned: dict[str, str] = {}


@dataclass(frozen=True)
class Joined:
    """A hospital's data and its hub.

    data, schema   where the rows and the codebook are, as absolute paths
    table          of a database; "": its only one
    cores          of this machine that may compute; 0: all
    device         on which networks compute, see `polyclinic.core.device`; "": "auto"
    hub, host, port   the hub's name, and where its FLARE server listens
    coordinator    public key of who asks
    pinned         public keys of other hospitals, from the first approval that named them
    """

    data: Path
    schema: Path
    hub: str
    host: str
    port: int
    coordinator: bytes
    table: str = ""
    cores: int = 0
    device: str = ""
    pinned: Mapping[str, bytes] = field(default_factory=dict)

    @staticmethod
    def load(folder: Path) -> Joined:
        """What `polyclinic site join` wrote into the site's folder.

        Raises
        ------
        InputError : NOT_JOINED; UNKNOWN_KEY, WRONG_VALUE for a damaged file.
        """
        path = folder / FILE
        if not path.is_file():
            raise InputError(
                f"{folder}: this site has not joined a hub",
                code="NOT_JOINED",
                rule="a site joins a hub with the invite that the coordinator has sent",
                next="name its folder: --home DIR or POLYCLINIC_SITE; or join: "
                "polyclinic site join INVITE --data FILE --schema CODEBOOK",
            )
        found: _File = load_toml(path, _File)
        return Joined(
            Path(found.data),
            folder.resolve() / found.schema_file,  # this folder's own copy, wherever it lies now
            found.hub,
            found.host,
            found.port,
            unhex(found.coordinator),
            found.table,
            found.cores,
            found.device,
            {site: unhex(key) for site, key in found.pinned.items()},
        )

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all, for the owner only."""
        here = folder.resolve()
        values: dict[str, Any] = {
            "format": 1,
            "data": str(self.data),
            "schema_file": self.schema.name if self.schema.parent == here else str(self.schema),
            "table": self.table,
            "cores": self.cores,
            "device": self.device,
            "hub": self.hub,
            "host": self.host,
            "port": self.port,
            "coordinator": self.coordinator.hex(),
        }
        # A JSON string is a TOML string, and so is a number.
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        lines += ["", "[pinned]  # keys of other hospitals: compare a new one by telephone"]
        lines += [f'{json.dumps(s)} = "{key.hex()}"' for s, key in sorted(self.pinned.items())]
        write_private(folder / FILE, ("\n".join(lines) + "\n").encode())

    def codebook(self) -> Codebook:
        """The columns as this hospital reads them."""
        return Codebook.load(self.schema)

    def read(self, site: str) -> Table:
        """The rows."""
        return read_table(self.data, self.codebook(), site, self.table)


class Fresh(Generic[T]):
    """What a file says, read again when the file on disk is another one."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path, self._read = path, read
        self._held: tuple[tuple[int, int, int, int], T] | None = None

    def __call__(self) -> T:
        """The content. Raises what reading raises."""
        try:
            now = self._path.stat()
        except OSError:
            return self._read(self._path)
        mark = (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        held = self._held
        if held is None or held[0] != mark:
            held = self._held = (mark, self._read(self._path))
        return held[1]


def write_private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read, in a folder that is alike."""
    for folder in reversed([one for one in path.parents if not one.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
    write_atomic(path, data, private=True)
