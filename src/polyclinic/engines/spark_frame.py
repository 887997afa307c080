"""A Spark data frame as Parquet files, which its executors write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.data.kept import new_folder

GROUP = 100_000 * 8  # bytes of a column in a row group, at most


def check_frame(frame: Any) -> None:
    """Raises InputError unless it is a data frame of Spark's."""
    try:
        from pyspark.sql import DataFrame
    except ImportError:
        raise InputError(
            "pyspark is not installed",
            code="MISSING_EXTRA",
            rule="Spark's executors write the rows of its data frames",
            next='pip install "polyclinic[spark]"',
        ) from None
    if not isinstance(frame, DataFrame):
        raise InputError(
            f"a {type(frame).__module__}.{type(frame).__name__} is no data frame of Spark's",
            code="WRONG_VALUE",
            rule="from_spark takes a pyspark.sql.DataFrame",
            next="polyclinic.read({site: frame}, schema) takes others",
        )


def written(
    frame: Any, columns: Sequence[str], patient: str | None, below: str | Path | None
) -> tuple[str, Callable[[], None]]:
    """The folder with these columns of all rows, and what removes it again.

    Rows are in the order of the patient, and of the other columns in that of the frame, so that
    the same rows give the same files however Spark has parted them.

    Raises
    ------
    InputError : WRONG_VALUE. PolyclinicError : SPARK_FAILED.
    """
    from pyspark.errors import PySparkException
    from pyspark.sql import functions

    where, remove = _folder(frame, below)
    cells = [functions.col(f"`{name}`") for name in columns]
    chosen = frame.select(*cells)
    if patient is not None:
        first = columns.index(patient)
        chosen = chosen.orderBy(cells[first], *cells[:first], *cells[first + 1 :])
    writer = chosen.write.option("parquet.block.size", str(GROUP * max(1, len(columns))))
    try:
        writer.parquet(where)
    except (PySparkException, OSError) as error:
        remove()
        raise PolyclinicError(
            f"{where} could not be written ({type(error).__name__})",
            code="SPARK_FAILED",
            rule="Spark's executors write the rows into a folder that they all see",
            next="look into Spark's own log; name another folder: folder=",
        ) from None
    except BaseException:
        remove()
        raise
    return where, remove


def _folder(frame: Any, below: str | Path | None) -> tuple[str, Callable[[], None]]:
    """The address of a folder that is not there yet, and what removes it."""
    session = frame.sparkSession
    local = hasattr(session, "_sc") and session.conf.get("spark.master").startswith("local")
    if below is None and not local:
        raise InputError(
            "the executors of this session are on other machines",
            code="WRONG_VALUE",
            rule="they write the rows where whoever computes can read them",
            next='name a folder that all see: from_spark(..., folder="hdfs://...")',
        )
    return new_folder(below)
