"""Published files, found on this machine or downloaded, and always checked against their sha256.

A folder named by ``POLYCLINIC_DATA`` comes first, then the cache (``POLYCLINIC_CACHE``, else
``~/.cache/polyclinic``), then the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polyclinic.core.errors import InputError

TIMEOUT = 20.0  # seconds
LARGEST = 50_000_000  # bytes that a download may have


@dataclass(frozen=True)
class Archive:
    """Files of one publication.

    folder  its name below POLYCLINIC_DATA and below the cache
    sha256  by file name
    urls    by file name; one URL of a .zip may hold several files. Empty: they are published in
            another form, and `how` says what to do
    """

    name: str
    folder: str
    sha256: Mapping[str, str]
    urls: Mapping[str, str]
    how: str = ""

    def folders(self) -> list[Path]:
        """Where the files may lie, in the order in which they are looked for."""
        own = os.environ.get("POLYCLINIC_DATA")
        return [*([Path(own) / self.folder] if own else []), cache_folder() / self.folder]

    def here(self) -> Path | None:
        """The first folder that holds every file, unchecked."""
        for folder in self.folders():
            if all((folder / name).is_file() for name in self.sha256):
                return folder
        return None

    def paths(self) -> dict[str, Path]:
        """Every file, checked; downloaded to the cache when it is nowhere on this machine.

        Raises
        ------
        InputError : DATA_NOT_AVAILABLE without files and network, DATA_CHANGED for other bytes.
        """
        folder = self.here() or self._download()
        for name, expected in self.sha256.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
                raise self._changed(str(folder / name))
        return {name: folder / name for name in self.sha256}

    def _download(self) -> Path:
        if not self.urls:
            raise self._unavailable(self.how)
        folder = cache_folder() / self.folder
        fetched: dict[str, bytes] = {}
        for name, url in self.urls.items():
            if url not in fetched:
                fetched[url] = self._get(url)
            content = self._member(fetched[url], name, url)
            if hashlib.sha256(content).hexdigest() != self.sha256[name]:
                raise self._changed(f"{name} from {url}")
            try:
                _write(folder / name, content)
            except OSError as error:
                raise self._unavailable(f"{folder} cannot be written: {error.strerror}") from None
        return folder

    def _get(self, url: str) -> bytes:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                content: bytes = answer.read(LARGEST)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection
            raise self._unavailable(f"{url}: {reason}") from None
        return content

    def _member(self, content: bytes, name: str, url: str) -> bytes:
        if not url.endswith(".zip"):
            return content
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, KeyError):
            raise self._changed(f"{name} from {url}") from None

    def _unavailable(self, reason: str) -> InputError:
        return InputError(
            f"the data set {self.name} is not on this machine and cannot be downloaded ({reason})",
            code="DATA_NOT_AVAILABLE",
            rule=f"looked in {', '.join(str(folder) for folder in self.folders())}",
            next=f"put {', '.join(self.sha256)} into a folder {self.folder}/ and name its parent: "
            "POLYCLINIC_DATA=...",
        )

    def _changed(self, where: str) -> InputError:
        return InputError(
            f"{where} is not the published file of {self.name}",
            code="DATA_CHANGED",
            rule="the sha256 of every file is known; edited copies are not read",
            next="remove the file and try again, or read your copy with polyclinic.read",
        )


def cache_folder() -> Path:
    """Where downloads are kept."""
    return Path(os.environ.get("POLYCLINIC_CACHE") or Path.home() / ".cache" / "polyclinic")


def _write(path: Path, content: bytes) -> None:
    """Write under another name first, so that a broken download is never taken for the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
