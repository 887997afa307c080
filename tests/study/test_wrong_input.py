"""Everything a person gets wrong: an error that names site, column, rule and next step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.errors import PolyclinicError

BOOK = """
format = 1
name = "two"
[file]
missing = ["", "NA"]
[columns]
age = { type = "number", unit = "a", range = [0, 120] }
cp = { type = "category", levels = { 1 = "one", 2 = "two", 3 = "three" } }
sick = { type = "binary", levels = { 0 = "no", 1 = "yes" } }
"""
FORMULA = "sick ~ age + C(cp)"


def rows(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 90, n)
    sick = (rng.uniform(size=n) < 1 / (1 + np.exp(-(age - 55) / 20))).astype(int)
    return pd.DataFrame({"age": age.round(2), "cp": rng.integers(1, 4, n), "sick": sick})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "book.toml").write_text(BOOK)
    for i, name in enumerate("ab"):
        rows(seed=i).to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "study.toml").write_text(
        'format = 1\n[study]\nname = "two"\n[data]\nschema = "book.toml"\n'
        'sites = { a = "a.csv", b = "b.csv" }\n'
        f'[model]\nkind = "logistic"\nformula = "{FORMULA}"\n'
    )
    return tmp_path


def change(folder: Path, site: str, **columns: object) -> None:
    path = folder / f"{site}.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name, value in columns.items():
        frame[name] = frame[name].astype(object)
        frame.loc[frame.index[:2], name] = value
    frame.to_csv(path, index=False)


def fit(folder: Path, formula: str = FORMULA) -> pc.LogisticRegression:
    sites = pc.read({s: folder / f"{s}.csv" for s in "ab"}, schema=folder / "book.toml")
    return pc.LogisticRegression().fit(sites, formula)


def said(found: pytest.ExceptionInfo[PolyclinicError], code: str, *words: str) -> None:
    error = found.value
    assert error.code == code
    assert error.rule and error.next and error.kept
    for word in words:
        assert word in error.what, error.what


def test_the_data_as_they_are_can_be_fitted(folder):
    assert fit(folder).result_.converged


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("cp", "9", "UNKNOWN_LEVEL"), ("age", "elderly", "NOT_A_NUMBER"),
        ("age", "inf", "NOT_FINITE"), ("age", "nan", "NOT_A_NUMBER"),
        ("age", "180", "OUT_OF_RANGE"),
    ],
)  # fmt: skip
def test_a_cell_that_the_codebook_does_not_allow(folder, column, value, code):
    change(folder, "b", **{column: value})
    with pytest.raises(pc.InputError) as found:
        fit(folder)
    assert found.value.code in (code, "NOT_FINITE") and found.value.site == "b"
    said(found, found.value.code, "b", column, "2 rows")
    assert f" {value}" not in found.value.what.replace("infinity", "")


def test_missing_file(folder):
    (folder / "b.csv").unlink()
    with pytest.raises(pc.InputError) as found:
        fit(folder)
    said(found, "NO_FILE", "b", "b.csv")


def test_unknown_column_in_the_formula(folder):
    with pytest.raises(pc.InputError) as found:
        fit(folder, "sick ~ agee")
    said(found, "UNKNOWN_COLUMN", "agee")
    assert "age" in found.value.next


def test_a_site_without_a_column_and_with_others(folder):
    frame = pd.read_csv(folder / "b.csv").rename(columns={"cp": "pain"})
    frame.to_csv(folder / "b.csv", index=False)
    with pytest.raises(pc.InputError) as found:
        fit(folder)
    said(found, "NO_COLUMN", "b", "cp")
    assert "pain" in found.value.rule


def test_all_values_of_a_site_missing(folder):
    frame = pd.read_csv(folder / "b.csv")
    frame["age"] = "NA"
    frame.to_csv(folder / "b.csv", index=False)
    with pytest.raises(pc.EmptySite) as found:
        fit(folder)
    said(found, "EMPTY_SITE", "b", "age: 60 of 60")


def test_an_empty_file(folder):
    (folder / "b.csv").write_text("")
    with pytest.raises(pc.InputError) as found:
        fit(folder)
    said(found, "EMPTY_FILE", "b")
    (folder / "b.csv").write_text("age,cp,sick\n")
    with pytest.raises(pc.EmptySite):
        fit(folder)


@pytest.mark.parametrize(("n", "code"), [(4, "TOO_FEW_PATIENTS"), (19, "SATURATED"), (20, "")])
def test_a_site_below_the_minimum(folder, n, code):
    rows(n, seed=5).to_csv(folder / "b.csv", index=False)
    if not code:
        assert fit(folder, "sick ~ age").result_.scale.moments.n == 80
        return
    with pytest.raises(pc.Refused) as found:
        fit(folder, "sick ~ age")
    said(found, code, "b")
    assert found.value.site == "b"


def test_one_class_only(folder):
    for site in "ab":
        rows().assign(sick=1).to_csv(folder / f"{site}.csv", index=False)
    with pytest.raises(pc.InputError) as found:
        fit(folder)
    said(found, "ONE_CLASS", "sick")


def test_misspelt_key_in_the_study(folder):
    study = folder / "study.toml"
    study.write_text(study.read_text() + "[solver]\nmax_round = 3\n")
    with pytest.raises(pc.InputError) as found:
        pc.run(study)
    said(found, "UNKNOWN_KEY", "line 11", "max_round")
    assert "max_rounds" in found.value.next


def test_wrong_value_in_the_study(folder):
    study = folder / "study.toml"
    study.write_text(study.read_text().replace('"logistic"', '"magic"'))
    with pytest.raises(pc.InputError) as found:
        pc.run(study)
    said(found, "WRONG_VALUE", "kind")
    assert "logistic" in found.value.rule


def test_full_disk_keeps_what_was_computed(folder, monkeypatch):
    undisturbed = pc.run(folder / "study.toml", folder / "good")
    calls, real = [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(pc.Stopped) as found:
        pc.run(folder / "study.toml", folder / "run")
    said(found, "CANNOT_WRITE", "No space left")
    monkeypatch.undo()
    again = pc.run(folder / "study.toml", folder / "run", resume=True)
    for name in ("model.pcm", "metrics.json", "report.html"):
        assert (again.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()


def test_damaged_checkpoint_is_named_and_kept(folder):
    done = pc.run(folder / "study.toml", folder / "run")
    (done.folder / "metrics.json").unlink()
    path = done.folder / "checkpoints" / "fit.pcm"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(pc.InputError) as found:
        pc.run(folder / "study.toml", folder / "run", resume=True)
    said(found, "CHECKPOINT_DAMAGED", "fit.pcm")
    assert path.read_bytes() == bytes(data)


def test_runs_are_not_mixed_up(folder):
    study = folder / "study.toml"
    with pytest.raises(pc.InputError, match="NO_RUN"):
        pc.run(study, folder / "run", resume=True)
    done = pc.run(study, folder / "run")
    (done.folder / "metrics.json").unlink()
    with pytest.raises(pc.InputError, match="RUN_EXISTS"):
        pc.run(study, folder / "run")
    study.write_text(study.read_text().replace("age + C(cp)", "age"))
    with pytest.raises(pc.InputError, match="OTHER_STUDY"):
        pc.run(study, folder / "run", resume=True)


def test_a_study_that_stopped_before_its_first_round_can_be_mended(folder):
    study = folder / "study.toml"
    right = study.read_text()
    study.write_text(right + "[evaluation]\nimportance = 2\nparts = { age = 2 }\n")
    with pytest.raises(pc.InputError, match="only an image or a series has parts"):
        pc.run(study, folder / "run")
    study.write_text(right)
    assert pc.run(study, folder / "run").report.exists()


def test_a_study_can_ask_no_hospital_for_anything_of_its_own(folder):
    study = folder / "study.toml"
    study.write_text(study.read_text() + "[privacy]\nshow_sites = false\n")
    sites = pc.read({s: folder / f"{s}.csv" for s in "ab"}, schema=folder / "book.toml")
    strict = sites.with_policy(pc.Policy(collect=()))
    done = pc.run(study, folder / "run", sites=strict)
    assert done.results["data"]["sites"] == [] and done.results["evaluation"]["sites"] == {}
    study.write_text(study.read_text().replace("false", "true"))
    with pytest.raises(pc.Refused, match="COLLECT_NOT_ALLOWED"):
        pc.run(study, folder / "other", sites=strict)
