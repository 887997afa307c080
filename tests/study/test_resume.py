"""A study that is stopped anywhere goes on and ends with the same bytes."""

from __future__ import annotations

import shutil
import warnings

import pytest

import polyclinic as pc
from polyclinic.governance.study_file import Study
from polyclinic.study import run as module
from polyclinic.study.demo import HEART

OUTPUT = ("model.pcm", "coefficients.csv", "metrics.json", "plans.json", "report.html")
STUDY = {**HEART, "evaluation": {**HEART["evaluation"], "folds": 2}}


class Stop:
    """Raises Ctrl-C at the n-th checkpoint that is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.count, self.at = 0, at
        real = module.Checkpoint.save

        def save(store, value):
            real(store, value)
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt

        monkeypatch.setattr(module.Checkpoint, "save", save)


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    study = Study.model_validate(STUDY)
    return pc.run(study, tmp_path_factory.mktemp("whole"), sites=pc.datasets.heart_disease())


# In the fit (8 checkpoints), the table of patients (17), the second fold (8 each), the evaluation.
@pytest.mark.parametrize("at", [1, 5, 17, 36, 44])
def test_same_bytes_after_ctrl_c(undisturbed, tmp_path, monkeypatch, at):
    study, sites = undisturbed.study, pc.datasets.heart_disease()
    with monkeypatch.context() as patch:
        stop = Stop(patch, at)
        with pytest.raises(pc.Stopped, match="INTERRUPTED") as found:
            pc.run(study, tmp_path / "run", sites=sites)
        assert stop.count == at
    assert "--resume" in found.value.next
    assert not (tmp_path / "run" / "metrics.json").exists()
    again = pc.run(study, tmp_path / "run", sites=sites, resume=True)
    for name in OUTPUT:
        assert (again.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes(), name


def test_a_finished_run_is_run_anew_with_the_same_bytes(undisturbed, tmp_path):
    sites = pc.datasets.heart_disease()
    shutil.copytree(undisturbed.folder, tmp_path / "run")
    again = pc.run(undisturbed.study, tmp_path / "run", sites=sites)
    for name in OUTPUT:
        assert (again.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()


def test_python_fit_goes_on_from_its_store(data_dir, tmp_path):
    sites = pc.datasets.heart_disease()
    formula = "disease ~ age + sex + thalach"
    whole = pc.LogisticRegression().fit(sites, formula)

    def stop(done):
        if done.number == 3:
            raise KeyboardInterrupt

    store = pc.Checkpoint(tmp_path / "fit.pcm")
    with pytest.raises(pc.Stopped):
        pc.LogisticRegression().fit(sites, formula, callbacks=[stop], store=store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = pc.LogisticRegression().fit(sites, formula, store=store)
    assert again.coef_.tobytes() == whole.coef_.tobytes()
    assert again.covariance().tobytes() == whole.covariance().tobytes()
    assert len(again.rounds_) == len(whole.rounds_)


def test_a_store_of_another_fit_is_refused(data_dir, tmp_path):
    sites, store = pc.datasets.heart_disease(), pc.Checkpoint(tmp_path / "fit.pcm")
    pc.LogisticRegression().fit(sites, "disease ~ age", store=store)
    kept = store.path.read_bytes()
    with pytest.raises(pc.InputError, match="OTHER_RUN"):
        pc.LogisticRegression().fit(sites, "disease ~ sex", store=store)
    assert store.path.read_bytes() == kept
