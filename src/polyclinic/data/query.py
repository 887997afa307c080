"""A database's answer as a source of rows: where the database is, and what it is asked.

A password has no place in either: both are written into study files and run folders. PostgreSQL's
own client finds it where it always does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from polyclinic.core.errors import InputError

POSTGRESQL = ("postgresql", "postgres")
DUCKDB = "duckdb"
SECRETS = {"password", "sslpassword", "access_key", "secret_key", "session_token"}


@dataclass(frozen=True)
class Query:
    """See `query`. `base`: folder in which relative paths begin; None: this process's."""

    at: str
    sql: str
    base: Path | None = None

    def __post_init__(self) -> None:
        refuse_secrets(self.at)
        scheme, _, rest = self.at.rpartition("://")
        if scheme not in ("", DUCKDB, *POSTGRESQL) or (scheme in POSTGRESQL and not rest):
            raise InputError(
                "this is no address of a database that can be asked",
                code="WRONG_VALUE",
                rule="a DuckDB file (ehr.duckdb, duckdb:///data/ehr.duckdb), duckdb:// alone for "
                "queries over files, or postgresql://user@host/database",
                next="correct it; rows of other databases: export them as Parquet, and scan these",
            )
        if not self.sql.strip():
            raise InputError(
                "the query is empty",
                code="WRONG_VALUE",
                rule="the rows are what one SELECT gives",
                next='for example "SELECT * FROM visits"',
            )

    @property
    def of_postgresql(self) -> bool:
        return self.at.partition("://")[0] in POSTGRESQL

    @property
    def select(self) -> str:
        """The query as a table that another one selects from."""
        return f"(\n{self.sql.strip().rstrip(';')}\n) AS answer"

    @property
    def file(self) -> Path | None:
        """The DuckDB file; None: a database in memory, for queries over files."""
        path = self.at.removeprefix(f"{DUCKDB}://")
        return (self.base or Path()) / path if path else None


def query(at: str, sql: str) -> Query:
    """What a database answers to one SELECT, as the rows of a `polyclinic.scan`.

    Parameters
    ----------
    at : a DuckDB file, as a path or ``"duckdb:///path/to.duckdb"``; ``"duckdb://"`` alone for a
        query over CSV or Parquet files; or ``"postgresql://user@host/database"``, as libpq reads
        it. A password is in PGPASSWORD, ``~/.pgpass`` or a service file, never here.
    sql : one SELECT. It is run once, in a transaction that may only read.

    Raises
    ------
    InputError : PASSWORD_SHOWN, WRONG_VALUE.
    """
    return Query(at, sql)


def refuse_secrets(address: str) -> None:
    """Raises InputError PASSWORD_SHOWN for an address that holds a password or a key."""
    _, scheme, rest = address.partition("://")
    where, _, options = rest.partition("?")
    user, at, _ = where.rpartition("@")
    named = {name.lower() for name, _ in parse_qsl(options, keep_blank_values=True)}
    if scheme and ((at and ":" in user) or named & SECRETS):
        raise InputError(
            "the address of the rows holds a password or a key (it is not shown here)",
            code="PASSWORD_SHOWN",
            rule="addresses stand in study files, run folders and messages, and passwords do not",
            next="leave it out of the address. PostgreSQL: PGPASSWORD, ~/.pgpass, a service file, "
            "Kerberos or a certificate. S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "~/.aws, on each machine that reads",
        )
