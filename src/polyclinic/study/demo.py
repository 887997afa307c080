"""The study of `polyclinic demo`: the main job on real data, or offline on data that ship along."""

from __future__ import annotations

from polyclinic.core.errors import InputError
from polyclinic.governance.study_file import Study
from polyclinic.study import datasets
from polyclinic.study.sites import Sites

HEART = {
    "format": 1,
    "seed": 2026,
    "study": {
        "name": "demo",
        "title": "Who has coronary disease at angiography?",
        "purpose": "Diagnostic model from routine measurements; demonstration",
    },
    "data": {"dataset": "heart_disease"},
    "cohort": {"where": "age >= 18"},
    "model": {
        "kind": "logistic",
        "formula": "disease ~ age + sex + C(cp) + thalach + exang + oldpeak",
    },
    "evaluation": {"thresholds": [0.2, 0.5], "subgroups": ["sex"]},
}
BREAST = {
    "format": 1,
    "seed": 2026,
    "study": {
        "name": "demo",
        "title": "Which breast tumour is malignant?",
        "purpose": "Demonstration on scikit-learn's data; the four hospitals are made up",
    },
    "data": {"dataset": "breast_cancer"},
    "model": {
        "kind": "logistic",
        "formula": "malignant ~ mean_radius + mean_texture + mean_smoothness + mean_symmetry",
    },
    "evaluation": {"thresholds": [0.2, 0.5]},
}


def demo_study() -> tuple[Study, Sites]:
    """The heart study with its hospitals; without data and network the breast-cancer one."""
    try:
        return Study.model_validate(HEART), datasets.heart_disease()
    except InputError as error:
        if error.code != "DATA_NOT_AVAILABLE":
            raise
    return Study.model_validate(BREAST), datasets.breast_cancer()
