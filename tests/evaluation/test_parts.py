"""What an evaluation by parts makes of the answers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from polyclinic.core.contribution import Total
from polyclinic.evaluation.held_out import HeldOut


def answer(hidden):
    values = {"concordance": np.array([0.7, 0.1]), "defined": np.array(1), "n": np.array(40)}
    return SimpleNamespace(values=values, hidden={"concordance": np.array([hidden, False])})


def test_a_site_that_hides_a_part_of_its_answer_is_named_and_not_shown():
    asked = HeldOut(({},), 0)
    _, (name, plan) = asked._parts()
    assert (name, plan.combine) == ("sites", "collect")
    total = Total({}, ("a", "b"), by_site={"a": answer(False), "b": answer(True)})
    state = asked.update({"done": {"all": {}}}, plan, total)
    assert set(state["done"]["sites"]["a"]) == {"concordance", "defined", "n"}
    assert state["done"]["sites"]["b"] == {}
