from __future__ import annotations

import time

import numpy as np
import pandas as pd
import patsy
import pytest

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.cohort import Cohort
from polyclinic.data.formula import compile_formula, formula_columns

FORMULA_C = (
    "disease ~ age + sex + C(cp) + trestbps + chol + fbs + C(restecg) + thalach + exang + oldpeak"
)


@pytest.fixture(scope="module")
def real(tables):
    """Complete rows of three hospitals: our columns, and the codes as a frame for patsy."""
    names = (
        "age",
        "sex",
        "cp",
        "trestbps",
        "chol",
        "fbs",
        "restecg",
        "thalach",
        "exang",
        "oldpeak",
        "disease",
    )
    kept = [(t, Cohort(columns=names).rows(t)) for t in tables.values()]
    columns = {n: np.concatenate([t.columns[n][rows] for t, rows in kept]) for n in names}
    return columns, _codes(columns, tables["va"].codebook)


def _codes(columns, codebook) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    for name in columns:
        if codebook.spec(name).type == "category":
            codes = [int(code) for code in codebook.level_names(name)]
            frame[name] = np.array(codes)[columns[name].astype(int)]
    return frame


@pytest.fixture(scope="module")
def random():
    rng, n = np.random.default_rng(5), 200
    codebook = Codebook.from_dict(
        {
            "name": "r",
            "columns": {
                "y": {"type": "number"},
                "x": {"type": "number", "range": [0.1, 5]},
                "z": {"type": "number", "range": [-3, 3]},
                "a": {"type": "category", "levels": {"1": "", "2": "", "3": ""}},
                "b": {"type": "category", "levels": {"1": "", "2": ""}},
                "c": {"type": "category", "levels": {"1": "", "2": "", "3": "", "4": ""}},
            },
        }
    )
    columns = {"y": rng.standard_normal(n), "x": rng.uniform(0.1, 5, n), "z": rng.uniform(-3, 3, n)}
    columns |= {
        k: rng.integers(0, m, n).astype(float) for k, m in zip("abc", (3, 2, 4), strict=True)
    }
    return columns, _codes(columns, codebook), codebook


def same_as_patsy(formula: str, columns, frame, codebook, theirs: str | None = None) -> None:
    design = compile_formula(formula, codebook)
    expected = patsy.dmatrix((theirs or formula).split("~", 1)[1], frame, return_type="dataframe")
    # patsy writes an interaction in the order of its terms, and codes a bare category as C( ) here
    names = [_sorted(n) for n in design.names]
    assert len(set(names)) == len(names)
    assert design.intercept == ("Intercept" in expected)
    assert set(names) == {_sorted(n) for n in expected.columns} - {"Intercept"}
    matrix = pd.DataFrame(design.matrix(columns), columns=names)
    for name in expected.columns.drop("Intercept", errors="ignore"):
        np.testing.assert_allclose(
            matrix[_sorted(name)], expected[name], rtol=1e-12, atol=1e-12, err_msg=name
        )


def _sorted(name: str) -> str:
    return ":".join(sorted(name.split(":")))


@pytest.mark.parametrize(
    "formula",
    [
        "disease ~ age",
        "disease ~ age + sex + C(cp) + thalach + exang + oldpeak",
        FORMULA_C,
        "disease ~ 0 + C(cp)",
        "disease ~ age * C(cp)",
        "disease ~ age:C(cp)",
        "disease ~ C(cp):C(restecg)",
        "disease ~ C(cp) * C(restecg) - 1",
        "disease ~ (age + sex + C(cp)) ** 2",
        "disease ~ C(cp, Treatment(4)) + age",
        "disease ~ C(cp, Treatment(reference=3)):sex",
        "disease ~ np.log(chol) + I(age ** 2) + np.sqrt(trestbps) + np.exp(oldpeak)",
        "disease ~ I((age - 50) / 10) + I(2 * chol - 3) + I(100 - age)",
        "disease ~ age + sex + age:sex - sex",
        "disease ~ age / C(restecg)",
        "disease ~ 1",
    ],
)
def test_real_matrices_equal_patsys(real, heart, formula):
    same_as_patsy(formula, *real, heart)


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ C(a) + C(b) + C(a):C(b)",
        "y ~ C(a):C(b)",
        "y ~ C(a):C(b) - 1",
        "y ~ C(a) + C(a):C(b):C(c)",
        "y ~ C(a):C(b) + C(b):C(c)",
        "y ~ C(a) * C(b) * C(c)",
        "y ~ C(a) * C(b) * C(c) - 1",
        "y ~ x:C(a) + z:C(b) + C(c)",
        "y ~ x:z:C(a):C(b) + x:z",
        "y ~ (C(a) + C(b) + x) ** 3 - C(a):C(b)",
        "y ~ 0 + x + C(a):x + C(b):z",
        "y ~ np.log(x):C(a) + np.abs(z) + np.log1p(x)",
    ],
)
def test_random_matrices_equal_patsys(random, formula):
    same_as_patsy(formula, *random)


@pytest.mark.parametrize(
    ("formula", "rank"),
    [
        ("y ~ C(a) * C(b) * C(c)", 24),
        ("y ~ C(a):C(b):C(c)", 24),
        ("y ~ 0 + C(a):x + C(b)", 5),
        ("y ~ C(a):C(b) + C(b):C(c)", 1 + 1 + 4 + 6),
    ],
)
def test_the_columns_are_independent_and_complete(random, formula, rank):
    columns, _, codebook = random
    design = compile_formula(formula, codebook)
    matrix = design.matrix(columns)
    if design.intercept:
        matrix = np.column_stack([np.ones(len(matrix)), matrix])
    assert matrix.shape[1] == rank == np.linalg.matrix_rank(matrix)


def test_the_first_factor_varies_fastest_as_in_patsy(random):
    _, frame, codebook = random
    formula = "C(a) + C(c) + C(a):C(c)"
    names = compile_formula(f"y ~ {formula}", codebook).names
    assert ["Intercept", *names] == patsy.dmatrix(formula, frame).design_info.column_names


def test_a_category_is_coded_with_or_without_c(random):
    columns, _, codebook = random
    bare, marked = (compile_formula(f"y ~ {f}", codebook) for f in ("a", "C(a)"))
    assert bare.names == ("a[T.2]", "a[T.3]") and marked.names == ("C(a)[T.2]", "C(a)[T.3]")
    np.testing.assert_array_equal(bare.matrix(columns), marked.matrix(columns))


def test_names_keep_the_order_of_the_formula(heart):
    design = compile_formula("disease ~ oldpeak + C(cp) + age:sex + log(chol) + sex", heart)
    assert design.names == (
        "oldpeak",
        "C(cp)[T.2]",
        "C(cp)[T.3]",
        "C(cp)[T.4]",
        "log(chol)",
        "sex",
        "age:sex",
    )
    assert design.response == "disease" and design.intercept


def span(matrix: np.ndarray, other: np.ndarray) -> float:
    """Largest distance of a column of `other` from the span of `matrix`, relative."""
    base, *_ = np.linalg.qr(matrix)
    left = other - base @ (base.T @ other)
    return float(np.max(np.linalg.norm(left, axis=0) / np.linalg.norm(other, axis=0)))


def both_ways(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.linalg.matrix_rank(ours) == ours.shape[1] == np.linalg.matrix_rank(theirs)
    assert span(ours, theirs) < 1e-9 and span(theirs, ours) < 1e-9


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            "bs(x, df=5)",
            "bs(x, knots=[1.7333333333333334, 3.3666666666666667], lower_bound=0.1, upper_bound=5)",
        ),
        ("bs(x, knots=[1, 2, 4])", "bs(x, knots=[1, 2, 4], lower_bound=0.1, upper_bound=5)"),
        (
            "bs(x, knots=[2], degree=2)",
            "bs(x, knots=[2], degree=2, lower_bound=0.1, upper_bound=5)",
        ),
        ("bs(x, df=4, lower=0, upper=6)", "bs(x, knots=[3], lower_bound=0, upper_bound=6)"),
        ("bs(x, df=3)", "bs(x, df=3, lower_bound=0.1, upper_bound=5)"),
        ("ns(x, knots=[1, 2, 4])", "cr(x, knots=[1, 2, 4], lower_bound=0.1, upper_bound=5)"),
        (
            "ns(x, df=3)",
            "cr(x, knots=[1.7333333333333334, 3.3666666666666667], lower_bound=0.1, upper_bound=5)",
        ),
        (
            "ns(x, knots=[3, 2], lower=0, upper=6)",
            "cr(x, knots=[2, 3], lower_bound=0, upper_bound=6)",
        ),
    ],
)
def test_splines_span_the_same_functions(random, ours, theirs):
    columns, frame, codebook = random
    design = compile_formula(f"y ~ {ours}", codebook)
    matrix = np.column_stack([np.ones(len(frame)), design.matrix(columns)])
    expected = np.asarray(patsy.dmatrix(theirs, frame))
    if ours.startswith("ns"):  # patsy's cr holds the constant already
        expected = np.asarray(patsy.dmatrix(f"0 + {theirs}", frame))
    both_ways(matrix, expected)


def test_spline_knots_come_from_the_codebook_and_never_from_data(random):
    columns, _, codebook = random
    whole = compile_formula("y ~ bs(x, df=5)", codebook).matrix(columns)
    half = compile_formula("y ~ bs(x, df=5)", codebook).matrix(
        {n: v[:50] for n, v in columns.items()}
    )
    np.testing.assert_array_equal(whole[:50], half)
    assert compile_formula("y ~ bs(x, df=4)", codebook).names == tuple(
        f"bs(x, df=4)[{i}]" for i in range(4)
    )


def test_the_usual_range_holds_the_knots_where_there_is_one(heart):
    usual = compile_formula("disease ~ bs(chol, df=4)", heart)
    given = compile_formula("disease ~ bs(chol, df=4, lower=100, upper=400)", heart)
    assert [t.factors[0].args for t in usual.terms] == [t.factors[0].args for t in given.terms]


def test_indicators_stand_after_their_column(tables, heart):
    design = compile_formula(
        FORMULA_C, heart, fills={"chol": 247.222057, "fbs": 0.147520}, indicators=("chol", "fbs")
    )
    assert ("Intercept", *design.names) == (
        "Intercept",
        "age",
        "sex",
        "C(cp)[T.2]",
        "C(cp)[T.3]",
        "C(cp)[T.4]",
        "trestbps",
        "chol",
        "chol_missing",
        "fbs",
        "fbs_missing",
        "C(restecg)[T.1]",
        "C(restecg)[T.2]",
        "thalach",
        "exang",
        "oldpeak",
    )
    swiss = {n: v[:5] for n, v in tables["switzerland"].columns.items()}
    matrix = pd.DataFrame(design.matrix(swiss), columns=design.names)
    assert set(matrix["chol"]) == {247.222057} and set(matrix["chol_missing"]) == {1.0}
    cleveland = {n: v[:5] for n, v in tables["cleveland"].columns.items()}
    matrix = pd.DataFrame(design.matrix(cleveland), columns=design.names)
    assert set(matrix["chol_missing"]) == {0.0} and matrix["chol"][0] == 233


def test_an_indicator_stands_once(heart):
    design = compile_formula(
        "disease ~ chol + chol:sex + I(chol ** 2)", heart, fills={"chol": 1.0}, indicators=("chol",)
    )
    assert design.names == ("chol", "chol_missing", "I(chol ** 2)", "chol:sex")


def test_a_category_cannot_be_filled(heart):
    with pytest.raises(InputError) as caught:
        compile_formula("disease ~ cp", heart, fills={"cp": 1.5})
    assert caught.value.code == "WRONG_VALUE" and "cp" in caught.value.what


def test_offset_and_weights(random):
    _, _, codebook = random
    design = compile_formula("y ~ x + offset(z) + weights(x)", codebook)
    assert (design.names, design.offset, design.weight, design.weight_bound) == (
        ("x",),
        "z",
        "x",
        5,
    )
    assert formula_columns("y ~ x:a + offset(z)", codebook) == ("y", "x", "a", "z")


def test_bounds_cover_the_matrix(real, random, heart):
    for formula, columns, codebook in (
        (
            "disease ~ (age + C(cp) + log(chol)) ** 2 + I((age - 50) / 10) + ns(age, df=4)",
            real[0],
            heart,
        ),
        (
            "y ~ x:z + I(z ** 3) + exp(z) + abs(z) + I(-2 * z + 1) + bs(x, df=6) + sqrt(x)",
            random[0],
            random[2],
        ),
    ):
        design = compile_formula(formula, codebook)
        bounds = np.array([term.bound for term in design.terms])
        assert np.all(np.abs(design.matrix(columns)).max(axis=0) <= bounds)
        assert np.all(bounds < 1e9)


def test_names_that_are_no_words_stand_in_back_ticks():
    codebook = Codebook.from_dict(
        {
            "name": "x",
            "columns": {
                "y": {"type": "number"},
                "race_not reported": {"type": "number"},
                "n_N0 (i-)": {"type": "category", "levels": {"0": "a", "1": "b"}},
            },
        }
    )
    design = compile_formula("y ~ `race_not reported` + `n_N0 (i-)`", codebook)
    assert design.names == ("race_not reported", "n_N0 (i-)[T.1]")


@pytest.mark.parametrize(
    ("formula", "code"),
    [
        ("disease ~ bmi", "UNKNOWN_COLUMN"),
        ("bmi ~ age", "UNKNOWN_COLUMN"),
        ("disease ~ agee + sex", "UNKNOWN_COLUMN"),
        ("disease", "BAD_FORMULA"),
        ("", "BAD_FORMULA"),
        ("~ age | chol", "BAD_FORMULA"),
        ("age + chol", "BAD_FORMULA"),
        ("disease + num ~ age", "BAD_FORMULA"),
        ("log(age) ~ sex", "BAD_FORMULA"),
        ("disease ~ .", "BAD_FORMULA"),
        ("disease ~ age | sex", "BAD_FORMULA"),
        ("disease ~ age +", "BAD_FORMULA"),
        ("disease ~ (age", "BAD_FORMULA"),
        ("disease ~ 'age'", "BAD_FORMULA"),
        ("disease ~ 7", "BAD_FORMULA"),
        ("disease ~ log(cp)", "BAD_FORMULA"),
        ("disease ~ I(cp ** 2)", "BAD_FORMULA"),
        ("disease ~ C(age)", "UNKNOWN_LEVEL"),
        ("disease ~ C(cp, Treatment(5))", "UNKNOWN_LEVEL"),
        ("disease ~ C(cp, Sum)", "BAD_FORMULA"),
        ("disease ~ C(cp, levels=[1, 2])", "BAD_FORMULA"),
        ("disease ~ scale(age)", "UNKNOWN_FUNCTION"),
        ("disease ~ np.linalg.norm(age)", "UNKNOWN_FUNCTION"),
        ("disease ~ os.log(age)", "UNKNOWN_FUNCTION"),
        ("disease ~ log()", "BAD_FORMULA"),
        ("disease ~ log(age, 2)", "BAD_FORMULA"),
        ("disease ~ log(age + 1)", "BAD_FORMULA"),
        ("disease ~ I(age * sex)", "BAD_FORMULA"),
        ("disease ~ I(2 ** age)", "BAD_FORMULA"),
        ("disease ~ I(age / 0)", "BAD_FORMULA"),
        ("disease ~ I(age + 1e999)", "BAD_FORMULA"),
        ("disease ~ I(age + " + "9" * 400 + ")", "BAD_FORMULA"),
        ("disease ~ {age + 1}", "BAD_FORMULA"),
        ("disease ~ bs(age)", "KNOTS_NEEDED"),
        ("disease ~ bs(age, df=2)", "BAD_FORMULA"),
        ("disease ~ bs(age, df=100000)", "BAD_FORMULA"),
        ("disease ~ bs(age, 4)", "BAD_FORMULA"),
        ("disease ~ bs(age, knots=[50], degree=40)", "BAD_FORMULA"),
        ("disease ~ bs(age, df=4, include_intercept=True)", "BAD_FORMULA"),
        ("disease ~ ns(age, knots=[5])", "BAD_FORMULA"),
        ("disease ~ ns(age, knots=age)", "BAD_FORMULA"),
        ("disease ~ age:offset(chol)", "BAD_FORMULA"),
        ("disease ~ offset(chol) + offset(age)", "BAD_FORMULA"),
    ],
)
def test_what_is_refused(heart, formula, code):
    with pytest.raises(InputError) as caught:
        compile_formula(formula, heart)
    error = caught.value
    assert error.code == code and error.rule and error.next


@pytest.mark.parametrize(
    "attack",
    [
        "__import__('os').system('touch {path}')",
        "I(__import__('os').system('touch {path}'))",
        "C(__import__('os').system('touch {path}'))",
        "log(open('{path}', 'w'))",
        "age + open('{path}', 'w').write('x')",
        "I(open('{path}', 'w') or age)",
        "bs(age, df=open('{path}', 'w').fileno())",
        "C(cp, Treatment(open('{path}', 'w')))",
        "C(cp, open('{path}', 'w'))",
        "{{open('{path}', 'w')}}",
        "[open('{path}', 'w') for _ in 'x']",
        "`open('{path}', 'w')`",
        "age.__class__.__mro__",
        "(lambda: open('{path}', 'w'))()",
        "I((open('{path}', 'w'), age)[1])",
        "I(" + "-" * 5000 + "age)",
        "I(" + "(" * 300 + "age" + ")" * 300 + ")",
    ],
)
def test_nothing_in_a_formula_is_run(tmp_path, heart, attack):
    path = tmp_path / "touched"
    with pytest.raises(InputError):
        compile_formula("disease ~ " + attack.format(path=path), heart)
    assert not path.exists()


@pytest.mark.parametrize(
    "formula",
    [
        "disease ~ (age + sex) ** 40",
        "disease ~ (age+sex)^99999999",
        "disease ~ (age + sex)**  30",
    ],
)
def test_a_formula_that_would_never_end_is_refused_at_once(heart, formula):
    began = time.monotonic()
    with pytest.raises(InputError):
        compile_formula(formula, heart)
    assert time.monotonic() - began < 5
    assert compile_formula("disease ~ I(age ** 20) + (age + sex) ** 2", heart).names == (
        "I(age ** 20)",
        "age",
        "sex",
        "age:sex",
    )


def test_a_formula_without_an_outcome(heart):
    with_one, without = (compile_formula(f"{y}~ age + C(cp)", heart) for y in ("disease ", ""))
    assert without.response == "" and without.terms == with_one.terms
    assert formula_columns(" ~ log(chol) + age", heart) == ("chol", "age")
    assert without.columns == ("age", "cp")


def test_a_mask_is_found_in_an_image_only():
    image = {"type": "image", "shape": (1, 8, 8)}
    book = Codebook.from_dict(
        {"name": "scans", "columns": {"mask": image, "scan": image, "age": {"type": "number"}}}
    )
    design = compile_formula("mask ~ scan", book)
    assert (design.response, design.media, design.terms) == ("mask", ("scan",), ())
    for wrong in ("mask ~ age", "mask ~ scan + age", "mask ~ 1"):
        with pytest.raises(InputError) as found:
            compile_formula(wrong, book)
        assert found.value.code == "BAD_FORMULA"
