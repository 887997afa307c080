"""The coordinator's side: a hub, its hospitals and its runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from polyclinic.cli import show
from polyclinic.core.errors import PolyclinicError, Refused, Stopped
from polyclinic.core.fit import Callback, Round
from polyclinic.governance.officer import plain

app = typer.Typer(no_args_is_help=True, help="The coordinator's own side.")
Name = Annotated[str | None, typer.Argument(help="The hub's name; not needed where there is one.")]
Hub = Annotated[str | None, typer.Option("--hub", help="The hub's name, where there are several.")]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Run = Annotated[str, typer.Argument(help="A run, as `polyclinic hub runs` lists it.")]


def _home(name: str | None) -> Any:
    from polyclinic.study.hub import HubHome

    return HubHome.named(name)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The hub's name: a-z 0-9 -")],
    host: Annotated[
        str, typer.Option("--host", help="Name or address at which hospitals reach it.")
    ] = "localhost",
    port: Annotated[
        int, typer.Option("--port", help="The port; the one after it is for joining.")
    ] = 8102,
) -> None:
    """Set a hub up on this machine: keys, an authority for certificates, a store."""
    from polyclinic.governance.signing import fingerprint
    from polyclinic.study.hub import HubHome

    home = HubHome.create(name, host, port)
    typer.echo(f"hub    {name} in {home.folder} (mode 0700): back it up, its keys are only there")
    typer.echo(f"key    {fingerprint(home.identity.public)}: hospitals compare it by telephone")
    typer.echo(f"ports  {home.port} for the hospitals' processes, {home.enrol_port} for joining")
    if host == "localhost":
        typer.echo("host   localhost: for hospitals on this machine only; for others give --host")
    typer.echo(f"next   polyclinic hub start {name}; polyclinic hub invite HOSPITAL")


@app.command()
def invite(
    hospital: Annotated[str, typer.Argument(help="The hospital's name: a-z 0-9 - _")],
    hub: Hub = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write it here.")] = None,
    days: Annotated[float, typer.Option("--days", help="How long it is good for.", min=0.01)] = 14,
) -> None:
    """A small file to send to a hospital. It is used once; no private key is in it."""
    from polyclinic.study.hub import write_invite

    home = _home(hub)
    path = out or Path(f"{hospital}.invite")
    write_invite(path, home.invite(hospital, days * 86_400))
    typer.echo(f"invite {path}: good for {days:g} days and one use; one before it is void")
    typer.echo(f"next   send it; at {hospital}: polyclinic site join {path.name} ...")


@app.command()
def start(
    name: Name = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, for a service manager.")
    ] = False,
) -> None:
    """Start the hub; unfinished runs go on."""
    from polyclinic.study import hubservice

    home = _home(name)
    process = hubservice.start(home, foreground=foreground)
    waiting = len(home.store.unfinished())
    typer.echo(f"hub    {home.name} is up on {home.host}:{home.port}, process {process}")
    if waiting:
        typer.echo(f"runs   {waiting} not finished: each goes on by itself")


@app.command()
def stop(name: Name = None) -> None:
    """Stop the hub; runs stop, and go on when it is started again."""
    from polyclinic.study import hubservice

    home = _home(name)
    there = hubservice.stop(home)
    typer.echo(f"hub    {home.name} {'is stopped' if there else 'was not running'}")


@app.command()
def status(name: Name = None, json: Json = False) -> None:
    """What is true now: the hub, every hospital, every run that is not over."""
    from polyclinic.study import hubservice

    found = hubservice.status(_home(name))
    if json:
        show.as_json(found)
    else:
        typer.echo("\n".join(show.narrow(status_lines(found))))


def status_lines(found: dict[str, Any]) -> list[str]:
    """The status as people read it."""
    hospitals = [one for one in found["hospitals"] if one["state"] not in ("invited", "revoked")]
    there = sum(one["state"] == "connected" for one in hospitals)
    up = "not running" if found["up"] is None else f"up {_ago(found['up'])}"
    lines = [f"{found['hub']}   {up}   {there} of {len(hospitals)} hospitals connected"]
    if found["hospitals"]:
        wide = max(13, *(len(one["name"]) + 2 for one in found["hospitals"]))
        lines.append(f"{'hospital':<{wide}}{'state':<15}{'last heard':<13}version")
        for one in found["hospitals"]:
            lines += _hospital(one, wide)
    runs = [run for run in found["runs"] if not run["finished"]]
    if runs:
        wide = max(24, *(len(run["id"]) + 2 for run in runs))
        state = _wide(runs)
        lines.append(f"{'run':<{wide}}{'state':<{state}}{'rounds':<8}since")
        for run in runs:
            lines.append(
                f"{run['id']:<{wide}}{run['state']:<{state}}{run['round']:<8}{_ago(run['since'])}"
            )
            lines += [f"  {line}" for line in run["detail"].splitlines()]
    if (ends := show.ending(found["certificate_days"])) is not None:
        lines.append(f"! the hub's certificate {ends}: stop it, move server/ away, start it")
    if found["up"] is None:
        lines.append(f"next   polyclinic hub start {found['hub']}")
    return lines


def _wide(runs: list[dict[str, Any]]) -> int:
    return max(27, *(len(run["state"]) + 2 for run in runs))


def _hospital(one: dict[str, Any], wide: int) -> list[str]:
    sign = " " if one["state"] in ("connected", "invited") and not one["note"] else "!"
    heard = "" if one["heard"] is None else f"{_ago(one['heard'])} ago"
    state = f"{sign} {one['state']}" if sign == "!" else one["state"]
    start = max(wide - 2, len(one["name"]) + 1) if sign == "!" else wide
    gap = 15 + wide - start
    lines = [f"{one['name']:<{start}}{state:<{gap}}{heard:<13}{one['version']}".rstrip()]
    notes = [one["note"]] if one["note"] else []
    if (ends := show.ending(one["certificate_days"])) is not None:
        notes.append(f"! its certificate {ends}: invite it again")
    return [*lines, *(f"  {note}" for note in notes)]


def _ago(seconds: float) -> str:
    """ "12 min", "3 days"."""
    for unit, length in (("day", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if unit == 'day' and number != 1 else ''}"
    return f"{max(0, int(seconds))} s"


@app.command()
def runs(name: Name = None, json: Json = False) -> None:
    """All runs, the newest last."""
    from polyclinic.study import hubservice

    found = hubservice.status(_home(name))["runs"]
    if json:
        return show.as_json(found)
    if not found:
        return typer.echo("no run yet: polyclinic run STUDY.toml --hub NAME")
    wide = max(24, *(len(run["id"]) + 2 for run in found))
    state = _wide(found)
    lines = [f"{'run':<{wide}}{'study':<12}{'state':<{state}}{'rounds':<8}since"]
    for run in found:
        short = f"{run['hash'][:4]} {run['hash'][4:8]}"
        lines.append(
            f"{run['id']:<{wide}}{short:<12}{run['state']:<{state}}"
            f"{run['round']:<8}{_ago(run['since'])}"
        )
    typer.echo("\n".join(show.narrow(lines)))


@app.command()
def logs(run: Run, hub: Hub = None, json: Json = False) -> None:
    """What happened in a run, line by line: decisions, rounds, bytes, losses."""
    from polyclinic.study.hubrun import events_of

    home = _home(hub)
    home.store.run(run)
    found, _ = events_of(home, run).read()
    if json:
        return show.as_json(found)
    for one in found:
        if one["event"] in ("state", "decision", "round", "step"):
            typer.echo(f"{one['at'][:19]}Z  {_said(one)}")


def _said(one: dict[str, Any]) -> str:
    event = one["event"]
    if event == "state":
        lines = [" ".join(line.split()) for line in one["detail"].splitlines()]
        more = "".join(f"; {line}" for line in lines if line)
        return f"{one['state']}{more}"
    if event == "decision":
        return f"{one['site']} {one['verdict']}" + (f": {plain(one['why'])}" if one["why"] else "")
    if event in ("round", "step"):
        moved = sum(sum(pair) for pair in one["bytes"].values())
        loss = (
            ""
            if one["loss"] is None
            else f"   {show.fit_figure(one.get('task', 'glm.'), one['loss'])}"
        )
        return (
            f"round {one['n']}   {one['step']}{loss}   {one['seconds']:.3f} s   "
            f"{moved / 1000:,.1f} kB"
        )
    return str(event)


@app.command()
def cancel(run: Run, hub: Hub = None) -> None:
    """End a run. What was released stays in the hospitals' ledgers."""
    from polyclinic.study import hubrun

    found = hubrun.cancel(_home(hub), run)
    typer.echo(f"run    {run} {'is cancelled' if found.finished else 'ends within a few seconds'}")


@app.command()
def revoke(
    hospital: Annotated[str, typer.Argument(help="The hospital's name.")], hub: Hub = None
) -> None:
    """Put a hospital out: it is asked nothing any more, and its unfinished runs end."""
    from polyclinic.study import hubservice

    hubservice.revoke(_home(hub), hospital)
    typer.echo(f"hub    {hospital} is out: its certificate is not taken, its runs are cancelled")
    typer.echo(f"next   to let it in again: polyclinic hub invite {hospital}")


class HubView(show.View):
    """Shows a run of a hub from its events."""

    def __init__(self, quiet: bool = False, callbacks: Sequence[Callback] = ()) -> None:
        super().__init__(quiet)
        self.callbacks = callbacks
        self.said = ""

    def submitted(self, home: Any, run: Any) -> None:
        """What was handed in."""
        short = f"{run.hash[:4]} {run.hash[4:8]}"
        self.say(f"{run.id}   study {short}   hub {home.name}")

    def see(self, one: dict[str, Any]) -> None:
        """One event."""
        event = one["event"]
        if event == "state" and one["state"] not in ("done", "failed", "refused", "cancelled"):
            text = f"run    {one['state']}"
            if text != self.said or one["detail"]:
                self.say("\n       ".join([text, *one["detail"].splitlines()]))
            self.said = text
        elif event == "decision":
            self.say(f"       {_said(one)}")
        elif event == "round":
            done = _round(one)
            self._progress(done)
            for callback in self.callbacks:
                callback(done)
        elif event == "step":
            self._moving(f"check  {one['step']}")
        elif event == "model":
            gain = "" if one["gain"] is None else f"   last gain {one['gain']:.0e}"
            state = "converged" if one["converged"] else "NOT converged"
            deviance = "" if one["deviance"] is None else f"   deviance {one['deviance']:.3f}"
            self.fit_line = f"fit    round {one['rounds']}{deviance}{gain}   {state}"


def _round(one: dict[str, Any]) -> Round:
    """A round from its event."""
    figures = dict(one.get("figures", {}))
    if one["loss"] is not None:
        figures["loss"] = one["loss"]
    moved = one.get("bytes", {})
    back = sum(answer for _, answer in moved.values()) // max(len(moved), 1)
    left = ({"sites": list(moved), "bytes": back},)
    task = one.get("task", "glm.")
    return Round(
        one["number"], one["step"], task, one.get("plan", ""), one["seconds"], figures, left
    )


def follow(
    home: Any, run: str, out: Path | None, json: bool, callbacks: Sequence[Callback] = ()
) -> None:
    """Show a run until it is over, then its result; Ctrl-C leaves it running.

    callbacks  called after every round of the fit

    Raises
    ------
    Refused, Stopped, PolyclinicError : as the run ended.
    """
    from polyclinic.study import hubrun

    view = HubView(json, callbacks)
    view.submitted(home, home.store.run(run))
    try:
        for one in hubrun.follow(home, run):
            view.see(one)
    except KeyboardInterrupt:
        print(
            f"\ndetached: {run} goes on at the hub\n"
            f"next   polyclinic attach {run} --hub {home.name}; polyclinic hub status {home.name}",
            file=sys.stderr,
        )
        sys.exit(130)
    ended = home.store.run(run)
    if ended.state != "done":
        raise _ended(home, ended)
    _show_result(home, ended, out, view, json)


def _show_result(home: Any, run: Any, out: Path | None, view: HubView, json: bool) -> None:
    import json as text

    from polyclinic.study import hubrun

    folder = out or hubrun.folder_of(home, run)
    hubrun.fetch(home, run.id, folder)
    results = text.loads((folder / "metrics.json").read_bytes())
    if json:
        show.as_json(results)
    else:
        view.finished(SimpleNamespace(results=results, report=folder / "report.html"))


def _ended(home: Any, run: Any) -> PolyclinicError:
    """The error of a run that ended without a result, as its driver has written it down."""
    first, *lines = run.detail.splitlines() or [run.state]
    what, _, code = first.rpartition("  ")
    parts = {line[:6].strip(): line[7:] for line in lines if line[:6].strip()}
    kinds: dict[str, type[PolyclinicError]] = {"refused": Refused, "cancelled": Stopped}
    kind = kinds.get(run.state, PolyclinicError)
    return kind(
        f"{run.id} {run.state}: {what}" if what else f"{run.id} is {run.state}",
        code=code if what else run.state.upper(),
        rule=parts.get("rule", ""),
        next=parts.get("next", "") or f"polyclinic hub logs {run.id} --hub {home.name}",
        kept="everything up to the last round; polyclinic run STUDY goes on from there"
        if run.state == "failed"
        else parts.get("kept") or "what was released before, in the hospitals' ledgers",
    )
