"""Named data sets: published ones with hospitals of their own, images, and four of scikit-learn's.

``heart_disease``, ``tcga_brca``, ``eicu_demo`` and ``physionet_2012`` are real multi-site
data, checked against their sha256.
``breast_cancer``, ``diabetes``, ``digits`` and ``iris`` come with scikit-learn and have no
hospitals: their rows are dealt to four made-up ones of different size and case mix, always alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.fetch import Archive
from polyclinic.data.infer import infer_codebook
from polyclinic.data.intensive_care import EICU, PHYSIONET_2012, eicu_tables, physionet_tables
from polyclinic.data.media_sets import (
    PNEUMONIA,
    dealt_images,
    physionet_series,
    pneumonia_tables,
)
from polyclinic.data.read import read_table, table_from_frame
from polyclinic.data.table import Table
from polyclinic.data.toml import load_toml

_FLAMBY = "https://raw.githubusercontent.com/owkin/FLamby/edacf54/flamby/datasets/fed_tcga_brca"
_UCI = "https://archive.ics.uci.edu/static/public/45/heart+disease.zip"
_HEART_SHA256 = {
    "cleveland": "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    "hungarian": "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    "switzerland": "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    "va": "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
}
_HEART_SITES = tuple(_HEART_SHA256)
_REGIONS = ("northeast", "south", "west", "midwest", "europe", "canada")  # fold2's 0 to 5
_SHARES = {"north": 0.4, "east": 0.3, "south": 0.2, "west": 0.1}

HEART = Archive(
    "heart_disease",
    "heart-disease",
    {f"processed.{site}.data": sha256 for site, sha256 in _HEART_SHA256.items()},
    {f"processed.{site}.data": _UCI for site in _HEART_SITES},
)
TCGA = Archive(
    "tcga_brca",
    "tcga-brca",
    {
        "brca.csv": "07cb53423f7d579d33cfdbf2cba57b2aee75318b85866c68ce39a75b1f1ba020",
        "train_test_split.csv": "1249c6543a4060ff0fdaf8510fc37017755836db6c9fc5e6af96057c36510990",
    },
    {
        "brca.csv": f"{_FLAMBY}/brca.csv",
        "train_test_split.csv": f"{_FLAMBY}/dataset_creation_scripts/train_test_split.csv",
    },
)


@dataclass(frozen=True)
class Dataset:
    """A named data set, one table per hospital."""

    name: str
    tables: Mapping[str, Table]
    codebook: Codebook
    source: str
    licence: str


@dataclass(frozen=True)
class Entry:
    """One line of the listing. `here`: it can be used without a download."""

    name: str
    sites: int
    rows: int
    source: str
    licence: str
    here: bool


def heart_disease() -> Dataset:
    """UCI Heart Disease: four hospitals, 920 patients, 14 columns.

    Raises
    ------
    InputError : DATA_NOT_AVAILABLE, DATA_CHANGED.
    """
    paths, codebook = HEART.paths(), packaged_codebook("heart")
    tables = {
        site: read_table(paths[f"processed.{site}.data"], codebook, site) for site in _HEART_SITES
    }
    return _dataset("heart_disease", tables, codebook)


def tcga_brca() -> Dataset:
    """Clinical data of TCGA-BRCA in FLamby's form: six regions, 1,088 patients, 151 deaths.

    The region is FLamby's ``fold2``; eight patients of brca.csv are in no region and left out.

    Raises
    ------
    InputError : DATA_NOT_AVAILABLE, DATA_CHANGED.
    """
    paths, codebook = TCGA.paths(), packaged_codebook("tcga_brca")
    patients = pd.read_csv(paths["brca.csv"], dtype=str, keep_default_na=False)
    folds = pd.read_csv(paths["train_test_split.csv"], dtype=str).set_index("pid")["fold2"]
    region = patients["pid"].map(folds.str[-1])
    tables = {
        site: table_from_frame(patients[region == str(i)], codebook, site)
        for i, site in enumerate(_REGIONS)
    }
    return _dataset("tcga_brca", tables, codebook)


def eicu_demo() -> Dataset:
    """eICU demo: the first stays of 1,772 patients in intensive care, 167 deaths, in five regions.

    Raises
    ------
    InputError : DATA_NOT_AVAILABLE, DATA_CHANGED.
    """
    codebook = packaged_codebook("eicu_demo")
    return _dataset("eicu_demo", eicu_tables(codebook, "region"), codebook)


def eicu_hospitals() -> Dataset:
    """First stays in each of the 186 hospitals, of which most have few. Raises likewise."""
    codebook = packaged_codebook("eicu_demo")
    return _dataset("eicu_hospitals", eicu_tables(codebook, "hospitalid"), codebook)


def physionet_2012() -> Dataset:
    """PhysioNet Challenge 2012, set A: four kinds of unit, 4,000 stays, 554 deaths in hospital.

    The units are of one hospital. Raises as `eicu_demo`.
    """
    codebook = packaged_codebook("physionet_2012")
    return _dataset("physionet_2012", physionet_tables(codebook), codebook)


def physionet_2012_series() -> Dataset:
    """The same stays with the series `measured` (48 hours, 37 variables) beside age, sex, height
    and weight. Raises likewise."""
    tables, codebook = physionet_series(packaged_codebook("physionet_2012"))
    return _dataset("physionet_2012_series", tables, codebook)


def pneumonia_mnist(
    hospitals: int = 5, by: str = "label", alpha: float = 0.5, seed: int = 0
) -> Dataset:
    """PneumoniaMNIST: 5,856 chest X-rays `xray`, dealt to made-up hospitals. Raises likewise."""
    tables, codebook = pneumonia_tables(hospitals, by, alpha, seed)
    return _dataset("pneumonia_mnist", tables, codebook)


def digits_images() -> Dataset:
    """The digits as images of [1, 8, 8], in the same hospitals as the table of pixels."""
    table = digits()
    column: dict[str, Any] = {"type": "image", "shape": [1, 8, 8], "range": [0, 16]}
    plain = table.codebook.to_dict()
    outcome = dict(map(tuple, plain["columns"]))["digit"]
    codebook = Codebook.from_dict(
        {**plain, "name": "digits-images", "columns": [("image", column), ("digit", outcome)]}
    )
    tables: dict[str, Table] = {}
    for site, own in table.tables.items():
        pixels = [values for name, values in own.columns.items() if name != "digit"]
        images = np.stack(pixels, axis=1).reshape(-1, 1, 8, 8).astype(np.uint8)
        frame = pd.DataFrame(
            {"image": np.arange(len(images)), "digit": own.columns["digit"].astype(int)}
        )
        everyone = np.full(len(images), site)
        tables |= dealt_images(frame, images, everyone, codebook, "image")
    return _dataset("digits_images", tables, codebook)


def breast_cancer() -> Dataset:
    """Wisconsin breast cancer (scikit-learn): 569 patients, 30 measurements, `malignant` 0/1.

    Dealt to four made-up hospitals; the later ones see larger tumours.
    """
    frame, target = _bundled("load_breast_cancer")
    frame["malignant"] = 1 - target  # scikit-learn's class 0 is malignant
    return _dealt(
        "breast_cancer",
        frame,
        "malignant",
        by="mean_radius",
        title="Breast cancer, 30 measurements of cell nuclei",
        mix=0.7,
    )


def diabetes() -> Dataset:
    """Diabetes progression (scikit-learn, unscaled): 442 patients, 10 measurements, a number.

    Dealt to four made-up hospitals; the later ones see older patients.
    """
    frame, target = _bundled("load_diabetes", scaled=False)
    frame["sex"] = frame["sex"].astype(int).astype(str)
    frame["progression"] = target
    return _dealt(
        "diabetes",
        frame,
        "progression",
        by="age",
        title="Diabetes, progression after one year",
        mix=0.5,
    )


def digits() -> Dataset:
    """8 x 8 handwritten digits (scikit-learn): 1,797 images, 64 pixels 0 to 16, ten classes.

    Dealt to four made-up hospitals; the later ones see more ink.
    """
    frame, target = _bundled("load_digits")
    frame = frame.astype(int)
    ink = frame.sum(axis=1)
    frame["digit"] = target
    content: dict[str, Any] = {
        str(name): {"type": "integer", "unit": "1", "range": [0, 16]} for name in frame
    }
    content["digit"] = {"type": "category", "levels": {str(d): str(d) for d in range(10)}}
    return _dealt(
        "digits",
        frame,
        "digit",
        by=ink,
        title="Handwritten digits, 8 x 8 pixels",
        mix=0.5,
        columns=content,
    )


def iris() -> Dataset:
    """Iris (scikit-learn): 150 flowers, 4 lengths in cm, three species.

    Dealt to four made-up hospitals; the later ones see wider sepals.
    """
    frame, target = _bundled("load_iris")
    frame.columns = pd.Index([str(name).removesuffix("_(cm)") for name in frame])
    content: dict[str, Any] = {
        str(name): {"type": "number", "unit": "cm", "range": [0, 10]} for name in frame
    }
    species = ("setosa", "versicolor", "virginica")
    frame["species"] = [species[i] for i in target]
    content["species"] = {"type": "category", "levels": {name: name for name in species}}
    return _dealt(
        "iris",
        frame,
        "species",
        by="sepal_width",
        title="Iris, three species",
        mix=0.8,
        columns=content,
    )


_MAKERS: dict[str, Callable[[], Dataset]] = {
    "heart_disease": heart_disease,
    "tcga_brca": tcga_brca,
    "eicu_demo": eicu_demo,
    "eicu_hospitals": eicu_hospitals,
    "physionet_2012": physionet_2012,
    "physionet_2012_series": physionet_2012_series,
    "pneumonia_mnist": pneumonia_mnist,
    "breast_cancer": breast_cancer,
    "diabetes": diabetes,
    "digits": digits,
    "digits_images": digits_images,
    "iris": iris,
}
NAMES = tuple(_MAKERS)
_FACTS: dict[str, tuple[int, int, str, str]] = {
    "heart_disease": (
        4,
        920,
        "UCI Machine Learning Repository, id 45 (Janosi, Steinbrunn, Pfisterer, Detrano)",
        "CC BY 4.0",
    ),
    "tcga_brca": (
        6,
        1088,
        "TCGA-BRCA (Liu et al., Cell 2018), as prepared by FLamby",
        "NCI GDC open access: cite TCGA, no attempt to re-identify",
    ),
    "eicu_demo": (
        5,
        1772,
        "eICU Collaborative Research Database Demo 2.0 (Johnson et al., PhysioNet 2021)",
        "ODbL 1.0",
    ),
    "eicu_hospitals": (
        186,
        1783,
        "eICU Collaborative Research Database Demo 2.0 (Johnson et al., PhysioNet 2021)",
        "ODbL 1.0",
    ),
    "physionet_2012": (
        4,
        4000,
        "PhysioNet/CinC Challenge 2012, set A (Silva et al., CinC 2012)",
        "ODC-By 1.0",
    ),
    "physionet_2012_series": (
        4,
        4000,
        "PhysioNet/CinC Challenge 2012, set A (Silva et al., CinC 2012), as hourly series",
        "ODC-By 1.0",
    ),
    "pneumonia_mnist": (
        5,
        5856,
        "PneumoniaMNIST of MedMNIST v2 (Yang et al. 2023; Kermany et al. 2018); "
        "dealt to made-up hospitals",
        "CC BY 4.0",
    ),
    "breast_cancer": (
        4,
        569,
        "UCI Breast Cancer Wisconsin (Diagnostic), with scikit-learn; "
        "dealt to four made-up hospitals",
        "CC BY 4.0",
    ),
    "diabetes": (
        4,
        442,
        "Efron et al., Annals of Statistics 2004, with scikit-learn; "
        "dealt to four made-up hospitals",
        "as in scikit-learn (BSD 3-Clause)",
    ),
    "digits": (
        4,
        1797,
        "UCI Optical Recognition of Handwritten Digits, with scikit-learn; "
        "dealt to four made-up hospitals",
        "CC BY 4.0",
    ),
    "digits_images": (
        4,
        1797,
        "UCI Optical Recognition of Handwritten Digits, with scikit-learn; "
        "dealt to four made-up hospitals",
        "CC BY 4.0",
    ),
    "iris": (
        4,
        150,
        "UCI Iris (Fisher 1936), with scikit-learn; dealt to four made-up hospitals",
        "CC BY 4.0",
    ),
}


def dataset(name: str) -> Dataset:
    """The data set called `name`. Raises UNKNOWN_DATASET with the nearest name."""
    maker = _MAKERS.get(name.replace("-", "_"))
    if maker is None:
        close = difflib.get_close_matches(name, NAMES, 1)
        raise InputError(
            f'there is no data set "{name}"',
            code="UNKNOWN_DATASET",
            rule=f"data sets: {', '.join(NAMES)}",
            next=f'did you mean "{close[0]}"?' if close else "use one of them",
        )
    return maker()


def describe() -> tuple[Entry, ...]:
    """Every data set: hospitals, rows, where it is from, licence, and whether it is here."""
    archives = {
        "heart_disease": HEART,
        "tcga_brca": TCGA,
        "eicu_demo": EICU,
        "eicu_hospitals": EICU,
        "physionet_2012": PHYSIONET_2012,
        "physionet_2012_series": PHYSIONET_2012,
        "pneumonia_mnist": PNEUMONIA,
    }
    return tuple(
        Entry(name, *_FACTS[name], name not in archives or archives[name].here() is not None)
        for name in NAMES
    )


def packaged_codebook(name: str) -> Codebook:
    """A codebook that comes with the package: "heart", "tcga_brca", ..."""
    with resources.as_file(resources.files("polyclinic.data") / "codebooks" / f"{name}.toml") as p:
        return load_toml(p, Codebook)


def _dataset(name: str, tables: Mapping[str, Table], codebook: Codebook) -> Dataset:
    return Dataset(name, tables, codebook, _FACTS[name][2], _FACTS[name][3])


def _bundled(loader: str, **options: Any) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """scikit-learn's frame with names that a formula can hold, and its target."""
    from sklearn import datasets as sklearn_datasets

    bunch = getattr(sklearn_datasets, loader)(as_frame=True, **options)
    frame = bunch.data.rename(columns=lambda name: str(name).replace(" ", "_"))
    return frame, bunch.target.to_numpy()


def _dealt(
    name: str,
    frame: pd.DataFrame,
    target: str,
    *,
    by: str | pd.Series[Any],
    title: str,
    mix: float,
    columns: Mapping[str, Any] | None = None,
) -> Dataset:
    """Deal the rows by their rank in `by`, blurred by an even sequence of weight `mix`."""
    codebook = Codebook.from_dict(
        {
            "name": name,
            "columns": columns or infer_codebook(frame).model_dump()["columns"],
            "title": title,
            "source": _FACTS[name][2],
            "target": {"column": target},
        }
    )
    values = frame[by] if isinstance(by, str) else by
    rank = values.rank(method="first").to_numpy() / len(frame)
    blur = np.arange(len(frame)) * 0.6180339887498949 % 1.0
    order = np.argsort((1.0 - mix) * rank + mix * blur, kind="stable")
    ends = np.round(np.cumsum(list(_SHARES.values())) * len(frame)).astype(int)
    parts = np.split(order, ends[:-1])
    tables = {
        site: table_from_frame(frame.iloc[np.sort(part)], codebook, site)
        for site, part in zip(_SHARES, parts, strict=True)
    }
    return _dataset(name, tables, codebook)
