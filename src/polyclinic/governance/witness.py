"""Heads of a site's log that other sites hold: found beside it, or carried over in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polyclinic.core.errors import InputError
from polyclinic.governance.chain import HEAD_RECEIVED, entries, held_heads
from polyclinic.governance.heads import Held
from polyclinic.governance.signing import unhex


def sites_below(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Folders of sites directly below `folder`, by name; not those that are being set up."""
    found = sorted(path.parent for path in Path(folder).glob("*/site.toml"))
    return {path.name: path for path in found if not path.name.startswith(".")}


def held_beside(folder: str | os.PathLike[str], site: str) -> list[Held]:
    """Heads of the log of `site` that the sites in the folders beside `folder` hold."""
    here = Path(folder).resolve()
    return [
        Held(data, name)
        for name, path in sites_below(here.parent).items()
        if path != here and (path / "audit.jsonl").is_file()
        for data in held_heads(path / "audit.jsonl", site)
    ]


def heads_text(log: str | os.PathLike[str], holder: str) -> str:
    """The last head of each other site that the log of `holder` has, as a line of JSON each."""
    last: dict[str, dict[str, Any]] = {}
    for record in entries(log):
        if record["event"] == HEAD_RECEIVED:
            details = record["details"]
            if details["seq"] < last.get(details["site"], details)["seq"]:
                continue
            last[details["site"]] = {name: details[name] for name in ("site", "seq", "head")}
    kept = [json.dumps({**one, "held_by": holder}, sort_keys=True) for one in last.values()]
    return "".join(f"{line}\n" for line in kept)


def read_heads(path: str | os.PathLike[str], site: str) -> list[Held]:
    """The heads of the log of `site` in a file that `heads_text` made.

    Raises
    ------
    InputError : NO_HEAD when the file has none.
    """
    found = list(_heads(Path(path), site))
    if not found:
        raise InputError(
            f"{path}: this file has no head of the log of {site}",
            code="NO_HEAD",
            rule="a head that another hospital holds shows whether the end of a log was cut off",
            next="ask another hospital for the file that this writes: "
            "polyclinic site audit heads --out FILE",
            kept="nothing was changed",
        )
    return found


def _heads(path: Path, site: str) -> Iterator[Held]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found.get("site") == site:
            yield Held(unhex(found.get("head")), str(found.get("held_by", "")))
