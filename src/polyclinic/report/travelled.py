"""What travelled between a hub and each hospital, as the report shows it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyclinic.report import words
from polyclinic.report.tables import Row

NETWORK = "network.csv"
_HEAD = ("round", "step", "seconds", "hospital", "bytes to it", "bytes back")


def carried(events: Sequence[Mapping[str, Any]]) -> bytes:
    """A line for every round and hospital: bytes to it and back, with all that was asked again.

    events : of a run; "bytes" holds the pair of each hospital.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_HEAD)
    for one in events:
        if one["event"] in ("round", "step"):
            for site, (there, back) in sorted(one["bytes"].items()):
                table.writerow([one["n"], one["step"], one["seconds"], site, there, back])
    return text.getvalue().encode()


def travelled(folder: Path) -> list[Row]:
    """A row for every hospital of a run folder; none where the run was not over a hub."""
    path = folder / NETWORK
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return _rows(csv.DictReader(file))


def _rows(lines: Iterable[Mapping[str, str]]) -> list[Row]:
    found: dict[str, list[tuple[int, int]]] = {}
    for line in lines:
        pair = int(line["bytes to it"]), int(line["bytes back"])
        found.setdefault(line["hospital"], []).append(pair)
    return [
        {
            "hospital": site,
            "rounds": f"{len(pairs):,}",
            "there": words.bytes_(sum(there for there, _ in pairs)),
            "back": words.bytes_(sum(back for _, back in pairs)),
            "largest": words.bytes_(max(map(sum, pairs))),
        }
        for site, pairs in sorted(found.items())
    ]
