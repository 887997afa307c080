"""The report of the four hospitals: its numbers against outside authorities, its small cells."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

from polyclinic.report import sentences, tables, tripod
from polyclinic.report.figures import FIGURES, merged_bins
from polyclinic.report.html import render_report
from tests.report.page import parse

NAMES = [
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg"),
    *("thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"),
]
USED = ["age", "sex", "cp", "thalach", "exang", "oldpeak", "num"]


@pytest.fixture(scope="module")
def rows(data_dir: Path) -> pd.DataFrame:
    frames = []
    for site in ("cleveland", "hungarian", "switzerland", "va"):
        path = data_dir / "heart-disease" / f"processed.{site}.data"
        frames.append(pd.read_csv(path, names=NAMES, na_values="?").assign(site=site))
    found = pd.concat(frames, ignore_index=True).dropna(subset=USED)
    return found.assign(disease=(found.num > 0).astype(int))


def test_forest_shows_the_pooled_odds_ratios(heart: dict, rows: pd.DataFrame) -> None:
    pooled = smf.glm(
        "disease ~ age + sex + C(cp) + thalach + exang + oldpeak",
        rows,
        family=sm.families.Binomial(),
    ).fit(tol=1e-12)
    step = {"age": 10, "thalach": 10}
    names = ["age", "sex", "C(cp)[T.2.0]", "C(cp)[T.3.0]", "C(cp)[T.4.0]", "thalach", "exang",
             "oldpeak"]  # fmt: skip
    ends = pooled.conf_int()
    expected = []
    for name in names:
        k = step.get(name, 1)
        value, low, high = np.exp(k * np.array([pooled.params[name], *ends.loc[name]]))
        expected.append((f"{value:.2f}", f"{low:.2f} to {high:.2f}"))
    figure = FIGURES["forest"](heart)
    assert figure is not None
    assert [row[1:] for row in figure.rows] == expected
    assert figure.rows[0][0] == "age, per 10 years"
    assert figure.rows[5][0] == "highest heart rate, per 10 beats/min"


def test_ratio_and_coefficient_say_what_they_are_per(heart: dict) -> None:
    age = tables.terms(heart)[1]
    assert age["step"] == "10 years" and age["effect"] == "1.35 (1.09 to 1.68)"
    assert age["coef"] == "0.0302", "per year: the table's head says per 1 unit"


def test_the_answer_ranks_88_of_100_pairs(heart: dict) -> None:
    first, second = sentences.answer(heart)
    assert first.startswith("From six measurements the model tells patients with and without")
    assert "88 of 100 pairs" in first and "857 patients of 4 hospitals" in second


def test_hospitals_where_it_fails_are_named_in_words(heart: dict) -> None:
    lines = {light["hospital"]: light for light in sentences.lights(heart)}
    assert lines["switzerland"]["text"] == "predicts too low, do not use unadjusted"
    assert [lines[s]["state"] for s in ("cleveland", "hungarian", "switzerland", "va")] == [
        "ok", "ok", "look", "look"]  # fmt: skip


def test_a_small_count_left_out_is_nowhere(heart: dict, rows: pd.DataFrame) -> None:
    assert len(rows) == 857, "63 of 920 were left out, one of them in hungarian"
    assert "63 to 66 were left out" in sentences.who(heart)
    box = next(box for box in tables.flow(heart) if box["name"] == "hungarian")
    assert box["out"] == ["under 5 left out: values missing"]
    assert box["rows"] == "", "294 rows less 293 used would say it"
    text = parse(render_report(heart)).all("main")[0].text
    assert "294" not in text


def test_table_one_shows_no_small_count(heart: dict, rows: pd.DataFrame) -> None:
    table = tables.table_one(heart)
    assert table is not None
    counts = [
        int(found.group(1).replace(",", ""))
        for row in table["rows"]
        if row["level"] and "median" not in row["name"]
        for cell in row["cells"]
        if (found := re.match(r"^([\d,]+)( \(|$)", cell))
    ]
    assert len(counts) > 20
    assert not [count for count in counts if 0 < count < 5]
    events = next(row for row in table["rows"] if row["name"] == "coronary disease, n (%)")
    assert events["cells"][:4] == [
        f"{part.sum()} ({100 * part.mean():.0f})" for _, part in rows.groupby("site").disease
    ]


def test_calibration_shows_no_tenth_with_one_to_four_events(heart: dict) -> None:
    raw = heart["evaluation"]["all"]["calibration"]["bins"]
    assert any(0 < round(b["n"] * b["observed"]) < 5 for b in raw), "there is such a tenth"
    figure = FIGURES["calibration"](heart)
    assert figure is not None
    for row in figure.rows:
        n, share = int(row[0]), float(row[2]) / 100
        assert not 0 < round(n * share) < 5
        assert not 0 < n - round(n * share) < 5
    assert sum(b["n"] for b in merged_bins(raw)) == 857


def test_baselines_stand_beside_the_model(heart: dict) -> None:
    text = sentences.baselines(heart)
    assert "cleveland 0.860" in text and "hungarian 0.888" in text
    prevalence = 468 / 857
    assert f"the same risk has {prevalence * (1 - prevalence):.3f}" in text


def test_hospitals_that_sent_the_same_share_a_line(heart: dict) -> None:
    lines = tables.leaves(heart)
    assert len(lines) == len({leaf["step"] for leaf in heart["left"]})
    assert {line["who"] for line in lines} == {"each of the 4"}
    total = sum(leaf["numbers"] for leaf in heart["left"] if leaf["site"] == "va")
    assert sum(int(line["numbers"].replace(",", "")) for line in lines) == total


def test_tripod_has_its_27_items(heart: dict) -> None:
    items = tripod.items(heart)
    assert [item["number"] for item in items] == [str(n) for n in range(1, 28)]
    assert all(item["text"] for item in items)
    assert "0.877" in items[22]["text"]


def test_every_word_of_the_glossary_is_used(heart: dict) -> None:
    page = parse(render_report(heart))
    *before, last = page.all("section")
    body = " ".join(section.words for section in before).lower()
    words = [dt.text for dt in last.all("dt")]
    assert 8 <= len(words) <= 12
    for word in words:
        assert re.search(rf"\b{re.escape(word.lower())}\b", body), word


def test_small_decisions_are_not_shown(heart: dict) -> None:
    line = heart["evaluation"]["all"]["confusion"][0]
    line |= {"fn": 3}
    assert tables.thresholds(heart)[0]["found"] == "not shown"
    assert tables.thresholds(heart)[1]["found"] == "82 (79 to 86)"
