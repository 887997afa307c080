"""A study from its file to its run folder; every step is kept, so that a stopped run goes on."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from polyclinic.core.checkpoint import Checkpoint, write_atomic
from polyclinic.core.errors import DataWarning, InputError
from polyclinic.core.fit import Callback, Round, fit
from polyclinic.data.codebook import Codebook
from polyclinic.data.cohort import rules_of
from polyclinic.data.formula import compile_formula, complete_columns, formula_columns
from polyclinic.data.query import Query
from polyclinic.data.read import PARQUET
from polyclinic.engines.clusters import cluster
from polyclinic.engines.embedded import About, Embedded, Sums
from polyclinic.engines.spark import spark
from polyclinic.evaluation import Shuffle, exchanges
from polyclinic.governance.study_data import AskedOf, Data, SplitBy
from polyclinic.governance.study_file import EngineSection, Study, load_study
from polyclinic.privacy.policy import Policy
from polyclinic.report.html import write_report
from polyclinic.report.results import SET_ASIDE, Results
from polyclinic.report.travelled import travelled
from polyclinic.study.describe import table_one_algorithm
from polyclinic.study.door import read, scan, split
from polyclinic.study.estimator import Regression
from polyclinic.study.evaluate import Evaluated, evaluate
from polyclinic.study.formula import FormulaData, from_formula, on_other_sites, outcome_classes
from polyclinic.study.importance import Importances, importances
from polyclinic.study.learner import Learner
from polyclinic.study.learners import learner_of
from polyclinic.study.results import Fitted, assemble
from polyclinic.study.saved import KINDS, save
from polyclinic.study.sites import Scanned, Sites

Show = Callable[[str, Any], None]
SUMS: dict[str | bool, Sums] = {"auto": "auto", True: "secure", False: "clear"}


@dataclass(frozen=True)
class StudyRun:
    """A finished run: its folder, model, results, and what it was about."""

    folder: Path
    study: Study
    sites: Sites
    model: Fitted
    results: Results

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def run(
    study: Study | str | Path,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    show: Show | None = None,
    sites: Sites | None = None,
    callbacks: Sequence[Callback] = (),
    engine: Embedded | None = None,
) -> StudyRun:
    """Run a study: cohort, model, Table 1, validation, report.

    Parameters
    ----------
    study : a study file, or what `load_study` made of it.
    out : run folder; None: the folder of the study file's [output].
    resume : go on with a run that was stopped; the result has the same bytes.
    show : called with the name of an event and its value: "sites", "round" (of the fit), "step"
        (any other round), "model", "evaluated", "results".
    sites : hospitals, where the study file does not say where they are.
    callbacks : called after every round of the fit with a `Round`.
    engine : where to compute; None: as [engine] says. The result is the same.

    Raises
    ------
    InputError, Refused, Stopped : with what is kept.
    """
    base = Path.cwd() if isinstance(study, Study) else Path(study).resolve().parent
    study = study if isinstance(study, Study) else load_study(study)
    tell = show or (lambda name, value: None)
    name = engine.name if engine else study.engine.name
    sites = sites or open_sites(study, base, in_parts=name != "embedded")
    folder = Path(out) if out is not None else base / study.output.folder / study.study.name
    _prepare(folder, study, resume, sites.fingerprints())
    with nullcontext(engine) if engine else engine_of(study.engine) as where:
        return _Steps(study, sites, folder, tell, callbacks, where).run()


@contextmanager
def engine_of(section: EngineSection) -> Iterator[Embedded]:
    """The engine of a study file, for as long as the study runs."""
    if section.name == "embedded":
        yield Embedded(section.partitions, section.threads, device=section.device)
        return
    shared: dict[str, Any] = {"memory": section.memory, "partitions": section.partitions}
    given = {"policy": section.policy, "speculate": section.speculate}
    shared |= {name: value for name, value in given.items() if value is not None}
    workers = section.workers or 2
    if section.name == "spark":
        made = spark(section.scheduler or f"local[{workers}]", threads=section.threads, **shared)
    else:
        threads = section.threads or 1
        made = cluster(section.scheduler, workers=workers, threads=threads, **shared)
    with made as found:
        yield found


def open_sites(study: Study, base: Path, in_parts: bool = False) -> Sites:
    """The hospitals of a study file; its paths are relative to `base`.

    in_parts  whether Parquet files stay where they are, for workers to read in parts
    """
    policy = Policy(min_patients=study.privacy.min_patients)
    data = study.data
    if data.hub is not None:
        raise InputError(
            f"the hospitals of this study are those of hub {data.hub}",
            code="WRONG_VALUE",
            rule="a hub runs its studies by itself, so that they go on when this process ends",
            next=f"polyclinic run STUDY.toml --hub {data.hub}",
        )
    if data.dataset is not None:
        from polyclinic.study import datasets

        return datasets.load(data.dataset).with_policy(policy)
    if data.folder:
        return read(base / data.folder, base / str(data.schema_), policy=policy)
    book = Codebook.load(base / str(data.schema_))
    if data.split:
        return _split(base, data.split, book, data, policy)
    paths = data.sites or {}
    source = {s: _source(base, where, book, s, data, in_parts) for s, where in paths.items()}
    return read(source, book, policy=policy)


def _split(base: Path, found: SplitBy, book: Codebook, data: Data, policy: Policy) -> Sites:
    """A hospital of each value of a column."""
    place: str | Path | Query = found.at if "://" in found.at else base / found.at
    if found.query is not None:
        place = Query(found.at, found.query, base)
    how: dict[str, Any] = {"unreadable": data.unreadable, "order": found.order}
    how["folder"] = _below(base, found.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # it stands in the results
        return split(place, found.by, book, policy=policy, **how)


def _below(base: Path, folder: str | None) -> str | Path | None:
    return folder if folder is None or "://" in folder else base / folder


def _source(
    base: Path, where: str | AskedOf, book: Codebook, site: str, data: Data, in_parts: bool
) -> Path | Scanned:
    """A hospital's file; what an address or a pattern names, Parquet files on a cluster, and what a
    database answers are read in parts."""
    if isinstance(where, AskedOf):
        folder = _below(base, where.folder)
        return scan(Query(where.at, where.query, base), book, site=site, folder=folder)
    how: dict[str, Any] = {"site": site, "unreadable": data.unreadable}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # it stands in the results
        if "://" in where:
            return scan(where, book, **how)
        parted = in_parts or data.unreadable != "stop"
        if "*" in where or (parted and where.lower().endswith(PARQUET)):
            return scan(base / where, book, **how)
    return base / where


class _Steps:
    def __init__(
        self,
        study: Study,
        sites: Sites,
        folder: Path,
        tell: Show,
        callbacks: Sequence[Callback] = (),
        engine: Embedded | None = None,
    ) -> None:
        self.study, self.folder, self.tell = study, folder, tell
        self.engine = engine or Embedded()
        self.callbacks = [lambda done: self.tell("round", done), *callbacks]
        sites = sites.at_home(folder / "sites")
        columns = formula_columns(study.model.formula, sites.codebook)
        complete = complete_columns(study.model.formula, sites.codebook)

        def chosen(where: str | None) -> Sites:
            return sites.cohort(
                where,
                missing=rules_of(study.cohort.missing, complete),
                columns=columns,
                empty_site=study.cohort.empty_site,
            )

        self.sites = chosen(study.fitted_on)
        self.aside = chosen(study.judged_on) if study.judged_on else None
        self.exchanges = self._exchanges()  # a wrong one stops before anything is computed
        self.rounds: list[Round] = []

    def store(self, name: str) -> Checkpoint:
        return Checkpoint(self.folder / "checkpoints" / f"{name}.pcm")

    def run(self) -> StudyRun:
        self.tell("sites", self.sites)
        model = self._fit()
        self.tell("model", model)
        table = fit(
            table_one_algorithm(model.formula_data, self.study.privacy.show_sites),
            model.formula_data.federation,
            store=self.store("table-one"),
            callbacks=[self._step],
        )
        self.rounds += table.rounds
        judged_on = self._judged_on(model)
        evaluated = self._evaluate(model, judged_on) if predicts(model) else None
        if evaluated is not None:
            self.tell("evaluated", evaluated)
        study = self.study
        results = assemble(
            model,
            self.sites,
            evaluated=evaluated,
            importance=self._importance(model, judged_on) if self.exchanges else None,
            table_one=table.model,
            rounds=self.rounds,
            show_sites=study.privacy.show_sites,
            about={
                "name": study.study.name,
                "title": study.study.title or study.study.name,
                "purpose": study.study.purpose,
                "hash": study.hash,
                "seed": study.seed,
                "engine": self.sites.engine or self.engine.name,
            },
            callbacks=[self._step],
        )
        self.tell("results", results)
        self._write(model, results)
        return StudyRun(self.folder, study, self.sites, model, results)

    def _step(self, done: Round) -> None:
        self.tell("step", done)

    def _fit(self) -> Fitted:
        study, section = self.study, self.study.model
        if section.kind not in KINDS:
            return self._learn()
        extra: dict[str, Any] = (
            {"class_weight": section.class_weight} if section.kind == "logistic" else {}
        )
        model = KINDS[section.kind](
            l2=section.l2,
            l1=section.l1,
            site_effects=section.site_effects,
            solver=study.solver.name,
            max_rounds=study.solver.max_rounds,
            tolerance=study.solver.tolerance,
            solver_options=study.solver.options or None,
            random_state=study.seed,
            **extra,
        )
        data = self._data(site_effects=section.site_effects, exact=study.privacy.noise is None)
        model._privacy = study.privacy.noise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they stand in the results and are shown from there
            model._fit_data(data, self.engine, self.callbacks, self.store("fit"))
        self.rounds += model.rounds_
        return model

    def _learn(self) -> Learner:
        study, section = self.study, self.study.model
        classes = outcome_classes(section.formula, self.sites.codebook)
        model = learner_of(section.kind, classes, study.options, study.seed)
        data = self._data(gaps=model.kind_.gaps, exact=study.privacy.noise is None)
        model._privacy = study.privacy.noise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model._fit_data(data, self.engine, self.callbacks, self.store("fit"))
        if study.privacy.show_sites:
            model._ask_hospitals([self._step])
        self.rounds += model.rounds_
        return model

    @property
    def _how(self) -> dict[str, Any]:
        """How hospitals add up, and what they read of the study."""
        study = self.study
        about = About(study.study.name, study.study.purpose)
        return {"sums": SUMS[study.privacy.secure_sums], "about": about}

    def _data(self, **more: Any) -> FormulaData:
        study = self.study
        data = from_formula(
            self.sites,
            study.model.formula,
            self.engine,
            store=self.store("means"),
            **self._how,
            **more,
        )
        self.rounds += data.rounds
        return data

    def _judged_on(self, model: Fitted) -> FormulaData:
        """The patients who are set aside, where some are."""
        if self.aside is None:
            return model.formula_data
        return on_other_sites(model.formula_data, self.aside, self.engine, **self._how)

    def _exchanges(self) -> dict[str, Shuffle]:
        """What of the columns is exchanged, by name. Raises WRONG_VALUE."""
        asked, codebook = self.study.evaluation, self.sites.codebook
        if not asked.importance:
            return {}
        given: Any = {"repeats": asked.importance, "seed": self.study.seed, "parts": asked.parts}
        return exchanges(compile_formula(self.study.model.formula, codebook), codebook, **given)

    def _importance(self, model: Fitted, data: FormulaData) -> Importances:
        """What the whole model rests on, for those whom it is judged on."""
        how = "same patients" if self.aside is None else SET_ASIDE
        found = importances(
            model.judged(),
            data,
            self.exchanges,
            seed=self.study.seed,
            store=self.store("importance"),
            callbacks=[self._step],
        )
        self.rounds += found.rounds
        return replace(found, how=how)

    def _evaluate(self, model: Fitted, data: FormulaData) -> Evaluated:
        section = self.study.evaluation
        folds = section.folds if section.validate_ == "cross-validation" else 0
        evaluated = evaluate(
            model.judged(),
            data,
            folds=folds,
            thresholds=section.thresholds,
            subgroups=section.subgroups,
            show_sites=self.study.privacy.show_sites,
            alone=section.alone,
            seed=self.study.seed,
            store_for=self.store,
            callbacks=[self._step],
        )
        if self.aside is not None:
            evaluated.measures["how"] = SET_ASIDE
        self.rounds += evaluated.rounds
        return evaluated

    def _write(self, model: Fitted, results: Results) -> None:
        save(model, self.folder / "model.pcm")
        if isinstance(model, Regression):
            table = model.summary().to_csv().encode()
            write_atomic(self.folder / "coefficients.csv", table)
        else:
            for name, frame in model.tables().items():
                write_atomic(self.folder / f"{name}.csv", frame.to_csv(index=False).encode())
        if "importance" in results:
            lines = pd.DataFrame(results["importance"]["columns"])
            write_atomic(self.folder / "importance.csv", lines.to_csv(index=False).encode())
        write_atomic(self.folder / "metrics.json", as_json(results))
        plans = [
            {"round": i + 1, "step": r.step, "task": r.task, "plan": r.plan}
            for i, r in enumerate(self.rounds)
        ]
        write_atomic(self.folder / "plans.json", as_json(plans))
        if "html" in self.study.output.report:
            write_report(results, self.folder / "report.html", travelled(self.folder))


def predicts(model: Fitted) -> bool:
    """Whether there is something to evaluate."""
    return isinstance(model, Regression) or model.evaluated_


def as_json(value: Any) -> bytes:
    """Canonical JSON bytes of plain data."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _prepare(folder: Path, study: Study, resume: bool, rows: dict[str, str]) -> None:
    """Make the run folder, or check that it is of this study, and of these rows in files."""
    mark = folder / "study.json"
    content = as_json(study.model_dump(by_alias=True))
    if mark.exists():
        before = json.loads(mark.read_bytes())
        same = before.get("hash") == study.hash
        if resume and not same:
            raise InputError(
                f"{folder} holds a run of another study",
                code="OTHER_STUDY",
                rule="a run goes on only with the study that it was started with",
                next="run it anew with --out, or restore the study file",
                kept=f"{folder}",
            )
        rows = _same_rows(folder, before.get("rows", {}), rows) if resume else rows
        if not resume:
            stopped = not (folder / "metrics.json").exists()
            if stopped and any((folder / "checkpoints").glob("*")):
                raise InputError(
                    f"{folder} holds a run that was stopped"
                    + ("" if same else ", of another study or of this one before it was changed"),
                    code="RUN_EXISTS",
                    rule="what was computed is not thrown away",
                    next="--resume goes on with it; --out names another folder"
                    if same
                    else "--out names a new folder; or restore the study file, then --resume",
                    kept=f"everything in {folder}",
                )
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            (folder / "metrics.json").unlink(missing_ok=True)
    elif resume:
        raise InputError(
            f"{folder} holds no run",
            code="NO_RUN",
            rule="--resume goes on with a run that was started",
            next="run the study without --resume",
        )
    about = {"hash": study.hash, "study": json.loads(content), "rows": rows}
    write_atomic(mark, as_json(about))


def _same_rows(folder: Path, before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """What is known of the rows. Another engine may have read a file as a whole: then nothing."""
    for site in before:
        if now.get(site, before[site]) != before[site]:
            raise InputError(
                f"{site}: the files, or what the query gives, are not what they were at the start",
                code="SOURCE_CHANGED",
                site=site,
                rule="all rounds of a run are about the same rows",
                next="run it anew with --out, or restore the rows",
                kept=f"{folder}",
            )
    return {**now, **before}
