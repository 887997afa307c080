"""Numbers and tables as people read them, in the terminal and in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NOT_SHOWN = "not shown (fewer than 5)"
KINDS = {
    "logistic": "Logistic regression",
    "linear": "Linear regression",
    "poisson": "Poisson regression",
    "gamma": "Gamma regression",
}
WIDTH = 80


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
    """A count with thousands separated; small ones are not shown."""
    return "under 5" if value is None else f"{value:,}"


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
    """Seconds, minutes or hours in words."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def between(found: Mapping[str, Any] | None, places: int = 3) -> str:
    """ "0.853 to 0.900", or "-" """
    if not found or found["lower"] is None:
        return "-"
    return f"{fixed(found['lower'], places)} to {fixed(found['upper'], places)}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def header(
    kind: str, patients: int, events: int | None, event: str, sites: int, rounds: int
) -> str:
    """The line above a coefficient table."""
    who = plural(patients, "patient")
    if events is not None:
        who += f", {events:,} with {event}"
    if sites:
        who += f", {plural(sites, 'hospital')}"
    return f"{KINDS.get(kind, kind)}   {who}   {plural(rounds, 'round')}"


def coefficient_table(terms: Sequence[Mapping[str, Any]]) -> str:
    """Coefficient, error, z, p and interval per term, right-aligned, within 80 columns."""
    width = min(max([len(str(t["name"])) for t in terms] + [10]) + 1, 20)
    lines = [f"{'term':<{width}}{'coef':>10}{'se':>10}{'z':>8}{'p':>9}      95 % interval"]
    for term in terms:
        places = decimals(term["se"])
        name = str(term["name"])
        if len(name) >= width:
            lines.append(name)
            name = ""
        lower, upper = (_signed(term[k], places) for k in ("lower", "upper"))
        interval = f"{lower:<8} to {upper}" if lower.strip() != "-" else " -"
        lines.append(
            f"{name:<{width}}{fixed(term['coef'], places):>10}{fixed(term['se'], places):>10}"
            f"{fixed(term['z'], 2):>8}{p_value(term['p']):>9}   {interval}".rstrip()
        )
    return "\n".join(lines)


def _signed(value: float | None, places: int) -> str:
    """With a place kept for the sign, so that digits stand under digits."""
    text = fixed(value, places)
    return text if text.startswith("-") and len(text) > 1 else f" {text}"


def result_table(results: Mapping[str, Any]) -> str:
    """The coefficient table of a run, with its header line and warnings."""
    model, data = results["model"], results["data"]
    head = header(
        model["kind"],
        model["patients"],
        model["events"],
        data["outcome"],
        model["sites"],
        model["rounds"],
    )
    lines = [head, coefficient_table(model["terms"])]
    lines += [f"! {text}" for text in model["warnings"]]
    return "\n".join(lines)


def site_table(results: Mapping[str, Any]) -> str:
    """Patients, events and patients left out, by hospital."""
    data, sites = results["data"], results["data"]["sites"]
    events = results["model"]["events"] is not None
    word = f"with {data['outcome']}"[:22]
    head = f"{'hospital':<16}{'patients':>9}" + (f"{word:>{len(word) + 3}}" if events else "")
    lines = [head + "   left out, values missing"]
    for site in sites:
        line = f"{site['name'][:15]:<16}{site['patients']:>9,}"
        if events:
            line += f"{count(site['events']):>{len(word) + 3}}"
        lines.append(f"{line}   {_left_out(site['left_out'])}")
    total = f"{'all':<16}{results['model']['patients']:>9,}"
    if events:
        total += f"{results['model']['events']:>{len(word) + 3},}"
    return "\n".join([*lines, total])


def _left_out(reasons: Mapping[str, int | None]) -> str:
    text = count(reasons.get("missing", 0))
    if reasons.get("condition", 0) != 0:
        text += f", not in the cohort {count(reasons['condition'])}"
    return text


def notes(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know about the rows: filled values."""
    lines = []
    for column, fill in results["data"]["fills"].items():
        unit = f" {fill['unit']}" if fill["unit"] else ""
        lines.append(
            f"note   {column} filled by the mean {fill['value']:.4g}{unit} in "
            f"{count(fill['patients'])} patients"
        )
    return lines


def evaluation_table(results: Mapping[str, Any]) -> str:
    """Performance by hospital."""
    found = results["evaluation"]
    how = (
        f"check  {found['folds']}-fold cross-validation"
        if found["folds"]
        else "check  on the same patients: too good to be true elsewhere"
    )
    groups = {**found["sites"], "all": found["all"]}
    if "auroc" in found["all"]:
        return "\n".join([how, *_risk_lines(groups)])
    if "accuracy" in found["all"]:
        head = f"{'hospital':<16}{'patients':>9}{'accuracy':>11}{'log loss':>11}"
        rows = [
            f"{name[:15]:<16}{g['n']:>9,}{fixed(g.get('accuracy'), 3):>11}"
            f"{fixed(g.get('log_loss'), 3):>11}"
            for name, g in groups.items()
        ]
        return "\n".join([how, head, *rows])
    head = f"{'hospital':<16}{'patients':>9}{'R2':>9}{'mean error':>13}"
    head += f"{'observed':>11}{'predicted':>11}"
    rows = [
        f"{name[:15]:<16}{g['n']:>9,}{fixed(g.get('r2'), 3):>9}{_short(g.get('mae')):>13}"
        f"{_short(g.get('observed')):>11}{_short(g.get('predicted')):>11}"
        for name, g in groups.items()
    ]
    return "\n".join([how, head, *rows])


def _risk_lines(groups: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{'':<25}{'95 % interval':<19}{'observed':>8}{'predicted':>12}",
        f"{'hospital':<16}{'AUROC':>6}   {'of the AUROC':<19}{'of 100':>8}{'of 100':>12}",
    ]
    for name, group in groups.items():
        mark = warning_mark(group)
        lines.append(
            f"{name[:15]:<16}{fixed(group['auroc']['value'], 3):>6}   "
            f"{between(group['auroc']):<19}{percent(group['observed']):>8}"
            f"{percent(group['predicted']):>12}" + (f"  ! {mark}" if mark else "")
        )
    return lines


def warning_mark(group: Mapping[str, Any]) -> str:
    """ "too low here" where the mean risk lies beyond twice the error of the observed share."""
    n, observed, predicted = group["n"], group["observed"], group["predicted"]
    if not n or predicted is None:
        return ""
    error = math.sqrt(max(predicted * (1 - predicted), 1e-9) / n)
    if abs(observed - predicted) < max(2.5 * error, 0.05):
        return ""
    return "too low here" if predicted < observed else "too high here"


def left_line(results: Mapping[str, Any]) -> str:
    """How much left a hospital in a round of the fit."""
    rounds = [line for line in results["left"] if line["step"] == "Newton round"]
    rounds = rounds or [line for line in results["left"] if line["leaf"] in ("gradient", "loss")]
    if not rounds:
        return "left   sums only, no rows"
    first = [
        line
        for line in rounds
        if line["site"] == rounds[0]["site"] and line["step"] == rounds[0]["step"]
    ]
    numbers = sum(line["numbers"] for line in first)
    return f"left   {numbers} sums a round and hospital, no rows"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
