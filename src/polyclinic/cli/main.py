"""The command line. It shows and asks; what it calls is the study layer."""

from __future__ import annotations

import errno
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from polyclinic.cli import hub, show, site, try_
from polyclinic.core.errors import InputError, PolyclinicError

app = typer.Typer(
    name="polyclinic",
    cls=TyperGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hospitals learn together; only sums leave.",
)
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run.")]
Log = Annotated[Path | None, typer.Option("--log", help="Folder for logs that TensorBoard shows.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
app.add_typer(site.app, name="site")
app.add_typer(try_.app, name="try")
app.add_typer(hub.app, name="hub")
_debug = False
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"polyclinic {version('polyclinic')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", help="Show the version.", callback=_say_version, is_eager=True),
]


@app.callback()
def options(debug: Debug = False, version: Version = False) -> None:
    """What every command understands."""
    global _debug
    _debug = _debug or debug


@app.command()
def demo(out: Out = None, json: Json = False) -> None:
    """The main job on real data: four hospitals, one model, validation, a report."""
    from polyclinic.study.demo import demo_study
    from polyclinic.study.run import run

    study, sites = demo_study()
    folder = out or Path("runs/demo")
    view = show.View(quiet=json)
    view.title(study, sites)
    _finish(
        run(study, folder, resume=_stopped(folder, study.hash), show=view.tell, sites=sites),
        view,
        json,
    )


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="A study file (TOML).")],
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    over: Annotated[
        str | None, typer.Option("--hub", help="Over the hospitals of this hub.")
    ] = None,
    log: Log = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="Where to compute: embedded, dask or spark.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Of dask: processes here; of spark: cores.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="One that is there; of spark: its master.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a study; the run folder holds model, coefficients, metrics and report."""
    from polyclinic.governance.study_file import load_study, with_engine
    from polyclinic.study.run import engine_of
    from polyclinic.study.run import run as run_study

    found = load_study(study)
    if over or found.data.hub:
        return _over_hub(study, over or found.data.hub, out, resume, json, _logs(log))
    view = show.View(quiet=json)
    section = with_engine(found, engine, workers, scheduler)
    view.title(found, None, section.name)
    with engine_of(section) as where:
        view.on(where)
        more: dict[str, Any] = {"callbacks": _logs(log), "engine": where}
        _finish(run_study(study, out, resume=resume, show=view.tell, **more), view, json)


def _logs(folder: Path | None) -> list[Any]:
    """The callbacks that write logs."""
    if folder is None:
        return []
    from polyclinic.study.watching import TensorBoard

    return [TensorBoard(folder)]


def _over_hub(
    study: Path, name: str | None, out: Path | None, resume: bool, json: bool, callbacks: list[Any]
) -> None:
    """Hand a study in at a hub, or find its run that is not over, and look on."""
    from polyclinic.study import hubrun, hubservice
    from polyclinic.study.hub import HubHome

    home = HubHome.named(name)
    submitted = hubrun.resume(home, study) if resume else hubrun.submit(home, study)
    if not hubservice.running(home):
        typer.echo(
            f"hub    {home.name} is not running; the run begins when it is: "
            f"polyclinic hub start {home.name}",
            err=True,
        )
    hub.follow(home, submitted.id, out, json, callbacks)


@app.command()
def attach(
    run: Annotated[str, typer.Argument(help="A run, as `polyclinic hub runs` lists it.")],
    over: Annotated[str | None, typer.Option("--hub", help="The hub's name.")] = None,
    out: Out = None,
    log: Log = None,
    json: Json = False,
) -> None:
    """Look on at a run of a hub again, from its beginning, and fetch its result."""
    from polyclinic.study.hub import HubHome

    hub.follow(HubHome.named(over), run, out, json, _logs(log))


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="A hospital's file.")],
    schema: Annotated[Path, typer.Option("--schema", help="The codebook (TOML).")],
    site: Annotated[str | None, typer.Option("--site", help="The hospital's name.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every column.")] = False,
    share: Annotated[
        bool, typer.Option("--share", help="A copy to send: no small counts.")
    ] = False,
    json: Json = False,
) -> None:
    """Data quality of one hospital: findings and counts, never rows."""
    from polyclinic.data.check import check_table
    from polyclinic.data.codebook import Codebook

    findings = check_table(data, Codebook.load(schema), site or data.stem)
    if json:
        show.as_json(findings.to_dict(share=share))
    else:
        typer.echo(findings.to_text(all=everything, share=share))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder, or a saved model.")],
    data: Annotated[Path, typer.Argument(help="A file with the model's columns.")],
    site: Annotated[str, typer.Option("--site", help="Whose file it is.")] = "new rows",
    out: Annotated[Path | None, typer.Option("--out", help="Write CSV here.")] = None,
) -> None:
    """Predictions for the rows of a file, as CSV, in the file's order."""
    from polyclinic.study.predict import predict_file

    table = predict_file(run, data, site)
    if out is None:
        typer.echo(table.to_csv(index=False), nl=False)
    else:
        from polyclinic.core.checkpoint import write_atomic

        write_atomic(out, table.to_csv(index=False).encode())


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write the report of a run anew."""
    from polyclinic.study.predict import report_again

    typer.echo(f"report {report_again(run)}")


@app.command()
def ledger(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    share: Annotated[bool, typer.Option("--share", help="No small counts, no notes.")] = False,
) -> None:
    """What left each hospital of a run, from the hospitals' own ledgers."""
    from polyclinic.study.homes import ledger_of, ledgers_below

    for name, home in ledgers_below(run).items():
        typer.echo(f"== {name}")
        typer.echo(ledger_of(home, share=share))


@app.command()
def datasets() -> None:
    """The named data sets, where they come from, and whether they are here."""
    from polyclinic.data.datasets import describe

    show.datasets(describe())


@app.command()
def explain(code: Annotated[str, typer.Argument(help="An error code.")]) -> None:
    """The rule and the next step behind an error code that crossed a hospital's border."""
    from polyclinic.core.codes import NEXT, RULES

    if code not in RULES:
        raise InputError(
            f"no code {code} crosses a border",
            code="UNKNOWN_CODE",
            rule=f"codes: {', '.join(RULES)}",
            next="correct the code",
            kept="",
        )
    typer.echo(f"{code}\nrule   {RULES[code]}\nnext   {NEXT.get(code, 'none')}")


def _stopped(folder: Path, study: str) -> bool:
    """True when `folder` holds an unfinished run of this very study."""
    import json

    mark = folder / "study.json"
    return (
        mark.exists()
        and not (folder / "metrics.json").exists()
        and json.loads(mark.read_bytes()).get("hash") == study
    )


def _finish(done: Any, view: show.View, json: bool) -> None:
    if json:
        show.as_json(done.results)
    else:
        view.finished(done)


def main() -> None:
    """Entry point: exit codes 0 done, 2 wrong input, 3 refused, 4 stopped, 130 Ctrl-C."""
    global _debug
    if "--debug" in sys.argv:  # allowed in any place
        _debug = True
        sys.argv.remove("--debug")
    try:
        app(standalone_mode=False)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except PolyclinicError as error:
        if _debug:
            traceback.print_exc()
        show.error(error)
        sys.exit(130 if error.code == "INTERRUPTED" else error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):
            _usage(error)
        if _debug:
            raise
        _unplanned(error)


def _unplanned(error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in CLOSED and error.filename:
        closed = InputError(
            f"{error.filename}: {error.strerror}",
            code="NO_ACCESS",
            rule="the account that runs this reads and writes its own folders",
            next="run it as the account to which they belong, or look at their owner and mode"
            if error.errno in (errno.EACCES, errno.EPERM)
            else "the file system says so, whatever the account: see to it, or use another folder",
            kept="what was written before",
        )
        show.error(closed)
        sys.exit(closed.exit_code)
    show.unexpected(error)
    sys.exit(1)


def _usage(error: Any) -> None:
    error.show()
    sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
