"""`polyclinic try federation`: a hub and hospitals as real processes on this machine."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from polyclinic.cli.stage import Stage, names
from polyclinic.core.errors import InputError, PolyclinicError

app = typer.Typer(no_args_is_help=True, help="See it work on this machine.")
LEAST = 3
STUDY = "try-federation"
TO_ARRIVE = 120.0  # seconds


@app.callback()
def _several() -> None:
    """A command of its own for each."""


@app.command()
def federation(
    sites: Annotated[int, typer.Option("--sites", min=LEAST, max=32, help="Hospitals.")] = 4,
    out: Annotated[Path | None, typer.Option("--out", help="Keep all folders here.")] = None,
) -> None:
    """Hub and hospitals with TLS on loopback: join, review, approve, run; then the pooled fit."""
    began = time.perf_counter()
    with _folder(out) as folder:
        table = _tables(folder, sites)
        study = _study(folder, table)
        stage = Stage(folder, table.files, folder / "codebook.toml")
        try:
            for done in stage.open():
                typer.echo(f"start   {done}")
            _run(stage, study)
            results = _results(stage)
        finally:
            stage.close()
        typer.echo(_beside(table, results))
        typer.echo(f"stopped everything that was started   {time.perf_counter() - began:.0f} s")
        if out is not None:
            typer.echo(f"kept    {folder}")


class _Tables:
    """The hospitals' files, and what was written into them."""

    def __init__(self, codebook: Any, formula: str, where: str | None) -> None:
        self.codebook, self.formula, self.where = codebook, formula, where
        self.frames: dict[str, Any] = {}
        self.files: dict[str, Path] = {}


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is None:
        with tempfile.TemporaryDirectory(prefix="polyclinic-") as name:
            yield Path(name)
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(
            f"{out}: this is not an empty folder",
            code="FOLDER_IN_USE",
            rule="a hub and its hospitals are made in a folder of their own",
            next="choose a new folder",
        )
    out.mkdir(parents=True, exist_ok=True)
    yield out.resolve()


def _tables(folder: Path, count: int) -> _Tables:
    """A file for each hospital; where there are not as many in the data, the rows are dealt."""
    import pandas as pd

    from polyclinic.data.codebook import Codebook
    from polyclinic.study.demo import demo_study

    study, sites = demo_study()
    kept = sites.codebook.model_dump(by_alias=True, exclude_none=True, mode="json")
    stored = {name: value for name, value in kept.items() if name not in ("site", "file")}
    codebook = Codebook.from_dict(stored)
    table = _Tables(codebook, study.model.formula, study.cohort.where)
    own = [name for name in codebook.columns if name not in codebook.derived]
    frames = {site: sites.local(site)[own] for site in sites.names}
    wanted = names(count, sites.names)
    if wanted != list(sites.names):
        rows = pd.concat(frames.values(), ignore_index=True)
        frames = {name: rows.iloc[i::count] for i, name in enumerate(wanted)}
    table.frames = frames
    data = folder / "data"
    data.mkdir()
    for site, frame in frames.items():
        table.files[site] = data / f"{site}.csv"
        frame.to_csv(table.files[site], index=False)
    (folder / "codebook.toml").write_text(_toml(stored), encoding="utf-8")
    return table


def _toml(value: Mapping[str, Any]) -> str:
    return "".join(f"{json.dumps(name)} = {_inline(one)}\n" for name, one in value.items())


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_inline, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _study(folder: Path, table: _Tables) -> Path:
    path = folder / "study.toml"
    where = "" if table.where is None else f"[cohort]\nwhere = {json.dumps(table.where)}\n"
    path.write_text(
        f'format = 1\nseed = 2026\n[study]\nname = "{STUDY}"\n'
        'title = "The same study over a network"\npurpose = "Demonstration"\n'
        '[data]\nhub = "try"\nschema = "codebook.toml"\n'
        f'{where}[model]\nkind = "logistic"\nformula = {json.dumps(table.formula)}\n'
        "[privacy]\nsecure_sums = true\n",
        encoding="utf-8",
    )
    return path


def _run(stage: Stage, study: Path) -> None:
    """Submit, review at one hospital, approve at all, and show what the run says."""
    running = stage.begin("run", str(study), "--hub", stage.hub)
    try:
        first = next(iter(stage.files))
        text = _when_offered(stage, first, running, "review", STUDY)
        typer.echo(f"\n== polyclinic site review, at {first}\n{text}")

        def approve(site: str) -> None:
            _when_offered(stage, site, running, "approve", STUDY, "--yes", STUDY)

        for site in stage.each(approve):
            typer.echo(f"approve {site}: signed with its own key")
        typer.echo("\n== polyclinic run study.toml --hub try")
        for line in running.stdout or ():
            typer.echo(line.rstrip("\n"))
        if running.wait():
            raise PolyclinicError(
                "the run ended without a result",
                code="RUN_FAILED",
                rule="the lines above say why",
                next="try again with --out FOLDER, and look at its logs",
            )
    finally:
        if running.poll() is None:
            running.terminate()
            running.wait()


def _when_offered(stage: Stage, site: str, running: subprocess.Popen[str], *command: str) -> str:
    """What a command of the hospital says of the study, once it has arrived there."""
    until = time.monotonic() + TO_ARRIVE
    while time.monotonic() < until:
        try:
            return stage.do("site", *command, site=site)
        except subprocess.CalledProcessError:
            if running.poll() is not None:
                break
            time.sleep(0.5)
    raise PolyclinicError(
        f"the study did not arrive at {site}",
        code="SITE_LOST",
        rule="the hub offers a study to every hospital",
        next="try again with --out FOLDER, and look at its logs",
    )


def _results(stage: Stage) -> Any:
    return json.loads((stage.folder / "runs" / STUDY / "metrics.json").read_bytes())


def _beside(table: _Tables, results: Any) -> str:
    """Coefficients of the run beside those of one fit over all rows in one place."""
    import pandas as pd

    from polyclinic.data.formula import formula_columns
    from polyclinic.privacy.policy import open_policy
    from polyclinic.study.door import read
    from polyclinic.study.regression import LogisticRegression

    rows = pd.concat(table.frames.values(), ignore_index=True)
    pooled = read({"all": rows}, schema=table.codebook, policy=open_policy())
    columns = formula_columns(table.formula, table.codebook)
    cohort = pooled.cohort(table.where, columns=columns)
    model = LogisticRegression().fit(cohort, table.formula).summary()
    lines = ["\nterm              over the network        all rows in one place   difference"]
    for term in results["model"]["terms"]:
        one, two = term["coef"], float(model.coef[term["name"]])
        lines.append(f"{term['name']:<14}{one:>20.12g}{two:>26.12g}{one - two:>13.1e}")
    return "\n".join(lines)
