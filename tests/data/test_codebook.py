from __future__ import annotations

import json

import pytest

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import UNBOUNDED, Codebook, refuse_not_comparable

START = """format = 1
name = "x"
[columns]
age = { type = "integer", unit = "a", range = [18, 110] }
chol = { type = "number", unit = "mg/dL", molar_mass = 386.65 }
sex = { type = "binary", levels = { 0 = "female", 1 = "male" } }
cp = { type = "category", levels = { 1 = "a", 2 = "b", 3 = "c" }, label = "chest pain" }
note = { type = "text" }
"""


def load(tmp_path, text: str) -> Codebook:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    return Codebook.load(path)


def refused(tmp_path, text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    error = caught.value
    assert error.rule and error.next and error.kept
    assert "x.toml" in error.what or "codebook" in error.what
    return error


def test_the_heart_codebook(heart):
    assert heart.name == "heart-disease" and heart.target.column == "disease"
    assert heart.columns["chol"].missing == [0] and heart.columns["chol"].molar_mass == 386.65
    assert heart.level_names("cp") == ("1", "2", "3", "4")
    assert heart.codes["thal"] == ("3", "6", "7")
    assert heart.usable[-2:] == ("num", "disease") and len(heart.usable) == 15
    assert heart.label("cp") == "chest pain" and heart.label("disease") == "coronary disease"
    assert heart.section("switzerland").not_recorded == ["chol"]
    assert heart.section("nowhere").not_recorded == []
    assert not heart.file.header and heart.file_of("va").missing == ["?", ""]


def test_bounds_come_from_the_codebook(tmp_path):
    codebook = load(tmp_path, START + 't = { type = "number", range = [-5, 3] }\n')
    assert codebook.bound("age") == 110 and codebook.bound("t") == 5
    assert codebook.bound("sex") == 1 and codebook.bound("cp") == 2
    assert codebook.bound("chol") == UNBOUNDED


def test_text_and_the_id_are_not_usable(tmp_path):
    codebook = load(tmp_path, START + '[patient]\nid = "age"\n')
    assert codebook.usable == ("chol", "sex", "cp")
    for name in ("note", "age"):
        with pytest.raises(InputError, match="never leaves the file"):
            codebook.spec(name)


def test_an_unknown_column_gets_the_nearest(heart):
    with pytest.raises(InputError) as caught:
        heart.spec("trestbp")
    assert caught.value.code == "UNKNOWN_COLUMN" and '"trestbps"' in caught.value.next


def test_plain_data_give_the_same_codebook(heart):
    again = Codebook.from_dict(heart.to_dict())
    assert again == heart and again.content_hash == heart.content_hash


def test_orders_survive_where_keys_are_sorted(small):
    again = Codebook.from_dict(json.loads(json.dumps(small.to_dict(), sort_keys=True)))
    assert list(again.columns) == list(small.columns)  # what a file without header needs
    assert again.level_names("smoker") == ("never", "former", "now")
    assert again.content_hash == small.content_hash


@pytest.mark.parametrize("pairs", [[1, 2], [["a"]], [["a", "b", "c"]], ["ab"]])
def test_a_list_of_no_pairs(pairs):
    with pytest.raises(InputError) as caught:
        Codebook.from_dict({"name": "x", "columns": {"c": {"type": "category", "levels": pairs}}})
    assert caught.value.code == "WRONG_VALUE"


def test_the_hash_changes_with_a_level_order_and_a_missing_code(tmp_path):
    first = load(tmp_path, START)
    swapped = load(tmp_path, START.replace('1 = "a", 2 = "b"', '2 = "b", 1 = "a"'))
    coded = load(tmp_path, START.replace('unit = "a"', 'unit = "a", missing = [99]'))
    assert swapped.level_names("cp") == ("2", "1", "3")
    assert len({first.content_hash, swapped.content_hash, coded.content_hash}) == 3


@pytest.mark.parametrize(
    ("text", "line", "key", "hint"),
    [
        (START.replace("unit =", "untis =", 1), 4, "untis", '"unit"'),
        (START + '[patients]\nid = "row"\n', 9, "patients", '"patient"'),
        (START + "[file]\nheeder = false\n", 10, "heeder", '"header"'),
        (START + '[patient]\nduplicate = "warn"\n', 10, "duplicate", '"duplicates"'),
        (START + '[site.a]\nnot_record = ["chol"]\n', 10, "not_record", '"not_recorded"'),
        (START + '[site.a.map]\nchol = { units = "mmol/L" }\n', 10, "units", '"unit"'),
        (START + '[site.a.file]\ndelimeter = ";"\n', 10, "delimeter", '"delimiter"'),
        (START + '[derived]\nold = { type = "binary", form = "age > 1" }\n', 10, "form", '"from"'),
        (START + '[target]\ncolumns = "age"\n', 10, "columns", '"column"'),
        (START + "zzz = 1\n", None, "zzz", None),
    ],
)
def test_an_unknown_key_is_named_with_its_line(tmp_path, text, line, key, hint):
    error = refused(tmp_path, text)
    if hint is None:
        assert error.code == "WRONG_VALUE" and key in error.what
        return
    assert error.code == "UNKNOWN_KEY"
    assert f'"{key}"' in error.what and hint in error.next
    # a table's name is found where the key of that name first stands
    assert f"line {line}" in error.what or key == "columns"


CHOL = 'chol = { type = "number", unit = "mg/dL", molar_mass = 386.65 }'


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("format = 1", "format = 2", "format"),
        ('name = "x"\n', "", '"name" is absent'),
        ('type = "integer"', 'type = "int"', "type"),
        ("range = [18, 110]", "range = [110, 18]", "range is [lower, upper]"),
        ("range = [18, 110]", "range = [18]", "range"),
        ("range = [18, 110]", 'range = ["a", "b"]', "range"),
        ("range = [18, 110]", "usual = [60, 60]", "usual is [lower, upper]"),
        ("molar_mass = 386.65", "molar_mass = 0", "molar_mass"),
        ('1 = "male" }', '1 = "male", 2 = "x" }', "two levels"),
        ('type = "binary", levels = { 0 = "female", 1 = "male" }', 'type = "binary"', "levels"),
        ('note = { type = "text" }', 'note = { type = "text", levels = { 1 = "x" } }', "levels"),
        ('2 = "b"', "2 = 2", "levels"),
        (CHOL, 'chol = { unit = "mg/dL" }', '"type" is absent'),
    ],
)
def test_wrong_values_of_columns(tmp_path, old, new, says):
    assert old in START
    error = refused(tmp_path, START.replace(old, new))
    assert error.code == "WRONG_VALUE"
    assert says in error.what + error.rule


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ('[target]\ncolumn = "disease"\n', "disease"),
        ('[patient]\nduplicates = "maybe"\n', "duplicates"),
        ('[derived]\nage = { from = "chol > 1" }\n', "both a column and derived"),
        ('[derived]\nold = { from = "bmi > 1" }\n', "bmi"),
        ('[derived]\nold = { from = "age >" }\n', "from"),
        ("[derived]\nold = { from = \"__import__('os')\" }\n", "from"),
        ('[site.a]\nnot_recorded = ["bmi"]\n', "bmi"),
        ('[site.a]\nnot_comparable = { bmi = "no" }\n', "bmi"),
        ('[site.a.map]\nbmi = { column = "b" }\n', "bmi"),
        ("[site.a.map]\nsex = { levels = { F = 0, M = 7 } }\n", "7 is no level of sex"),
        ("[site.a.map]\nage = { levels = { F = 0 } }\n", "age has no levels"),
        ('[site.a.map]\nage = { unit = "kg" }\n', "no conversion from kg to a"),
        ('[site.a.map]\ncp = { unit = "kg" }\n', "no conversion from kg"),
        (
            '[derived]\nold = { from = "age > 1" }\n[site.a.map]\nold = { column = "b" }\n',
            "derived",
        ),
        ('[site.a.file]\ndelimiter = ";;"\n', "delimiter"),
        ('[file]\ndelimiter = ""\n', "delimiter"),
        ('[file]\ndecimal = ";"\n', "decimal"),
        ('[file]\nheader = "perhaps"\n', "header"),
    ],
)
def test_wrong_values_elsewhere(tmp_path, extra, says):
    error = refused(tmp_path, START + extra)
    assert error.code == "WRONG_VALUE"
    assert says in error.what + error.rule


def test_what_is_no_toml(tmp_path):
    error = refused(tmp_path, START + "age = = 1\n")
    assert error.code == "BAD_TOML" and "line 9" in error.what
    error = refused(tmp_path, START + 'age = { type = "integer" }\n')
    assert error.code == "BAD_TOML"  # a key twice


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError) as caught:
        Codebook.load(tmp_path / "absent.toml")
    assert caught.value.code == "NO_FILE" and "absent.toml" in caught.value.what
    (tmp_path / "x.toml").write_bytes(b'name = "\xff\xfe"')
    with pytest.raises(InputError, match="not UTF-8"):
        Codebook.load(tmp_path / "x.toml")


def test_a_site_may_write_its_file_differently(tmp_path):
    codebook = load(tmp_path, START + '[file]\nmissing = ["?"]\n[site.a.file]\ndelimiter = ";"\n')
    assert codebook.file_of("a").delimiter == ";" and codebook.file_of("a").missing == ["?"]
    assert codebook.file_of("b").delimiter == ","


def test_a_column_that_does_not_mean_the_same_is_refused(heart):
    refuse_not_comparable(heart, ["hungarian", "va"], ["disease", "age"])
    refuse_not_comparable(heart, ["cleveland", "va"], ["num"])
    with pytest.raises(InputError) as caught:
        refuse_not_comparable(heart, ["va", "hungarian"], ["age", "num"])
    assert caught.value.code == "NOT_COMPARABLE" and caught.value.site == "hungarian"
    assert "num" in caught.value.what
