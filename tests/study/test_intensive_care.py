"""Trees over regions with many gaps are better than what any region finds alone."""

from __future__ import annotations

import polyclinic as pc
from polyclinic.governance.study_file import Study

COLUMNS = ["age", "intubated", "vent", "motor", "temperature", "heartrate", "meanbp", "wbc", "bun"]


def test_shared_boosting_is_better_than_each_region_alone(data_dir, tmp_path):
    study = Study.model_validate(
        {
            "format": 1,
            "study": {"name": "intensive-care"},
            "data": {"dataset": "eicu_demo"},
            "cohort": {"missing": "keep"},
            "model": {
                "kind": "boosting",
                "formula": "died ~ " + " + ".join([*COLUMNS, "creatinine", "albumin"]),
                "options": {
                    "n_estimators": 10,
                    "max_depth": 2,
                    "learning_rate": 0.4,
                    "max_bins": 16,
                },
            },
            "evaluation": {"folds": 3},
        }
    )
    done = pc.run(study, tmp_path / "run", sites=pc.datasets.eicu_demo())
    measures = done.results["evaluation"]
    shared = {site: one["auroc"]["value"] for site, one in measures["sites"].items()}
    assert shared.keys() == measures["alone"].keys()
    assert all(shared[site] > measures["alone"][site] for site in shared)
    assert done.results["model"]["patients"] == 1772
    assert done.results["table_one"]["columns"] == []  # columns with gaps are not described
