"""Joining a hub: from the coordinator's invite to keys of one's own and a signed certificate.

What leaves the hospital: its name, the one-time token, a certificate request, its public signing
key, and the version of Polyclinic. The private keys are made here and stay.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.errors import InputError, Stopped
from polyclinic.data.check import check_table
from polyclinic.data.codebook import Codebook
from polyclinic.data.findings import Findings
from polyclinic.data.read import read_table
from polyclinic.data.table import Table
from polyclinic.data.toml import load_toml
from polyclinic.governance import policy_file
from polyclinic.governance.home import SiteHome
from polyclinic.governance.paper import PROTOCOL
from polyclinic.governance.signing import unhex
from polyclinic.models.neural.device import check as check_device
from polyclinic.privacy.policy import Policy
from polyclinic.site.data import Joined, write_private
from polyclinic.site.service import kit_arguments

SECONDS = 30.0
LONGEST = 64_000
ASK = "ask the coordinator for a new invite: polyclinic hub invite"
_REFUSALS = {
    "INVITE_REFUSED": ("the hub does not take this invite: it was used, or is too old", ASK),
    "SITE_EXISTS": (
        "the hub knows a hospital of this name by another key",
        "join with the folder that has the old key, or ask the coordinator to revoke the old one",
    ),
    "KEY_SUBSTITUTED": (
        "the hub knows this site's key under another name",
        "join with a folder of its own: --home DIR",
    ),
    "TOO_MANY": ("the hub has too many requests now", NEXT["TOO_MANY"]),
}


class _Invite(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int
    hub: str
    host: str
    port: int
    enrol_port: int
    ca: str
    coordinator: str
    site: str
    token: str
    expires: str


@dataclass(frozen=True)
class Done:
    """A hospital that has joined, and what its data look like."""

    home: SiteHome
    joined: Joined
    table: Table
    findings: Findings


def read_invite(path: Path) -> _Invite:
    """The invite in a file.

    Raises
    ------
    InputError : NO_FILE, BAD_TOML, UNKNOWN_KEY, WRONG_VALUE; INVITE_EXPIRED.
    """
    invite: _Invite = load_toml(path, _Invite)
    try:
        until = datetime.fromisoformat(invite.expires)
        good = until.tzinfo is not None and invite.format == 1 and _ports(invite)
    except ValueError:
        good = False
    if not good or len(unhex(invite.coordinator)) != 32 or "PRIVATE KEY" in invite.ca:
        raise InputError(
            f"{path}: this is no invite of a hub",
            code="WRONG_VALUE",
            rule="an invite is the file that polyclinic hub invite has written, unchanged",
            next=ASK,
        )
    if until < datetime.now(UTC):
        raise InputError(
            f"{path}: this invite ended on {until:%Y-%m-%d %H:%M %Z}",
            code="INVITE_EXPIRED",
            rule="an invite is good for one hospital, once, and for some days",
            next=ASK,
        )
    return invite


def _ports(invite: _Invite) -> bool:
    return all(0 < port < 65_536 for port in (invite.port, invite.enrol_port))


def join(
    invite: Path,
    data: Path,
    schema: Path,
    home: Path | None = None,
    table: str = "",
    cores: int = 0,
    device: str = "",
) -> Done:
    """Join the hub of `invite`. A join that fails leaves nothing half done and can be repeated.

    Parameters
    ----------
    data : a CSV, Parquet or duckdb file, or a folder of CSV or Parquet files.
    schema : the codebook.
    home : the site's folder; None: one named like the site, here. It is made where it is absent.
    table : of a duckdb file.
    cores : of this machine that may compute; 0: all.
    device : on which networks compute, "auto", "cuda", "cpu"; "": as the environment says.

    Raises
    ------
    InputError : of the invite, of the data; NO_DEVICE, WRONG_SITE, SITE_EXISTS, INVITE_REFUSED,
        VERSION_DIFFERS. Stopped : HUB_LOST.
    """
    check_device(device)
    found = read_invite(invite)
    site = SiteHome(home if home is not None else Path(found.site))
    _check_home(site, found)
    codebook = Codebook.load(schema)
    findings = check_table(data, codebook, found.site, table)
    rows = read_table(data, codebook, found.site, table)
    if not (site.folder / "site.toml").is_file():
        policy_file.save(site.init(found.site).policy_path, Policy())
        for name in ("site.toml", "policy.toml"):
            (site.folder / name).chmod(0o600)
    key, certificate = _enrolled(found, site)
    folder = site.folder.resolve()
    _write_kit(folder, found, key, certificate)
    copy = folder / "codebook.toml"
    write_private(copy, Path(schema).read_bytes())
    coordinator, pinned = unhex(found.coordinator), _pinned_before(folder, found)
    joined = Joined(
        Path(data).resolve(),
        copy,
        found.hub,
        found.host,
        found.port,
        coordinator,
        table,
        cores,
        device,
        pinned,
    )
    joined.save(folder)
    hashed = {"coordinator": found.coordinator, "codebook": codebook.content_hash}
    site.audit.append("hub_joined", hub=found.hub, host=found.host, **hashed)
    return Done(site, joined, rows, findings)


def _check_home(site: SiteHome, invite: _Invite) -> None:
    """A folder that is a site's is this site's; `init` refuses one that holds other things."""
    if not (site.folder / "site.toml").exists():
        return
    if site.name != invite.site:
        raise InputError(
            f"{site.folder}: this is the folder of {site.name}; the invite is for {invite.site}",
            code="WRONG_SITE",
            rule="an invite is for the hospital whose name stands in it",
            next="choose that hospital's folder: --home DIR, or ask for an invite for this one",
        )
    _ = SiteHome.open(site.folder)


def _pinned_before(folder: Path, invite: _Invite) -> Mapping[str, bytes]:
    """Keys that were pinned when the site had joined the same hub before."""
    try:
        before = Joined.load(folder)
    except InputError:
        return {}
    return before.pinned if before.coordinator == unhex(invite.coordinator) else {}


def _enrolled(invite: _Invite, site: SiteHome) -> tuple[bytes, bytes]:
    """A new key for TLS and its certificate from the hub."""
    from polyclinic.engines.flare.pki import make_request

    request, key = make_request(invite.site)
    asked = {
        "site": invite.site,
        "token": invite.token,
        "csr": request.decode(),
        "public": site.identity.public.hex(),
        "version": version("polyclinic"),
        "protocol": PROTOCOL,
    }
    answer = _post(invite, asked)
    if "code" in answer or not isinstance(answer.get("cert"), str):
        raise _refusal(invite, answer)
    return key, answer["cert"].encode()


def _post(invite: _Invite, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Send a request to the hub, whose certificate must chain to the invite's authority."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=invite.ca)
        line = http.client.HTTPSConnection(
            invite.host, invite.enrol_port, timeout=SECONDS, context=context
        )
        try:
            line.request("POST", "/enrol", json.dumps(asked), {"Content-Type": "application/json"})
            answer = json.loads(line.getresponse().read(LONGEST))
        finally:
            line.close()
    except ssl.SSLError as error:
        raise InputError(
            f"{invite.host}:{invite.enrol_port} is not the hub of the invite "
            f"({getattr(error, 'verify_message', '') or error.reason or 'no TLS'})",
            code="BAD_SIGNATURE",
            rule="the hub shows a certificate of the authority that stands in the invite",
            next="compare the fingerprint with the coordinator by telephone",
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Stopped(
            f"{invite.host}:{invite.enrol_port} does not answer ({type(error).__name__})",
            code="HUB_LOST",
            rule="the hub is reached at the address and the enrolment port of the invite",
            next="ask the coordinator for polyclinic hub start, and the network's people whether "
            f"outgoing connections to ports {invite.enrol_port} and {invite.port} are allowed; "
            "then run the same command again",
            kept="the site's folder and key; nothing left this hospital",
        ) from None
    return answer if isinstance(answer, dict) else {}


def _refusal(invite: _Invite, answer: Mapping[str, Any]) -> InputError:
    code = str(answer.get("code", "BAD_MESSAGE"))
    if code == "VERSION_DIFFERS":
        theirs = str(answer.get("version", "another version"))[:64]
        return InputError(
            f"the hub {invite.hub} runs Polyclinic {theirs}, this site {version('polyclinic')}",
            code=code,
            rule="hub and hospitals have the same version of Polyclinic",
            next=f"install polyclinic=={theirs} here, then join again; the invite is still good",
        )
    what, next = _REFUSALS.get(code, ("the hub does not take this request", ASK))
    return InputError(
        f"{invite.hub}: {what}",
        code=code,
        rule=RULES[code] if code == "TOO_MANY" else "an invite is used once, by its hospital",
        next=next,
    )


def _write_kit(folder: Path, invite: _Invite, key: bytes, certificate: bytes) -> None:
    """The FLARE client's folder; written anew where a join was broken off."""
    from polyclinic.engines.flare.kit import write_client_kit

    (folder / "log").mkdir(mode=0o700, exist_ok=True)
    write_client_kit(
        folder / "kit",
        hub=invite.hub,
        site=invite.site,
        host=invite.host,
        port=invite.port,
        ca=invite.ca.encode(),
        cert=certificate,
        key=key,
        **kit_arguments(folder),
    )
