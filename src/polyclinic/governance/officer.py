"""What a data-protection officer reads: what was asked, what left, what is left of the budget."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from polyclinic.governance.chain import Verified
from polyclinic.privacy.dp import TOGETHER

WIDTH = 80
SMALL = 5
UNDER = f"under {SMALL}"
_WIDTHS = (8, 7, 11, 9)  # times, sums, patients, bytes
_NAMED = (" times", " sums", " patients", "")
_SHORTEST_LABEL = 16
_UNITS = (("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("TB", 10**12))


@dataclass
class _Line:
    """Releases that an officer reads as one: same step, same sums, seen by the same eyes."""

    study: str
    step: str
    sums: int
    seen_as: str
    times: int = 0
    bytes: int = 0
    patients: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Spent:
    """What noisy releases have cost a data set together, and under which policy.

    epsilon  spent
    limit    what the policy allows; None: any, or not known
    code     why no policy is in force; "": one is
    reason   the same in words, for this site's own eyes
    delta    at which epsilon is meant
    """

    epsilon: float = 0.0
    limit: float | None = None
    code: str = ""
    reason: str = ""
    delta: float = 0.0


def ledger_text(
    rows: Sequence[Mapping[str, Any]],
    refusals: Sequence[Mapping[str, Any]],
    budget: Spent,
    audit: Verified,
    *,
    share: bool = False,
) -> str:
    """The ledger as a table of at most 80 columns of ASCII.

    Parameters
    ----------
    rows : study, step, times, sums, patients, bytes, seen_as of each release.
    refusals : what (or step), times, code, and note, which is for this site's own eyes.
    budget : the privacy spent, and what the policy allows.
    audit : the check of the log, with the heads that others hold.
    share : a copy to send: counts of patients under 5 and the notes are left out.
    """
    lines = _merged(rows)
    seen = [line.seen_as for line in lines] + [str(one["code"]) for one in refusals]
    table = _Table(max([16, *(len(plain(text)) for text in seen)]))
    table.add("study, step", ("times", "sums", "patients", "bytes"), "seen as")
    study = None
    for line in lines:
        if line.study != study:
            study = line.study
            table.wrap(study, "")
        counts = f"{line.times:,}", f"{line.sums:,}", _patients_text(line.patients, share)
        table.add(f"  {line.step}", (*counts, _bytes_text(line.bytes)), line.seen_as)
    if not lines:
        table.wrap("nothing has left this hospital", "  ")
    if refusals:
        table.wrap("refused", "")
    for one in refusals:
        table.add(f"  {_asked(one)}", (f"{one['times']:,}", "-", "-", "-"), str(one["code"]))
        if one.get("note") and not share:
            table.wrap(str(one["note"]), "     ")
    return "\n".join([*table.lines, *_closing(budget, audit, share)]) + "\n"


def ledger_data(
    rows: Sequence[Mapping[str, Any]],
    refusals: Sequence[Mapping[str, Any]],
    budget: Spent,
    audit: Verified,
    *,
    share: bool = False,
) -> dict[str, Any]:
    """For machines: ``asked``, ``left``, ``budget``, ``policy``, ``log``; arguments as above."""
    lines = _merged(rows)
    return {
        "asked": _asked_data(lines, refusals, share),
        "left": {
            "rows": [_left_data(line, share) for line in lines],
            "numbers": sum(line.times * line.sums for line in lines),
            "bytes": sum(line.bytes for line in lines),
        },
        "budget": _budget_data(budget),
        "policy": {
            "in_force": not budget.code,
            "code": budget.code,
            "reason": "" if share else budget.reason,
        },
        "log": {
            "entries": audit.entries,
            "unbroken": audit.ok,
            "problem": audit.problem,
            "line": audit.line,
            "witnessed": audit.witnessed,
        },
    }


def _left_data(line: _Line, share: bool) -> dict[str, Any]:
    return {
        "study": line.study,
        "step": line.step,
        "times": line.times,
        "sums": line.sums,
        "patients": _count(min(line.patients), share),
        "patients_most": _count(max(line.patients), share),
        "bytes": line.bytes,
        "seen_as": line.seen_as,
    }


def _asked_data(
    lines: Sequence[_Line], refusals: Sequence[Mapping[str, Any]], share: bool
) -> dict[str, Any]:
    keys = ("times", "code") if share else ("times", "code", "note")
    return {
        "studies": list(dict.fromkeys(line.study for line in lines)),
        "released": sum(line.times for line in lines),
        "refused": sum(int(one["times"]) for one in refusals),
        "refusals": [
            {"what": _asked(one), **{key: one.get(key) for key in keys}} for one in refusals
        ],
    }


class _Table:
    """Lines of at most 80 columns; the label gives way when the last column needs more."""

    def __init__(self, last: int) -> None:
        self.label = max(_SHORTEST_LABEL, WIDTH - sum(_WIDTHS) - 3 - last)
        self.lines: list[str] = []

    def add(self, label: str, numbers: Sequence[str], last: str) -> None:
        """One line; written out below its label when a number does not fit into its column."""
        indent = "  " if label.startswith("  ") else ""
        *above, label = self._wrapped(label, indent, self.label)
        cells = "".join(f"{text:>{width}}" for text, width in zip(numbers, _WIDTHS, strict=True))
        text = f"{label:<{self.label}}{cells}   {plain(last)}"
        fits = all(len(text) < width for text, width in zip(numbers, _WIDTHS, strict=True))
        if fits and len(text) <= WIDTH:
            self.lines += [*above, text]
            return
        named = [f"{text}{unit}" for text, unit in zip(numbers, _NAMED, strict=True) if text != "-"]
        self.lines += [*above, label]
        self.wrap(", ".join([*named, last]), indent + "  ")

    def wrap(self, text: str, indent: str) -> None:
        self.lines += self._wrapped(text, indent, WIDTH)

    @staticmethod
    def _wrapped(text: str, indent: str, width: int) -> list[str]:
        found = textwrap.wrap(
            plain(text).strip(), width, initial_indent=indent, subsequent_indent=indent + "  "
        )
        return found or [indent]


def _merged(rows: Iterable[Mapping[str, Any]]) -> list[_Line]:
    """One line for each study, step, number of sums and eyes; studies in order of appearance."""
    found: dict[str, dict[tuple[str, int, str], _Line]] = {}
    for row in rows:
        study, key = str(row["study"]), (str(row["step"]), int(row["sums"]), str(row["seen_as"]))
        line = found.setdefault(study, {}).setdefault(key, _Line(study, *key))
        line.times += int(row["times"])
        line.bytes += int(row["bytes"])
        line.patients.append(int(row["patients"]))
    return [line for lines in found.values() for line in lines.values()]


def _asked(refusal: Mapping[str, Any]) -> str:
    return str(refusal.get("what") or refusal["step"])


def _closing(budget: Spent, audit: Verified, share: bool) -> list[str]:
    data = _budget_data(budget)
    if data["total"] is not None:
        spent = f"budget   epsilon {data['spent']:g} of {data['total']:g} spent"
    elif budget.code:
        spent = f"budget   epsilon {data['spent']:g} spent; of how much, no policy says"
    else:
        spent = f"budget   epsilon {data['spent']:g} spent; the policy sets no bound"
    further = []
    if budget.epsilon and budget.delta:
        further = _noted("", f"at delta {budget.delta:g}; {TOGETHER}")
    above = []
    if budget.code:
        reason = "" if share or not budget.reason else f": {budget.reason}"
        above = _noted("policy", f"! {budget.code}, every plan is refused{reason}")
    if audit.ok:
        log = f"log   {audit.entries:,} entries, chain unbroken"
        both = f"{spent}    {log}"
        if further or len(both) > WIDTH:
            return [*above, spent, *further, log]
        return [*above, both]
    where = "" if audit.line is None else f" at line {audit.line:,}"
    broken = f"! chain broken{where}, {audit.entries:,} entries stand: {audit.problem}"
    return [*above, spent, *further, *_noted("log", broken)]


def _noted(label: str, text: str) -> list[str]:
    first, further = f"{label:<9}", " " * 9
    return textwrap.wrap(plain(text), WIDTH, initial_indent=first, subsequent_indent=further)


def _budget_data(budget: Spent) -> dict[str, float | None]:
    """Three decimals, rounded against the spender: what is spent up, what is left down."""
    spent = Decimal(repr(float(budget.epsilon)))
    found: dict[str, float | None] = {"spent": _rounded(spent, ROUND_CEILING)}
    if budget.limit is None:
        return {**found, "total": None, "left": None}
    left = _rounded(Decimal(repr(float(budget.limit))) - spent, ROUND_FLOOR)
    return {**found, "total": float(budget.limit), "left": max(0.0, left)}


def _rounded(value: Decimal, how: str) -> float:
    return float(value.quantize(Decimal("0.001"), rounding=how))


def _patients_text(counts: Sequence[int], share: bool) -> str:
    least, most = (_count(count, share) for count in (min(counts), max(counts)))
    texts = [f"{count:,}" if isinstance(count, int) else count for count in (least, most)]
    both = f"{texts[0]} to {texts[1]}"
    if texts[0] == texts[1]:
        return texts[0]
    return both if len(both) < _WIDTHS[2] else f"{texts[0]} up"


def _count(count: int, share: bool) -> int | str:
    return UNDER if share and 0 < count < SMALL else count


def _bytes_text(size: int) -> str:
    if size < 1000:  # 999,500 bytes are 1.0 MB, not 1000 kB
        return "< 1 kB" if size else "0 kB"
    unit, scale = next(one for one in reversed(_UNITS) if size >= 0.9995 * one[1])
    value = size / scale
    return (
        f"{value:.1f} {unit}"
        if scale > 1000 and value < 9.95
        else f"{math.floor(value + 0.5)} {unit}"
    )


def plain(text: str) -> str:
    """`text` without what a terminal could take as a command: names come from other machines."""
    escaped = json.dumps(str(text), ensure_ascii=True)[1:-1].replace("\\\\", "\\")
    return escaped.replace('\\"', '"').replace("\x7f", "?")
