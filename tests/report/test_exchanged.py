"""What a report says of the columns that a model rests on."""

from __future__ import annotations

import pytest

from polyclinic.report.exchanged import importance

LABELS = {"cp": {"label": "chest pain", "unit": "", "levels": {}}}


def results(measure="log loss", loss=0.4, **first):
    one = {"column": "cp", "increase": 0.2, "sd": 0.01, "repeats": 5, **first}
    two = {"column": "xray: 0-3, 4-7", "increase": None, "sd": None, "repeats": 0}
    about = {"how": "same patients", "measure": measure, "loss": loss, "repeats": 5}
    return {"importance": {**about, "columns": [one, two]}, "labels": LABELS}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "rests most on chest pain: when each patient is given that of another, its error "),
        ({}, "(log loss) grows from 0.4 to 0.6."),
        (
            {"measure": "share of pairs ranked wrongly", "loss": 0.25},
            "it ranks 45 of 100 pairs wrongly instead of 25.",
        ),
        ({"measure": "1 - Dice", "loss": 0.1}, "Dice of its masks falls from 0.90 to 0.70."),
        ({"sd": 0.15}, "No single measurement decides"),
        ({"increase": -0.1, "sd": 0.0}, "No single measurement decides"),
        ({"increase": None}, "too few patients"),
        ({"loss": None}, "too few patients"),
    ],
)
def test_one_sentence_for_a_clinician(changes, words):
    assert words in importance(results(**changes))["say"]


def test_the_table_names_columns_as_people_do():
    found = importance(results())
    assert found["rows"] == [
        ["chest pain", "0.2", "0.01", "5"],
        ["xray: 0-3, 4-7", "not shown", "not shown", "0"],
    ]
    assert found["head"][1] == "log loss grows by" and "on the same patients" in found["note"]
    assert importance({"labels": {}}) is None
