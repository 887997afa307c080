"""What travelled, as the report of a run over a hub shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polyclinic.report.html import render_report
from polyclinic.report.travelled import NETWORK, carried, travelled
from tests.report.page import parse

EVENTS = [
    {"event": "state", "state": "running"},
    {"event": "round", "n": 1, "step": "a, b", "seconds": 0.5,
     "bytes": {"va": [900_000, 4000], "b": [1500, 2500]}},
    {"event": "step", "n": 2, "step": "table", "seconds": 0.1, "bytes": {"va": [300_000, 999]}},
    {"event": "step", "n": 3, "step": "none", "seconds": 0.1, "bytes": {}},
]  # fmt: skip


def test_the_bytes_of_each_hospital(tmp_path: Path) -> None:
    (tmp_path / NETWORK).write_bytes(carried(EVENTS))
    assert travelled(tmp_path) == [
        {"hospital": "b", "rounds": "1", "there": "2 kB", "back": "2 kB", "largest": "4 kB"},
        {"hospital": "va", "rounds": "2", "there": "1.2 MB", "back": "5 kB", "largest": "904 kB"},
    ]


def test_the_report_has_a_table_of_it(tmp_path: Path, linear: dict[str, Any]) -> None:
    (tmp_path / NETWORK).write_bytes(carried(EVENTS))
    text = render_report(linear, travelled(tmp_path))
    page = parse(text)
    (table,) = [e for e in page.all("table") if "before compression" in e.words]
    rows = [[cell.text for cell in row.all("th", "td")] for row in table.all("tr")]
    assert rows[0] == ["hospital", "rounds", "to it", "back", "largest round"]
    assert rows[2] == ["va", "2", "1.2 MB", "5 kB", "904 kB"]
    assert "the network as it was" in " ".join(page.words.split())
    assert "network.csv has every round" in " ".join(page.words.split())


def test_on_one_machine_nothing_travels(tmp_path: Path, linear: dict[str, Any]) -> None:
    assert travelled(tmp_path) == []
    assert "What travelled" not in render_report(linear, travelled(tmp_path))


def test_a_hospital_without_which_it_went_on_is_named(linear: dict[str, Any]) -> None:
    why = "without va, which did not answer for 10 min before anything was computed"
    part = {"hub": "heart", "hospitals": ["a", "b"], "without": ["va"], "why": why}
    words = " ".join(parse(render_report({**linear, "federation": part})).words.split())
    assert f"Not all hospitals: the run went on {why}." in words
    assert f"hospitals: a, b; the run went on {why}" in words
    assert "Not all hospitals" not in render_report({**linear, "federation": {**part, "why": ""}})
    assert "Not all hospitals" not in render_report(linear)
