"""A study of a network: what hospitals approve is what runs, and what their officers read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.governance.study_file import Study, load_study
from tests.governance.test_scope import changed, covered, recorded, scope_of

pytest.importorskip("torch")

FORMULA = "disease ~ age + sex + thalach"
MODEL = {
    "kind": "neural",
    "formula": FORMULA,
    "architecture": "mlp",
    "options": {"architecture_options": {"hidden": [4]}},
}
STRATEGY = {"name": "scaffold", "rounds": 2, "lr": 0.1}


def study_of(**more) -> Study:
    about = {
        "format": 1,
        "seed": 5,
        "study": {"name": "net", "purpose": "research"},
        "data": {"dataset": "heart_disease"},
        "model": MODEL,
        "strategy": STRATEGY,
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
    model = {**MODEL, "options": {**MODEL["options"], "scale": "range"}}
    privacy = {"epsilon": 8.0, "delta": 1e-5, "show_sites": False}
    study = study_of(model=model, privacy=privacy, strategy={"rounds": 2, "lr": 0.1})
    sites = pc.datasets.heart_disease()
    plans = recorded(study, sites, tmp_path / "run", monkeypatch)
    scope = scope_of(study, sites.codebook, sites.names)
    assert {scope.refuses(plan) for plan in plans} == {""}
    (first, *_) = [plan for plan in plans if plan.task == "neural.train"]
    assert scope.refuses(changed(first, "noise", "multiplier", to=lambda z: 0.9 * z))
    assert scope.refuses(changed(first, "noise", "times", to=1))
    assert scope.refuses(changed(first, "noise", to=None))


def test_a_study_whose_hospitals_answer_by_themselves(tmp_path, data_dir, monkeypatch):
    strategy = {"name": "fedbuff", "rounds": 2, "buffer": 2, "lr": 0.1}
    study = study_of(strategy=strategy)
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


FILE = """format = 1
[study]
name = "net"
[data]
dataset = "heart_disease"
[model]
kind = "neural"
formula = "disease ~ age + sex + thalach"
architecture = "mlp"
loss = "cross_entropy"
class_weight = "balanced"
[model.options]
architecture_options = { hidden = [4] }
[strategy]
name = "fedavg"
rounds = 2
lr = 0.1
[evaluation]
validate = "split"
test = "age >= 52"
alone = false
"""


def written(tmp_path, *changes):
    text = FILE
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "study.toml").write_text(text)
    return tmp_path / "study.toml"


def test_patients_are_set_aside_and_judged_on_alone(tmp_path, data_dir, monkeypatch):
    study, sites = load_study(written(tmp_path)), pc.datasets.heart_disease()
    plans = recorded(study, sites, tmp_path / "run", monkeypatch)
    scope = scope_of(study, sites.codebook, sites.names)
    covered(scope, plans)
    found = json.loads((tmp_path / "run" / "metrics.json").read_bytes())
    judged = found["evaluation"]
    model = pc.load(tmp_path / "run")
    columns = ["disease", "age", "sex", "thalach"]
    complete = [sites.local(name)[columns].dropna() for name in sites.names]
    old = sum(int((t.age >= 52).sum()) for t in complete)
    assert judged["all"]["n"] == old and judged["how"] == "patients who were set aside"
    assert model.result_.n == sum(map(len, complete)) - old
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "patients who were set aside" in page and "on the same patients" not in page
    # The same by hand.
    by_hand = pc.NeuralNetwork(
        "mlp",
        architecture_options={"hidden": [4]},
        class_weight="balanced",
        strategy=pc.FedAvg(rounds=2, lr=0.1),
    ).fit(sites.cohort("not (age >= 52)", columns=columns), FORMULA)
    assert by_hand.result_.weights.tobytes() == model.result_.weights.tobytes()
    held = sites.cohort("age >= 52", columns=columns)
    again = by_hand.evaluate(held, validate="none").measures["all"]["auroc"]["value"]
    assert judged["all"]["auroc"]["value"] == again
    # Nothing is trained on those who are set aside, nor is a third group asked about.
    (train, *_) = [plan for plan in plans if plan.task == "neural.train"]
    (score, *_) = [plan for plan in plans if plan.task == "evaluation.scores"]
    assert scope.refuses(replace(train, cohort=score.cohort, _derived={}))
    third = {**score.cohort, "where": "age >= 50"}
    assert scope.refuses(replace(score, cohort=third, _derived={}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('name = "fedavg"', 'name = "fedaverage"'), "fedadam"),
        (("rounds = 2", "round = 2"), "rounds"),
        (("lr = 0.1", 'lr = "fast"'), "above 0"),
        (("{ hidden = [4] }", '{}\nstrategy = {name = "fedavg"}'), "[strategy]"),
        (("{ hidden = [4] }", '{}\nloss = "focal"'), "in [model]"),
        (('kind = "neural"', 'kind = "forest"'), "neural"),
        (('validate = "split"', 'validate = "none"'), "split"),
        (('test = "age >= 52"', 'test = "age >="'), "over columns"),
    ],
)
def test_what_a_study_file_of_a_network_may_not_say(tmp_path, change, words):
    with pytest.raises(InputError) as found:
        load_study(written(tmp_path, change))
    assert words in str(found.value) and "nothing left" in found.value.kept


def test_a_device_is_no_part_of_what_is_agreed():
    plain = study_of()
    on_a_card = study_of(engine={"device": "cuda"})
    assert on_a_card.hash == plain.hash
    paper = scope_of(plain, pc.datasets.heart_disease().codebook, ("a", "b", "c")).paper
    assert replace(paper, study=on_a_card).hash == paper.hash
    assert study_of(strategy={**STRATEGY, "rounds": 3}).hash != plain.hash
    with pytest.raises(ValueError, match="POLYCLINIC_DEVICE"):
        study_of(engine={"name": "dask", "device": "cuda"})


def exchanging(**more):
    evaluation = {"validate": "split", "test": "age >= 52", "importance": 2, "alone": False}
    return study_of(strategy={"rounds": 2, "lr": 0.3}, evaluation={**evaluation, **more})


def test_importance_stands_in_the_report_and_nothing_else_is_exchanged(
    tmp_path, data_dir, monkeypatch
):
    study, sites = exchanging(), pc.datasets.heart_disease()
    plans = recorded(study, sites, tmp_path / "run", monkeypatch)
    scope = scope_of(study, sites.codebook, sites.names)
    covered(scope, plans)
    found = json.loads((tmp_path / "run" / "metrics.json").read_bytes())["importance"]
    model, columns = pc.load(tmp_path / "run"), ["disease", "age", "sex", "thalach"]
    again = pc.NeuralNetwork(
        "mlp",
        architecture_options={"hidden": [4]},
        strategy=pc.FedAvg(rounds=2, lr=0.3),
        random_state=5,
    ).fit(sites.cohort("not (age >= 52)", columns=columns), FORMULA)
    assert again.result_.weights.tobytes() == model.result_.weights.tobytes()
    old = pc.datasets.heart_disease().cohort("age >= 52", columns=columns)
    table = again.importance(old, repeats=2, seed=5)
    assert [line["column"] for line in found["columns"]] == list(table.index)
    assert [line["increase"] for line in found["columns"]] == list(table["increase"])
    assert found["how"] == "patients who were set aside" and found["measure"] == "log loss"
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "On what the model rests" in page and "exchange" in page
    assert (tmp_path / "run" / "importance.csv").read_text().startswith("column,increase,sd")
    assert "6 exchanges of a column" in " ".join(scope.summary()["computes"])
    asked = [plan for plan in plans if plan.task == "evaluation.importance"]
    assert len(asked) == 4
    one = next(plan for plan in asked if plan.values["shuffle"]["column"] == "age")
    for other in (
        changed(one, "shuffle", "column", to="chol"),
        changed(one, "shuffle", "repeats", to=100),
        changed(one, "shuffle", "seed", to=6),
        changed(one, "shuffle", "part", to=[[0, 1]]),
        changed(one, "where", to={"column": "sex", "level": 1.0}),
        changed(one, "outcome", to="number"),
        changed(one, "predictors", 0, "weights", to=lambda found: found[:-1]),
        replace(one, combine="collect", _derived={}),
    ):
        assert scope.refuses(other)
    silent = scope_of(exchanging(importance=0), sites.codebook, sites.names)
    assert silent.refuses(one) == "evaluation.importance is no step of it"


def test_what_a_study_may_not_exchange(tmp_path, data_dir):
    assert exchanging(importance=0).hash != exchanging().hash
    # As it was before studies had it: what hospitals have approved stays approved.
    assert study_of().short_hash == "0d3a af2f"
    for wrong in ({"importance": 101}, {"importance": 0, "parts": {"age": 2}}):
        with pytest.raises(ValueError, match="importance"):
            exchanging(**wrong)
    with pytest.raises(ValueError, match="leave it out"):
        study_of(
            model={"kind": "cox", "formula": "Surv(thalach, disease) ~ age"},
            strategy={},
            evaluation={"validate": "none", "importance": 1},
        )
    with pytest.raises(InputError, match="parts of age"):
        pc.run(exchanging(parts={"age": 2}), tmp_path / "run", sites=pc.datasets.heart_disease())
