from __future__ import annotations

import json

import pytest

from polyclinic.core.errors import InputError
from polyclinic.governance.chain import HEAD_RECEIVED, verify
from polyclinic.governance.heads import Held
from polyclinic.governance.home import SiteHome
from polyclinic.governance.witness import heads_text, held_beside, read_heads, sites_below


@pytest.fixture
def two(tmp_path):
    """va, and cleveland that holds a head of va's log of five lines; va has one line more."""
    va, cleveland = (SiteHome(tmp_path / name).init(name) for name in ("va", "cleveland"))
    for number in range(2):
        va.audit.append("released", round=number)
    cleveland.audit.receive_head("va", va.audit.signed_head(), va.identity.public)
    va.audit.append("released", round=2)
    cleveland.audit.receive_head("va", va.audit.signed_head(), va.identity.public)
    va.audit.append("released", round=3)
    return va, cleveland


def cut(home, lines):
    kept = home.audit_path.read_bytes().splitlines(keepends=True)[:lines]
    home.audit_path.write_bytes(b"".join(kept))


def test_a_site_knows_what_those_beside_it_hold(two, tmp_path):
    va, cleveland = two
    assert sites_below(tmp_path) == {"cleveland": cleveland.folder, "va": va.folder}
    held = held_beside(va.folder, "va")
    assert [(head.holder, head.seq) for head in held] == [("cleveland", 4), ("cleveland", 5)]
    assert held_beside(cleveland.folder, "cleveland") == []
    found = va.verify_log()
    assert (found.ok, found.entries, found.witnessed) == (True, 6, 5)
    assert cleveland.verify_log().witnessed == 0


@pytest.mark.parametrize("kept", [0, 1, 3, 4])
def test_a_cut_off_end_is_found_and_named_and_nothing_is_added(two, kept):
    va, _ = two
    cut(va, kept)
    before = va.audit_path.read_bytes()
    found = va.verify_log()
    assert not found.ok
    if kept:
        assert found.problem.startswith(f"at least {(4 if kept < 4 else 5) - kept} line")
        assert "the head that cleveland holds names line" in found.problem
    with pytest.raises(InputError, match="LOG_DAMAGED"):
        SiteHome.open(va.folder)
    assert va.audit_path.read_bytes() == before


def test_lines_that_nobody_has_seen_can_be_cut_off_unseen(two):
    va, _ = two
    cut(va, 5)
    found = va.verify_log()
    assert found.ok and found.witnessed == found.entries == 5


def test_a_log_begun_anew_with_another_key_does_not_fit(two, tmp_path):
    va, _ = two
    va.folder.rename(tmp_path.with_name("away"))
    again = SiteHome(tmp_path / "va").init("va")
    found = again.verify_log()
    assert (
        not found.ok and found.problem == "the head that cleveland holds is not signed by this site"
    )


def test_heads_travel_in_a_file(two, tmp_path):
    va, cleveland = two
    path = tmp_path / "heads.jsonl"
    path.write_text(heads_text(cleveland.audit_path, "cleveland"))
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["site"], line["seq"], line["held_by"]) == ("va", 5, "cleveland")
    held = read_heads(path, "va")
    assert verify(va.audit_path, va.identity.public, held).witnessed == 5
    cut(va, 4)
    found = verify(va.audit_path, va.identity.public, held)
    assert not found.ok and "the head that cleveland holds names line 5" in found.problem


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe", b"[1]\n", b'{"site":"va2"}\n', b"[" * 9999]
)
def test_a_file_without_a_head_of_this_log_is_told(two, tmp_path, content):
    path = tmp_path / "heads.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="NO_HEAD") as caught:
        read_heads(path, "va")
    assert "site audit heads" in caught.value.next


@pytest.mark.parametrize("head", ["", "zz", 5, None, "00"])
def test_a_head_that_was_tampered_with_does_not_pass_for_one(two, head):
    va, cleveland = two
    cleveland.audit.append(HEAD_RECEIVED, site="va", head=head, seq=6, hash="")
    found = va.verify_log()
    assert not found.ok and "is not signed by this site" in found.problem


def test_a_head_says_where_it_is_from():
    assert str(Held(b"")) == "a head that was given"
    assert (Held(b"").seq, Held(b"").hash, Held(b"").signed_by(b"")) == (0, "", False)
