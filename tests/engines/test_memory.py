"""What a site keeps between rounds: stored with the release, never sent, and not for ever."""

from __future__ import annotations

import numpy as np

from polyclinic.core import codec
from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure, Members, Unaided
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import register
from polyclinic.engines.books import HELD_ROUNDS, Books
from polyclinic.engines.site import Site
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.ledger import Ledger
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import Identity, MemoryJournal

NUMBERS, ROUNDS = 20_000, 50
SECRET = 7_340_033_421_117_001  # in the memory, never in an answer


class Counting(Unaided):
    """The round's number, as the memory has it, times the rows."""

    name, version, grain = "toy.remembering", 1, "site"

    def leaves(self, plan):
        return (Leaf("x", (NUMBERS,), "update", "int64"),)

    def local(self, plan, partition):
        return self.remember(plan, partition, {})[0]

    def remember(self, plan, partition, memory):
        done = memory.get("done", 0) + 1
        x = done * np.arange(NUMBERS) + partition.n_rows
        kept = {"done": done, "secret": np.full(3, SECRET)}
        return Contribution({"x": x}, Evidence(partition.n_patients)), kept

    def exposure(self, plan, partition, own):
        return Exposure(members=(Members(("x",), np.unique(partition.persons)),))


register([Counting()])


def site(path):
    books = Books(Identity.generate(), Ledger(path), MemoryJournal())
    rows = Partition({"x": np.arange(40.0)}, None, "a")
    return Site(Gate("a", Policy()), lambda cohort: ThreadWorkers(rows), books)


def plan(round, after):
    return Plan("toy.remembering", {"state": {"round": round, "after": after}}, step="training")


def run(one, rounds):
    plans, answers, after = [], [], ""
    for round in range(rounds):
        plans.append(plan(round, after))
        answers.append(one.answer(plans[-1].to_bytes()))
        after = plans[-1].bare_hash
    return plans, answers


def test_fifty_rounds_do_not_fill_a_ledger(tmp_path):
    path = tmp_path / "ledger.sqlite"
    one = site(path)
    plans, answers = run(one, ROUNDS)
    for at, data in enumerate(answers, 1):
        assert codec.decode(data)["words"]["x"][1] == at + 40
        assert SECRET.to_bytes(8, "little") not in data
    (row,) = one.books.ledger.rows()
    assert (row["times"], row["sums"], row["patients"]) == (ROUNDS, NUMBERS, 40)
    one.books.ledger.close()
    payload = 8 * NUMBERS
    assert path.stat().st_size < (HELD_ROUNDS + 4) * payload < ROUNDS * payload / 7
    assert SECRET.to_bytes(8, "little") in path.read_bytes()

    again = site(path)  # after a crash
    for asked, data in list(zip(plans, answers, strict=True))[-HELD_ROUNDS - 1 :]:
        assert again.answer(asked.to_bytes()) == data
    gone = codec.decode(again.answer(plans[9].to_bytes()))
    assert gone == {"code": "LEFTOVER_LOST"}
    back = plan(99, plans[9].bare_hash)  # from where nothing is kept
    assert codec.decode(again.answer(back.to_bytes())) == {"code": "LEFTOVER_LOST"}
    on = plan(ROUNDS, plans[-1].bare_hash)
    assert codec.decode(again.answer(on.to_bytes()))["words"]["x"][1] == ROUNDS + 1 + 40


def test_a_whole_fit_can_be_asked_for_again(tmp_path):
    path = tmp_path / "ledger.sqlite"
    one = site(path)
    plans, answers = run(one, ROUNDS)
    assert run(one, ROUNDS) == (plans, answers)
    (row,) = one.books.ledger.rows()
    assert row["times"] == 2 * ROUNDS
    one.books.ledger.close()
    assert path.stat().st_size < 2 * (HELD_ROUNDS + 4) * 8 * NUMBERS < ROUNDS * 8 * NUMBERS / 3


def test_a_second_fit_leaves_the_first_one_whole(tmp_path):
    one = site(tmp_path / "ledger.sqlite")
    plans, answers = run(one, 3)
    after = ""
    for round in range(10):
        other = plan(100 + round, after)
        one.answer(other.to_bytes())
        after = other.bare_hash
    assert [one.answer(asked.to_bytes()) for asked in plans] == answers


def test_a_memory_that_nobody_stored_is_asked_for_in_vain(tmp_path):
    one = site(tmp_path / "ledger.sqlite")
    answer = codec.decode(one.answer(plan(1, "0" * 64).to_bytes()))
    assert answer == {"code": "LEFTOVER_LOST"}
