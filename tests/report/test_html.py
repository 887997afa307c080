"""The report as a reader, a browser without network, a screen reader and a printer meet it."""

from __future__ import annotations

import copy
import re
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest

from polyclinic.core.errors import PolyclinicError
from polyclinic.report.html import SECTIONS, render_report, write_report
from tests.report.page import Element, parse

STYLE = (files("polyclinic.report") / "templates" / "style.css").read_text(encoding="utf-8")
KINDS = ("cancer", "linear", "classes")


@pytest.fixture(scope="module", params=KINDS)
def page(request: pytest.FixtureRequest) -> Element:
    return parse(render_report(request.getfixturevalue(request.param)))


def headings(page: Element) -> list[str]:
    return [" ".join(h.text.split()) for h in page.all("h2")]


def test_nothing_is_fetched_and_nothing_runs(page: Element) -> None:
    assert not page.all("script", "link", "iframe", "object", "embed", "img", "base", "form")
    for element in page.walk():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"{element.name} {name}"
            if name in ("src", "srcset", "href", "action", "data", "poster"):
                assert value.startswith("#"), f"{element.name} {name}={value}"
            for target in re.findall(r"url\(([^)]*)\)", value):
                assert target.strip("\"'").startswith("#")
    for style in page.all("style"):
        assert "@import" not in style.text
        assert "url(" not in style.text


def test_ids_are_unique_and_every_reference_has_its_target(page: Element) -> None:
    ids = [e.attributes["id"] for e in page.walk() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in page.walk():
        for name, value in element.attributes.items():
            wanted = value.split() if name.startswith("aria-labelledby") else []
            wanted += [value[1:]] if name == "href" else []
            wanted += re.findall(r"url\(#([^)]*)\)", value)
            assert set(wanted) <= set(ids), f"{element.name} {name}={value}"


def test_language_title_and_headings_in_order(page: Element) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("title")[0].text == "A title"
    levels = [int(h.name[1]) for h in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    numbers = [int(text.split()[0]) for text in headings(page)]
    assert numbers == sorted(set(numbers)), "sections keep their numbers, also where one is absent"


def test_each_section_begins_with_a_sentence(page: Element) -> None:
    for section in page.all("section"):
        after = [c for c in section.children if isinstance(c, Element)]
        assert [after[0].name, after[1].name] == ["h2", "p"]
        assert after[1].text.strip().endswith((".", "?", ".)"))


def test_every_figure_has_words_and_numbers(page: Element) -> None:
    assert page.all("figure")
    for figure in page.all("figure"):
        drawings = figure.all("svg")
        assert len(drawings) == 2, "one for a page, one for a phone"
        for svg in drawings:
            assert svg.attributes["role"] == "img"
            title, words = svg.all("title")[0].text, svg.all("desc")[0].text
            assert title and words.endswith(".")
            assert words == figure.all("figcaption")[0].text
        details = figure.all("details")[0]
        assert details.all("summary")[0].text == "show numbers"
        assert len(details.all("tr")) > 1


def test_tables_have_scopes_and_straight_rows(page: Element) -> None:
    for table in page.all("table"):
        assert all(h.attributes.get("scope") in ("row", "col") for h in table.all("th"))
        lengths = {len(row.all("th", "td")) for row in table.all("tr")}
        assert len(lengths) == 1, f"{table.text[:60]}: rows of {lengths} cells"
    boxes = [e for e in page.walk() if "scroll" in e.attributes.get("class", "").split()]
    inside = [t for box in boxes for t in box.all("table")]
    assert len(inside) == len(page.all("table")), "each table scrolls in a box of its own"
    assert all(box.attributes["tabindex"] == "0" for box in boxes), "by keyboard too"
    assert all(box.attributes["aria-label"] for box in boxes)


def test_sections_that_do_not_apply_are_absent(cancer: dict, linear: dict, classes: dict) -> None:
    assert headings(parse(render_report(cancer))) == [
        f"{i} {title}" for i, title in enumerate(SECTIONS, 1)
    ]
    for results in (linear, classes):
        numbers = [int(h.split()[0]) for h in headings(parse(render_report(results)))]
        assert numbers == [1, 2, 3, 7, 8, 9, 10, 11]
    bare = {k: v for k, v in cancer.items() if k not in ("evaluation", "table_one")}
    numbers = [int(h.split()[0]) for h in headings(parse(render_report(bare)))]
    assert numbers == [1, 2, 3, 8, 9, 10, 11]


def test_links_lead_to_the_sections_that_there_are(page: Element) -> None:
    links = [a.attributes["href"] for a in page.all("nav")[0].all("a")]
    assert links == [f"#{h.attributes['id']}" for h in page.all("h2")[1:]]


def test_results_on_the_same_patients_are_marked(cancer: dict) -> None:
    results = copy.deepcopy(cancer)
    results["evaluation"] |= {"how": "same patients", "folds": 0}
    marked = [h for h in headings(parse(render_report(results))) if "(on the same patients)" in h]
    assert [int(h.split()[0]) for h in marked] == [4, 5, 6, 7]
    assert not [h for h in headings(parse(render_report(cancer))) if "same patients" in h]


NASTY = "<script>alert(1)</script> & \"q\" 'a' $x$ \\ {{ 7*7 }}"


def renamed(value: object, old: str, new: str) -> object:
    if isinstance(value, dict):
        return {new if k == old else k: renamed(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [renamed(v, old, new) for v in value]
    return new if value == old else value


def test_names_are_escaped_everywhere(cancer: dict) -> None:
    site = cancer["data"]["sites"][0]["name"]
    results = renamed(copy.deepcopy(cancer), site, NASTY)
    results["study"] |= {"title": NASTY, "name": NASTY, "purpose": NASTY, "formula": NASTY}
    results["model"]["warnings"] = [NASTY]
    results["model"]["terms"][1]["label"] = NASTY
    page = parse(render_report(results))
    assert not page.all("script")
    assert page.all("h1")[0].text == NASTY
    drawn = [text.text for svg in page.all("svg") for text in svg.all("text")]
    assert any(NASTY[:12] in text for text in drawn), "the hospital stands in a figure"
    assert "49" not in page.all("h1")[0].text, "a name is no template"
    style = page.all("style")[0].text
    assert "<" not in style and style.count("{") == style.count("}")


def test_a_page_is_small_and_the_same_each_time(cancer: dict) -> None:
    first = render_report(cancer)
    assert len(first.encode()) < 600_000
    assert first == render_report(copy.deepcopy(cancer))


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, linear: dict) -> None:
    path = tmp_path / "report.html"
    write_report(linear, path)
    assert path.read_text(encoding="utf-8") == render_report(linear)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PolyclinicError):
        write_report(linear, tmp_path / "file" / "report.html")


def luminance(colour: str) -> float:
    def linear_(part: float) -> float:
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    r, g, b = (linear_(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_from_what_is_behind_it() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21), "the formula of WCAG 2.1"
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", STYLE))
    used = set(re.findall(r"(?<![-\w])color: (?:var\(--([\w-]+)\)|(#\w+))", STYLE))
    front = {colours[name] if name else value for name, value in used}
    behind = [colours[name] for name in ("paper", "soft", "ok-soft", "look-soft")]
    assert len(front) >= 4
    for text in front:
        for ground in behind:
            assert contrast(text, ground) >= 4.5, f"{text} on {ground}"


def test_print_keeps_the_answer_on_a_page_of_its_own() -> None:
    printed = STYLE[STYLE.index("@media print") :]
    assert re.search(r"\.first \{[^}]*break-after: page", printed)
    assert re.search(r"figure[^{]*\{[^}]*break-inside: avoid", printed)
    assert re.search(r"@page \{ margin: 15mm;", STYLE)
    assert re.search(r"a\[href\^=\"http\"\]::after", printed)


def test_every_printed_page_names_study_and_hash(heart: dict) -> None:
    heart["study"] |= {"name": 'a"} body{display:none}', "hash": "9c2e41d7" + "0" * 56}
    style = parse(render_report(heart)).all("style")[0].text
    line = next(line for line in style.splitlines() if "@top-left { content" in line)
    assert "9c2e 41d7" in line
    assert line.count('"') == 2 and line.count("{") == line.count("}") == 2
