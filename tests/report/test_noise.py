"""A report of a model that was fitted with noise says so, and says nothing that does not hold."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.cli import show
from polyclinic.core.fit import Round
from polyclinic.report import gate, noise, sentences, tables, words
from polyclinic.report.html import render_report
from polyclinic.study.results import assemble, left
from tests.report.page import parse

DP = pc.DifferentialPrivacy(epsilon=4.0, delta=1e-6)
FALSE = (
    "pooling their records would have given",
    "exact over all hospitals",
    "No noise was added",
)


@pytest.fixture(scope="module")
def fitted() -> Any:
    rng = np.random.default_rng(5)
    n = 2400
    x, z = 3.0 * rng.normal(size=n).clip(-3, 3), rng.uniform(-1, 1, n)
    sick = (rng.uniform(size=n) < 1 / (1 + np.exp(0.6 - 0.3 * x + 0.4 * z))).astype(int)
    x[rng.uniform(size=n) < 0.05] = np.nan
    frame = pd.DataFrame({"h": rng.choice(list("abcd"), n), "x": x, "z": z, "sick": sick})
    model = pc.LogisticRegression().fit(pc.split(frame, by="h"), "sick ~ x + z", privacy=DP)
    return model, frame.dropna()


@pytest.fixture(scope="module")
def once(fitted: Any) -> dict[str, Any]:
    found: dict[str, Any] = fitted[0]._results("A title", "a purpose")
    return found


@pytest.fixture
def noisy(once: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(once)


def text_of(results: dict[str, Any]) -> str:
    return " ".join(parse(render_report(results)).words.split())


def uncounted(results: dict[str, Any]) -> dict[str, Any]:
    """As where no hospital shows a number of its own and Table 1 was not asked for."""
    bare = {k: v for k, v in results.items() if k not in ("evaluation", "table_one")}
    bare["data"] = {**bare["data"], "sites": []}
    model = {**bare["model"], "n": 1800, "patients": 1800, "events": 700}
    return {**bare, "model": {**model, "noise": {**model["noise"], "counted": False}}}


def test_counts_are_exact_where_they_are_known(fitted: Any, noisy: dict) -> None:
    model, frame = fitted
    assert noisy["model"]["noise"] == {"epsilon": 4.0, "delta": 1e-6, "counted": True}
    assert noisy["model"]["patients"] == noisy["model"]["n"] == len(frame)
    assert noisy["model"]["events"] == frame["sick"].sum()
    assert model.result_.scale.moments.patients < 0.98 * len(frame), "else it shows nothing"
    table = tables.table_one(noisy)
    assert table is not None
    assert table["rows"][0]["cells"][-1] == f"{len(frame):,}"
    assert table["rows"][1]["cells"][-1].startswith(f"{frame['sick'].sum():,} (")
    assert f"{len(frame):,} patients, " in sentences.who(noisy)


def test_no_sentence_claims_an_exact_model(noisy: dict) -> None:
    for results in (noisy, uncounted(noisy)):
        text = text_of(results)
        assert not [claim for claim in FALSE if claim in text]
        assert "with noise in the sums behind the coefficients (epsilon 4, delta 1e-06)" in text
        assert "with noise (epsilon 4, delta 1e-06) over all hospitals" in text
        assert "5 noisy rounds" in text and "is shortened, that is, counts less than 1" in text
        assert "How well noise hides a single patient" in text
    assert "their intervals include the noise" in text_of(noisy)


def test_what_the_guarantee_does_not_cover_is_said(noisy: dict) -> None:
    covered = noise.covered(noisy)
    assert covered == (
        "The counts of patients, Table 1 and the measures of the model are exact sums, which this "
        "guarantee does not cover."
    )
    assert covered in text_of(noisy)
    assert noise.covered(uncounted(noisy)) == ""
    assert "Judged on the same patients" in text_of(noisy)


def test_a_count_that_is_only_noisy_is_no_count(noisy: dict) -> None:
    results = uncounted(noisy)
    text = text_of(results)
    assert "about 1,800 patients (a noisy count) of 4 hospitals" in sentences.answer(results)[1]
    assert sentences.who(results).endswith("no hospital shows how many it left out.")
    assert "none was left out" not in text and "about 1,800" in text
    assert (
        words.result_table(results)
        .splitlines()[0]
        .startswith("Logistic regression   about 1,800 patients")
    )


def test_without_intervals_none_are_promised(noisy: dict) -> None:
    for term in noisy["model"]["terms"]:
        term |= dict.fromkeys(("se", "z", "p", "lower", "upper"))
    assert sentences.answer(noisy)[1].endswith("the noise is too large for intervals.")
    assert "(the noise is too large)" in sentences.matters(noisy)


def test_the_terminal_says_epsilon_and_that_noise_was_added(
    noisy: dict, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    view = show.View()
    view.fit_line = "fit"
    done = SimpleNamespace(results=noisy, report=tmp_path / "report.html")
    view.finished(done)
    out = capsys.readouterr().out
    assert "noise  epsilon 4, delta 1e-06: noise was added" in out
    assert "guarantee does not cover" in " ".join(out.split())
    assert "left   9 noisy sums a round and hospital, no rows" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80 and out.isascii()


def test_a_sum_before_the_answer_is_listed_as_a_step_of_its_own() -> None:
    """Where hospitals add up first what is safe at each of them."""
    leaf = {"leaf": "gradient", "shape": [3], "numbers": 3, "bytes": 48, "sites": ["a", "b", "c"]}
    share = {**leaf, "leaf": "safe counts", "shape": [9], "numbers": 9, "bytes": 144}
    about = {"combine": "sum", "seen": "total of 3"}
    step = "Newton round: what is safe"
    both = ({**leaf, **about}, {**share, **about, "step": step})
    done = Round(1, "Newton round", "glm.newton", "", 0.1, left=both)
    lines = left([done, done])
    assert {line["step"] for line in lines} == {"Newton round", step}
    ledger = {"patients": {step: [40, 40], "Newton round": [40, 60]}}
    results = {"left": lines, "gate": {"ledger": dict.fromkeys("abc", ledger)}}
    assert [
        (row["step"], row["times"], row["numbers"], row["patients"], row["seen"])
        for row in tables.leaves(results)
    ] == [
        ("Newton round", "2", "3", "40 to 60", "total of 3"),
        (step, "2", "9", "40", "total of 3"),
    ]


def test_an_exact_model_says_nothing_of_noise(cancer: dict) -> None:
    text = text_of(cancer)
    assert FALSE[0] in text and "exact over all hospitals" in text
    assert "Epsilon" not in text and "Not covered" not in text
    assert noise.lines(cancer) == []
    assert "No noise was added for differential privacy." in text


def test_what_was_spent_is_shown_with_and_without_a_bound(noisy: dict) -> None:
    ledger = noisy["gate"]["ledger"] = {
        site: dict(noisy["gate"]["ledger"][site]) for site in "abcd"
    }
    ledger["a"]["budget"], ledger["b"]["budget"] = [2.5, None, 1e-6], [2.5, 3.0]
    ledger["c"]["budget"], ledger["d"]["budget"] = [0.0, 10.0, 1e-6], None
    assert tables.budgets(noisy) == [
        "a: epsilon 2.5 spent (delta 1e-06)",
        "b: epsilon 2.5 of 3 spent",
    ]
    assert "cost less together than the sum of their epsilons" in text_of(noisy)


def test_only_what_was_seen_of_totals_is_said_to_be_a_total() -> None:
    rng = np.random.default_rng(1)
    n = 900
    x = rng.normal(size=n)
    frame = pd.DataFrame({"h": rng.choice(list("abc"), n), "x": x, "y": x + rng.normal(size=n)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pc.LinearRegression().fit(pc.split(frame, by="h"), "y ~ x", privacy=pc.SecureSum())
    results = model._results("", "")
    shown = ["table 1 of each site", "each hospital's own measures", "rows and events per hospital"]
    assert set(shown) <= set(gate.seen_alone(results["left"]))
    listed = "; ".join(gate.seen_alone(results["left"]))
    assert results["study"]["guarantee"] == (
        "exact secure sums: only totals over all hospitals were seen, but of each hospital itself: "
        + listed
    )
    line = " ".join(" ".join(gate.lines(results)).split())
    assert line == (
        "gate secure sums: only the total of the three is seen, but of each hospital itself: "
        + listed
    )
    data = model.formula_data
    assert data.sites is not None
    rounds = [r for r in model.rounds_ if r.task.startswith("glm")]
    quiet = assemble(model, data.sites, about={}, rounds=rounds, show_sites=False)
    assert gate.seen_alone(quiet["left"]) == []
    assert quiet["study"]["guarantee"].endswith("only totals over all hospitals were seen")
    assert gate.lines(quiet) == ["gate   secure sums: only the total of the three is seen"]


def test_what_hospitals_add_up_before_they_lean_on_each_other_is_listed() -> None:
    rng = np.random.default_rng(2)
    n = 120
    frame = pd.DataFrame({"h": np.repeat(list("abc"), n // 3), "x": rng.normal(size=n)})
    for name in ("u", "v", "w"):
        frame[name] = rng.normal(size=n)
    frame["y"] = frame["x"] + rng.normal(size=n)
    sites = pc.split(frame, by="h")
    model = pc.LinearRegression().fit(sites, "y ~ x + u + v + w")
    listed = {line["step"] for line in left(model.rounds_)}
    in_ledgers = {row["step"] for books in sites._books.values() for row in books.ledger.rows()}
    safe = {step for step in in_ledgers if step.endswith(": what is safe")}
    assert safe and safe <= listed
    sizes = {r["step"]: r["sums"] for r in sites._books["a"].ledger.rows()}
    for line in left(model.rounds_):
        if line["step"] in safe:
            assert line["numbers"] == sizes[line["step"]]


def test_a_hospital_that_may_not_show_its_counts_shows_none() -> None:
    rng = np.random.default_rng(4)
    sizes = {"a": 400, "b": 400, "c": 400, "d": 4}
    frame = pd.DataFrame({"h": np.repeat(list(sizes), list(sizes.values()))})
    frame["x"] = rng.normal(size=len(frame))
    frame["y"] = frame["x"] + rng.normal(size=len(frame))
    sites = pc.split(frame, by="h")
    model = pc.LinearRegression().fit(sites, "y ~ x")
    model.evaluate(validate="none")
    results = model._results("", "")
    last = results["data"]["sites"][-1]
    assert (last["name"], last["rows"], last["patients"]) == ("d", None, None)
    assert "patients (not shown) used" in render_report(results)
    noisy = pc.DifferentialPrivacy(2.0, 1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pc.LinearRegression().fit(pc.split(frame, by="h"), "y ~ x", privacy=noisy)
    assert not model._results("", "", evaluate=False)["model"]["noise"]["counted"]
