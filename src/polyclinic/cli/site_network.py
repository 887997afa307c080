"""The hospital's commands for a hub: join it, look, decide about studies, start and stop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from polyclinic.cli import show
from polyclinic.core.errors import InputError

Home = Annotated[Path, typer.Option("--home", envvar="POLYCLINIC_SITE", help="The site's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Name = Annotated[str, typer.Argument(help="The study's name, or the first 8 letters of its hash.")]
HERE = Path()


def add_to(app: typer.Typer) -> None:
    """Add the commands to those of `polyclinic site`."""
    for command in (join, check, review, approve, refuse, start, stop, status):
        app.command()(command)


def join(
    invite: Annotated[Path, typer.Argument(help="What the coordinator has sent.")],
    data: Annotated[Path, typer.Option("--data", help="CSV, Parquet, duckdb, or a folder.")],
    schema: Annotated[Path, typer.Option("--schema", help="The codebook (TOML).")],
    home: Annotated[
        Path | None,
        typer.Option("--home", envvar="POLYCLINIC_SITE", help="The site's folder; none: ./NAME."),
    ] = None,
    table: Annotated[str, typer.Option("--table", help="Of a duckdb file.")] = "",
    cores: Annotated[
        int, typer.Option("--cores", min=0, help="Of this machine that may compute; 0: all.")
    ] = 0,
    device: Annotated[
        str, typer.Option("--device", help="Of networks: auto, cpu, cuda, cuda:1, mps.")
    ] = "",
) -> None:
    """Join a hub: keys are made here, and only a request for a certificate is sent."""
    from polyclinic.governance import signing
    from polyclinic.site import join as joining

    had_key = home is not None and (home / "keys").is_dir()
    done = joining.join(invite, data, schema, home, table, cores, device)
    joined, folder = done.joined, done.home.folder
    made = "this folder's own, kept as it was" if had_key else "made here"
    _said("keys", f"{made}; the private key never leaves this folder (mode 0700)")
    name = signing.fingerprint(joined.coordinator)
    _said("hub", f"{joined.hub}, fingerprint {name}: compare it by telephone")
    many = done.findings.problems + done.findings.errors
    rows, columns = done.table.n_rows, len(done.table.codebook.columns)
    _said("data", f"{rows:,} rows, {columns:,} columns, {many:,} finding{'' if many == 1 else 's'}")
    standing = done.home.policy()
    if standing.signed:
        _said("policy", "signed and in force")
    else:
        _said("policy", "none: this site refuses every plan until you sign one")
    _said("home", str(folder))
    if standing.signed:
        _said("next", f"polyclinic site start{_at(folder)}")
    else:
        _said("next", f"read {folder / 'policy.toml'}, change what you want, then")
        _said("", f"polyclinic site policy --sign{_at(folder)}")


def check(
    home: Home = HERE,
    everything: Annotated[bool, typer.Option("--all", help="Every column.")] = False,
    share: Annotated[
        bool, typer.Option("--share", help="A copy to send: no small counts.")
    ] = False,
    json: Json = False,
) -> None:
    """What the hub will see of this site: columns, counts above the minimum, quality."""
    from polyclinic.data.check import check_table
    from polyclinic.governance.home import SiteHome
    from polyclinic.site.data import Joined

    site = SiteHome(home)
    joined = Joined.load(home)
    findings = check_table(joined.data, joined.codebook(), site.name, joined.table)
    if json:
        show.as_json(findings.to_dict(share=share))
    else:
        typer.echo(findings.to_text(all=everything, share=share))


def review(
    study: Annotated[str | None, typer.Argument(help="A study; none: all that wait.")] = None,
    home: Home = HERE,
) -> None:
    """Studies that wait, in plain words: who asks, what for, what would leave."""
    from polyclinic.governance.home import SiteHome
    from polyclinic.site import review as reviewing

    site = SiteHome.open(home)
    names = [study] if study else [paper.hash for paper in reviewing.waiting(site)]
    texts = [reviewing.review(site, name) for name in names]
    typer.echo("\n".join(texts) or "no study waits for a decision\n", nl=False)


def approve(
    study: Name,
    home: Home = HERE,
    yes: Annotated[str, typer.Option("--yes", help="The study's name, typed here.")] = "",
) -> None:
    """Approve a study as it was reviewed, signed with this site's key."""
    from polyclinic.governance.home import SiteHome
    from polyclinic.governance.paper import APPROVED
    from polyclinic.site.inbox import Inbox
    from polyclinic.site.review import not_in_force

    site = SiteHome.open(home)
    inbox, standing = Inbox(site), site.policy()
    paper = inbox.find(study)
    name = paper.study.study.name
    if not standing.signed:
        raise not_in_force(standing)
    typer.echo(f"This approves study {paper.short_hash} as reviewed; any change asks you again.")
    typed = yes or typer.prompt("Type the study's name to sign", type=str)
    if typed.strip() != name:
        raise InputError(
            f"{typed.strip()!r} is not the study's name",
            code="NOT_SIGNED",
            rule="an approval is signed by typing the study's name",
            next=f"polyclinic site approve {name}",
            kept="the study waits",
        )
    entry = inbox.decide(paper, APPROVED)
    _said("signed", f"audit entry {entry}   take it back: polyclinic site refuse {name}", 9)


def refuse(
    study: Name,
    why: Annotated[str, typer.Option("--why", help="Words for the coordinator.")],
    home: Home = HERE,
) -> None:
    """Refuse a study, or take an approval back; it counts at once."""
    from polyclinic.governance.home import SiteHome
    from polyclinic.governance.paper import REFUSED
    from polyclinic.site.inbox import Inbox

    site = SiteHome.open(home)
    inbox = Inbox(site)
    paper = inbox.find(study)
    entry = inbox.decide(paper, REFUSED, why)
    _said("refused", f"audit entry {entry}; nothing more of {paper.study.study.name} leaves", 9)


def start(
    home: Home = HERE,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in front: systemd, containers.")
    ] = False,
) -> None:
    """Connect to the hub and answer what is approved."""
    from polyclinic.governance.home import SiteHome
    from polyclinic.site import service

    site = SiteHome.open(home)
    pid = service.start(site, foreground)
    _said("started", f"{site.name}, process {pid}; log in {site.folder / 'log'}", 9)
    standing = site.policy()
    if not standing.signed:
        _said("policy", f"! {standing.code}: every plan is refused", 9)
        _said("next", f"polyclinic site policy{_at(site.folder)}", 9)
        return
    _said("next", f"polyclinic site status{_at(site.folder)}", 9)


def stop(home: Home = HERE) -> None:
    """End the process of this site."""
    from polyclinic.governance.home import SiteHome
    from polyclinic.site import service

    site = SiteHome(home)
    pid = service.stop(site)
    _said("stopped", f"process {pid}" if pid else f"{site.name} was not running", 9)


def status(home: Home = HERE, json: Json = False) -> None:
    """Whether this site runs, is connected, and what waits."""
    from polyclinic.governance.home import SiteHome
    from polyclinic.site import service

    found = service.status(SiteHome(home))
    if json:
        show.as_json({**vars(found), "studies": [list(one) for one in found.studies]})
        return
    typer.echo(_status_text(found, _at(home)), nl=False)


def _status_text(found: Any, at: str) -> str:
    stopped = f"does not run: polyclinic site start{at}"
    process = f"runs, process {found.pid}" if found.pid else stopped
    ago = "" if found.heard is None else f", last heard {_ago(found.heard)} ago"
    link = "-"
    if found.pid:
        link = f"{'connected' if found.connected else '! not connected'}{ago}"
    if found.revoked:
        link = "! the hub does not take this site any more: ask the coordinator"
    if found.pid and not found.agent:
        link += "; ! the agent does not run: see log/agent.log"
    policy = "signed and in force" if not found.policy else f"! {found.policy}: every plan refused"
    lines = [
        f"{found.site:<16}{process}",
        f"{'hub ' + found.hub:<16}{link}",
        f"{'policy':<16}{policy}",
    ]
    if (ends := show.ending(found.certificate_days)) is not None:
        lines.append(f"{'certificate':<16}! {ends}: join again with a new invite, the same folder")
    lines += [f"{'study':<16}{name:<34}{short}   {state}" for name, short, state in found.studies]
    if any(state == "waiting" for *_, state in found.studies):
        lines.append(f"{'next':<16}polyclinic site review{at}")
    return "\n".join(show.narrow(lines)) + "\n"


def _ago(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def _at(folder: Path) -> str:
    """How a command is told about this folder; nothing where it finds it by itself."""
    known = os.environ.get("POLYCLINIC_SITE") or "."
    return "" if folder.resolve() == Path(known).resolve() else f" --home {folder}"


def _said(label: str, text: str, width: int = 8) -> None:
    typer.echo(f"{label:<{width}}{text}")
