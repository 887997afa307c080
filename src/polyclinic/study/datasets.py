"""`pc.datasets`: named data sets as `Sites`, and made-up hospitals for tests of scale."""

from __future__ import annotations

from typing import Any

from polyclinic.data import datasets as _data
from polyclinic.study.sites import Sites

__all__ = [
    "breast_cancer",
    "diabetes",
    "digits",
    "eicu_demo",
    "eicu_hospitals",
    "heart_disease",
    "hospitals",
    "iris",
    "load",
    "physionet_2012",
    "pneumonia_mnist",
    "tcga_brca",
]


def load(name: str) -> Sites:
    """The data set called `name`."""
    found = _data.dataset(name)
    return Sites(found.tables, found.codebook, source=found.source)


def heart_disease() -> Sites:
    """UCI Heart Disease (CC BY 4.0): four hospitals, 920 patients, 14 columns."""
    return load("heart_disease")


def tcga_brca() -> Sites:
    """TCGA-BRCA clinical data: 1,088 patients in six regions, 151 deaths."""
    return load("tcga_brca")


def eicu_demo() -> Sites:
    """eICU demo (ODbL 1.0): 1,772 patients in intensive care in five regions, 167 deaths."""
    return load("eicu_demo")


def eicu_hospitals() -> Sites:
    """The same in their 186 hospitals, most of them with few patients."""
    return load("eicu_hospitals")


def physionet_2012(series: bool = False) -> Sites:
    """PhysioNet Challenge 2012 (ODC-By 1.0): 4,000 stays in four kinds of unit, 554 deaths.

    series : the 37 variables as the series `measured` of 48 hours, beside age, sex, height and
        weight; else of each variable its mean and last value.
    """
    return load("physionet_2012_series" if series else "physionet_2012")


def pneumonia_mnist(
    hospitals: int = 5, by: str = "label", alpha: float = 0.5, random_state: int = 0
) -> Sites:
    """PneumoniaMNIST (CC BY 4.0): 5,856 chest X-rays of children, 28 x 28, dealt to hospitals.

    Parameters
    ----------
    hospitals : how many made-up ones.
    by : "label": each has its own share of pneumonia, as `partition` draws it; "iid"; "quantity".
    alpha : small: great differences between hospitals.
    random_state : seed of the dealing.

    The column `part` is the published one: "train", "val" or "test".
    """
    found = _data.pneumonia_mnist(hospitals, by, alpha, random_state)
    return Sites(found.tables, found.codebook, source=found.source)


def breast_cancer() -> Sites:
    """scikit-learn's Wisconsin breast cancer data, dealt to four made-up hospitals."""
    return load("breast_cancer")


def diabetes() -> Sites:
    """scikit-learn's diabetes data (a number as outcome), dealt to four made-up hospitals."""
    return load("diabetes")


def digits(images: bool = False) -> Sites:
    """scikit-learn's 8 x 8 digits (ten classes), dealt to four made-up hospitals; with `images`
    as the column `image` instead of 64 columns of pixels."""
    return load("digits_images" if images else "digits")


def iris() -> Sites:
    """scikit-learn's iris data (three classes), dealt to four made-up hospitals."""
    return load("iris")


def hospitals(n_sites: int = 4, n_patients: int = 1000, **options: Any) -> Sites:
    """Made-up hospitals with a known truth; options as in `polyclinic.data.synthetic.hospitals`."""
    from polyclinic.data import synthetic

    found = synthetic.hospitals(n_sites, n_patients, **options)
    return Sites(found.tables, found.codebook, source=found.source)
