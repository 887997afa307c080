"""The folder of a site: its key, its policy, its log, its ledger and its journal."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from polyclinic.core.checkpoint import write_atomic
from polyclinic.core.errors import InputError
from polyclinic.governance import policy_file, signing
from polyclinic.governance.audit import AuditLog
from polyclinic.governance.chain import Verified, verify
from polyclinic.governance.heads import Held
from polyclinic.governance.witness import held_beside
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure.identity import Identity

FORMAT = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_KEY, _POLICY = "keys/site.key", "policy.toml"


@dataclass(frozen=True)
class Standing:
    """The policy that holds now; the texts say why when it refuses everything, and what to do."""

    policy: Policy
    signed: bool
    code: str = ""
    reason: str = ""
    next: str = ""


class SiteHome:
    """One site's folder. Everything but `init` needs a folder that `init` has made.

    Raises
    ------
    InputError : NO_SITE when the folder is absent or not a site's.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> SiteHome:
        """The site in `folder`, checked at once: its name, its key and its whole log.

        Who only reads makes a `SiteHome(folder)`, which shows a damaged log as well.
        """
        home = cls(folder)
        _ = home.name, home.audit
        return home

    def init(self, name: str, policy: Policy | None = None) -> SiteHome:
        """Set the folder up for the site `name`: a key, a log with its first events.

        The folder is there whole, with `policy` signed where one is given, or not at all.

        Raises
        ------
        InputError : SITE_EXISTS when the folder is not empty, WRONG_VALUE for the name.
        """
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{name!r} is no name of a site",
                code="WRONG_VALUE",
                rule="a name has a-z, 0-9, _ and -, and at most 64 of them",
                next="choose another name",
            )
        if self.folder.exists() and not (self.folder.is_dir() and not any(self.folder.iterdir())):
            raise InputError(
                f"{self.folder}: this is not an empty folder",
                code="SITE_EXISTS",
                rule="a site is set up once, in a folder of its own",
                next="choose a new folder, or go on with the site that is here",
            )
        folder = self.folder.resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            identity = signing.generate(draft / _KEY)
            log = AuditLog(draft / "audit.jsonl", identity)
            log.append("site_created", site=name, fingerprint=signing.fingerprint(identity.public))
            text = f'format = {FORMAT}\nname = "{name}"\n'
            write_atomic(draft / "site.toml", text.encode())
            if policy is not None:
                policy_file.save(draft / _POLICY, policy)
                digest = policy_file.sign(draft / _POLICY, identity)
                log.append("policy_signed", sha256=digest)
            os.rename(draft, folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return self

    @cached_property
    def name(self) -> str:
        """The site's name."""
        try:
            content: dict[str, Any] = tomllib.loads((self.folder / "site.toml").read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            content = {}
        name = content.get("name")
        if (
            content.get("format") != FORMAT
            or not isinstance(name, str)
            or not _NAME.fullmatch(name)
        ):
            what = (
                "there is no folder here"
                if not self.folder.is_dir()
                else "this is no site's folder"
            )
            raise InputError(
                f"{self.folder}: {what}",
                code="NO_SITE",
                rule="a site's folder is made once, by polyclinic site init",
                next="name its folder: --home DIR or POLYCLINIC_SITE; or set the site up first",
            )
        return name

    @cached_property
    def identity(self) -> Identity:
        """The site's key. Raises KEY_EXPOSED when others can read it."""
        return signing.load(self._inside(_KEY))

    @cached_property
    def audit(self) -> AuditLog:
        """The site's log."""
        path = self.audit_path
        if not path.is_file() or not path.stat().st_size:
            raise InputError(
                f"{path}: the audit log is missing",
                code="LOG_DAMAGED",
                rule="a log only grows; a site without its log is not opened",
                next="restore the file from a backup",
            )
        return AuditLog(path, self.identity, held_beside(self.folder, self.name))

    @property
    def audit_path(self) -> Path:
        """Where the log lies, for those who only read it."""
        return self._inside("audit.jsonl")

    def verify_log(self, heads: Iterable[Held] = ()) -> Verified:
        """The check of the whole log, also with the heads that sites beside this one hold."""
        held = held_beside(self.folder, self.name)
        return verify(self.audit_path, self.identity.public, [*heads, *held])

    @property
    def policy_path(self) -> Path:
        """Where the policy lies, its signature beside it as ``.sig``."""
        return self._inside(_POLICY)

    @property
    def ledger_path(self) -> Path:
        """Where the ledger of releases and budgets lies."""
        return self._inside("ledger.sqlite")

    @property
    def journal_path(self) -> Path:
        """Where the journal of secure sums lies."""
        return self._inside("journal.sqlite")

    def policy(self) -> Standing:
        """The signed policy, or one that refuses everything, with the reason.

        Read anew at every call, so that a policy edited or taken away counts at once.
        """
        path = self.policy_path
        try:
            return Standing(policy_file.load_signed(path, self.identity.public), signed=True)
        except InputError as error:
            return Standing(policy_file.closed(error), False, error.code, error.what, error.next)

    def signed_policy(self) -> Policy | None:
        """The policy that was signed last, in force or not; None where it is not known any more."""
        text = policy_file.signed_text(self.policy_path, self.identity.public)
        try:
            return None if text is None else policy_file.parse(text)
        except InputError:
            return None

    def policy_difference(self) -> list[str]:
        """Lines in which the policy differs from what was signed, as far as that is known."""
        return policy_file.difference(self.policy_path, self.identity.public)

    def sign_policy(self) -> int:
        """Sign the policy as it lies in the folder, log its hash, and return the log's entry."""
        digest = policy_file.sign(self.policy_path, self.identity)
        return self.audit.append("policy_signed", sha256=digest)

    def _inside(self, name: str) -> Path:
        _ = self.name  # raises when this is no site's folder
        return self.folder / name
