"""Networks on images over a real hub: masks found and judged; a bad file is named and mended."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("nvflare")
pytest.importorskip("torch")

from polyclinic.cli.stage import Stage
from tests.network.test_end_to_end import approve, folder_of

pytestmark = pytest.mark.slow
SITES = ("north", "south", "west")
ROWS = 40
CODEBOOK = """name = "squares"
[columns.scan]
type = "image"
shape = [1, 8, 8]
range = [-10, 10]
[columns.mask]
type = "image"
shape = [1, 8, 8]
range = [0, 1]
[columns.age]
type = "integer"
range = [18, 110]
[columns.part]
type = "category"
levels = { train = "train", test = "test" }
"""
STUDY = """format = 1
seed = 3
[study]
name = "{name}"
purpose = "a test"
[data]
schema = "{schema}"
{source}
[model]
kind = "neural"
formula = "{formula}"
{model}
[strategy]
rounds = 3
batch_size = 8
{strategy}
[privacy]
secure_sums = true
show_sites = false
[evaluation]
validate = "split"
importance = 2
"""
MASKS = {
    "formula": "mask ~ scan",
    "model": 'architecture = "unet"\nloss = "dice"\n[model.options.architecture_options]\n'
    "channels = [4, 8]",
    "strategy": 'lr = 0.05\noptimizer = "adam"\nlocal_epochs = 5',
}


def image(draw: np.random.Generator, at: int) -> tuple[Any, Any]:
    mask = np.zeros((1, 8, 8), dtype=np.float32)
    mask[0, 2:6, at : at + 4] = 1
    return (draw.normal(size=(1, 8, 8)) + 3 * mask).astype(np.float32), mask


def write(folder: Path, seed: int) -> Path:
    """A hospital's rows, with a file for each image."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for i in range(ROWS):
        scan, mask = image(draw, int(draw.integers(0, 5)))
        np.save(folder / f"scan{i}.npy", scan)
        np.save(folder / f"mask{i}.npy", mask)
    n = np.arange(ROWS)
    table = {
        "scan": [f"scan{i}.npy" for i in n],
        "mask": [f"mask{i}.npy" for i in n],
        "age": 40 + n,
        "part": np.where(n % 2, "train", "test"),
    }
    pd.DataFrame(table).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


class OnTheProcessor(Stage):
    """Hospitals that say on what they compute."""

    def do(self, *arguments: str, site: str = "", check: bool = True) -> str:
        more = ("--device", "cpu") if arguments[:2] == ("site", "join") else ()
        return super().do(*arguments, *more, site=site, check=check)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("images")
    files = {site: write(folder / "data" / site, i) for i, site in enumerate(SITES)}
    (folder / "squares.toml").write_text(CODEBOOK, encoding="utf-8")
    with OnTheProcessor(folder, files, folder / "squares.toml") as stage:
        yield stage


def study(stage: Stage, name: str, asked: dict[str, str], hub: bool = True) -> Path:
    files = ", ".join(f'{site} = "{stage.files[site]}"' for site in SITES)
    source = f'hub = "{stage.hub}"' if hub else f"sites = {{ {files} }}"
    path = stage.folder / f"{name}{'' if hub else '-here'}.toml"
    about = {"name": name, "schema": stage.schema, "source": source}
    path.write_text(STUDY.format(**about, **asked), encoding="utf-8")
    return path


def ended(running: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = running.communicate(timeout=200)
    return running.returncode, said


def same_bytes(stage: Stage, name: str, asked: dict[str, str]) -> Any:
    """The measures of a run, which are those of the same study on one machine."""
    here, there = stage.folder / f"{name}-here", folder_of(stage, name)
    # A process of its own, with as many of torch's threads as the hospitals' have.
    stage.do("run", str(study(stage, name, asked, hub=False)), "--out", str(here))
    assert (there / "model.pcm").read_bytes() == (here / "model.pcm").read_bytes()
    mine, theirs = (json.loads((folder / "metrics.json").read_bytes()) for folder in (here, there))
    for part in ("evaluation", "importance"):
        assert mine[part] == theirs[part]
    return theirs


def test_masks_are_found_and_judged_after_files_were_mended(stage: Stage) -> None:
    assert 'device = "cpu"' in (stage.home("west") / "data.toml").read_text()
    cut = stage.files["south"].parent / "scan3.npy"
    other = stage.files["west"].parent / "scan5.npy"
    whole, fitting = cut.read_bytes(), other.read_bytes()
    cut.write_bytes(whole[:50])
    np.save(other, np.zeros((1, 9, 8), dtype=np.float32))
    file = str(study(stage, "masks", MASKS))
    running = stage.begin("run", file, "--hub", stage.hub)
    approve(stage, "masks", SITES)
    code, said = ended(running)
    assert code == 3 and "south (and 1 more) refused" in said and "BAD_ITEM" in said, said
    assert "polyclinic check" in said and "scan3" not in said
    cut.write_bytes(whole)
    again = ("run", file, "--hub", stage.hub, "--resume")
    code, said = ended(stage.begin(*again))
    assert code == 3 and "west refused" in said and "BAD_ITEM" in said, said
    other.write_bytes(fitting)
    code, said = ended(stage.begin(*again))
    assert code == 0 and "rests  The model rests most on scan" in said, said
    found = same_bytes(stage, "masks", MASKS)
    assert found["evaluation"]["all"]["n"] == 3 * ROWS / 2
    assert found["evaluation"]["all"]["dice"] > 0.3
    page = (stage.folder / "runs/masks/report.html").read_text()
    assert "On what the model rests" in page and "mean Dice" in page
    ledger = " ".join(stage.do("site", "ledger", site="west").split())
    assert "loss with scan of other rows" in ledger and "BAD_ITEM" in ledger


def test_training_that_runs_away_at_one_hospital_is_named(stage: Stage) -> None:
    """South takes many steps, each of which makes its weights larger."""
    steps = "lr = 30\nlocal_steps = 1\nsite_steps = { south = 400 }"
    asked = {
        "formula": "age ~ scan",
        "model": 'architecture = "linear"\nloss = "squared"',
        "strategy": steps,
    }
    running = stage.begin("run", str(study(stage, "away", asked)), "--hub", stage.hub)
    approve(stage, "away", SITES)
    code, said = ended(running)
    assert code == 3 and "south refused" in said and "LOSS_EXPLODED" in said, said
    assert "learning rate" in said
