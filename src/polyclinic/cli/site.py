"""The hospital's side: its folder, its policy, its ledger and its log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from polyclinic.cli import show, site_network
from polyclinic.core.errors import InputError, PolyclinicError

app = typer.Typer(no_args_is_help=True, help="The hospital's own side.")
audit = typer.Typer(no_args_is_help=True, help="The tamper-evident log.")
app.add_typer(audit, name="audit")
site_network.add_to(app)

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
    """What may be asked here, and what was changed since it was signed; --sign puts it in force."""
    from polyclinic.governance.home import SiteHome

    site = SiteHome.open(home) if sign else SiteHome(home)
    if sign:
        entry = site.sign_policy()
        typer.echo(f"signed  audit entry {entry}; any edit takes it out of force")
    standing = site.policy()
    if standing.signed:
        typer.echo(f"policy  {site.policy_path} is signed and in force")
        return
    changed = site.policy_difference()
    if changed:
        typer.echo("\n".join(changed))
    raise PolyclinicError(
        standing.reason,
        code=standing.code,
        rule="this site refuses every plan until its policy is as it was signed",
        next=_policy_next(site, standing.next, bool(changed)),
        kept="nothing leaves this site",
    )


def _policy_next(site: Any, otherwise: str, known: bool) -> str:
    """What to do about a policy that is not in force."""
    if not known:
        return otherwise
    return (
        "compare the lines above: - was signed, + is there now. To restore what was signed: "
        f"cp {site.policy_path}.signed {site.policy_path}\n"
        f"To put the change in force: polyclinic site policy --sign --home {site.folder}"
    )


@app.command()
def ledger(home: Home = HERE, share: Share = False, json: Json = False) -> None:
    """What was asked, what left, and what is left of the budget."""
    from polyclinic.study.homes import ledger_of

    found: Any = ledger_of(home, share=share, data=json)
    show.as_json(found) if json else typer.echo(found, nl=False)


@audit.command()
def heads(
    home: Home = HERE,
    out: Annotated[Path | None, typer.Option("--out", help="Write them here.")] = None,
) -> None:
    """The signed heads of other sites' logs that are held here, for them to verify theirs with."""
    from polyclinic.core.checkpoint import write_atomic
    from polyclinic.study.homes import heads_of

    found = heads_of(home)
    if out is None:
        typer.echo(found, nl=False)
        return
    write_atomic(out, found.encode())
    typer.echo(f"heads   {len(found.splitlines())} sites' in {out}")
    typer.echo("next    give them the file: polyclinic site audit verify --head FILE")


@audit.command()
def verify(
    home: Home = HERE,
    heads: Annotated[
        list[Path] | None,
        typer.Option("--head", help="What `site audit heads` wrote at another site."),
    ] = None,
) -> None:
    """Check the log: every edit, deletion, swap and, with a head from outside, truncation."""
    from polyclinic.study.homes import verify_log

    verified = verify_log(home, heads or [])
    if verified.ok:
        typer.echo(f"log     {verified.entries:,} entries, chain unbroken")
        seen = verified.witnessed
        typer.echo(
            f"heads   other sites vouch for entries 1 to {seen:,}; only later ones could be missing"
            if seen
            else "heads   no other site vouches for it: entries cut off at the end are not seen"
        )
        return
    where = "" if verified.line is None else f" at line {verified.line:,}"
    raise InputError(
        f"{home}: the chain of the log is broken{where}: {verified.problem}",
        code="LOG_DAMAGED",
        rule="a log only grows; every line is signed and holds the hash of the line before",
        next="compare with a backup, and with the heads that the other hospitals hold",
        kept=f"the {verified.entries:,} entries before it stand",
    )
