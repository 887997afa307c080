"""Numbers as people read them, and the tables of the terminal: ASCII, at most 80 columns.

An error is shown to three significant digits, a coefficient and its interval to the same decimals,
a p-value never as 0.000, an interval as "a to b".
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

LEAST = 5
NOT_SHOWN = f"not shown (fewer than {LEAST})"
NOT_SEEN = "not shown"
KINDS = {
    "logistic": "Logistic regression",
    "linear": "Linear regression",
    "poisson": "Poisson regression",
    "gamma": "Gamma regression",
}
WIDTH = 80
TRAINING = ("round of training", "round of training with noise")
ROUNDS = ("Newton round", "noisy Newton round", "noisy products", *TRAINING)


def decimals(se: float | None) -> int:
    """Decimals that show a standard error to three significant digits."""
    if se is None or not math.isfinite(se) or se <= 0:
        return 3
    return max(0, 2 - math.floor(math.log10(float(f"{se:.2e}"))))


def fixed(value: float | None, places: int) -> str:
    """Fixed decimals; "-" for what is not defined; scientific when the decimals would not fit."""
    if value is None or not math.isfinite(value):
        return "-"
    if places > 7 or abs(value) >= 1e7:
        return f"{value:.2e}"
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text


def p_value(p: float | None) -> str:
    """Two digits above 0.1, three below, never 0.000."""
    if p is None or not math.isfinite(p):
        return "-"
    if p < 0.0005:
        return "<0.001"
    return f"{p:.2f}" if p >= 0.0995 else f"{p:.3f}"


def count(value: int | None) -> str:
    """A count with thousands separated; None and 1 to 4 are "under 5"."""
    return small(value)


def small(value: int | None, short: bool = False) -> str:
    """A count that may be too small to show: "under 5", or "<5" where space is short."""
    if value is None or 0 < value < LEAST:
        return f"<{LEAST}" if short else f"under {LEAST}"
    return f"{value:,}"


def percent(share: float | None, n: int = 0) -> str:
    """Whole percentages under 1,000 patients, else one decimal."""
    if share is None or not math.isfinite(share):
        return "-"
    return f"{100 * share:.{1 if n >= 1000 else 0}f}"


def bytes_(value: int) -> str:
    """Bytes in units of 1000."""
    if value < 1000:
        return "< 1 kB"
    if value < 1_000_000:
        return f"{value / 1e3:.0f} kB"
    return f"{value / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """ "0.4 s", "12 min", "5 h", "3 days"."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def between(found: Mapping[str, Any] | None, places: int = 3) -> str:
    """ "0.853 to 0.900", or "-" """
    if not found or found["lower"] is None:
        return "-"
    return f"{fixed(found['lower'], places)} to {fixed(found['upper'], places)}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """A count with its noun: "1 round", "6 rounds"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def header(
    kind: str,
    patients: int,
    events: int | None,
    event_word: str,
    sites: int,
    rounds: int,
    noisy: bool = False,
) -> str:
    """The line above a coefficient table; folded where it would pass 80 columns.

    noisy  the counts are known with noise only
    """
    who = ("about " if noisy else "") + plural(patients, "patient")
    if events is not None:
        who += f", {events:,} with {event_word}"
    if sites:
        who += f", {plural(sites, 'hospital')}"
    parts = [KINDS.get(kind, kind), who, plural(rounds, "round")]
    line = "   ".join(parts)
    return line if len(line) <= WIDTH else fold("   ".join(parts), WIDTH)


def fold(text: str, width: int = WIDTH, indent: str = "  ") -> str:
    """`text` on lines of at most `width`."""
    return "\n".join(textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False))


def coefficient_table(terms: Sequence[Mapping[str, Any]], head: str = "") -> str:
    """Coefficient, error, z, p and interval per term under `head`, digits under digits."""
    width = min(max([len(str(t["name"])) for t in terms] + [10]) + 1, 20)
    lines = [head] if head else []
    lines.append(f"{'term':<{width}}{'coef':>10}{'se':>10}{'z':>8}{'p':>9}      95 % interval")
    for term in terms:
        places = decimals(term["se"])
        numbers = (
            f"{fixed(term['coef'], places):>10}{fixed(term['se'], places):>10}"
            f"{fixed(term['z'], 2):>8}{p_value(term['p']):>9}   {_interval(term, places)}"
        )
        lines += _row(str(term["name"]), width, numbers)
    return "\n".join(lines)


def _interval(term: Mapping[str, Any], places: int) -> str:
    lower, upper = (fixed(term[key], places) for key in ("lower", "upper"))
    if lower == "-":
        return " -"
    signed = upper if upper.startswith("-") else f" {upper}"
    lower = lower if lower.startswith("-") else f" {lower}"
    return f"{lower:>6}".ljust(8) + f" to {signed}"


def _row(name: str, width: int, numbers: str) -> list[str]:
    """One line of a table; a name that is too long for its column stands on a line above."""
    if len(name) < width:
        return [f"{name:<{width}}{numbers}".rstrip()]
    cut = name if len(name) <= WIDTH else name[: WIDTH - 3] + "..."
    return [cut, f"{'':<{width}}{numbers}".rstrip()]


def cell(value: Any) -> str:
    """A table's entry as it is read."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return short(value) if isinstance(value, float) else str(value)


def plain_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as lines, its columns under each other, the first to the left."""
    cells = [[cell(value) for value in row] for row in (head, *rows)]
    widths = [max(len(row[j]) for row in cells) for j in range(len(head))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if j else text.ljust(width)
            for j, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def block_lines(blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Texts and tables of a learner's result, see `polyclinic.report.blocks`."""
    lines = []
    for block in blocks:
        if block["kind"] == "text":
            lines.append(fold(block["text"], indent=""))
        elif block["kind"] == "lines":
            lines += [block["title"], *block["lines"]]
        elif block["kind"] == "table":
            lines += [block["title"], plain_table(block["head"], block["rows"])]
    return lines


def result_table(results: Mapping[str, Any]) -> str:
    """The coefficient table of a run, with its header line and warnings."""
    model, data = results["model"], results["data"]
    head = header(
        model.get("title", model["kind"]),
        model["patients"],
        model["events"],
        data["outcome"],
        model["sites"],
        model["rounds"],
        not model.get("noise", {}).get("counted", True),
    )
    if "blocks" in model:
        lines = [head, *block_lines(model["blocks"])]
    else:
        lines = [coefficient_table(model["terms"], head)]
    lines += [fold(f"! {text}") for text in model["warnings"]]
    return "\n".join(lines)


def _width(names: Sequence[str], most: int) -> int:
    """Columns for the names of hospitals: the longest that fits, and three spaces."""
    fitting = [len(name) for name in names if len(name) + 3 <= most]
    return max([*fitting, len("hospital")]) + 3


def patients_of(site: Mapping[str, Any]) -> str:
    """How many patients of a hospital were used, where that may be shown."""
    many = site["patients"]
    return "patients (not shown)" if many is None else plural(many, "patient")


def site_table(results: Mapping[str, Any]) -> str:
    """Patients, events and patients left out, by hospital; small counts and what gives them away
    are "under 5" or "-"."""
    data, model = results["data"], results["model"]
    sites = data["sites"]
    events = _events(sites, model) if model["events"] is not None else None
    word = f"with {data['outcome']}"[:22]
    width, wide = _width([s["name"] for s in sites], 20), len(word) + 3
    title = f"{word:>{wide}}" if events else ""
    lines = [f"{'hospital':<{width}}{'patients':>8}{title}   left out, values missing"]
    for i, site in enumerate([*sites, {"name": "all", "patients": model["patients"]}]):
        many = "-" if site["patients"] is None else f"{site['patients']:,}"
        numbers = f"{many:>8}" + (f"{events[i]:>{wide}}" if events else "")
        if "left_out" in site:
            numbers += f"   {_left_out(site['left_out'])}"
        lines += _row(site["name"], width, numbers)
    return "\n".join(lines)


def _events(sites: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> list[str]:
    """Events per hospital and of all, as they may be shown."""
    from polyclinic.report.suppress import shown_events

    return ["-" if count is None else f"{count:,}" for count in shown_events(sites, model)]


def _left_out(reasons: Mapping[str, int | None]) -> str:
    if not reasons:  # known at the hospital only
        return "-"
    text = small(reasons.get("missing", 0))
    if reasons.get("condition", 0) != 0:
        text += f", not in the cohort {small(reasons['condition'])}"
    return text


def notes(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know about the rows: hospitals that are not there, filled values."""
    gone = without(results)
    lines = [fold(f"note   {gone}", indent=" " * 7)] if gone else []
    for column, fill in results["data"]["fills"].items():
        unit = f" {fill['unit']}" if fill["unit"] else ""
        text = (
            f"{column} filled by the mean {fill['value']:.4g}{unit} in "
            f"{small(fill['patients'])} patients"
        )
        lines.append(fold(f"note   {text}", indent=" " * 7))
    return lines


def without(results: Mapping[str, Any]) -> str:
    """That the run went on without hospitals, and why; "": it did not."""
    why = results.get("federation", {}).get("why", "")
    return f"the run went on {why}" if why else ""


def judged(evaluation: Mapping[str, Any]) -> str:
    """On whom the model was judged: "in 5-fold cross-validation", "on the same patients"."""
    if evaluation["folds"]:
        return f"in {evaluation['folds']}-fold cross-validation"
    return (
        f"on {'the same patients' if evaluation['how'] == 'same patients' else evaluation['how']}"
    )


def evaluation_table(results: Mapping[str, Any]) -> str:
    """Performance by hospital."""
    found = results["evaluation"]
    how = f"check  {judged(found).removeprefix('in ')}"
    if found["how"] == "same patients":
        how += ": too good to be true elsewhere"
    groups = {**found["sites"], "all": found["all"]}
    hidden = found.get("not_shown") or []
    foot = [
        line
        for text in (own_not_shown(found), levels_merged(found))
        for line in textwrap.wrap(text, WIDTH)
    ]
    if "auroc" in found["all"]:
        return "\n".join([how, *_risk_lines(groups, hidden), *foot])
    width = _width([*groups, *hidden], 20)
    if "concordance" in found["all"]:
        lines = [f"{'hospital':<{width}}{'patients':>8}{'events':>8}{'concordance':>13}"]
        for name, group in groups.items():
            area = group["concordance"]
            lines += _row(
                name,
                width,
                f"{group['n']:>8,}{small(group['events']):>8}{fixed(area['value'], 2):>13}"
                + ("" if area["lower"] is None else f"   ({between(area, 2)})"),
            )
        return "\n".join([how, *_with(lines, hidden, width), *foot])
    if "dice" in found["all"]:
        lines = [f"{'hospital':<{width}}{'patients':>8}{'mean Dice':>12}"]
        for name, group in groups.items():
            lines += _row(name, width, f"{group['n']:>8,}{fixed(group.get('dice'), 3):>12}")
        return "\n".join([how, *_with(lines, hidden, width), *foot])
    if "accuracy" in found["all"]:
        lines = [f"{'hospital':<{width}}{'patients':>8}{'accuracy':>11}{'log loss':>11}"]
        for name, group in groups.items():
            lines += _row(
                name,
                width,
                f"{group['n']:>8,}{fixed(group.get('accuracy'), 3):>11}"
                f"{fixed(group.get('log_loss'), 3):>11}",
            )
        return "\n".join([how, *_with(lines, hidden, width), *foot])
    lines = [
        f"{'hospital':<{width}}{'patients':>8}{'R2':>9}{'mean error':>13}{'observed':>11}"
        f"{'predicted':>11}"
    ]
    for name, group in groups.items():
        lines += _row(
            name,
            width,
            f"{group['n']:>8,}{fixed(group.get('r2'), 3):>9}"
            f"{short(group.get('mae')):>13}"
            f"{short(group.get('observed')):>11}"
            f"{short(group.get('predicted')):>11}",
        )
    return "\n".join([how, *_with(lines, hidden, width), *foot])


def own_not_shown(evaluation: Mapping[str, Any]) -> str:
    """Which hospitals' own measures are not shown, and why; "" where all are."""
    names = evaluation.get("not_shown") or []
    if not names:
        return ""
    return f"{', '.join(names)}: not shown, its own numbers may not be seen alone."


def levels_merged(evaluation: Mapping[str, Any]) -> str:
    """Which hospitals merged rare levels before they were scored; "" where none did."""
    merged = evaluation.get("merged") or {}
    if not merged:
        return ""
    counts = ", ".join(f"{name} {count}" for name, count in merged.items())
    return (
        "Levels that few patients of a hospital have were scored there as the next one "
        f"(levels merged: {counts})."
    )


def _with(lines: list[str], hidden: Sequence[str], width: int) -> list[str]:
    """A table with the hospitals that are not shown before its last line."""
    more = [line for name in hidden for line in _row(name, width, NOT_SEEN)]
    return [*lines[:-1], *more, lines[-1]]


def _risk_lines(groups: Mapping[str, Any], hidden: Sequence[str]) -> list[str]:
    width = _width([*groups, *hidden], 15)
    lines = [
        f"{'':<{width}}{'':<12}{'95 % interval':<14}{'observed':>11}{'predicted':>12}",
        f"{'hospital':<{width}}{'AUROC':>8}    {'of the AUROC':<14}{'of 100':>11}{'of 100':>12}",
    ]
    for name, group in groups.items():
        mark = warning_mark(group)
        area = group.get("auroc")
        value = fixed(area["value"], 3) if area else "-"
        n, sure = group["n"], not hides_events(group)
        observed = percent(group.get("observed"), n) if sure else "-"
        lines += _row(
            name,
            width,
            f"{value:>8}    {between(area):<14}{observed:>11}"
            f"{percent(group.get('predicted'), n):>12}" + (f"  ! {mark}" if mark else ""),
        )
    return _with(lines, hidden, width)


def hides_events(group: Mapping[str, Any]) -> bool:
    """True when the observed share would give away 1 to 4 patients."""
    n, events = group["n"], group.get("events")
    return events is not None and (0 < events < LEAST or 0 < n - events < LEAST)


def warning_mark(group: Mapping[str, Any]) -> str:
    """ "too low here" where the mean risk lies beyond the error of the observed share."""
    n, observed, predicted = group["n"], group.get("observed"), group.get("predicted")
    if not n or predicted is None or observed is None:
        return ""
    error = math.sqrt(max(predicted * (1 - predicted), 1e-9) / n)
    if abs(observed - predicted) < max(2.5 * error, 0.05):
        return ""
    return "too low here" if predicted < observed else "too high here"


def left_line(results: Mapping[str, Any]) -> str:
    """How much left a hospital in a round of the fit."""
    rounds = [line for line in results["left"] if line["step"] in ROUNDS]
    rounds = rounds or [line for line in results["left"] if line["leaf"] in ("gradient", "loss")]
    if not rounds:
        return "left   sums only, no rows"
    first = [
        line
        for line in rounds
        if line["site"] == rounds[0]["site"] and line["step"] == rounds[0]["step"]
    ]
    numbers = sum(line["numbers"] for line in first)
    sums = "noisy sums" if "nois" in rounds[0]["step"] else "sums"
    return f"left   {numbers} {sums} a round and hospital, no rows"


def short(value: float | None) -> str:
    """Four significant digits with thousands separated, never 1e+04; "-" where not defined."""
    if value is None or not math.isfinite(value):
        return "-"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3e}"
    places = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
