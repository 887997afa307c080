"""A study of a network: what hospitals approve is what runs, and what their officers read."""

from __future__ import annotations

import pytest

import polyclinic as pc
from polyclinic.governance.study_file import Study
from tests.governance.test_scope import changed, covered, recorded, scope_of

pytest.importorskip("torch")

FORMULA = "disease ~ age + sex + thalach"
OPTIONS = {
    "architecture": "mlp",
    "architecture_options": {"hidden": [4]},
    "strategy": {"name": "scaffold", "rounds": 2, "lr": 0.1},
}


def study_of(**more) -> Study:
    about = {
        "format": 1,
        "seed": 5,
        "study": {"name": "net", "purpose": "research"},
        "data": {"dataset": "heart_disease"},
        "model": {"kind": "neural", "formula": FORMULA, "options": OPTIONS},
        "evaluation": {"validate": "none", "alone": False},
    }
    return Study.model_validate({**about, **more})


def test_a_study_of_a_network_is_covered_and_nothing_else_is(tmp_path, data_dir, monkeypatch):
    study, sites = study_of(), pc.datasets.heart_disease()
    plans = recorded(study, sites, tmp_path / "run", monkeypatch)
    scope = scope_of(study, sites.codebook, sites.names)
    covered(scope, plans)
    (first, *_) = [plan for plan in plans if plan.task == "neural.train"]
    for other in (
        changed(first, "state", "lr", to=9.0),
        changed(first, "state", "round", to=7),
        changed(first, "state", "weights", to=lambda found: found[:-1]),
        changed(first, "spec", "strategy", "rounds", to=50),
        changed(first, "spec", "architecture", to="linear"),
    ):
        assert scope.refuses(other)
    numbers = 3 * 4 + 4 + 4 + 1
    assert scope.summary()["round"] == 2 * numbers + 5
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Loss by round" in page and "numbers trained" in page
    assert pc.load(tmp_path / "run").history_["loss"].notna().all()


def test_a_study_of_a_network_with_noise_is_priced_by_each_hospital(
    tmp_path, data_dir, monkeypatch
):
    options = {**OPTIONS, "scale": "range", "strategy": {"rounds": 2, "lr": 0.1}}
    model = {"kind": "neural", "formula": FORMULA, "options": options}
    privacy = {"epsilon": 8.0, "delta": 1e-5, "show_sites": False}
    study, sites = study_of(model=model, privacy=privacy), pc.datasets.heart_disease()
    plans = recorded(study, sites, tmp_path / "run", monkeypatch)
    scope = scope_of(study, sites.codebook, sites.names)
    assert {scope.refuses(plan) for plan in plans} == {""}
    (first, *_) = [plan for plan in plans if plan.task == "neural.train"]
    assert scope.refuses(changed(first, "noise", "multiplier", to=lambda z: 0.9 * z))
    assert scope.refuses(changed(first, "noise", "times", to=1))
    assert scope.refuses(changed(first, "noise", to=None))


def test_a_study_whose_hospitals_answer_by_themselves(tmp_path, data_dir, monkeypatch):
    strategy = {"name": "fedbuff", "rounds": 2, "buffer": 2, "lr": 0.1}
    model = {"kind": "neural", "formula": FORMULA, "options": {**OPTIONS, "strategy": strategy}}
    study = study_of(model=model)
    sites = pc.datasets.heart_disease().with_policy(pc.Policy(updates_alone=True))
    plans = recorded(study, sites, tmp_path / "run", monkeypatch)
    scope = scope_of(study, sites.codebook, sites.names)
    assert {scope.refuses(plan) for plan in plans} == {""}
    assert "by itself" not in scope.summary()["apart"] and "training" in scope.summary()["apart"]
    (first, *_) = [plan for plan in plans if plan.task == "neural.train"]
    assert first.to and first.combine == "sum"
    assert scope.refuses(changed(first, "spec", "strategy", "buffer", to=1))
    assert scope.refuses(changed(first, "state", "round", to=2))
    arrivals = (tmp_path / "run" / "arrivals.csv").read_text().splitlines()
    assert arrivals[0] == "site,version,lost" and len(arrivals) == 5
    assert len(pc.load(tmp_path / "run").events_) == 4
