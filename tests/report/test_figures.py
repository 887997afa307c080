"""Figures: legible, the same bytes each time, with nothing small in them."""

from __future__ import annotations

import copy
import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polyclinic.report.figures import FIGURES, MOST_NAMED, figure, merged_bins, shown_bars
from polyclinic.report.svg import COLOURS, NARROW, WIDE, fold


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_large_enough_on_a_page_and_on_a_phone(cancer: dict, name: str) -> None:
    drawn = figure(name, cancer)
    assert drawn is not None
    for svg, most in ((drawn.svg, WIDE), (drawn.narrow, NARROW)):
        left, top, width, _ = map(float, re.search(r'viewBox="([^"]*)"', svg)[1].split())
        shown = float(re.search(r"max-width:([\d.]+)in", svg)[1])
        assert (left, top) == (0, 0)
        assert shown <= most + 1e-9
        point = 72 * shown / width  # of one unit of the drawing
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
        assert sizes and min(sizes) * point >= 8.99


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_text_and_bytes_are_the_same_each_time(cancer: dict, name: str) -> None:
    first, again = figure(name, cancer), figure(name, copy.deepcopy(cancer))
    assert first == again
    assert "<text" in first.svg
    assert not re.search(r"\d{4}-\d{2}-\d{2}", first.svg), "no date"


def test_pyplot_is_never_loaded_and_matplotlib_only_to_draw() -> None:
    code = (
        "import sys, polyclinic.report.html, polyclinic.report.words\n"
        "print('matplotlib' in sys.modules)\n"
        "from polyclinic.report.figures import FIGURES\n"
        "FIGURES['convergence']({'convergence': [\n"
        "    {'round': k, 'step': 's', 'gain': 10.0 ** -k} for k in (1, 2, 3)]})\n"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]


def test_a_figure_that_has_nothing_to_show_is_none(linear: dict, classes: dict) -> None:
    for results in (linear, classes):
        assert FIGURES["forest"](results) is not None
        for name in ("roc", "calibration", "decision", "sites"):
            assert FIGURES[name](results) is None


def test_hospitals_differ_by_more_than_colour(cancer: dict) -> None:
    svg = FIGURES["roc"](cancer).svg
    sites = len(cancer["evaluation"]["sites"])
    dashes = set(re.findall(r"stroke-dasharray: ([\d., ]+)", svg))
    assert len(dashes) >= min(sites, 4) - 1
    for colour in COLOURS[:sites]:
        assert colour.lower() in svg.lower()


def test_many_hospitals_share_one_style(cancer: dict) -> None:
    results = copy.deepcopy(cancer)
    sites = results["evaluation"]["sites"]
    one = next(iter(sites.values()))
    sites |= {f"hospital {i}": copy.deepcopy(one) for i in range(2 * MOST_NAMED)}
    drawn = FIGURES["roc"](results)
    assert drawn.svg.count("each hospital") == 1
    assert len(drawn.rows) == len(sites) + 1


def test_the_forest_of_a_number_is_read_as_difference(linear: dict) -> None:
    drawn = FIGURES["forest"](linear)
    assert drawn.head[1] == "difference"
    bmi = next(t for t in linear["model"]["terms"] if t["name"] == "bmi")
    row = next(row for row in drawn.rows if row[0].startswith("bmi"))
    assert float(row[1]) == pytest.approx(bmi["coef"] * bmi["step"], rel=1e-3)


bins = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(sum), min_size=1, max_size=10
)


@given(bins)
@example([(86, 3), (50, 50), (2, 90)])
@example([(3, 1)])
def test_joined_tenths_hold_nobody_in_small_company(counts: list[tuple[int, int]]) -> None:
    tenths = [
        {"n": a + b, "observed": b / (a + b), "predicted": (i + 0.5) / len(counts)}
        for i, (a, b) in enumerate(counts)
    ]
    joined = merged_bins(tenths)
    for one in joined:
        events = round(one["n"] * one["observed"])
        assert not any(0 < c < 5 for c in (one["n"], events, one["n"] - events))
        assert one["lower"] <= one["observed"] + 1e-12 and one["observed"] - 1e-12 <= one["upper"]
    if joined:
        assert sum(one["n"] for one in joined) == sum(a + b for a, b in counts)
        predicted = sum(one["n"] * one["predicted"] for one in joined)
        assert predicted == pytest.approx(sum(t["n"] * t["predicted"] for t in tenths))
    else:
        whole = (sum(a + b for a, b in counts), sum(b for _, b in counts))
        assert any(0 < c < 5 for c in (*whole, whole[0] - whole[1]))


def test_a_single_small_bar_takes_a_second_one_with_it() -> None:
    bars = [{"lower": i / 4, "upper": (i + 1) / 4, "n": n} for i, n in enumerate((40, 3, 12, 20))]
    assert [bar["n"] for bar in shown_bars(bars)] == [40, 20]


def test_long_labels_keep_to_two_lines() -> None:
    assert fold("short", 10) == "short"
    assert fold("one two three four", 9) == "one two\nthree..."
    assert max(map(len, fold("x" * 100, 20).split("\n"))) <= 20


def test_a_separated_term_is_drawn_without_a_warning(cancer: dict) -> None:
    cancer = copy.deepcopy(cancer)
    cancer["model"]["terms"][1] |= {"coef": 40.0, "lower": -900.0, "upper": 900.0, "se": 450.0}
    drawn = figure("forest", cancer)  # a warning is an error here
    assert drawn is not None and "inf" not in drawn.svg
