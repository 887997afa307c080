"""`pc.read`, `pc.scan`, `pc.from_spark` and `pc.split`: from files and frames to `Sites`."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.infer import infer_codebook
from polyclinic.data.read import PARQUET, read_table, split_frame, table_from_frame
from polyclinic.data.scan import Scan, columns_read, scan_files
from polyclinic.data.table import Table
from polyclinic.engines.embedded import Embedded
from polyclinic.engines.spark_frame import check_frame, written
from polyclinic.privacy.policy import Policy
from polyclinic.study.sites import Scanned, Sites

FILES = (".csv", ".data", ".tsv", ".txt", *PARQUET)


def read(
    source: Mapping[str, Any] | str | Path,
    schema: Codebook | str | Path | None = None,
    *,
    policy: Policy | Mapping[str, Policy] | None = None,
    media: Any = None,
) -> Sites:
    """Hospitals from one file or frame each.

    Parameters
    ----------
    source : {site: path, frame, or what `scan` gives}, or a folder with one CSV or Parquet file
        per hospital.
    schema : the codebook, or its path.
    policy : what every site allows; None: the default policy. By site with a mapping.
    media : where images and series are: a folder for all, or by site a folder, or a mapping by
        column of a folder, an array, or the file or frame of a long table. None: beside each table.

    Raises
    ------
    InputError : every problem of a file names site, column, number of rows, rule and next step.
    """
    if schema is None:
        raise InputError(
            "files need a codebook",
            code="NO_SCHEMA",
            rule="levels, units and missing codes come from a codebook",
            next='give schema="codebook.toml"',
        )
    codebook = schema if isinstance(schema, Codebook) else Codebook.load(schema)
    if not isinstance(source, Mapping):
        source = _folder(Path(source))
    tables = {
        str(site): _table(where, codebook, str(site), _media_of(media, site))
        for site, where in source.items()
    }
    on = {str(site): one.on for site, one in source.items() if isinstance(one, Scanned)}
    if not tables:
        raise InputError(
            "there is no hospital to read",
            code="NO_SITES",
            rule="at least one file",
            next="give {site: path}",
        )
    return Sites(tables, codebook, policy=policy, on=on)


def scan(
    source: str | Path,
    schema: Codebook | str | Path,
    *,
    site: str = "hospital",
    engine: Embedded | None = None,
    policy: Policy | None = None,
) -> Scanned:
    """One hospital whose rows stay in Parquet files, read in parts by whoever computes.

    Parameters
    ----------
    source : a file, a folder, a pattern (``"visits/*.parquet"``), or an address that pyarrow's
        file systems know: ``file://``, ``hdfs://``, ``s3://``.
    schema : the codebook, or its path.
    site : the hospital's name.
    engine : the cluster that computes for this hospital, wherever it takes part; None: the `engine`
        of a fit. Without one this process reads all of it.
    policy : what the hospital allows; None: the default policy.

    Raises
    ------
    InputError : NO_FILE, BAD_FILE, NO_COLUMN; WRONG_VALUE for images, and for rules about copies of
        rows. PATIENT_SPLIT, when it is first asked, unless a patient's rows stand side by side.
    """
    codebook = schema if isinstance(schema, Codebook) else Codebook.load(schema)
    found = scan_files(str(source), codebook, site)
    return Scanned({site: found}, codebook, policy=policy, on={site: engine})


def from_spark(
    frame: Any,
    schema: Codebook | str | Path,
    *,
    site: str = "hospital",
    folder: str | Path | None = None,
    engine: Embedded | None = None,
    policy: Policy | None = None,
) -> Scanned:
    """One hospital whose rows are a Spark data frame: its executors write them, `scan` reads them.

    Written are the codebook's columns, as Parquet in the order of the patients, into a new folder
    that goes when nothing uses these data any more, at the latest with this process. A row passes
    through this process only if the fit reads the files here.

    Parameters
    ----------
    frame : a `pyspark.sql.DataFrame`.
    schema : the codebook, or its path.
    site : the hospital's name.
    folder : where the new folder is made: one that the executors and whoever computes see, also
        ``hdfs://``. None: among this account's temporary files; in local mode only.
    engine, policy : as of `scan`.

    Raises
    ------
    InputError : MISSING_EXTRA, WRONG_VALUE, NO_COLUMN, NO_FILE where there is no row.
    PolyclinicError : SPARK_FAILED.
    """
    codebook = schema if isinstance(schema, Codebook) else Codebook.load(schema)
    check_frame(frame)
    columns, patient = columns_read(frame.columns, codebook, site)
    where, remove = written(frame, columns, patient, folder)
    try:
        found = scan_files(where, codebook, site)
    except BaseException:
        remove()
        raise
    weakref.finalize(found.lake, remove)
    return Scanned({site: found}, codebook, policy=policy, on={site: engine})


def split(
    frame: Any,
    by: str,
    schema: Codebook | str | Path | None = None,
    *,
    policy: Policy | Mapping[str, Policy] | None = None,
    media: Any = None,
) -> Sites:
    """Hospitals from one frame: a site per value of column `by`.

    Without a codebook one is inferred from the frame, which is yours: types, levels and ranges.
    `media`: a folder, or by column what `read` takes.
    """
    if schema is None:
        codebook = infer_codebook(frame, exclude=(by,))
    else:
        codebook = schema if isinstance(schema, Codebook) else Codebook.load(schema)
    return Sites(split_frame(frame, by, codebook, media), codebook, policy=policy)


def _table(where: Any, codebook: Codebook, site: str, media: Any) -> Table | Scan:
    if isinstance(where, Scanned):
        return replace(where.scan, codebook=codebook).at(site)
    if isinstance(where, (str, Path)):
        return read_table(where, codebook, site, media=media)
    return table_from_frame(where, codebook, site, media=media)


def _media_of(media: Any, site: str) -> Any:
    return media.get(site) if isinstance(media, Mapping) else media


def _folder(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        raise InputError(
            f"there is no folder {path}",
            code="NO_FILE",
            rule="a folder holds one file per hospital",
            next="check the path",
        )
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in FILES:
            if file.stem in found:
                raise InputError(
                    f"two files in {path} are called {file.stem}",
                    code="BAD_FILE",
                    rule="the file's name is the hospital's",
                    next="rename one",
                )
            found[file.stem] = file
    return found
