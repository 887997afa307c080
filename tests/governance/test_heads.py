"""Signed heads of other sites' logs, kept in a log: what they find and what they do not."""

from __future__ import annotations

import json

import pytest

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError
from polyclinic.governance.audit import AuditLog, held_heads, verify
from polyclinic.governance.witness import heads_text
from tests.governance.logs import checked, fill, of


def test_heads_of_other_sites_are_kept_and_find_their_truncation(tmp_path, log, identity, stranger):
    other = fill(AuditLog(tmp_path / "other.jsonl", stranger), 4)
    assert log.receive_head("cleveland", other.signed_head(), stranger.public)["seq"] == 5
    fill(other, 2)
    log.receive_head("cleveland", other.signed_head(), stranger.public)
    log.receive_head("cleveland", other.signed_head(), stranger.public)  # nothing new
    heads = held_heads(log.path, "cleveland")
    assert len(heads) == 2 and held_heads(log.path, "va") == []
    assert verify(other.path, stranger.public, heads).ok
    lines = other.path.read_bytes().splitlines(keepends=True)
    other.path.write_bytes(b"".join(lines[:-1]))
    found = verify(other.path, stranger.public, heads)
    assert not found.ok and "missing at the end" in found.problem
    assert checked(log.path, identity) == 3


def test_a_log_that_became_another_is_refused_and_the_refusal_logged(
    tmp_path, log, identity, stranger
):
    other = fill(AuditLog(tmp_path / "other.jsonl", stranger), 5)
    log.receive_head("cleveland", other.signed_head(), stranger.public)
    forked = fill(AuditLog(tmp_path / "forked.jsonl", stranger), 5)
    again = AuditLog(log.path, identity)  # also after a restart
    with pytest.raises(PolyclinicError) as caught:
        again.receive_head("cleveland", forked.signed_head(), stranger.public)
    assert (caught.value.code, caught.value.site) == ("HEAD_WENT_BACK", "cleveland")
    assert len(of(log.path, "head_rejected")) == 1


def test_an_earlier_head_of_the_same_log_is_kept_and_no_false_alarm(
    tmp_path, log, identity, stranger
):
    """Of two runs at once, one brings what the other has brought already, or older news."""
    other = fill(AuditLog(tmp_path / "other.jsonl", stranger), 4)
    early = other.signed_head()
    fill(other, 1)
    late = other.signed_head()
    for data in (late, early, late, early):
        log.receive_head("cleveland", data, stranger.public)
    heads = held_heads(log.path, "cleveland")
    assert len(heads) == 2 and verify(other.path, stranger.public, heads).ok
    text = heads_text(log.path, "va")
    assert json.loads(text)["seq"] == 6


def test_an_earlier_head_of_a_log_that_was_cut_off_and_went_on_is_seen_by_the_check(
    tmp_path, log, stranger
):
    other = fill(AuditLog(tmp_path / "other.jsonl", stranger), 4)
    log.receive_head("cleveland", other.signed_head(), stranger.public)
    lines = other.path.read_bytes().splitlines(keepends=True)
    other.path.write_bytes(b"".join(lines[:-2]))
    shorter = AuditLog(other.path, stranger)
    shorter.append("something_else")
    log.receive_head("cleveland", shorter.signed_head(), stranger.public)
    fill(shorter, 5)
    assert not verify(other.path, stranger.public, held_heads(log.path, "cleveland")).ok


def test_a_head_without_the_pinned_signature_is_refused(log, identity, stranger):
    head = codec.decode(log.signed_head())
    longer = codec.encode({**head, "seq": 99})
    for data, key in ((log.signed_head(), stranger.public), (longer, identity.public)):
        with pytest.raises(PolyclinicError) as caught:
            log.receive_head("cleveland", data, key)
        assert caught.value.code == "BAD_SIGNATURE"
    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        log.receive_head("cleveland", b"nonsense", identity.public)
    assert checked(log.path, identity) == 1
