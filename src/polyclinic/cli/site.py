"""The hospital's side: its folder, its policy, its ledger and its log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from polyclinic.cli import show
from polyclinic.core.errors import InputError

app = typer.Typer(no_args_is_help=True, help="The hospital's own side.")
audit = typer.Typer(no_args_is_help=True, help="The tamper-evident log.")
app.add_typer(audit, name="audit")

Home = Annotated[Path, typer.Option("--home", envvar="POLYCLINIC_SITE", help="The site's folder.")]
Share = Annotated[bool, typer.Option("--share", help="A copy to send: no small counts, no notes.")]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
HERE = Path()


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The site's name: a-z 0-9 - _")],
    home: Home = HERE,
) -> None:
    """Set a site up: keys, an empty log, and a policy to read and sign."""
    from polyclinic.governance import policy_file, signing
    from polyclinic.governance.home import SiteHome
    from polyclinic.privacy.policy import Policy

    site = SiteHome(home).init(name)
    policy_file.save(site.policy_path, Policy())
    typer.echo(f"site    {name} in {home}; the private key never leaves it (mode 0700)")
    typer.echo(
        f"key     {signing.fingerprint(site.identity.public)}: others compare it by telephone"
    )
    typer.echo(f"policy  {site.policy_path}: not signed, so this site refuses every plan")
    typer.echo("next    read it, edit it, then polyclinic site policy --sign")


@app.command()
def policy(
    home: Home = HERE,
    sign: Annotated[bool, typer.Option("--sign", help="Sign it as it lies there.")] = False,
) -> None:
    """What may be asked here; --sign puts it in force."""
    from polyclinic.governance.home import SiteHome

    site = SiteHome.open(home)
    if sign:
        entry = site.sign_policy()
        typer.echo(f"signed  audit entry {entry}; any edit takes it out of force")
    standing = site.policy()
    if standing.signed:
        typer.echo(f"policy  {site.policy_path} is signed and in force")
    else:
        typer.echo(f"policy  refuses every plan: {standing.reason}  {standing.code}")
        typer.echo("next    polyclinic site policy --sign")


@app.command()
def ledger(home: Home = HERE, share: Share = False, json: Json = False) -> None:
    """What was asked, what left, and what is left of the budget."""
    from polyclinic.study.homes import ledger_of

    found: Any = ledger_of(home, share=share, data=json)
    show.as_json(found) if json else typer.echo(found, nl=False)


@audit.command()
def verify(
    home: Home = HERE,
    heads: Annotated[
        list[Path] | None,
        typer.Option("--head", help="A signed head of this log that another site holds."),
    ] = None,
) -> None:
    """Check the log: every edit, deletion, swap and, with a head from outside, truncation."""
    from polyclinic.study.homes import verify_log

    verified = verify_log(home, [path.read_bytes() for path in heads or []])
    if verified.ok:
        typer.echo(f"log     {verified.entries:,} entries, chain unbroken")
        return
    where = "" if verified.line is None else f" at line {verified.line:,}"
    raise InputError(
        f"{home}: the chain of the log is broken{where}: {verified.problem}",
        code="LOG_DAMAGED",
        rule="a log only grows; every line is signed and holds the hash of the line before",
        next="compare with a backup, and with the heads that the other hospitals hold",
        kept=f"the {verified.entries:,} entries before it stand",
    )
