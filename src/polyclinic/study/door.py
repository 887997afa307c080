"""`pc.read`, `pc.scan`, `pc.from_spark` and `pc.split`: from files and frames to `Sites`."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from polyclinic.core.errors import DataWarning, InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.infer import infer_codebook
from polyclinic.data.ordered import ORDERS, Order, scan_ordered
from polyclinic.data.query import Query
from polyclinic.data.read import PARQUET, read_table, split_frame, table_from_frame
from polyclinic.data.scan import Scan, columns_read, scan_files
from polyclinic.data.table import Table
from polyclinic.engines.embedded import Embedded
from polyclinic.engines.spark_frame import check_frame, written
from polyclinic.privacy.policy import Policy
from polyclinic.study.sites import Scanned, Sites

Unreadable = Literal["stop", "leave out"]
UNREADABLE: tuple[Unreadable, ...] = ("stop", "leave out")
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
    source : {site: path, frame, or what `scan` or `query` gives}, or a folder with one CSV or
        Parquet file per hospital.
    schema : the codebook, or its path.
    policy : what every site allows; None: the default policy. By site with a mapping.
    media : where images and series are: a folder for all, or by site a folder, or a mapping by
        column of a folder, an array, or the file or frame of a long table. None: beside each table.

    Raises
    ------
    InputError : every problem of a file names site, column, number of rows, rule and next step.
    """
    codebook = _codebook(schema)
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
    source: str | Path | Query,
    schema: Codebook | str | Path,
    *,
    site: str = "hospital",
    order: Order | None = None,
    seed: int = 0,
    unreadable: Unreadable = "stop",
    folder: str | Path | None = None,
    engine: Embedded | None = None,
    policy: Policy | None = None,
) -> Scanned:
    """One hospital whose rows stay in Parquet files, read in parts by whoever computes.

    Parameters
    ----------
    source : a file, a folder, a pattern (``"visits/*.parquet"``), or an address that pyarrow's
        file systems know: ``file://``, ``hdfs://``, ``s3://``. Or what `polyclinic.query` gives:
        this process asks the database once and writes the answer, a row group at a time.
    schema : the codebook, or its path.
    site : the hospital's name.
    order : None: files as they lie, a query's rows as with "patient". "patient": in the order of
        the patients' ids; "random": of the patients by chance. Files are then written anew, once.
    seed : of "random".
    unreadable : "stop" at a file or row group that cannot be read; "leave out": all of it is read
        once, here, and such parts are left out, with a `DataWarning` that names them.
    folder : where rows that are written are kept until nothing uses them any more: one that whoever
        computes sees, also ``hdfs://`` and ``s3://``. None: among this account's temporary files.
    engine : the cluster that computes for this hospital, wherever it takes part; None: the `engine`
        of a fit. Without one this process reads all of it.
    policy : what the hospital allows; None: the default policy.

    Raises
    ------
    InputError : NO_FILE, BAD_FILE, NO_COLUMN; WRONG_VALUE for images, and for rules about copies of
        rows; of a query NO_DATABASE, NO_TABLE, BAD_QUERY, NO_ROWS, MISSING_EXTRA. PATIENT_SPLIT,
        when it is first asked, unless a patient's rows stand side by side.
    PolyclinicError : CANNOT_KEEP, where rows are written.
    """
    codebook = schema if isinstance(schema, Codebook) else Codebook.load(schema)
    found = _How(order, seed, unreadable, folder).scan(source, codebook, site)
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
    source: Any,
    by: str,
    schema: Codebook | str | Path | None = None,
    *,
    order: Order | None = None,
    seed: int = 0,
    unreadable: Unreadable = "stop",
    folder: str | Path | None = None,
    engine: Embedded | None = None,
    policy: Policy | Mapping[str, Policy] | None = None,
    media: Any = None,
) -> Sites:
    """Hospitals from one frame, or from one place that `scan` reads: a site per value of `by`.

    Parameters
    ----------
    source : a frame, or what `scan` takes: files, an address or a query. Those stay where they are,
        and a part of them that a worker holds is of one hospital only. Where rows of hospitals
        stand between each other, `order` puts each one's together; else each reads all that is
        between its own.
    by : a column; of files and queries, one of theirs.
    schema : the codebook, or its path. None: inferred from a frame, which is yours: types, levels
        and ranges.
    order, seed, unreadable, folder, engine : of what `scan` takes, as there.
    policy : what every site allows, or by site; None: the default policy.
    media : of a frame: a folder, or by column what `read` takes.

    Raises
    ------
    InputError : NO_COLUMN, MISSING_VALUES, NO_SCHEMA; as `scan`.
    """
    if not isinstance(source, str | Path | Query):
        if schema is None:
            codebook = infer_codebook(source, exclude=(by,))
        else:
            codebook = schema if isinstance(schema, Codebook) else Codebook.load(schema)
        return Sites(split_frame(source, by, codebook, media), codebook, policy=policy)
    codebook = _codebook(schema)
    how = _How(order, seed, unreadable, folder, by)
    found = how.scan(source, codebook, "hospital").split(by)
    return Sites(dict(found), codebook, policy=policy, on=dict.fromkeys(found, engine))


def _codebook(schema: Codebook | str | Path | None) -> Codebook:
    if schema is None:
        raise InputError(
            "files need a codebook",
            code="NO_SCHEMA",
            rule="levels, units and missing codes come from a codebook",
            next='give schema="codebook.toml"',
        )
    return schema if isinstance(schema, Codebook) else Codebook.load(schema)


@dataclass(frozen=True)
class _How:
    """How rows are scanned; see `scan` and `split`."""

    order: Order | None
    seed: int
    unreadable: Unreadable
    folder: str | Path | None
    by: str | None = None

    def scan(self, source: str | Path | Query, codebook: Codebook, site: str) -> Scan:
        """Raises what `polyclinic.scan` raises."""
        if self.order not in (None, *ORDERS) or self.unreadable not in UNREADABLE:
            raise InputError(
                f"order {self.order!r}, unreadable {self.unreadable!r}",
                code="WRONG_VALUE",
                rule='order is None, "patient" or "random"; unreadable is "stop" or "leave out"',
                next="correct it",
            )
        more = (self.seed, self.folder, self.by)
        if isinstance(source, Query):
            return scan_ordered(source, codebook, site, self.order or "patient", *more)
        found = scan_files(str(source), codebook, site, self.unreadable == "leave out")
        if found.left_out:
            warnings.warn(found.left_out, DataWarning, stacklevel=3)
        if self.order is None:
            return found
        return scan_ordered(found.lake, codebook, site, self.order, *more)


def _table(where: Any, codebook: Codebook, site: str, media: Any) -> Table | Scan:
    if isinstance(where, Scanned):
        return replace(where.scan, codebook=codebook).at(site)
    if isinstance(where, Query):
        return scan_ordered(where, codebook, site)
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
