"""The folder of a site: its key, its policy, its log, its ledger and its journal."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from polyclinic.core.checkpoint import write_atomic
from polyclinic.core.errors import InputError
from polyclinic.governance import policy_file, signing
from polyclinic.governance.audit import AuditLog
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure.identity import Identity

FORMAT = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_KEY = "keys/site.key"


@dataclass(frozen=True)
class Standing:
    """The policy that holds now; `code` and `reason` say why when it refuses everything."""

    policy: Policy
    signed: bool
    code: str = ""
    reason: str = ""


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
        """The site in `folder`, checked at once: its name, its key and the end of its log."""
        home = cls(folder)
        _ = home.name, home.audit
        return home

    def init(self, name: str) -> SiteHome:
        """Set the folder up for the site `name`: a key, a log with its first events, no policy.

        Raises
        ------
        InputError : SITE_EXISTS when the folder is not empty, WRONG_VALUE for the name.
        """
        if not _NAME.fullmatch(name):
            raise _error(
                f"{name!r} is no name of a site",
                "WRONG_VALUE",
                "a name has a-z, 0-9, _ and -, and at most 64 of them",
                "choose another name",
            )
        if self.folder.exists() and not (self.folder.is_dir() and not any(self.folder.iterdir())):
            raise _error(
                f"{self.folder}: this is not an empty folder",
                "SITE_EXISTS",
                "a site is set up once, in a folder of its own",
                "choose a new folder, or go on with the site that is here",
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
            raise _error(
                f"{self.folder}: {what}",
                "NO_SITE",
                "a site's folder is made once, by polyclinic site init",
                "check the path, or set the site up first",
            )
        return name

    @cached_property
    def identity(self) -> Identity:
        """The site's key. Raises KEY_EXPOSED when others can read it."""
        return signing.load(self._inside(_KEY))

    @cached_property
    def audit(self) -> AuditLog:
        """The site's log."""
        path = self._inside("audit.jsonl")
        if not path.is_file():
            raise _error(
                f"{path}: the audit log is missing",
                "LOG_DAMAGED",
                "a log only grows; a site without its log is not opened",
                "restore the file from a backup",
            )
        return AuditLog(path, self.identity)

    @property
    def policy_path(self) -> Path:
        """Where the policy lies, its signature beside it as ``.sig``."""
        return self._inside("policy.toml")

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
            return Standing(policy_file.refuse_all(), False, error.code, error.what)

    def sign_policy(self) -> int:
        """Sign the policy as it lies in the folder, log its hash, and return the log's entry."""
        digest = policy_file.sign(self.policy_path, self.identity)
        return self.audit.append("policy_signed", sha256=digest)

    def _inside(self, name: str) -> Path:
        _ = self.name  # raises when this is no site's folder
        return self.folder / name


def _error(what: str, code: str, rule: str, next: str) -> InputError:
    return InputError(what, code=code, rule=rule, next=next)
