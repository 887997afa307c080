"""The benchmark of networks over hospitals: one algorithm for every way, nothing chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.hospitals import (
    FOLDS,
    OVER,
    POOLED,
    Difference,
    Found,
    Proof,
    Rows,
    folded,
    run,
    summary,
    xrays,
)

torch = pytest.importorskip("torch")


@pytest.fixture
def rows() -> Rows:
    """Series of four steps of two hospitals, and of a third with one class."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 4, 1)).astype("float32")
    y = (x.mean(axis=(1, 2)) + draw.normal(size=300) * 0.3 > 0).astype(float)
    hospital = np.repeat(["a", "b", "c"], 100)
    y[hospital == "c"] = 1
    return Rows(x, y, hospital, np.resize(["train", "train", "train", "test"], 300))


def proof(rows: Rows) -> Proof:
    return Proof("", lambda seed: rows, "linear", {}, 4, 12, 0.1)


def test_x_rays_over_hospitals_are_learned_as_if_pooled_and_no_hospital_alone_is_as_good(data_dir):
    """20 images of each hospital, half as high and wide; the published rows for validation."""
    real = xrays()
    rows = real.split(1)
    part = np.where(rows.part == "val", "test", "other")
    for name in rows.hospitals:
        part[rows.of("train", name)[:20]] = "train"
    small = replace(rows, x=rows.x[..., ::2, ::2], part=part)
    form = {"architecture": "mlp", "options": {"hidden": (32,)}, "passes": 48}
    areas = run(replace(real, split=lambda seed: small, **form), [1]).by_seed[1]
    alone = {name: areas[f"{name} alone"] for name in small.hospitals}
    assert areas[POOLED] > 0.93
    assert abs(areas[OVER] - areas[POOLED]) < 0.01
    assert areas[OVER] > max(alone.values()) + 0.01
    assert all((alone[h] == 0.5) == (ill == 1) for h, (_, ill) in small.shares().items())
    assert max(alone.values()) > 0.8


def test_a_seed_deals_all_published_training_images_and_none_of_the_others(data_dir):
    real = xrays()
    first, other = real.split(1), real.split(2)
    assert [n for n, _ in first.shares().values()] == [941, 942, 941, 942, 942]
    assert len(first.of("test")) == len(other.of("test")) == 624
    assert not np.array_equal(first.hospital, other.hospital)
    ill = [share for _, share in first.shares().values()]
    assert max(ill) - min(ill) > 0.5
    assert abs(first.x[first.of("train")].mean()) < 0.05
    assert first.x[first.of("train")].std() == pytest.approx(1, abs=0.05)


def test_fifths_hold_every_row_once_and_each_hospitals_share(rows):
    parts = np.array([folded(rows, seed) for seed in range(FOLDS)])
    assert ((parts == "test").sum(axis=0) == 1).all()
    again = np.array([folded(rows, seed) for seed in range(FOLDS, 2 * FOLDS)])
    for fold in parts:  # another repeat has other fifths
        assert not ((again == "test") == (fold == "test")).all(axis=1).any()
    for part in parts:
        for name in rows.hospitals:
            own = rows.hospital == name
            assert abs((part[own] == "test").mean() - 0.2) < 0.02


def test_no_test_row_is_read_in_training(rows):
    tested = rows.part == "test"
    turned = replace(rows, x=np.where(tested[:, None, None], 9, rows.x), y=rows.y * ~tested)
    for way in (proof(rows).pooled, proof(rows).over_hospitals):
        assert np.array_equal(way(rows, 0).result_.weights, way(turned, 0).result_.weights)


def test_all_ways_take_as_many_steps_of_as_many_rows(rows):
    one = proof(rows)
    ways = [one.pooled(rows, 0), one.alone(rows, "a", 0), one.over_hospitals(rows, 0)]
    assert [way.n_iter_ for way in ways] == [4 * 225 // 12] * 3
    assert [way.strategy.batch_size for way in ways] == [12, 12, 4]
    alike = [replace(way.strategy, batch_size=0) for way in ways]
    assert alike[0] == alike[1] == alike[2] and alike[0].server_lr_at(74) < 1e-3
    assert one.alone(rows, "c", 0) is None and one.area(rows, None) == 0.5


def test_what_a_way_gave_is_kept(rows, tmp_path, capsys):
    keep = tmp_path / "found.jsonl"
    found = run(proof(rows), [0, 1], keep)
    assert list(found.by_seed[0]) == [POOLED, "a alone", "b alone", "c alone", OVER]
    keep.write_text(keep.read_text().replace(str(found.by_seed[1][OVER]), "0.25"))
    again = run(proof(rows), [0, 1], keep)
    assert again.by_seed[0] == found.by_seed[0] and again.by_seed[1][OVER] == 0.25
    other = run(replace(proof(rows), passes=3), [1], keep)  # another proof's
    assert other.by_seed[1][OVER] != 0.25
    assert "c 75 (100.0%)" in capsys.readouterr().out


def test_differences_are_paired_by_seed():
    areas = {
        POOLED: [0.8, 0.9, 0.85],
        "a alone": [0.88, 0.7, 0.8],
        "b alone": [0.75, 0.8, 0.9],
        OVER: [0.875, 0.85, 0.86],
    }
    made = Found({seed: {way: of[seed] for way, of in areas.items()} for seed in range(3)})
    assert made.best_alone.tolist() == [0.88, 0.8, 0.9]
    assert made.less_best.values == pytest.approx([-0.005, 0.05, -0.04])
    assert made.less_pooled.mean == pytest.approx(0.035 / 3)
    wanted = stats.ttest_1samp(made.less_pooled.values, 0).confidence_interval(0.95)
    assert made.less_pooled.interval == pytest.approx(tuple(wanted))
    said = summary(made)
    assert "| 1 | 0.9000 | 0.8000 | 0.8500 |" in said
    assert "within 0.01 of pooled on average: no; above every hospital alone in 1 of 3" in said
    assert np.isnan(Difference(np.array([0.1])).sd)
