"""What a check of one hospital's data found: counts, never a patient's value."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

SMALL = 5  # counts from 1 to 4 are hidden in a copy that leaves the hospital
WIDTH = 80
Severity = Literal["note", "look", "error"]
_SIGNS: dict[str, str] = {"note": "", "look": "!", "error": "error"}


@dataclass(frozen=True)
class Finding:
    """One sentence about a column or the rows.

    kind   stable name, such as "out_of_range"
    text   the sentence; ``{n}`` stands for the count, ``{rows}`` for "1 row" or "7 rows"
    topic  what it speaks against: "numbers", "levels", "ranges", "units" or ""
    """

    kind: str
    severity: Severity
    text: str
    count: int | None = None
    topic: str = ""

    def sentence(self, share: bool = False) -> str:
        if self.count is None:
            return self.text.format()
        shown = shown_count(self.count, share)
        one = shown == "1"  # a hidden 1 reads like the others
        return self.text.format(
            n=shown,
            rows=f"{shown} row{'' if one else 's'}",
            s="" if one else "s",
            holds="holds" if one else "hold",
        )

    def to_dict(self, share: bool = False) -> dict[str, Any]:
        count = self.count if self.count is None else _hidden(self.count, share)
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": count,
            "text": self.sentence(share),
        }


@dataclass(frozen=True)
class ColumnFindings:
    """One column of the codebook: how many values are missing, how that is written, findings.

    written  (missing code as it stands in the file, count), the codebook's codes only
    """

    name: str
    n_rows: int
    missing: int
    written: tuple[tuple[str, int], ...] = ()
    findings: tuple[Finding, ...] = ()
    own_codes: bool = False

    @property
    def is_shown(self) -> bool:
        """Whether the short list names the column."""
        return bool(self.findings) or self.own_codes

    def missing_text(self, share: bool) -> str:
        if share and 0 < self.n_rows - self.missing < SMALL:
            return "most"
        return shown_count(self.missing, share)

    def written_text(self, share: bool) -> str:
        """``"?" 56, 0 1``. A hidden count takes the others with it: the total stands beside it."""
        left = self.n_rows - self.missing
        small = any(0 < count < SMALL for _, count in self.written) or 0 < left < SMALL
        if share and small:
            return ", ".join(code for code, _ in self.written)
        return ", ".join(f"{code} {count:,}" for code, count in self.written)

    def to_dict(self, share: bool = False) -> dict[str, Any]:
        plain = share and (self.written_text(True) != self.written_text(False))
        missing: Any = self.missing_text(share) if share else self.missing
        return {
            "name": self.name,
            "missing": int(self.missing) if missing == f"{self.missing:,}" else missing,
            "written": {code: None if plain else count for code, count in self.written},
            "findings": [finding.to_dict(share) for finding in self.findings],
        }


@dataclass(frozen=True)
class Findings:
    """What a check found at one site. `problems` counts what is marked ``!``."""

    site: str
    n_rows: int
    n_columns: int
    header: bool | None
    columns: tuple[ColumnFindings, ...]
    rows: tuple[Finding, ...]

    def _all(self) -> list[Finding]:
        return [*(f for column in self.columns for f in column.findings), *self.rows]

    @property
    def problems(self) -> int:
        return sum(finding.severity == "look" for finding in self._all())

    @property
    def errors(self) -> int:
        return sum(finding.severity == "error" for finding in self._all())

    def to_dict(self, share: bool = False) -> dict[str, Any]:
        """Plain data. With `share`, counts from 1 to 4 are "under 5"."""
        return {
            "site": self.site,
            "rows": _hidden(self.n_rows, share),
            "columns": self.n_columns,
            "problems": self.problems,
            "errors": self.errors,
            "small_counts_hidden": share,
            "findings": [column.to_dict(share) for column in self.columns],
            "about_rows": [finding.to_dict(share) for finding in self.rows],
        }

    def to_text(self, all: bool = False, share: bool = False) -> str:
        """The list as people read it, at most 80 columns wide.

        Parameters
        ----------
        all : every column, not only those with something to say.
        share : for a copy that leaves the hospital: counts from 1 to 4 read "under 5".
        """
        shown = [column for column in self.columns if all or column.is_shown]
        rest = [column for column in self.columns if column not in shown]
        wide = max([len(column.name[:30]) for column in shown] + [10])
        lines = [self._title(share), f"{'column':<{wide}}  missing   {'written as':<14}  finding"]
        for column in shown:
            lines += _block(
                column.name[:30],
                column.missing_text(share),
                column.written_text(share),
                column.findings,
                wide,
                share,
            )
        if rest:
            lines.append(_rest(rest, wide, share))
        if self.rows:
            lines += _block("rows", "", "", self.rows, wide, share)
        return "\n".join([*lines, *self._end(all, share)])

    def __str__(self) -> str:
        return self.to_text()

    def _title(self, share: bool) -> str:
        header = {None: "", True: ", header", False: ", no header"}[self.header]
        secret = "(counts under 5 hidden)" if share else "(exact counts: for this hospital only)"
        start = (
            f"{self.site}   {shown_count(self.n_rows, share)} rows, {self.n_columns} columns"
            f"{header}"
        )
        joint = "   " if len(start) + 3 + len(secret) <= WIDTH else "\n     "
        return f"{start}{joint}{secret}"

    def _end(self, all: bool, share: bool) -> list[str]:
        against = {finding.topic for finding in self._all() if finding.severity != "note"}
        good = [topic for topic in ("units", "levels", "ranges", "numbers") if topic not in against]
        start = f"ok   {', '.join(good[:3])}" if good else ""
        if self.errors:
            start = f"error  {self.errors} to correct before this file can be read"
        look = f"{self.problems} to look at (!)" if self.problems else "nothing to look at"
        lines = [f"{start:<36}{look}" if len(start) < 36 else f"{start}   {look}"]
        if not all:
            lines[0] += "   full list: --all"
        if not share:
            lines.append("     a copy to send, with small counts hidden: --share")
        return lines


def shown_count(count: int, share: bool) -> str:
    """A count as it may be read: "under 5" for 1 to 4 in a copy to share."""
    return f"under {SMALL}" if share and 0 < count < SMALL else f"{count:,}"


def _hidden(count: int, share: bool) -> int | str:
    return f"under {SMALL}" if share and 0 < count < SMALL else count


def _block(
    name: str, missing: str, written: str, findings: Iterable[Finding], wide: int, share: bool
) -> list[str]:
    """The lines of a column: name, missing, how written; findings beside or below."""
    margin = wide + 2 + 7 + 3 + 14
    left = f"{name:<{wide}}  {missing:>7}   {written}"
    lines = [left.rstrip()]
    free = len(left) < margin + 1
    for finding in findings:
        sign = _SIGNS[finding.severity]
        indent = min(margin, 44)
        first = f"{sign} " if len(sign) > 1 else f"{sign:<2}"
        texts = textwrap.wrap(
            first + finding.sentence(share),
            WIDTH - indent,
            subsequent_indent=" " * len(first),
            drop_whitespace=True,
            initial_indent="",
        )
        texts[0] = texts[0] if sign else "  " + texts[0].lstrip()
        for text in texts:
            if free and indent == margin:
                lines[-1] = f"{left:<{margin}}{text}"
                free = False
            else:
                lines.append(" " * indent + text)
    return lines


def _rest(columns: list[ColumnFindings], wide: int, share: bool) -> str:
    """One line for the columns of which there is nothing to say."""
    gaps = [column for column in columns if column.missing]
    start = f"({len(columns)} more)"
    if not gaps:
        return f"{start:<{wide}}        0"
    total = f"{sum(column.missing for column in gaps):,} "
    if share and any(column.missing < SMALL for column in gaps):
        total = "some "
    text = f"{start:<{wide}}  {total}in {len(gaps)} column{'s' if len(gaps) > 1 else ''}"
    names = " ".join(column.name for column in gaps)
    room = WIDTH - wide - 28
    return f"{text:<{wide + 28}}{textwrap.shorten(names, max(room, 12), placeholder=' ...')}"
