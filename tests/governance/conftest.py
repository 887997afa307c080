from __future__ import annotations

import pytest

from polyclinic.governance.audit import AuditLog
from polyclinic.governance.home import SiteHome
from polyclinic.privacy.secure.identity import Identity


@pytest.fixture(scope="session")
def identity():
    return Identity.generate()


@pytest.fixture(scope="session")
def stranger():
    return Identity.generate()


@pytest.fixture
def log(tmp_path, identity):
    return AuditLog(tmp_path / "audit.jsonl", identity)


@pytest.fixture
def home(tmp_path):
    return SiteHome(tmp_path / "va").init("va")
