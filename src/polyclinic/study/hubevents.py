"""What happened in a run, one JSON line each, for those who look on."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from polyclinic.core.errors import Stopped


class Events:
    """A file that only grows. A line that was cut off by a crash is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, event: str, **details: Any) -> None:
        """Append an event. Raises CANNOT_WRITE."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": at, "event": event, **details}, allow_nan=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                end = os.fstat(handle).st_size
                whole = end == 0 or os.pread(handle, 1, end - 1) == b"\n"
                data = line if whole else b"\n" + line
                if os.write(handle, data) != len(data):
                    raise OSError("the disk is full")
            finally:
                os.close(handle)
        except OSError as error:
            raise Stopped(
                f"{self.path}: {error.strerror or error}",
                code="CANNOT_WRITE",
                rule="what happens in a run is written down",
                next="free some space on the hub's disk; the run then goes on by itself",
                kept="everything up to the last round",
            ) from error

    def read(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The whole lines from `offset` on, and where the next one starts."""
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return [], offset
        end = data.rfind(b"\n") + 1
        found = []
        for line in data[:end].splitlines():
            with suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict) and "event" in value:
                    found.append(value)
        return found, offset + end

    def rounds(self) -> list[dict[str, Any]]:
        """The rounds and steps that were kept."""
        return [one for one in self.read()[0] if one["event"] in ("round", "step")]

    def first(self, event: str) -> dict[str, Any] | None:
        """The first event of this name."""
        return next((one for one in self.read()[0] if one["event"] == event), None)
