"""A learner's part of the report: names that people read, figures with their numbers."""

from __future__ import annotations

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.report.blocks import drawn, figures_of
from polyclinic.report.names import Names

LABELS = {
    "cp": {"label": "chest <pain>", "unit": "", "levels": {"1": "typical", "2": "atypical"}},
    "bp": {"label": "blood pressure", "unit": "mm[Hg]", "levels": {}},
    "arm": {"label": "arm", "unit": "", "levels": {"0": "old", "1": "new", "2": "other"}},
}
CURVES = {
    "kind": "curves",
    "title": "Survival",
    "x_label": "bp",
    "y_label": "survival",
    "curves": [
        {"name": "0", "levels": [("arm", "0")], "x": [0.0, 5.0, 9.0], "y": [1.0, 0.7, 0.4],
         "lower": [1.0, 0.6, 0.3], "upper": [1.0, 0.8, 0.5]}
    ],
    "at_risk": [{"name": "0", "levels": [("arm", "0")], "times": [0.0, 6.0], "counts": [40, 21]}],
    "step": True,
    "percent": True,
}  # fmt: skip
TABLE = {
    "kind": "table",
    "title": "Ratios",
    "head": ["term", "ratio", "p"],
    "rows": [["arm[T.2]", 1.5, 3e-7], ["C(cp)[T.2]", 0.5, 0.2], ["bp", 1.0, 1.0], ["x", 2.0, None]],
}


def test_columns_terms_and_levels_have_their_labels() -> None:
    names = Names(LABELS)
    assert names.term("arm[T.2]") == "arm: other" and names.term("bp") == "blood pressure, mm Hg"
    assert names.term("cp") == "chest <pain>: atypical" and names.column("cp") == "chest <pain>"
    assert names.term("unknown[T.1]") == "unknown[T.1]" and names.level("arm", "7") == "7"
    assert names.legend("if cp in {1}:") == "cp: chest <pain> (1 typical, 2 atypical)"
    (table,) = drawn({"labels": LABELS, "model": {"blocks": [TABLE]}})
    assert [row[0] for row in table["rows"]][:3] == [
        "arm: other",
        "chest <pain>: atypical",
        "blood pressure, mm Hg",
    ]
    assert [row[2] for row in table["rows"]] == ["<0.001", "0.20", "1.00", "-"]


def test_a_curve_has_its_ticks_its_numbers_at_risk_and_its_table() -> None:
    figure = figures_of([TABLE, CURVES], LABELS)["Survival"]
    assert figure.head == ("curve", "blood pressure, mm Hg", "survival", "95 % interval")
    assert figure.rows == (("arm: old", "0", "1", "1 to 1"), ("arm: old", "5", "0.7", "0.6 to 0.8"))
    for text in (">40<", ">21<", ">100 %<", ">8<", "blood pressure, mm Hg"):
        assert text in figure.svg.replace("\n", ""), text


def test_names_are_escaped_and_ratios_have_round_ticks() -> None:
    line = {"name": "C(cp)[T.1]", "estimate": 1.1, "lower": 0.9, "upper": 1.3}
    block = {"kind": "forest", "title": "Ratios", "ratio": True, "lines": [line]}
    figure = figures_of([block], LABELS)["Ratios"]
    assert "chest &lt;pain&gt;: typical" in figure.svg and "<pain>" not in figure.svg
    assert all(f">{tick}<" in figure.svg for tick in ("0.5", "1", "2"))


def test_learners_plot_what_their_reports_show() -> None:
    rng = np.random.default_rng(0)
    duration, arm = rng.exponential(10.0, 80), np.repeat(["a", "b"], 40)
    curves = pc.KaplanMeier().fit(duration, by=arm)
    assert curves.plot().title == "Survival" and curves.plot("Survival").rows == curves.plot().rows
    cases = [(curves, "tree", "UNKNOWN_FIGURE"), (curves, "roc", "NOTHING_TO_DRAW")]
    cases.append((pc.LogRank().fit(duration, by=arm), "", "NOTHING_TO_DRAW"))
    for model, name, code in cases:
        with pytest.raises(InputError) as error:
            model.plot(name)
        assert error.value.code == code
    tree = pc.DecisionTreeClassifier(max_depth=1).fit(rng.normal(size=(80, 2)), arm)
    assert tree.plot("Tree").svg.startswith("<svg") and tree.plot("Importance").rows
