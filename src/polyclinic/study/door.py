"""`pc.read` and `pc.split`: from files and frames to `Sites`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.infer import infer_codebook
from polyclinic.data.read import PARQUET, read_table, split_frame, table_from_frame
from polyclinic.privacy.policy import Policy
from polyclinic.study.sites import Sites

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
    source : {site: path or frame}, or a folder with one CSV or Parquet file per hospital.
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
        str(site): read_table(where, codebook, str(site), media=_media_of(media, site))
        if isinstance(where, (str, Path))
        else table_from_frame(where, codebook, str(site), media=_media_of(media, site))
        for site, where in source.items()
    }
    if not tables:
        raise InputError(
            "there is no hospital to read",
            code="NO_SITES",
            rule="at least one file",
            next="give {site: path}",
        )
    return Sites(tables, codebook, policy=policy)


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
