"""Names of runs: used once, and a bounded number of files."""

from __future__ import annotations

import os

import pytest

from polyclinic.core.errors import PolyclinicError
from polyclinic.site.runs import RunNames


def code(names, name):
    with pytest.raises(PolyclinicError) as found:
        names.use(name)
    return found.value.code


def test_a_bounded_number_of_names_is_kept_and_none_is_taken_twice(tmp_path):
    folder = tmp_path / "runs"
    names, used = RunNames(folder, most=10), []
    for number in range(200):
        pair = [f"{number:04x}{letter}" for letter in "ba"]  # two runs at once, out of order
        for name in pair:
            names.use(name)
        used += pair
        assert len(os.listdir(folder)) <= 11
        names = RunNames(folder, most=10) if number % 7 == 0 else names
    assert {code(names, name) for name in used} == {"RUN_LOST"}
    assert code(names, "0000c") == "RUN_LOST"
    names.use("ffff")
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_what_is_let_go_is_written_down_first(tmp_path, monkeypatch):
    names = RunNames(tmp_path / "runs", most=4)
    for name in "abcd":
        names.use(name)
    monkeypatch.setattr("polyclinic.site.runs.write_private", full)
    assert code(names, "e") == "CANNOT_WRITE"
    assert {code(names, name) for name in "abcde"} == {"RUN_LOST"}


def full(path, data):
    raise OSError(28, "no space")
