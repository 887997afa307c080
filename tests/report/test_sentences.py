"""Sentences that answer a section's title."""

from __future__ import annotations

import copy

from polyclinic.report import sentences


def group(**changes: object) -> dict[str, object]:
    plain = {
        "n": 400,
        "events": 200,
        "observed": 0.5,
        "predicted": 0.51,
        "auroc": {"value": 0.8, "lower": 0.75, "upper": 0.85},
        "calibration": {"slope": {"value": 1.0, "lower": 0.8, "upper": 1.2}},
    }
    return plain | changes


def light(**changes: object) -> dict[str, str]:
    return sentences.lights({"evaluation": {"sites": {"a": group(**changes)}}})[0]


def test_a_hospital_where_the_model_works() -> None:
    assert light() == {
        "state": "ok",
        "sign": "ok",
        "hospital": "a",
        "text": "predicted risks are about right, 80 of 100 pairs ranked rightly",
    }


def test_a_hospital_where_risks_are_off() -> None:
    assert light(predicted=0.3)["text"] == "predicts too low, do not use unadjusted"
    assert light(predicted=0.7)["text"] == "predicts too high, do not use unadjusted"
    assert light(predicted=0.3)["state"] == "look"


def test_a_hospital_where_risks_are_too_spread() -> None:
    slope = {"slope": {"value": 0.6, "lower": 0.3, "upper": 0.9}}
    assert light(calibration=slope)["text"].startswith("right on average, but high risks")


def test_a_hospital_with_too_few_patients() -> None:
    wide = {"value": 0.7, "lower": 0.5, "upper": 0.9}
    none = {"value": None, "lower": None, "upper": None}
    assert "too few patients" in light(auroc=wide)["text"]
    assert "too few patients" in light(auroc=none)["text"]


def test_numbers_and_classes_have_answers_of_their_own(linear: dict, classes: dict) -> None:
    r2 = linear["evaluation"]["all"]["r2"]
    assert f"explains {100 * r2:.0f} %" in sentences.answer(linear)[0]
    share = classes["evaluation"]["all"]["accuracy"]
    assert f"for {100 * share:.0f} of 100 patients" in sentences.answer(classes)[0]


def test_without_evaluation_there_is_still_an_answer(cancer: dict) -> None:
    bare = {k: v for k, v in cancer.items() if k != "evaluation"}
    assert all(sentence.endswith(".") for sentence in sentences.answer(bare))


def test_nothing_clear_is_said_so(cancer: dict) -> None:
    results = copy.deepcopy(cancer)
    for term in results["model"]["terms"]:
        term |= {"p": 0.4}
    assert sentences.matters(results).startswith("No measurement is clearly associated")
    for term in results["model"]["terms"]:
        term |= {"p": None, "se": None, "lower": None, "upper": None}
    assert "no standard errors" in sentences.matters(results)


def test_calibration_in_words(cancer: dict) -> None:
    results = copy.deepcopy(cancer)
    calibration = results["evaluation"]["all"]["calibration"]
    for lower, value, upper, words in (
        (0.9, 1.0, 1.1, "Risks are about right"),
        (0.5, 0.6, 0.7, "High risks are too high"),
        (1.2, 1.4, 1.6, "Risks are too cautious"),
    ):
        calibration["slope"] = {"value": value, "lower": lower, "upper": upper}
        assert sentences.right(results).startswith(words)


def test_patients_left_out_by_a_hidden_count_are_a_range(cancer: dict) -> None:
    results = copy.deepcopy(cancer)
    first, second, *_ = results["data"]["sites"]
    first["left_out"], second["left_out"] = {"missing": None}, {"missing": 7}
    assert sentences.who(results).endswith("8 to 11 were left out.")


def test_a_hospital_without_an_auroc_is_no_baseline(cancer: dict) -> None:
    evaluation = copy.deepcopy(cancer["evaluation"])
    first, second, *_ = evaluation["sites"]
    evaluation["alone"] = {first: 0.6, second: 0.6}
    evaluation["sites"][first] = {"n": 0, "events": 0}
    text = sentences.baselines({"evaluation": evaluation})
    assert "in 1 of 1 hospital " in text
    assert f"{second} 0.600" in text and first not in text.split("Its mean")[0]
