"""Noise that is drawn anew averages away: the same question has the same noise, others cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.engines.books import Books
from polyclinic.engines.embedded import About
from polyclinic.privacy import accounting
from polyclinic.privacy.ledger import Ledger
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import Identity, MemoryJournal
from tests.attacks.world import BOOK, TABLES, design, refusal, unguarded, value

MADE = design(value("chol"), response="lab")
VALUES: dict[str, Any] = {
    "design": MADE.to_data(),
    "family": "gaussian",
    "rows": {},
    "centre": np.array([256.0]),
    "unit": np.array([256.0]),
    "row_norm": 1.0,
    "outcome_centre": 32.0,
    "outcome_unit": 32.0,
}
NOISY = Plan("glm.private_products", {**VALUES, "noise": {"multiplier": 20.0}}, "noisy products")
EXACT = Plan("glm.private_products", VALUES, "products")
GUARDED = Policy(exact=False, epsilon=1.0, delta=1e-6)


def sites(books: Mapping[str, Books] | None = None, policy: Policy = GUARDED) -> pc.Sites:
    return pc.Sites(TABLES, BOOK, policy=policy, books=books)


def products(total: Total) -> Any:
    return total["products"]


def test_averaging_works_where_noise_is_drawn_anew() -> None:
    """Hospitals that forget what they answered: the mean of many answers is nearly exact."""
    one = replace(NOISY, to=("a",), _derived={})
    answers = np.array([products(sites().federation(sums="clear").total(one)) for _ in range(64)])
    exact = products(unguarded(NOISY))
    spread = answers.std(axis=0)
    assert (spread > 10).all()
    assert (np.abs(answers.mean(axis=0) - exact) < 5 * spread / np.sqrt(64)).all()


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_the_same_question_has_the_same_noise(sums: str) -> None:
    asked = sites()
    federation = asked.federation(sums=sums)  # type: ignore[arg-type]
    times = 1000 if sums == "clear" else 15
    first = products(federation.total(NOISY))
    for _ in range(times):
        assert np.array_equal(products(federation.total(NOISY)), first)


def test_other_words_for_it_have_the_same_noise() -> None:
    """Another step, round, parent, list of sites, study, purpose or run is no other question."""
    asked = sites()
    first = products(asked.federation(sums="clear").total(NOISY))
    for about in (About(), About("other"), About("other", "another purpose")):
        federation = asked.federation(sums="clear", about=about)
        for plan in (
            NOISY,
            replace(NOISY, step="other words", _derived={}),
            NOISY.at(7, "f" * 64),
            replace(NOISY, to=("a", "b", "c"), _derived={}),
            replace(NOISY, to=("c", "a", "b"), _derived={}),
        ):
            assert np.array_equal(products(federation.total(plan)), first)
    alone = [
        products(asked.federation(sums="clear").total(replace(NOISY, to=(site,), _derived={})))
        for site in "abc"
    ]
    assert np.allclose(sum(alone), first, rtol=0, atol=1e-9)


def test_another_question_costs_budget() -> None:
    """A value that changes nothing, or a scale that is nearly the same, is paid for."""
    asked = sites()
    federation = asked.federation(sums="clear")
    federation.total(NOISY)
    codes = []
    for k in range(1, 40):
        values = {**NOISY.values, "outcome_unit": 32.0 + k * 1e-9, "nothing": k}
        plan = Plan(NOISY.task, values, "noisy products")
        codes.append(refusal(lambda plan=plan: federation.total(plan)))
    assert codes[0] == "" and codes[-1] == "BUDGET_SPENT"
    spent = asked._books["a"].ledger.spent("data")
    assert accounting.epsilon(spent, 1e-6) <= 1.0
    assert refusal(lambda: federation.total(NOISY)) == ""


def test_less_noise_than_the_policy_has_left_is_refused() -> None:
    federation = sites().federation(sums="clear")
    for multiplier in (1e-9, 0.1, 1.0):
        plan = Plan(NOISY.task, {**VALUES, "noise": {"multiplier": multiplier}})
        assert refusal(lambda plan=plan: federation.total(plan))
    assert refusal(lambda: federation.total(EXACT)) == "NOISE_REQUIRED"


def kept(folder: Path) -> dict[str, Books]:
    """Books whose ledger is a file."""
    return {
        site: Books(Identity.generate(), Ledger(folder / f"{site}.db"), MemoryJournal())
        for site in TABLES
    }


def test_after_a_restart_the_noise_is_the_same(tmp_path: Path) -> None:
    books = kept(tmp_path)
    first = products(sites(books).federation(sums="clear").total(NOISY))
    other = Plan(NOISY.task, {**NOISY.values, "outcome_unit": 33.0})
    second = products(sites(books).federation(sums="clear").total(other))
    for one in books.values():
        one.ledger.close()
    books = kept(tmp_path)
    federation = sites(books).federation(sums="clear")
    assert np.array_equal(products(federation.total(NOISY)), first)
    assert np.array_equal(products(federation.total(other)), second)
    assert len(books["a"].ledger.spent("data")) == 2
    for one in books.values():
        one.ledger.close()
