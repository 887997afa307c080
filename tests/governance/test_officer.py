from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.governance.audit import Verified
from polyclinic.governance.officer import Spent, ledger_data, ledger_text

KEYS = ("study", "step", "times", "sums", "patients", "bytes", "seen_as")
HEART = "heart-four-hospitals"
ROWS = [
    dict(zip(KEYS, values, strict=True))
    for values in (
        (HEART, "Newton round", 6, 154, 140, 15_020, "total of 4"),
        (HEART, "validation fits", 30, 154, 112, 75_100, "total of 4"),
        (HEART, "score histogram", 1, 400, 140, 6_400, "total of 4"),
        (HEART, "own AUROC, calibration", 1, 6, 140, 180, "this site"),
    )
]
NOTE = "cp 1 (typical angina) had under 5 patients; the asker saw only the code"
REFUSALS = [{"what": "a table by cp", "times": 1, "code": "LEVEL_TOO_SMALL", "note": NOTE}]
WELL = Verified(20, True)
NO_BOUND = Spent()
TRANSCRIPT = """\
study, step                  times   sums   patients    bytes   seen as
heart-four-hospitals
  Newton round                   6    154        140    15 kB   total of 4
  validation fits               30    154        112    75 kB   total of 4
  score histogram                1    400        140     6 kB   total of 4
  own AUROC, calibration         1      6        140   < 1 kB   this site
refused
  a table by cp                  1      -          -        -   LEVEL_TOO_SMALL
     cp 1 (typical angina) had under 5 patients; the asker saw only the code
budget   epsilon 0 of 3 spent    log   20 entries, chain unbroken
"""


def row(**changes):
    return {**ROWS[0], **changes}


def test_the_ledger_reads_as_in_the_guide():
    assert ledger_text(ROWS, REFUSALS, Spent(0.0, 3.0), WELL) == TRANSCRIPT


def test_the_data_answer_what_was_asked_what_left_and_what_is_left():
    data = ledger_data(ROWS, REFUSALS, Spent(0.5, 3.0), WELL)
    assert json.loads(json.dumps(data)) == data
    assert data["asked"] == {
        "studies": [HEART],
        "released": 38,
        "refused": 1,
        "refusals": [REFUSALS[0]],
    }
    assert data["left"]["numbers"] == 6 * 154 + 30 * 154 + 400 + 6
    assert data["left"]["bytes"] == 15_020 + 75_100 + 6_400 + 180
    assert data["budget"] == {"spent": 0.5, "total": 3.0, "left": 2.5}
    assert data["policy"] == {"in_force": True, "code": "", "reason": ""}
    log = {"entries": 20, "unbroken": True, "problem": "", "line": None, "witnessed": 0}
    assert data["log"] == log


@pytest.mark.parametrize("patients", [0, 1, 4, 5])
def test_small_counts_and_notes_stay_with_the_officer(patients):
    rows = [row(patients=patients)]
    own, shared = (
        ledger_text(rows, REFUSALS, NO_BOUND, WELL, share=share) for share in (False, True)
    )
    line = own.splitlines()[2]
    assert line.split()[-6:-4] == ["154", str(patients)] or str(patients) in line.split()
    assert NOTE in own and "typical" not in shared
    hidden = 0 < patients < 5
    assert ("under 5" in shared.splitlines()[2]) == hidden
    data = ledger_data(rows, REFUSALS, NO_BOUND, WELL, share=True)
    assert data["left"]["rows"][0]["patients"] == ("under 5" if hidden else patients)
    assert "note" not in data["asked"]["refusals"][0]
    assert ledger_data(rows, REFUSALS, NO_BOUND, WELL)["left"]["rows"][0]["patients"] == patients


def test_releases_of_one_step_are_one_line():
    rows = [row(times=1, bytes=2_500, patients=count) for count in (112, 112, 108)]
    rows += [row(study="other", step="Newton round"), row(times=1, bytes=2_500)]
    text = ledger_text(rows, [], NO_BOUND, WELL)
    assert "  Newton round                   4    154 108 to 140    10 kB   total of 4" in text
    assert text.count("Newton round") == 2
    assert "  12,108 up    " in ledger_text(
        [row(patients=12_108), row(patients=14_000)], [], NO_BOUND, WELL
    )


def test_numbers_beyond_their_columns_are_written_out():
    text = ledger_text([row(patients=11_250_000), row(patients=11_350_000)], [], NO_BOUND, WELL)
    written = "    12 times, 154 sums, 11,250,000 up patients, 30 kB, total of 4"
    assert text.splitlines()[2:4] == ["  Newton round", written]
    refusal = {**REFUSALS[0], "times": 10**8}
    assert "\n    100,000,000 times, LEVEL_TOO_SMALL\n" in ledger_text(
        [], [refusal], NO_BOUND, WELL
    )


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 kB"),
        (1, "< 1 kB"),
        (999, "< 1 kB"),
        (1_000, "1 kB"),
        (1_500, "2 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_240_000, "1.2 MB"),
        (9_960_000, "10 MB"),
        (2_500_000_000, "2.5 GB"),
    ],
)
def test_bytes_are_in_thousands(size, words):
    line = ledger_text([row(bytes=size)], [], NO_BOUND, WELL).splitlines()[2]
    assert line[:61].endswith(f"  {words}")


@pytest.mark.parametrize(
    ("spent", "total", "words", "left"),
    [
        (0.0, 3.0, "epsilon 0 of 3 spent", 3.0),
        (0.1, 1.0, "epsilon 0.1 of 1 spent", 0.9),
        (2.9996, 3.0, "epsilon 3 of 3 spent", 0.0),
        (1.2341, 3.0, "epsilon 1.235 of 3 spent", 1.765),
        (0.0001, 3.0, "epsilon 0.001 of 3 spent", 2.999),
    ],
)
def test_what_is_spent_is_never_shown_too_small(spent, total, words, left):
    assert words in ledger_text([], [], Spent(spent, total), WELL)
    assert ledger_data([], [], Spent(spent, total), WELL)["budget"]["left"] == left


def test_nothing_and_no_bound_are_said():
    text = ledger_text([], [], NO_BOUND, Verified(2, True))
    assert text.splitlines()[1:] == [
        "  nothing has left this hospital",
        "budget   epsilon 0 spent; the policy sets no bound",
        "log   2 entries, chain unbroken",
    ]
    text = ledger_text([], [], Spent(2.5), WELL)
    assert "epsilon 2.5 spent; the policy sets no bound" in text
    data = ledger_data([], [], Spent(2.5), WELL)
    assert data["budget"] == {"spent": 2.5, "total": None, "left": None}


@pytest.mark.parametrize(("limit", "words"), [(3.0, "0.5 of 3 spent"), (None, "0.5 spent; of how")])
def test_a_policy_out_of_force_is_not_one_without_a_budget(limit, words):
    out = Spent(0.5, limit, "POLICY_CHANGED", "/home/va/policy.toml: edited after it was signed")
    lines = ledger_text([], [], out, WELL).splitlines()
    assert lines[2].startswith("policy   ! POLICY_CHANGED, every plan is refused: /home/va/policy")
    assert words in " ".join(lines) and "sets no bound" not in " ".join(lines)
    shared = ledger_text([], [], out, WELL, share=True)
    assert "POLICY_CHANGED" in shared and "/home" not in shared
    data = ledger_data([], [], out, WELL)
    assert data["policy"] == {"in_force": False, "code": out.code, "reason": out.reason}
    assert data["budget"]["spent"] == 0.5 and data["budget"]["total"] == limit
    assert ledger_data([], [], out, WELL, share=True)["policy"]["reason"] == ""


def test_a_broken_chain_stands_out():
    text = ledger_text([], [], Spent(1.0, 3.0), Verified(6, False, "the line was edited", 7))
    last = text.splitlines()[-1]
    assert last == "log      ! chain broken at line 7, 6 entries stand: the line was edited"
    assert "unbroken" not in text


def test_a_name_cannot_command_the_terminal_or_fake_a_line():
    rows = [row(study="\x1b[2Jx\nbudget   epsilon 0 of 9 spent", step="Zürich \x9b\x7f \u202e")]
    text = ledger_text(rows, [], NO_BOUND, WELL)
    assert text.isascii() and all(char == "\n" or char.isprintable() for char in text)
    assert sum(line.startswith("budget") for line in text.splitlines()) == 1
    assert "Z\\u00fcrich" in text


TEXTS = st.text(min_size=1, max_size=120)
COUNTS = st.integers(0, 10**9)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, TEXTS, COUNTS, COUNTS, COUNTS, st.integers(0, 10**14), TEXTS)),
    st.lists(st.tuples(TEXTS, COUNTS, TEXTS, TEXTS)),
    st.builds(
        Spent, st.floats(0, 1e6), st.none() | st.floats(0, 1e6), st.sampled_from(["", "X"]), TEXTS
    ),
    st.booleans(),
)
def test_every_ledger_fits_eighty_columns_of_ascii(rows, refusals, budget, share):
    rows = [dict(zip(KEYS, values, strict=True)) for values in rows]
    keys = ("what", "times", "code", "note")
    refusals = [dict(zip(keys, values, strict=True)) for values in refusals]
    text = ledger_text(rows, refusals, budget, Verified(10**7, not share, "x" * 90), share=share)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80
    json.dumps(ledger_data(rows, refusals, budget, WELL, share=share), allow_nan=False)
