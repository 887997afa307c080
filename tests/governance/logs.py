"""Logs to test with, and what is found in them."""

from __future__ import annotations

from polyclinic.governance.audit import entries, verify


def fill(log, count):
    for number in range(count):
        log.append("released", study="heart", step="Newton round", round=number, hash="9c2e41d7")
    return log


def of(path, name):
    return [record for record in entries(path) if record["event"] == name]


def checked(path, identity):
    found = verify(path, identity.public)
    assert found.ok, found
    return found.entries
