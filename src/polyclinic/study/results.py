"""From a fitted model and its evaluation to the plain dict that is stored and reported."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from polyclinic.core.design import Factor, Term
from polyclinic.core.fit import Round, ask
from polyclinic.core.plan import Plan
from polyclinic.models.glm.family import MULTINOMIAL
from polyclinic.report.gate import seen_alone
from polyclinic.report.results import FORMAT, SET_ASIDE, Results
from polyclinic.study.describe import describe_column
from polyclinic.study.estimator import Regression
from polyclinic.study.evaluate import Evaluated
from polyclinic.study.faces import KINDS
from polyclinic.study.formula import FormulaData
from polyclinic.study.importance import Importances
from polyclinic.study.learner import Learner
from polyclinic.study.sites import Sites

GUARANTEE = (
    "exact sums; each hospital's gate asks for at least {least} patients behind every number"
)
SECURE = "exact secure sums: only totals over all hospitals were seen"
OTHERS = ("other hospitals", SET_ASIDE)  # other patients than the model's
Fitted = Regression | Learner
Counts = dict[
    str, tuple[int | None, int | None, int | None]
]  # rows, patients, events; None: hidden


def assemble(
    model: Fitted,
    sites: Sites,
    *,
    about: Mapping[str, Any],
    evaluated: Evaluated | None = None,
    importance: Importances | None = None,
    table_one: Mapping[str, Any] | None = None,
    rounds: Iterable[Round] = (),
    show_sites: bool = True,
    callbacks: Sequence[Callable[[Round], None]] = (),
) -> Results:
    """The results of one run. `about` holds name, title, purpose, hash, seed, engine.

    With `show_sites` off no hospital is asked for anything of its own, and none is listed; else
    `callbacks` are told the round that asks for it.
    """
    data = model.formula_data
    least = min(policy.min_patients for policy in sites.policies.values())
    rounds, counts = tuple(rounds), Counts()
    if show_sites:
        counts, asked = _counts(data)
        for tell in callbacks:
            tell(asked)
        rounds = (*rounds, asked)
    lines, secure = left(rounds), data.federation.summing.secure
    results: dict[str, Any] = {
        "format": FORMAT,
        "study": {
            "name": about.get("name", "model"),
            "title": about.get("title", ""),
            "purpose": about.get("purpose", ""),
            "hash": about.get("hash", ""),
            "formula": data.formula,
            "cohort": data.cohort.where or "everyone",
            "missing": {c: data.cohort.rule(c) for c in data.cohort.columns},
            "seed": int(about.get("seed", 0)),
            "engine": about.get("engine", "embedded"),
            "guarantee": _guarantee(model, least, secure, seen_alone(lines)),
        },
        "versions": versions(),
        "data": _data(sites, data, counts, least, _n(model)),
        "model": {
            **_model(model, data, counts, evaluated),
            **_counted(model, counts, evaluated, (table_one or {}).get("overall", {}).get("all")),
        },
        "convergence": [
            {
                "round": i + 1,
                "step": r.step,
                "loss": r.figures.get("loss"),
                "gain": r.figures.get("gain"),
            }
            for i, r in enumerate(r for r in model.rounds_ if "loss" in r.figures)
        ],
        "gate": {
            "sums": "secure" if secure else "clear",
            "refusals": dict(data.federation.summing.refusals),
            "ledger": sites.ledgers() if show_sites else {},
        },
        "left": lines,
        "labels": label_part(data),
        "hashes": {
            "study": about.get("hash", ""),
            "codebook": data.codebook.content_hash,
            "last plan": rounds[-1].plan if rounds else "",
        },
    }
    results["model"]["warnings"] = [*sites.unread(), *results["model"]["warnings"]]
    if sites.federation_part is not None:
        results["federation"] = sites.federation_part
    if table_one is not None:
        results["table_one"] = dict(table_one)
    if evaluated is not None:
        results["evaluation"] = evaluated.measures
    if importance is not None:
        results["importance"] = importance.to_data()
    return plain(results)  # type: ignore[no-any-return]


def label_part(data: FormulaData) -> dict[str, dict[str, Any]]:
    """Label, unit and levels of each column of the cohort."""
    return {
        column: {
            "label": data.codebook.label(column),
            "unit": data.codebook.spec(column).unit or "",
            "levels": dict(data.codebook.spec(column).levels or {}),
        }
        for column in data.cohort.columns
    }


def _guarantee(model: Fitted, least: int, secure: bool, alone: list[str]) -> str:
    """What holds of the numbers; `alone`: steps in which a hospital's own sums were seen."""
    text = SECURE if secure else GUARANTEE.format(least=least)
    if secure and alone:
        text += f", but of each hospital itself: {'; '.join(alone)}"
    if model._privacy is None:
        return text
    what = "coefficients" if isinstance(model, Regression) else "model"
    return f"{model._privacy.guarantee()} This holds for the {what}; all else: {text}"


def _counted(
    model: Fitted,
    counts: Counts,
    evaluated: Evaluated | None,
    overall: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Of a model with noise: what it is, and the exact counts where they are known from elsewhere.

    overall  all patients of Table 1
    """
    privacy = model._privacy
    if privacy is None:
        return {}
    noise = {"epsilon": privacy.epsilon, "delta": privacy.delta, "counted": False}
    n = patients = events = None
    if counts:
        n, patients, events = (_together([one[i] for one in counts.values()]) for i in range(3))
    elif overall is not None:
        n, patients = overall["rows"], overall["patients"]
    found = {} if evaluated is None else evaluated.measures
    if events is None and found.get("how") == "same patients":
        events = found["all"].get("events")
    if n is None or patients is None:
        return {"noise": noise}
    return {"n": n, "patients": patients, "events": events, "noise": {**noise, "counted": True}}


def _together(parts: Sequence[int | None]) -> int | None:
    """Their sum, where all are known."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def versions() -> dict[str, str]:
    """Versions of what computed the numbers."""
    packages = ("polyclinic", "numpy", "scipy", "scikit-learn", "duckdb", "formulaic")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def plain(value: Any) -> Any:
    """The same value with Python scalars only; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def left(rounds: Iterable[Round]) -> list[dict[str, Any]]:
    """What left each hospital, one line per hospital, step and leaf."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for done in rounds:
        for leaf in done.left:
            for site in leaf["sites"]:
                step = leaf.get("step", done.step)
                key = (site, step, leaf["leaf"], leaf["seen"])
                line = lines.setdefault(
                    key,
                    {
                        "site": site,
                        "step": step,
                        "leaf": leaf["leaf"],
                        "shape": leaf["shape"],
                        "numbers": leaf["numbers"],
                        "bytes": 0,
                        "times": 0,
                        "seen": leaf["seen"],
                    },
                )
                line["bytes"] += leaf["bytes"]
                line["times"] += 1
    return list(lines.values())


def _data(
    sites: Sites, data: FormulaData, counts: Counts, least: int, n_all: int
) -> dict[str, Any]:
    codebook, outcome = data.codebook, data.design.response
    parts = []
    for site, (_, patients, events) in counts.items():
        gone = {
            reason: _shown(count, least)
            for reason, count in sites.left_out(site, data.cohort).items()
        }
        whole = None not in gone.values()
        parts.append(
            {
                "name": site,
                "rows": sites.n_rows(site) if whole and patients is not None else None,
                "patients": patients,
                "events": events,
                "left_out": gone,
            }
        )
    fills = {
        column: {
            "value": mean,
            "unit": getattr(codebook.spec(column), "unit", None) or "",
            "label": codebook.label(column),
            "patients": _shown(n_all - data.present[column], least),
        }
        for column, mean in data.fills.items()
    }
    return {
        "codebook": codebook.title or codebook.name,
        "source": codebook.source or sites.source,
        "outcome": outcome,
        "outcome_label": codebook.label(outcome) if outcome else "",
        "event": data.design.event or "",
        "sites": parts,
        "fills": fills,
    }


def _shown(count: int, least: int) -> int | None:
    return None if 0 < count < least else count


def _counts(data: FormulaData) -> tuple[Counts, Round]:
    """Rows, patients and events of each hospital, through its gate, and the round that asked."""
    outcome = data.design.response
    binary = bool(outcome) and len(data.codebook.level_names(outcome)) == 2
    columns = [describe_column(data.codebook, outcome).coded()] if binary else []
    values = {"by": None, "columns": columns}
    plan = Plan("descriptive.levels", values, "rows and events per hospital", combine="collect")
    total, done = ask(data.federation, plan)
    counts: Counts = {}
    for site, found in total.by_site.items():
        events = None
        if binary and not found.hidden[f"levels:{outcome}"][0, 1]:
            events = int(found[f"levels:{outcome}"][0, 1])
        shown = not found.hidden["patients"][0]
        rows, patients = (int(found[n][0]) if shown else None for n in ("rows", "patients"))
        counts[site] = (rows, patients, events)
    return counts, done


def _model(
    model: Fitted, data: FormulaData, counts: Counts, evaluated: Evaluated | None
) -> dict[str, Any]:
    if isinstance(model, Regression):
        return _regression(model, data)
    return {**_learner(model, data), "events": _events(model, counts, evaluated)}


def _events(model: Learner, counts: Counts, evaluated: Evaluated | None) -> int | None:
    """Patients with a yes/no outcome, where all who were fitted are known; else None."""
    n = model.result_.n
    rows, events = (_together([one[i] for one in counts.values()]) for i in (0, 2))
    if counts and events is not None and rows == n:
        return events
    found = {} if evaluated is None else evaluated.measures["all"]
    scored = "auroc" in found and evaluated is not None and evaluated.measures["how"] not in OTHERS
    return found["events"] if scored and found["n"] == n else None


def _regression(model: Regression, data: FormulaData) -> dict[str, Any]:
    result, spec = model.result_, model.result_.scale.spec
    moments = result.scale.moments
    return {
        "kind": KINDS[type(model).__name__],
        "family": spec.family,
        "terms": terms(model),
        "n": moments.n,
        "patients": moments.patients,
        "events": int(moments.counts[1]) if spec.classes == 2 else None,
        "sites": len(data.federation.sites),
        "rounds": result.rounds,
        "converged": result.converged,
        "deviance": result.deviance,
        "null_deviance": result.null_deviance,
        "aic": result.aic if not spec.l1 and not spec.l2 else None,
        "pseudo_r2": result.pseudo_r2,
        "dispersion": result.dispersion,
        "l1": spec.l1,
        "l2": spec.l2,
        "warnings": [text for text, _ in model.warnings_()],
    }


def _learner(model: Learner, data: FormulaData) -> dict[str, Any]:
    result, kind = model.result_, model.kind_
    return {
        "kind": kind.name,
        "title": kind.title,
        "family": "",
        "terms": [],
        "n": result.n,
        "patients": result.patients,
        "events": None,
        "sites": len(data.federation.sites),
        "rounds": result.rounds,
        "converged": result.converged,
        "deviance": None,
        "null_deviance": None,
        "aic": None,
        "pseudo_r2": None,
        "dispersion": None,
        "l1": 0.0,
        "l2": 0.0,
        "warnings": result.warnings(),
        "options": plain(model._options()),
        "blocks": model.blocks_(),
        "headline": model._headline(),
        "pooled": getattr(result, "pooled", kind.pooled),
    }


def _n(model: Fitted) -> int:
    """Rows that were fitted."""
    return model.result_.scale.moments.n if isinstance(model, Regression) else model.result_.n


def terms(model: Regression) -> list[dict[str, Any]]:
    """The coefficient table with labels and units of the codebook."""
    table, labels = model.summary(), term_labels(model)
    return [
        {
            "name": str(name),
            "label": labels[str(name)][0],
            "unit": labels[str(name)][1],
            "step": labels[str(name)][2],
            **{key: float(row[key]) for key in ("coef", "se", "z", "p", "lower", "upper")},
        }
        for name, row in table.iterrows()
    ]


def term_labels(model: Regression) -> dict[str, tuple[str, str, float]]:
    """(label, unit, step) of every term: ("age", "a", 10), ("chest pain: no symptoms", "", 0)."""
    spec = model.result_.scale.spec
    labels = {"Intercept": ("Intercept", "", 0.0)}
    for term in spec.design.terms:
        labels[term.name] = _term_label(model.formula_data, term)
    if spec.family != MULTINOMIAL:
        return labels
    codes = list(model.formula_data.codebook.spec(spec.design.response).levels or {})
    return {
        f"{code}: {name}": (f"{code}: {label}", unit, step)
        for code in codes
        for name, (label, unit, step) in labels.items()
    }


def _term_label(data: FormulaData, term: Term) -> tuple[str, str, float]:
    words = [_factor_words(data, term, factor) for factor in term.factors]
    factor, label = term.factors[0], " x ".join(words)
    if len(term.factors) > 1 or factor.kind != "value":
        return label, "", 0.0 if factor.kind in ("level", "missing", "site") else 1.0
    column = data.codebook.spec(factor.column)
    if column.levels:
        return label, "", 0.0
    ends = column.usual or column.range
    step = 10.0 ** math.floor(math.log10((ends[1] - ends[0]) / 4)) if ends else 1.0
    return label, column.unit or "", step


def _factor_words(data: FormulaData, term: Term, factor: Factor) -> str:
    if factor.kind == "site":
        return f"hospital {factor.column}"
    label, column = data.codebook.label(factor.column), data.codebook.spec(factor.column)
    levels = list((column.levels or {}).values())
    if factor.kind == "level":
        return f"{label}: {levels[int(factor.args[0])]}"
    if factor.kind == "missing":
        return f"{label}: missing"
    if factor.kind != "value":
        return f"{label} ({term.name})"
    return f"{label}: {levels[1]}" if len(levels) == 2 else label
