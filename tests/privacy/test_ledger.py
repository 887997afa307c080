from __future__ import annotations

import hashlib
import shutil
import sqlite3
import threading

import numpy as np
import pytest

from polyclinic.core.errors import InputError, PolyclinicError, Refused, Stopped
from polyclinic.privacy import cohorts
from polyclinic.privacy.budget import Budget
from polyclinic.privacy.ledger import Asked, Ledger, _Apart

ENTRY = {
    "study": "heart-four-hospitals",
    "step": "Newton round",
    "task": "glm.derivatives",
    "combine": "sum",
    "n_sums": 154,
    "patients": 140,
    "seen_as": "total of 4",
}
SPEND = {"mechanism": "gaussian", "multiplier": 4.0, "times": 1}


def by_count(events, delta):
    return float(sum(event["times"] for event in events))


@pytest.fixture(params=["file", "memory"])
def ledger(request, tmp_path):
    made = Ledger(tmp_path / "ledger.sqlite" if request.param == "file" else None)
    yield made
    made.close()


def name(content):
    return hashlib.sha256(content.encode()).hexdigest()


def commit(ledger, content, release=b"sums", **more):
    more = {"entry": ENTRY, "dataset": "va", "k": 5, "max_cohorts": 50, **more}
    if (mask := more.pop("cohort_mask", None)) is not None:
        more["cohorts"] = [(more["dataset"], mask)]
    return ledger.commit(name(content), release, **more)


def refusal(code, call, *args, kind=Refused, **more):
    with pytest.raises(kind) as caught:
        call(*args, **more)
    assert caught.value.code == code
    return caught.value


def having(n, *members):
    mask = np.zeros(n, dtype=bool)
    for some in members:
        mask[some] = True
    return mask


def test_the_same_plan_asked_twice_gives_the_same_bytes(ledger):
    assert ledger.released(name("a")) is None
    assert commit(ledger, "a", b"first", spend=SPEND) == b"first"
    assert ledger.released(name("a")) == b"first"
    assert commit(ledger, "a", b"second", spend=SPEND) == b"first"
    assert ledger.released(name("b")) is None
    assert ledger.spent("va") == [SPEND]
    assert [(row["times"], row["bytes"]) for row in ledger.rows()] == [(3, 15)]


def test_another_connection_gets_the_first_bytes(tmp_path):
    one, two = (Ledger(tmp_path / "ledger.sqlite") for _ in range(2))
    assert one.released(name("a")) is two.released(name("a")) is None
    everyone = np.ones(100, dtype=bool)
    assert commit(one, "a", b"one", cohort_mask=everyone, spend=SPEND) == b"one"
    assert commit(two, "a", b"two", cohort_mask=~everyone, spend=SPEND) == b"one"
    assert one.spent("va") == two.spent("va") == [SPEND]
    two.check_cohort("va", everyone, 5, 1)
    refusal("TOO_MANY_COHORTS", two.check_cohort, "va", ~everyone, 5, 1)
    one.close(), two.close()


def test_the_officer_reads_steps_and_refusals(ledger):
    for round in range(6):
        commit(ledger, f"round {round}", b"x" * 2464)
    own = {**ENTRY, "step": "own AUROC", "n_sums": 6, "seen_as": "this site"}
    commit(ledger, "own", b"y" * 96, entry=own)
    assert [{k: row[k] for k in row if k != "time"} for row in ledger.rows()] == [
        {
            "study": "heart-four-hospitals",
            "step": "Newton round",
            "task": "glm.derivatives",
            "combine": "sum",
            "times": 6,
            "sums": 154,
            "patients": 140,
            "bytes": 6 * 2464,
            "seen_as": "total of 4",
        },
        {
            "study": "heart-four-hospitals",
            "step": "own AUROC",
            "task": "glm.derivatives",
            "combine": "sum",
            "times": 1,
            "sums": 6,
            "patients": 140,
            "bytes": 96,
            "seen_as": "this site",
        },
    ]
    what = {"study": "heart", "step": "a table by cp", "task": "table", "code": "CELL_TOO_SMALL"}
    ledger.refuse(**what, note="cp 1 had under 5 patients")
    ledger.refuse(**what, note="cp 1 had under 5 patients")
    ledger.refuse(**what)
    found = ledger.refusals()
    assert [(row["note"], row["times"]) for row in found] == [
        ("cp 1 had under 5 patients", 2),
        ("", 1),
    ]
    assert {name: found[0][name] for name in what} == what


@pytest.mark.parametrize("k", [2, 5, 10])
def test_a_cohort_needs_k_patients_of_difference(ledger, k):
    released = having(1000, slice(0, 500))
    commit(ledger, "a", cohort_mask=released, k=k)
    for apart in (1, k - 1):
        for near in (having(1000, slice(0, 500 - apart)), having(1000, slice(0, 500 + apart))):
            refusal("COHORT_TOO_CLOSE", ledger.check_cohort, "va", near, k, 50)
            refusal("COHORT_TOO_CLOSE", commit, ledger, "b", cohort_mask=near, k=k, spend=SPEND)
    assert (len(ledger.rows()), ledger.spent("va")) == (1, [])
    enough = having(1000, slice(0, 500 + k))
    for fine in (released, enough):
        ledger.check_cohort("va", fine, k, 50)
    ledger.check_cohort("another data set", near, k, 50)
    commit(ledger, "c", cohort_mask=enough, k=k)


def test_a_tracker_is_refused_at_its_last_step(ledger):
    women, everyone = having(400, slice(0, 200)), np.ones(400, dtype=bool)
    tracker = ~women & ~having(400, [300, 301])
    commit(ledger, "a", cohort_mask=women)
    commit(ledger, "b", cohort_mask=everyone)
    refusal("COHORT_TOO_CLOSE", commit, ledger, "c", cohort_mask=tracker)
    commit(ledger, "c", cohort_mask=tracker, k=2)


def test_exchanged_patients_count_though_other_cohorts_keep_them_apart(ledger):
    """The four patients of the difference are four atoms, so only the two cohorts show it."""
    one, other = having(400, slice(2, 200)), having(400, slice(4, 202))
    commit(ledger, "a", cohort_mask=one)
    commit(ledger, "b", cohort_mask=having(400, [2, 200], slice(300, 400)))
    refusal("COHORT_TOO_CLOSE", ledger.check_cohort, "va", other, 5, 50)
    ledger.check_cohort("va", other, 4, 50)


def test_a_tracker_that_another_connection_prepared_is_refused(tmp_path):
    women, everyone = having(400, slice(0, 200)), np.ones(400, dtype=bool)
    one, two = (Ledger(tmp_path / "ledger.sqlite") for _ in range(2))
    one.check_cohort("va", having(400, slice(50, 150)), 5, 50)
    commit(two, "a", cohort_mask=women)
    commit(two, "b", cohort_mask=everyone)
    tracker = ~women & ~having(400, [300, 301])
    refusal("COHORT_TOO_CLOSE", one.check_cohort, "va", tracker, 5, 50)
    one.close(), two.close()


def test_what_was_exposed_before_does_not_stop_other_cohorts(ledger):
    """A stricter rule from now on is about what new cohorts expose."""
    commit(ledger, "a", cohort_mask=having(400, slice(0, 200)), k=2)
    commit(ledger, "b", cohort_mask=having(400, slice(0, 203)), k=2)
    ledger.check_cohort("va", having(400, slice(250, 400)), 5, 50)
    refusal("COHORT_TOO_CLOSE", ledger.check_cohort, "va", having(400, slice(0, 201)), 5, 50)


def test_the_number_of_cohorts_is_capped_and_known_ones_stay_free(ledger):
    many = [having(1000, slice(50 * i, 50 * i + 50)) for i in range(4)]
    for i, mask in enumerate(many[:3]):
        commit(ledger, f"{i}", cohort_mask=mask, max_cohorts=3)
    refusal("TOO_MANY_COHORTS", commit, ledger, "3", cohort_mask=many[3], max_cohorts=3)
    commit(ledger, "4", cohort_mask=many[1], max_cohorts=3)
    commit(ledger, "5", cohort_mask=many[3], max_cohorts=4)


def test_a_rule_of_no_difference_costs_no_audit(ledger, monkeypatch):
    monkeypatch.setattr(cohorts.Atoms, "add", lambda self, words: pytest.fail("audited"))
    for i in range(5):
        commit(ledger, f"{i}", cohort_mask=having(100, slice(0, 50 + i)), k=0, max_cohorts=10**9)
    assert len(ledger.rows()) == 1 and ledger.rows()[0]["times"] == 5


def test_more_cohorts_than_the_audit_can_take_are_refused(ledger, monkeypatch):
    monkeypatch.setattr(cohorts, "MOST", 2)
    for i in range(3):
        commit(ledger, f"{i}", cohort_mask=having(100, slice(0, 50 + i)), k=1)
    refusal("TOO_MANY_COHORTS", ledger.check_cohort, "va", having(100, slice(60, 90)), 5, 10**9)


def test_a_question_of_which_nothing_has_left_fixes_no_patients(ledger):
    for n in (100, 120):
        ledger.check_cohort("new", np.ones(n, dtype=bool), 5, 50)


@pytest.mark.parametrize("n", [99, 101, 1000])
def test_a_data_set_keeps_its_patients(ledger, n):
    commit(ledger, "a", cohort_mask=np.ones(100, dtype=bool))
    mask = np.ones(n, dtype=bool)
    for _ in range(2):
        refusal("DATA_CHANGED", ledger.check_cohort, "va", mask, 5, 50, kind=InputError)
        ledger.check_cohort("va", np.ones(100, dtype=bool), 5, 50)
    ledger.check_cohort("va, next year", mask, 5, 50)
    ledger.check_cohort("va, next year", np.ones(n + 1, dtype=bool), 5, 50)


def test_a_data_set_keeps_its_patients_for_every_connection(tmp_path):
    one, two = (Ledger(tmp_path / "ledger.sqlite") for _ in range(2))
    commit(one, "a", cohort_mask=np.ones(100, dtype=bool))
    mask = np.ones(101, dtype=bool)
    refusal("DATA_CHANGED", commit, two, "b", cohort_mask=mask, kind=InputError)
    one.close(), two.close()


def test_a_cohort_needs_its_rules(ledger):
    for missing in ("k", "max_cohorts"):
        with pytest.raises(TypeError):
            commit(ledger, "a", cohort_mask=np.ones(9, dtype=bool), **{missing: None})
    assert ledger.rows() == []


def test_a_budget_is_not_overspent(ledger):
    budget = Budget(3.0, 1e-6, by_count)
    for i in range(3):
        commit(ledger, f"{i}", spend=SPEND, budget=budget)
    refusal("BUDGET_SPENT", commit, ledger, "3", spend=SPEND, budget=budget)
    assert ledger.released(name("3")) is None
    assert commit(ledger, "1", b"new", spend=SPEND, budget=budget) == b"sums"
    commit(ledger, "exact sums", budget=budget)
    commit(ledger, "3", spend=SPEND, budget=budget, dataset="another")
    assert (len(ledger.spent("va")), len(ledger.spent("another"))) == (3, 1)


def test_a_failed_commit_stores_nothing_of_it(ledger):
    """The cohort is fine and the spend is not; then the entry is not whole."""
    mask = having(100, slice(0, 50))
    none = Budget(0.0, 1e-6, by_count)
    refusal("BUDGET_SPENT", commit, ledger, "a", cohort_mask=mask, spend=SPEND, budget=none)
    with pytest.raises(KeyError):
        commit(ledger, "a", cohort_mask=mask, spend=SPEND, entry={"study": "heart"})
    refusal("BAD_EVENT", commit, ledger, "a", spend={**SPEND, "times": 0}, kind=InputError)
    with pytest.raises(PolyclinicError):
        commit(ledger, "a", cohort_mask=mask, spend={**SPEND, "multiplier": float("nan")})
    assert (ledger.rows(), ledger.spent("va")) == ([], [])
    ledger.check_cohort("va", ~mask, 5, 1)


def test_threads_share_one_ledger(ledger):
    budget = Budget(20.0, 1e-6, by_count)
    refused = []

    def work(who):
        for i in range(10):
            try:
                commit(ledger, f"{who} {i}", spend=SPEND, budget=budget)
            except Refused as error:
                refused.append(error.code)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(ledger.spent("va")), refused) == (20, ["BUDGET_SPENT"] * 20)


def filled(path):
    ledger = Ledger(path)
    for i in range(40):
        mask = having(1000, slice(20 * i, 20 * i + 20))
        commit(ledger, f"{i}", bytes([i]) * 3000, cohort_mask=mask, spend=SPEND)
    ledger.close()
    return path.read_bytes()


def test_a_ledger_is_whole_after_closing_and_private(tmp_path):
    path = tmp_path / "deep" / "ledger.sqlite"
    filled(path)
    assert [child.name for child in path.parent.iterdir()] == ["ledger.sqlite"]
    assert path.stat().st_mode & 0o777 == 0o600
    again = Ledger(path)
    assert again.released(name("7")) == bytes([7]) * 3000
    assert len(again.spent("va")) == 40
    modes = [
        again._db.execute(f"PRAGMA {what}").fetchone()[0]
        for what in ("journal_mode", "synchronous", "foreign_keys")
    ]
    assert modes == ["wal", 2, 1]
    again.close()


DAMAGES = {
    "cut in half": lambda data: data[: len(data) // 2],
    "one page short": lambda data: data[:-4096],
    "a few bytes short": lambda data: data[:-7],
    "empty": lambda data: b"",
    "no database": lambda data: b"study,step,times\n" * 400,
    "header": lambda data: b"\0" * 16 + data[16:],
    "schema page": lambda data: data[:100] + b"\xff" * 900 + data[1000:],
    "a page of zeros": lambda data: data[: 4096 * 5] + b"\0" * 4096 + data[4096 * 6 :],
    "page headers": lambda data: b"".join(
        data[at : at + 4096] if at < 4096 * 3 else b"\x07" * 12 + data[at + 12 : at + 4096]
        for at in range(0, len(data), 4096)
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path, damage):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(DAMAGES[damage](filled(path)))
    before = path.read_bytes()
    error = refusal("LEDGER_DAMAGED", Ledger, path, kind=Stopped)
    assert str(path) in str(error) and "backup" in error.next
    assert path.read_bytes() == before


def test_every_page_that_is_lost_is_missed(tmp_path):
    path = tmp_path / "ledger.sqlite"
    whole = filled(path)
    for at in range(0, len(whole), 4096):
        path.write_bytes(whole[:at] + bytes(4096) + whole[at + 4096 :])
        refusal("LEDGER_DAMAGED", Ledger, path, kind=Stopped)
    path.write_bytes(whole)
    Ledger(path).close()


def test_a_wrong_call_is_no_damage(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.close()
    with pytest.raises(sqlite3.ProgrammingError):
        ledger.rows()


def test_a_database_of_something_else_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE releases (content_hash TEXT)")
    db.close()
    refusal("LEDGER_DAMAGED", Ledger, path, kind=Stopped)


@pytest.mark.parametrize(
    ("table", "column"), [("releases", "release"), ("spends", "event"), ("cohorts", "bits")]
)
def test_a_changed_entry_is_seen_when_it_is_read(tmp_path, table, column):
    path = tmp_path / "ledger.sqlite"
    filled(path)
    with sqlite3.connect(path) as db:
        (blob,) = db.execute(f"SELECT {column} FROM {table} WHERE rowid = 8").fetchone()
        changed = blob[:-1] + bytes([blob[-1] ^ 1])
        db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = 8", (changed,))
    db.close()
    ledger = Ledger(path)
    read = {
        "releases": lambda: ledger.released(name("7")),
        "spends": lambda: ledger.spent("va"),
        "cohorts": lambda: ledger.check_cohort("va", np.ones(1000, dtype=bool), 5, 50),
    }
    refusal("LEDGER_DAMAGED", read.pop(table), kind=Stopped)
    for intact in read.values():
        intact()
    ledger.close()


def test_a_spend_without_its_release_is_damage(tmp_path):
    path = tmp_path / "ledger.sqlite"
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM releases WHERE content_hash = ?", (name("7"),))
    db.close()
    refusal("LEDGER_DAMAGED", Ledger, path, kind=Stopped)


def test_a_ledger_that_cannot_grow_stops_and_stays_whole(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    commit(ledger, "a", spend=SPEND)
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    refusal("CANNOT_WRITE", commit, ledger, "b", b"x" * 50_000, spend=SPEND, kind=Stopped)
    assert len(ledger.spent("va")) == 1
    ledger._db.execute("PRAGMA max_page_count = 100000")
    commit(ledger, "b", b"x" * 50_000, spend=SPEND)
    assert len(ledger.spent("va")) == 2
    ledger.close()


def test_a_folder_is_no_ledger(tmp_path):
    refusal("CANNOT_WRITE", Ledger, tmp_path, kind=Stopped)


def test_a_copy_with_its_wal_holds_everything(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    commit(ledger, "a", spend=SPEND)
    other = tmp_path / "copy"
    shutil.copytree(tmp_path, other, ignore=shutil.ignore_patterns("copy"))
    copy = Ledger(other / "ledger.sqlite")
    assert copy.spent("va") == [SPEND]
    copy.close(), ledger.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "now", "code"),
    [
        ("abc", "", "SEEN_TOGETHER"),
        ("abc", "ab", "MEMBERSHIP_CHANGED"),
        ("", "abc", "SEEN_ALONE"),
    ],
)
def test_one_question_has_one_audience(ledger, before, now, code):
    commit(ledger, "one", asked=Asked("question", before))
    refusal(code, commit, ledger, "two", asked=Asked("question", now))
    commit(ledger, "two", asked=Asked("another", now))
    commit(ledger, "three", asked=Asked("", now))  # noise: every audience has its own
    commit(ledger, "four", asked=Asked("", before))
    assert [row["times"] for row in ledger.rows()] == [4]


def test_what_all_have_shown_may_be_added_up(ledger):
    commit(ledger, "alone", asked=Asked("question"))
    assert ledger.shown("question") and not ledger.shown("another")
    commit(ledger, "total", asked=Asked("question", "abc", all_shown=True))
    refusal("SEEN_TOGETHER", commit, ledger, "again", asked=Asked("question"))


def test_an_audience_that_another_connection_had_counts(tmp_path):
    one, two = (Ledger(tmp_path / "ledger.sqlite") for _ in range(2))
    commit(one, "total", asked=Asked("question", "abc"))
    refusal("SEEN_TOGETHER", commit, two, "alone", asked=Asked("question"))
    assert not two.shown("question")


def test_what_was_dropped_leaves_again_with_the_same_bytes_only(ledger):
    commit(ledger, "one", b"first")
    commit(ledger, "two", b"second", forget=[name("one")])
    assert ledger.released(name("one")) is None and ledger.holds(name("one")) is None
    refusal("LEFTOVER_LOST", commit, ledger, "one", b"other")
    assert ledger.holds(name("one")) is None
    assert commit(ledger, "one", b"first", forget=[name("two")]) == b"first"
    assert ledger.released(name("one")) == b"first" and ledger.holds(name("two")) is None
    (row,) = ledger.rows()
    assert row["times"] == 4


def test_two_cells_less_what_nearly_joins_them_show_two_patients():
    made = Ledger(None)
    for i, cell in enumerate((range(20), range(20, 40), range(40, 60))):
        commit(made, f"{i}", cohort_mask=having(90, cell))
    joined = having(90, range(38))  # none of which it is near
    assert refusal("COHORT_TOO_CLOSE", commit, made, "joined", cohort_mask=joined)
    commit(made, "other", cohort_mask=having(90, range(30)))


@pytest.mark.parametrize("seed", range(8))
def test_cohorts_that_share_nobody_are_judged_as_the_audit_judges_them(seed, monkeypatch):
    """Cells of a column, then groups across them: with the audit of every cohort, and without."""
    rng = np.random.default_rng(seed)
    label = np.sort(rng.integers(0, 9, 200))
    asked = [label == k for k in range(8)]
    asked += [(label <= 4) & (rng.random(200) < 0.5), label <= 6, label != 3, rng.random(200) < 0.9]
    asked += [(label == 8) | having(200, label.searchsorted(2))]

    def codes():
        made, found = Ledger(None), []
        for i, mask in enumerate(asked):
            try:
                commit(made, f"{i}", cohort_mask=mask)
                found.append("")
            except Refused as error:
                found.append(error.code)
        return found

    quick, audits = codes(), []
    monkeypatch.setattr(_Apart, "holds", lambda *a: audits.append(1) is not None)
    assert quick == codes() and len(audits) >= 12
    assert quick[:8] == [""] * 8 and "COHORT_TOO_CLOSE" in quick
