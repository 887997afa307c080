"""What is odd about the real heart files, each told from the files by the codebook alone."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from polyclinic.core.errors import InputError
from polyclinic.data.check import check_table
from polyclinic.data.codebook import Codebook, refuse_not_comparable
from polyclinic.data.cohort import Cohort
from polyclinic.data.formula import compile_formula, formula_columns
from polyclinic.data.read import read_table

FORMULA_A = "disease ~ age + sex + C(cp) + thalach + exang + oldpeak"
FORMULA_B = (
    "disease ~ age + sex + C(cp) + trestbps + chol + fbs + C(restecg) + thalach + exang + oldpeak"
)


def plain(codebook: Codebook) -> dict:
    """The codebook as a TOML file would hold it."""
    return codebook.model_dump(by_alias=True, exclude_none=True)


def fit(tables, formula, rows=None):
    """Pooled logistic regression by statsmodels: {term: (coefficient, se, p)} and rows."""
    codebook = next(iter(tables.values())).codebook
    design = compile_formula(formula, codebook)
    cohort = Cohort(columns=formula_columns(formula, codebook))
    matrices, outcomes = [], []
    for table in tables.values():
        chosen = cohort.rows(table)
        columns = {name: values[chosen] for name, values in table.columns.items()}
        if len(chosen):
            matrices.append(design.matrix(columns))
            outcomes.append(columns[design.response])
    y = np.concatenate(outcomes)
    result = sm.GLM(y, sm.add_constant(np.vstack(matrices)), family=sm.families.Binomial()).fit(
        tol=1e-12
    )
    names = ("Intercept", *design.names)
    return (
        dict(zip(names, zip(result.params, result.bse, result.pvalues, strict=True), strict=True)),
        len(y),
        result.deviance,
    )


@pytest.fixture(scope="module")
def zeros_kept(data_dir, heart):
    """The four tables as they are if 0 mg/dL were a value."""
    content = plain(heart)
    for name in ("chol", "trestbps"):
        content["columns"][name] |= {"missing": [], "range": [0, 800]}
    content["site"]["switzerland"] = {}
    codebook = Codebook.from_dict(content)
    return {
        site: read_table(data_dir / "heart-disease" / f"processed.{site}.data", codebook, site)
        for site in ("cleveland", "hungarian", "switzerland", "va")
    }


def test_zero_cholesterol_is_missing(tables, zeros_kept):
    zeros = {s: int((t.columns["chol"] == 0).sum()) for s, t in zeros_kept.items()}
    assert zeros == {"cleveland": 0, "hungarian": 0, "switzerland": 123, "va": 49}
    assert {s: int((t.columns["trestbps"] == 0).sum()) for s, t in zeros_kept.items()}["va"] == 1
    missing = {s: int(np.isnan(t.columns["chol"]).sum()) for s, t in tables.items()}
    assert missing == {"cleveland": 0, "hungarian": 23, "switzerland": 123, "va": 56}
    assert int(np.isnan(tables["va"].columns["trestbps"]).sum()) == 57


def test_read_as_values_cholesterol_protects_read_as_missing_it_harms(tables, zeros_kept):
    kept, n_kept, _ = fit(zeros_kept, FORMULA_B)
    assert n_kept == 740
    assert kept["chol"][0] == pytest.approx(-0.0019, abs=5e-5)
    assert kept["chol"][2] == pytest.approx(0.10, abs=0.005)
    read, n_read, _ = fit(tables, FORMULA_B)
    assert n_read == 661
    assert read["chol"][0] == pytest.approx(0.0042, abs=5e-5)
    assert read["chol"][2] == pytest.approx(0.029, abs=5e-4)
    assert len(Cohort(columns=("chol",)).rows(tables["switzerland"])) == 0


def test_the_golden_fit_of_857_rows(tables):
    # statsmodels 0.15 GLM on dummies made by pandas, apart from this package
    terms, n_rows, deviance = fit(tables, FORMULA_A)
    assert n_rows == 857 and deviance == pytest.approx(722.757956, abs=5e-7)
    assert list(terms) == [
        "Intercept",
        "age",
        "sex",
        "C(cp)[T.2]",
        "C(cp)[T.3]",
        "C(cp)[T.4]",
        "thalach",
        "exang",
        "oldpeak",
    ]
    assert terms["Intercept"][0] == pytest.approx(-1.287857, abs=5e-7)
    assert terms["C(cp)[T.4]"][0] == pytest.approx(1.037721, abs=5e-7)
    assert terms["oldpeak"][1] == pytest.approx(0.102217, abs=5e-7)


def test_the_golden_fit_of_flambys_740_rows(zeros_kept):
    terms, _, deviance = fit(zeros_kept, FORMULA_B)
    assert deviance == pytest.approx(621.784323, abs=5e-7)
    assert terms["C(restecg)[T.2]"][0] == pytest.approx(0.256040, abs=5e-7)
    assert terms["trestbps"][1] == pytest.approx(0.005725, abs=5e-7)


def test_negative_oldpeak_is_kept_and_found(tables, data_dir, heart):
    below = {s: int((t.columns["oldpeak"] < 0).sum()) for s, t in tables.items()}
    assert below == {"cleveland": 0, "hungarian": 0, "switzerland": 11, "va": 1}
    found = check_table(data_dir / "heart-disease/processed.switzerland.data", heart, "switzerland")
    unusual = [f for c in found.columns if c.name == "oldpeak" for f in c.findings]
    assert [(f.kind, f.count, f.severity) for f in unusual] == [("unusual", 11, "note")]


@pytest.mark.parametrize(
    ("site", "twice"), [("cleveland", 0), ("hungarian", 1), ("switzerland", 0), ("va", 1)]
)
def test_exact_duplicates(data_dir, heart, site, twice):
    path = data_dir / "heart-disease" / f"processed.{site}.data"
    found = check_table(path, heart, site)
    assert [f.count for f in found.rows if f.kind == "duplicate_rows"] == [1] * twice
    first = Codebook.from_dict({**plain(heart), "patient": {"duplicates": "first"}})
    lines = path.read_text().splitlines()
    assert read_table(path, first, site).n_rows == len(set(lines)) == len(lines) - twice


def test_ca_is_nearly_all_missing(tables):
    missing = {s: (int(np.isnan(t.columns["ca"]).sum()), t.n_rows) for s, t in tables.items()}
    assert missing["hungarian"] == (291, 294) and missing["va"] == (198, 200)


def test_rare_levels(tables, heart):
    cleveland, swiss = tables["cleveland"].columns, tables["switzerland"].columns
    assert int((cleveland["restecg"] == heart.level_names("restecg").index("1")).sum()) == 4
    assert [int((swiss["cp"] == heart.level_names("cp").index(c)).sum()) for c in "12"] == [4, 4]


def test_cleveland_writes_63_0_and_va_writes_63(tables, data_dir):
    text = (data_dir / "heart-disease/processed.cleveland.data").read_text()
    assert text.startswith("63.0,1.0,1.0,") and tables["cleveland"].columns["age"][0] == 63
    assert tables["cleveland"].columns["cp"][0] == 0  # the first level, written 1.0


def test_hungarian_num_is_not_comparable_and_disease_is(tables, heart):
    assert set(np.unique(tables["hungarian"].columns["num"])) == {0.0, 1.0}
    with pytest.raises(InputError) as caught:
        refuse_not_comparable(heart, list(tables), formula_columns("num ~ age", heart))
    assert caught.value.code == "NOT_COMPARABLE"
    refuse_not_comparable(heart, list(tables), formula_columns(FORMULA_A, heart))


def test_a_stray_tilde_is_an_error_with_count_and_without_the_cell(tmp_path, data_dir, heart):
    """Copies of the va file with such a cell go round."""
    lines = (data_dir / "heart-disease/processed.va.data").read_text().splitlines()
    lines[13] = lines[13].replace(lines[13].split(",")[0], lines[13].split(",")[0] + "~", 1)
    path = tmp_path / "va.data"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as caught:
        read_table(path, heart, "va")
    assert caught.value.code == "NOT_A_NUMBER" and "~" not in str(caught.value)
    assert caught.value.what == "va, column age: 1 row holds no number"
