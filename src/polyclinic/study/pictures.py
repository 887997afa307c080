"""`pc.images` and `pc.partition`: folders of images as hospitals, and made-up hospitals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.deal import deal
from polyclinic.data.infer import infer_codebook
from polyclinic.data.joined import Joined
from polyclinic.data.pixels import SUFFIXES
from polyclinic.data.read import table_from_frame
from polyclinic.data.table import Table
from polyclinic.privacy.policy import Policy
from polyclinic.study.sites import Sites

LABELS = "labels.csv"


def images(
    source: Mapping[str, str | Path] | str | Path,
    shape: Sequence[int],
    *,
    range: tuple[float, float] | None = (0, 255),
    fit: str | None = "resize",
    image: str = "image",
    outcome: str = "label",
    policy: Policy | Mapping[str, Policy] | None = None,
) -> Sites:
    """Hospitals from folders of images, without a codebook of one's own.

    Parameters
    ----------
    source : {site: folder}, or a folder with one folder per hospital. A hospital's folder holds a
        folder per class, or ``labels.csv`` with the column `image` (path) and others.
    shape : of every image: (channels, height, width), or (channels, depth, height, width).
    range : values that become 0 and 1; those outside are cut.
    fit : how an image comes to the shape: "resize", "crop", "nearest", or None: it has it.
    image : name of the images' column.
    outcome : name of the classes' column, for folders of classes.

    Raises
    ------
    InputError : NO_FILE, BAD_FILE, NO_COLUMN, BAD_ITEM.
    """
    if not isinstance(source, Mapping):
        source = {p.name: p for p in sorted(Path(source).glob("*")) if p.is_dir()}
    if not source:
        raise _no_images("there is no hospital to read")
    frames = {site: _listed(Path(at), site, image, outcome) for site, at in source.items()}
    whole = pd.concat(frames.values(), ignore_index=True)
    if image not in whole:
        raise InputError(
            f"{LABELS} has no column {image}",
            code="NO_COLUMN",
            rule=f"columns: {', '.join(map(str, whole))}",
            next='name the column of paths: image="..."',
        )
    plain = infer_codebook(whole, exclude=(image,)).to_dict()
    column = {"type": "image", "shape": list(shape), "range": range, "fit": fit}
    codebook = Codebook.from_dict(
        {**plain, "name": "images", "columns": [(image, column), *plain["columns"]]}
    )
    tables = {
        str(site): table_from_frame(frame, codebook, str(site), media=source[site])
        for site, frame in frames.items()
    }
    return Sites(tables, codebook, policy=policy)


def _listed(folder: Path, site: str, image: str, outcome: str) -> pd.DataFrame:
    """A row per image of a hospital."""
    if (folder / LABELS).is_file():
        return pd.read_csv(folder / LABELS)
    rows = [
        (str(p.relative_to(folder)), one.name)
        for one in sorted(folder.glob("*"))
        if one.is_dir()
        for p in sorted(one.iterdir())
        if p.name.lower().endswith(SUFFIXES)
    ]
    if not rows:
        raise _no_images(f"{site}: there is no image", site)
    return pd.DataFrame(rows, columns=[image, outcome])


def _no_images(what: str, site: str | None = None) -> InputError:
    return InputError(
        what,
        code="NO_FILE",
        site=site,
        rule=f"a hospital's folder holds a folder of images per class, or {LABELS}",
        next="check the path",
    )


def partition(
    data: Any,
    hospitals: int = 5,
    how: str = "iid",
    *,
    by: Any = None,
    alpha: float = 0.5,
    min_rows: int = 10,
    random_state: int = 0,
) -> Any:
    """Rows dealt to made-up hospitals, for experiments: every row to exactly one, always alike.

    Parameters
    ----------
    data : rows as an array or frame; or `Sites`, whose rows are put together and dealt anew, a
        patient's rows to one hospital.
    hospitals : how many; by "column" as many as it has values.
    how : "iid": by chance; "column": by the value of `by`; "dirichlet": each hospital has its own
        mix of the labels `by`, the more skewed the smaller `alpha`; "quantity": of different size.
    by : name of a column, or the values themselves, (n_rows,).
    alpha : above 0; of "dirichlet" and "quantity".
    min_rows : rows (of `Sites`: patients) that every hospital has at least.
    random_state : seed.

    Returns
    -------
    The name of each row's hospital, (n_rows,), for `fit(X, y, sites=...)` or as a column for
    `pc.split`; of `Sites` other `Sites`.

    References
    ----------
    "dirichlet": Hsu, Qi and Brown (2019), "Measuring the effects of non-identical data distribution
    for federated visual classification". "quantity": Li, Diao, Chen and He (2022), "Federated
    learning on non-IID data silos: an experimental study".
    """
    if isinstance(data, Sites):
        return _dealt_sites(data, hospitals, how, by, alpha, min_rows, random_state)
    labels = data[by] if isinstance(by, str) else by
    found = deal(
        len(data), hospitals, how, by=labels, alpha=alpha, min_rows=min_rows, seed=random_state
    )
    return _names(found, labels if how == "column" else None)


def _names(found: NDArray[np.int64], labels: Any) -> NDArray[Any]:
    if labels is not None:
        return np.asarray(labels).astype(str)
    return np.array([f"hospital_{i + 1}" for i in found])


def _dealt_sites(
    sites: Sites, hospitals: int, how: str, by: Any, alpha: float, min_rows: int, seed: int
) -> Sites:
    """All tables put together, then cut by patient."""
    tables = [sites.table(name) for name in sites.names]
    starts = np.cumsum([0, *(t.n_patients for t in tables)])
    patient = np.concatenate([t.patient + at for t, at in zip(tables, starts[:-1], strict=True)])
    columns = {
        name: np.concatenate([t.columns[name] for t in tables]) for name in tables[0].columns
    }
    joined = {}
    for name in tables[0].media:
        joined[name], columns[name] = _joined(name, tables)
    _, first = np.unique(patient, return_index=True)
    labels = columns[by] if isinstance(by, str) else by
    labels = None if labels is None else np.asarray(labels)[first]
    found = deal(len(first), hospitals, how, by=labels, alpha=alpha, min_rows=min_rows, seed=seed)
    names = _names(found, None)
    dealt = {}
    for name in dict.fromkeys(names[np.argsort(found, kind="stable")].tolist()):
        rows = np.flatnonzero(names[patient] == name)
        own = pd.factorize(patient[rows])[0].astype(np.int64)
        cut = {column: values[rows] for column, values in columns.items()}
        dealt[name] = Table(name, cut, own, sites.codebook, joined)
    return Sites(dealt, sites.codebook, source=sites.source)


def _joined(name: str, tables: Sequence[Table]) -> tuple[Any, NDArray[np.float64]]:
    """The items of all tables behind each other, and the rows' positions among them."""

    parts = tuple(t.media[name] for t in tables)
    sizes = [_size(t.columns[name]) for t in tables]
    starts = np.cumsum([0, *sizes])
    positions = [t.columns[name] + at for t, at in zip(tables, starts[:-1], strict=True)]
    return Joined(parts, tuple(starts[:-1].tolist())), np.concatenate(positions)


def _size(positions: NDArray[np.float64]) -> int:
    known = positions[~np.isnan(positions)]
    return int(known.max()) + 1 if len(known) else 0
