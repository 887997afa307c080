"""Studies of images over a hub: what their runs ask is what their hospitals approve."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.governance.study_file import Study
from tests.governance.test_scope import changed, covered, recorded, scope_of

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

CODEBOOK = """name = "squares"
[columns.scan]
type = "image"
shape = [1, 8, 8]
range = [-10, 10]
[columns.mask]
type = "image"
shape = [1, 8, 8]
range = [0, 1]
[columns.age]
type = "integer"
range = [18, 110]
[columns.ill]
type = "binary"
levels = { 0 = "no", 1 = "yes" }
"""
ROWS = 30


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Three hospitals of images with a square, its mask, and whether it stands to the left."""
    draw, folder, tables = np.random.default_rng(0), tmp_path_factory.mktemp("squares"), {}
    for name in ("north", "south", "west"):
        images = draw.normal(size=(ROWS, 1, 8, 8)).astype(np.float32)
        masks = np.zeros_like(images)
        left = draw.integers(0, 5, ROWS)
        for i, at in enumerate(left):
            masks[i, 0, 2:6, at : at + 4] = 1
        np.save(folder / f"{name}_i.npy", images + 3 * masks)
        np.save(folder / f"{name}_m.npy", masks)
        table = {
            "scan": [f"{name}_i.npy#{i}" for i in range(ROWS)],
            "mask": [f"{name}_m.npy#{i}" for i in range(ROWS)],
            "age": 40 + np.arange(ROWS),
            "ill": (left < 2).astype(int),
        }
        tables[name] = folder / f"{name}.csv"
        pd.DataFrame(table).to_csv(tables[name], index=False)
    (folder / "squares.toml").write_text(CODEBOOK, encoding="utf-8")
    return pc.read(tables, schema=folder / "squares.toml")


def study_of(formula, evaluation, **model):
    return Study.model_validate(
        {
            "format": 1,
            "study": {"name": "squares", "purpose": "research"},
            "data": {"hub": "test", "schema": "squares.toml"},
            "model": {"kind": "neural", "formula": formula, **model},
            "strategy": {"rounds": 2, "batch_size": 8, "lr": 0.05, "optimizer": "adam"},
            "evaluation": {"alone": False, **evaluation},
        }
    )


MASKS = {
    "architecture": "unet",
    "loss": "dice",
    "options": {"architecture_options": {"channels": [2, 4]}},
}


@pytest.mark.parametrize("validate", ["none", "cross-validation"])
def test_masks_are_judged_over_a_hub(sites, tmp_path, monkeypatch, validate):
    evaluation = {"validate": validate, "folds": 2, "importance": 1}
    study = study_of("mask ~ scan", evaluation, **MASKS)
    plans = recorded(study, sites, tmp_path / "run", monkeypatch)
    scope = scope_of(study, sites.codebook, sites.names)
    covered(scope, plans)
    judged = [plan for plan in plans if plan.task == "evaluation.masks"]
    assert {plan.combine for plan in judged} == {"sum", "collect"}
    assert "this site's own measures of the model" in scope.summary()["once"]
    found = json.loads((tmp_path / "run" / "metrics.json").read_bytes())
    assert found["evaluation"]["all"]["n"] == 3 * ROWS and found["evaluation"]["all"]["dice"] > 0.2
    assert found["importance"]["measure"] == "1 - Dice"
    for other in (
        changed(judged[0], "predictors", 0, "weights", to=lambda one: one[:-1]),
        changed(judged[0], "folds", to=3),
        changed(judged[0], "where", to={"column": "ill", "level": 1.0}),
        changed(judged[0], "more", to=1),
        replace(judged[0], cohort={**judged[0].cohort, "where": "age > 50"}, _derived={}),
    ):
        assert scope.refuses(other)
    alone = next(plan for plan in judged if plan.combine == "collect")
    privacy = study.privacy.model_copy(update={"show_sites": False})
    totals = study.model_copy(update={"privacy": privacy})
    closed = scope_of(totals, sites.codebook, sites.names)
    assert closed.refuses(alone) and not closed.refuses(judged[0])
    risks = scope_of(study_of("ill ~ scan", {}), sites.codebook, sites.names)
    assert risks.refuses(judged[0]) == "evaluation.masks is no step of it"


def test_a_table_beside_an_image_over_a_hub(sites, tmp_path, monkeypatch):
    """Table 1 is of the table: an image has no mean."""
    evaluation = {"validate": "none", "importance": 2, "parts": {"scan": 2}}
    study = study_of("ill ~ scan + age", evaluation, architecture="linear")
    plans = recorded(study, sites, tmp_path / "run", monkeypatch)
    scope = scope_of(study, sites.codebook, sites.names)
    covered(scope, plans)
    tables = [plan for plan in plans if plan.task == "descriptive.together"]
    assert tables and all("scan" not in str(plan.values) for plan in tables)
    lines = json.loads((tmp_path / "run" / "metrics.json").read_bytes())["importance"]["columns"]
    assert {line["column"] for line in lines} == {
        "age",
        *(f"scan: {rows}, {columns}" for rows in ("0-3", "4-7") for columns in ("0-3", "4-7")),
    }
