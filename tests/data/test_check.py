from __future__ import annotations

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest

from polyclinic.core.errors import InputError
from polyclinic.data.check import check_table
from polyclinic.data.codebook import Codebook

HEADER = "age,chol,sex,smoker,seen,note"
ROWS = [f"{60 + i},{200 + i},{i % 2},now,2020-01-0{i + 1},n" for i in range(8)]


def changed(codebook: Codebook, **parts) -> Codebook:
    return Codebook.from_dict({**codebook.model_dump(by_alias=True, exclude_none=True), **parts})


@pytest.fixture
def check(tmp_path, small):
    def checker(rows, codebook: Codebook = small, header: str = HEADER):
        path = tmp_path / "a.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return check_table(path, codebook, "a")

    return checker


def cells(name: str, *values: str) -> list[str]:
    """Eight good rows, the first ones with `values` in column `name`."""
    place, rows = HEADER.split(",").index(name), []
    for i, row in enumerate(ROWS):
        parts = row.split(",")
        parts[place] = values[i] if i < len(values) else parts[place]
        rows.append(",".join(parts))
    return rows


def of(findings, name: str) -> list[tuple[str, str, int | None]]:
    column = next(c for c in findings.columns if c.name == name)
    return [(f.kind, f.severity, f.count) for f in column.findings]


VA = """\
va   200 rows, 14 columns, no header   (exact counts: for this hospital only)
column      missing   written as      finding
trestbps         57   "?" 56, 0 1
chol             56   "?" 7, 0 49     0 is a missing code here
                                      1 above the usual 100 to 400, kept
oldpeak          56   "?" 56          1 below the usual 0 to 6.5, kept
slope           102   "?" 102       ! 51 % missing
ca              198   "?" 198       ! 2 values left, the minimum is 5: unusable
thal            166   "?" 166       ! 83 % missing
(8 more)    113 in 3 columns          fbs thalach exang
rows                                ! 1 exact duplicate, no patient id, kept
ok   units, levels, ranges          4 to look at (!)   full list: --all
     a copy to send, with small counts hidden: --share"""


def test_the_va_file(data_dir, heart):
    found = check_table(data_dir / "heart-disease/processed.va.data", heart, "va")
    assert found.to_text() == VA  # counts as in the data set's own README
    assert (found.problems, found.errors) == (4, 0)
    everything = found.to_text(all=True).splitlines()
    assert len(everything) == 2 + 14 + 1 + 1 + 2 and "--all" not in everything[-2]


def test_a_copy_to_share_hides_small_counts(data_dir, heart):
    found = check_table(data_dir / "heart-disease/processed.va.data", heart, "va")
    for text in (found.to_text(share=True), found.to_text(all=True, share=True)):
        assert "under 5 below the usual" in text and "under 5 exact duplicates" in text
        lines = {line.split()[0]: line for line in text.splitlines()}
        assert '"?", 0' in lines["trestbps"] and "56" not in lines["trestbps"]  # 57 - 56 is small
        assert "198" not in lines["ca"] and "under 5 values left" in lines["ca"]  # 200 - 198
        assert '"?" 7, 0 49' in lines["chol"] and "102" in lines["slope"]
    data = json.dumps(found.to_dict(share=True))
    assert "198" not in data and '"count": 1' not in data and '"count": 2' not in data
    assert '"count": "under 5"' in data
    assert "198" in json.dumps(found.to_dict())


def test_a_hidden_1_reads_like_a_hidden_4(check):
    texts = [check(cells("age", *["150"] * n)).to_text(all=True, share=True) for n in (1, 4)]
    assert texts[0] == texts[1] and "under 5 above the range 18 to 110" in texts[0]


def test_a_copy_to_share_hides_a_small_sum_of_the_rest(check):
    found = check([*cells("age", "?"), *ROWS])
    assert "1 in 1 column" in found.to_text()
    assert "some in 1 column" in found.to_text(share=True)


def test_good_data_give_nothing_to_look_at(check):
    found = check([row.replace("now", ["now", "never"][i % 2]) for i, row in enumerate(ROWS)])
    assert (found.problems, found.errors) == (0, 0)
    assert "nothing to look at" in found.to_text() and "ok   units, levels, ranges" in str(found)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("age", ["6o", "x"], ("not_a_number", "error", 2)),
        ("age", ["63.5"], ("fraction", "error", 1)),
        ("age", ["17", "3", "16"], ("out_of_range", "error", 3)),
        ("age", ["111"], ("out_of_range", "error", 1)),
        ("chol", ["inf", "nan"], ("not_finite", "error", 1)),
        ("chol", ["99", "60"], ("unusual", "note", 2)),
        ("chol", ["401"], ("unusual", "note", 1)),
        ("chol", ["0"] * 5, ("unusable", "look", 3)),
        ("chol", ["0"] * 5, ("missing_code", "note", None)),
        ("sex", ["male", "2"], ("unknown_level", "error", 2)),
        ("sex", ["1"] * 8, ("constant", "look", None)),
        ("smoker", ["Never"], ("unknown_level", "error", 1)),
        ("seen", ["1.1.2020"], ("not_a_date", "error", 1)),
        ("age", ["?"] * 8, ("unusable", "look", 0)),
    ],
)
def test_what_is_found(check, name, values, expected):
    found = check(cells(name, *values))
    assert expected in of(found, name)
    assert found.errors == sum(f[1] == "error" for c in found.columns for f in of(found, c.name))


def test_what_is_outside_the_range_is_not_also_unusual(check):
    assert [f[0] for f in of(check(cells("chol", "900", "450")), "chol")] == [
        "out_of_range",
        "unusual",
    ]


def test_bad_cells_never_raise_and_are_never_shown(check):
    secrets = ["4711x", "Mueller", "13.13.1313", "9999", "-77", "x'; DROP TABLE source", "9e99"]
    for name in HEADER.split(","):
        found = check(cells(name, *secrets))
        for text in (found.to_text(all=True), json.dumps(found.to_dict())):
            assert not any(secret in text for secret in secrets)


def test_mostly_missing_starts_above_half(check):
    rows = [*ROWS, *ROWS]
    half = [r.replace("now", "", 1) if i < 8 else r for i, r in enumerate(rows)]
    more = [r.replace("now", "", 1) if i < 9 else r for i, r in enumerate(rows)]
    assert "mostly_missing" not in [f[0] for f in of(check(half), "smoker")]
    assert "mostly_missing" in [f[0] for f in of(check(more), "smoker")]
    assert "56 % missing" in check(more).to_text()


def test_missing_by_how_it_is_written(check):
    column = check(cells("chol", "?", "NA", "", " ? ", "0", "0.0")).columns[1]
    assert column.missing == 6
    assert dict(column.written) == {'"?"': 2, '"NA"': 1, "blank": 1, "0": 2}


@pytest.mark.parametrize(
    ("unit", "molar_mass", "usual", "values", "suspected"),
    [
        ("mg/dL", 386.65, [100, 400], [4.9, 5.2, 5.5, 6.1, 6.9, 7.2], "mmol/L"),
        ("mm[Hg]", None, [80, 220], [16, 17.3, 18.1, 15.9, 19, 20], "kPa"),
        ("Cel", None, [34, 42], [97.9, 98.6, 99.1, 98.2, 101, 98], "[degF]"),
        ("kg", None, [30, 250], [154, 210, 300, 440, 330, 270], "[lb_av]"),
        ("cm", None, [120, 220], [1.6, 1.7, 1.75, 1.8, 1.9, 1.65], "m"),
    ],
)
def test_a_wrong_unit_is_suspected(unit, molar_mass, usual, values, suspected):
    column = {"type": "number", "unit": unit, "usual": usual}
    column |= {"molar_mass": molar_mass} if molar_mass else {}
    codebook = Codebook.from_dict({"name": "x", "columns": {"v": column}})
    found = check_table(pd.DataFrame({"v": values}), codebook, "a")
    text = next(f.sentence() for f in found.columns[0].findings if f.kind == "wrong_unit")
    assert suspected in text and f"declared {unit}" in text and "ok   units" not in str(found)
    declared = changed(codebook, site={"a": {"map": {"v": {"unit": suspected}}}})
    assert of(check_table(pd.DataFrame({"v": values}), declared, "a"), "v") == []


def test_no_unit_is_suspected_where_none_fits(check):
    assert "wrong_unit" not in [f[0] for f in of(check(cells("chol", *["799"] * 8)), "chol")]
    assert "wrong_unit" not in [f[0] for f in of(check(ROWS), "chol")]


def test_an_absent_column_and_extra_ones(check):
    found = check(["63,1,2,3"] * 8, header="age,bmi,height,seen")
    assert of(found, "chol") == [("absent", "error", None)]
    assert [(f.kind, f.count) for f in found.rows] == [("duplicate_rows", 7), ("extra_columns", 2)]
    assert "2 columns not in the codebook, not read" in found.to_text()


def test_what_a_codebook_says_of_a_site(check, small, data_dir, heart):
    section = {"not_recorded": ["chol", "age"], "not_comparable": {"sex": "as {stated} on paper"}}
    found = check(cells("chol", *["?"] * 8), changed(small, site={"a": section}))
    assert of(found, "chol") == [("not_recorded", "note", None)]
    assert ("not_recorded_but_there", "look", 8) in of(found, "age")
    assert "as {stated} on paper" in " ".join(found.to_text().split())
    swiss = check_table(data_dir / "heart-disease/processed.switzerland.data", heart, "switzerland")
    assert of(swiss, "chol") == [("not_recorded", "note", None)]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Name", "a name"),
        ("last_name", "a name"),
        ("patientName", "a name"),
        ("Surname", "a name"),
        ("e-mail", "an e-mail address"),
        ("email_address", "an e-mail address"),
        ("Phone number", "a telephone number"),
        ("date_of_birth", "a date of birth"),
        ("DOB", "a date of birth"),
        ("birthDate", "a date of birth"),
        ("home address", "an address"),
        ("MRN", "a patient number"),
        ("drug_name", None),
        ("birth_weight", None),
        ("telangiectasia", None),
        ("weight", None),
        ("mailed", None),
        ("thal", None),
        ("ethnicity_not reported", None),
    ],
)
def test_likely_identifiers(check, name, what):
    found = check([f"{row},x" for row in ROWS], header=f"{HEADER},{name}")
    said = [f.sentence() for f in found.rows if f.kind == "identifier"]
    assert said == ([] if what is None else [f"{name} may be {what}: leave it out of the file"])


def test_the_patient_id_is_no_finding_and_its_gaps_are(check, small):
    codebook = changed(
        small, columns={"mrn": {"type": "text"}, "age": {"type": "integer"}}, patient={"id": "mrn"}
    )
    found = check(
        ["a,1", "b,2", "a,3", ",4", ",5", "?,5", "c,6", "c,6"], codebook, header="mrn,age"
    )
    assert [(f.kind, f.severity, f.count) for f in found.rows] == [
        ("missing_id", "error", 3),
        ("duplicate_rows", "look", 1),
        ("duplicate_ids", "note", 2),
    ]
    strict = changed(codebook, patient={"id": "mrn", "duplicates": "error"})
    assert check(["a,1", "a,2"], strict, header="mrn,age").errors == 1
    assert [f.kind for f in check(["a,1"], codebook, header="x,age").rows] == [
        "no_id",
        "extra_columns",
    ]


def test_an_id_that_is_no_column_of_the_codebook(check, small):
    codebook = changed(small, columns={"age": {"type": "integer"}}, patient={"id": "mrn"})
    found = check(["a,1", ",2", "b,3"], codebook, header="mrn,age")
    assert [(f.kind, f.count) for f in found.rows] == [("missing_id", 1)]


def test_a_first_row_read_as_a_header_is_not_shown(check):
    found = check(ROWS, header="64,217,1,now,2020-01-01,Mueller")
    assert "no_header" in [f.kind for f in found.rows]
    for text in (found.to_text(all=True), json.dumps(found.to_dict())):
        assert "Mueller" not in text and "217" not in text


def test_no_rows(check):
    found = check([])
    assert [f.kind for f in found.rows] == ["no_rows"] and found.errors == 1
    assert "error" in found.to_text()


@pytest.mark.parametrize("make", [pd.DataFrame, lambda d: pl.DataFrame(d, strict=False)])
def test_frames(small, make):
    frame = make(
        {
            "age": [60, 61, 62, 63, 17],
            "chol": [200, np.nan, 0, 300, 310],
            "sex": [True, False, True, False, True],
            "smoker": ["now", "x", None, "", "now"],
            "seen": [None] * 5,
            "note": ["a"] * 5,
        }
    )
    found = check_table(frame, small, "a")
    assert ("out_of_range", "error", 1) in of(found, "age")
    assert ("unknown_level", "error", 1) in of(found, "smoker")
    assert found.columns[1].missing == 2 and found.header is None


def test_a_file_that_is_no_table_raises(tmp_path, small):
    with pytest.raises(InputError) as caught:
        check_table(tmp_path / "absent.csv", small, "a")
    assert caught.value.code == "NO_FILE"


def test_no_line_is_wider_than_80(check, data_dir, heart):
    texts = [
        check_table(data_dir / f"heart-disease/processed.{s}.data", heart, s).to_text(
            all=all, share=share
        )
        for s in ("va", "hungarian")
        for all in (0, 1)
        for share in (0, 1)
    ]
    long = "a_column_of_the_registry_with_a_very_long_name"
    codebook = Codebook.from_dict(
        {
            "name": "x",
            "columns": {
                long: {"type": "number", "range": [100, 400], "missing": [-1, -2, -3, "unknown"]}
            },
        }
    )
    values = ["-1", "-2", "-3", "unknown", "?", "", "9999", "9999", "1"]
    texts.append(check([*values, "200"], codebook, header=long).to_text(all=True))
    for text in texts:
        assert all(len(line) <= 80 for line in text.splitlines()), text
