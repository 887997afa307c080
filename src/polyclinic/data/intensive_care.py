"""Two published sets of intensive care: many small hospitals, and the units of one hospital.

``eicu_demo``: patients' first stays, with the APACHE variables of the first day, in five regions or
in the 186 hospitals themselves. ``physionet_2012``: 4,000 stays in four kinds of unit, each
measurement of 48 hours as its mean and its last value. Both have many gaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.data.codebook import Codebook
from polyclinic.data.fetch import Archive
from polyclinic.data.read import table_from_frame
from polyclinic.data.table import Table

_PHYSIONET = "https://physionet.org"
EICU = Archive(
    "eicu_demo",
    "eicu-demo",
    {
        "apacheapsvar.csv": "7d6a26118d5a666b7efca6677593caa319328057a854ee11d4c5df26e9d39f89",
        "hospital.csv": "96aa1896d3e73f25fd9c04a9949ffd1ed101e9897fc970bbb6633194c3a29fcd",
        "patient.csv": "2f3033e5f5a4075c88a90d9981aec4afe065f88517fd6e5b8b09a4881c55e755",
    },
    {},
    f"unpack {_PHYSIONET}/content/eicu-crd-demo/2.0",
)
PHYSIONET_2012 = Archive(
    "physionet_2012",
    "physionet-2012",
    {
        "Outcomes-a.txt": "2613ea60ccda29f87571a7d6b09ad130858a8ccd66325bd073365925026883c2",
        "set-a.measurements.csv.gz": (
            "92fa463c743b702f884fdb8e2bd49a725ef94aec2bfa77cf5aafdf22c608e4f9"
        ),
        "set-a.static.csv": "f8c1586c8736d8b177e0cd110af3ef8f323d122e3a331a92b38397f162303da1",
    },
    {},
    f"pack the records of {_PHYSIONET}/content/challenge-2012/1.0.0 into one table",
)
UNITS = ("coronary_care", "cardiac_surgery", "medical", "surgical")  # ICUType 1 to 4


def eicu_tables(codebook: Codebook, by: str) -> Mapping[str, Table]:
    """Tables of the eICU demo by "region" or "hospitalid": each patient's first stay there.

    Stays with an unknown end are left out.

    Raises
    ------
    InputError : DATA_NOT_AVAILABLE, DATA_CHANGED.
    """
    paths = EICU.paths()
    stays = pd.read_csv(paths["patient.csv"], dtype=str)
    stays = stays.merge(pd.read_csv(paths["apacheapsvar.csv"], dtype=str), on="patientunitstayid")
    stays = stays.merge(pd.read_csv(paths["hospital.csv"], dtype=str), on="hospitalid", how="left")
    ended = stays["hospitaldischargestatus"].map({"Alive": "0", "Expired": "1"})
    stays = stays.assign(
        person=stays["uniquepid"],
        age=stays["age"].replace("> 89", "90"),
        female=stays["gender"].map({"Female": "1", "Male": "0"}),
        died=ended,
        region=stays["region"].fillna("unknown").str.lower(),
    )
    # The ids are in no order of time: the first stay is that of the lowest year and visit.
    order = ["hospitaldischargeyear", "patienthealthsystemstayid", "unitvisitnumber"]
    frame = stays.loc[ended.notna()].sort_values(order, kind="stable")
    frame = frame.drop_duplicates([by, "person"])
    named = frame[by] if by == "region" else "hospital_" + frame[by]
    return _by(frame[[*codebook.columns]], named, codebook)


def physionet_tables(codebook: Codebook) -> Mapping[str, Table]:
    """Tables of set A by kind of unit. Raises as `eicu_tables`."""
    paths = PHYSIONET_2012.paths()
    static = pd.read_csv(paths["set-a.static.csv"]).set_index("RecordID")
    outcome = pd.read_csv(paths["Outcomes-a.txt"]).set_index("RecordID")
    measured = pd.read_csv(paths["set-a.measurements.csv.gz"])
    measured = measured[measured["Time"] != "00:00"]  # what was noted at admission is static
    ends = {name: _range(codebook, f"{name}_mean") for name in measured["Parameter"].unique()}
    lower, upper = (measured["Parameter"].map({n: e[i] for n, e in ends.items()}) for i in (0, 1))
    measured = measured[measured["Value"].between(lower, upper)]  # some are typing errors: pH 735
    every = measured.groupby(["RecordID", "Parameter"], sort=True)["Value"].agg(["mean", "last"])
    frame = static[["Age", "Height", "Weight"]]
    for what in ("mean", "last"):
        frame = frame.join(every[what].unstack("Parameter").add_suffix(f"_{what}"))
    frame["Male"] = static["Gender"].replace(-1, np.nan)
    frame["ventilated"] = frame["MechVent_last"].notna().astype(int)
    frame["died"] = outcome["In-hospital_death"]
    named = static["ICUType"].map(dict(enumerate(UNITS, 1)))
    return _by(frame[[*codebook.columns]], named, codebook)


def _range(codebook: Codebook, name: str) -> tuple[float, float]:
    """Of a column; all numbers for one that the codebook does not have."""
    column = codebook.columns.get(name)
    return (-np.inf, np.inf) if column is None or column.range is None else column.range


def _by(frame: pd.DataFrame, site: pd.Series, codebook: Codebook) -> dict[str, Table]:
    """The table read once, then cut by site."""
    whole = table_from_frame(frame, codebook, codebook.name)
    return tables_by(whole, site.loc[frame.index].to_numpy())


def tables_by(whole: Table, names: NDArray[Any]) -> dict[str, Table]:
    """A table cut by the name of each row's site: patients are numbered anew in each."""
    found = {}
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        columns = {column: values[rows] for column, values in whole.columns.items()}
        patient = pd.factorize(whole.patient[rows])[0].astype(np.int64)
        found[str(name)] = Table(str(name), columns, patient, whole.codebook, whole.media)
    return found
