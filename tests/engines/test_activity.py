from __future__ import annotations

import io

import polyclinic as pc
from polyclinic.core.fit import Round
from polyclinic.engines.activity import Activity
from polyclinic.report.progress import short, workers
from tests.engines.near import near
from tests.study.test_conformance import X


def test_a_line_says_what_workers_do():
    found = Activity(2, 8, 5, 1000, 400, 0.1, stragglers=1, moved=2, lost=1, bytes=3_100_000)
    said = workers(found, 200)
    assert said == (
        "2 workers   5 of 8 partitions   4.0 k rows/s   3.1 MB   1 straggler   2 moved   1 lost"
        "   0.1 s left"
    )
    assert len(workers(found)) <= 80 and workers(found).endswith("   0.1 s left")
    done = Activity(1, 8, 8, 1000, 1000, 0.1, bytes=10)
    assert workers(done) == "1 worker   8 partitions   10 k rows/s   10 B"
    assert [short(n) for n in (0, 999, 1e6, 2.34e12)] == ["0 ", "999 ", "1.0 M", "2340 G"]


def test_rounds_are_counted_while_they_go_on(tmp_path):
    cluster, seen = near(tmp_path, 6, workers=3), []
    activity = cluster.activity
    activity.watch = lambda now: seen.append((now.done, now.partitions, now.rows_done, now.rows))
    y = (X[:, 1] > 0).astype(int)
    y[::5] = 1 - y[::5]
    pc.LogisticRegression(l2=1.0).fit(X, y, engine=cluster)
    assert activity.done == activity.partitions == 6 and activity.rows == activity.rows_done == len(
        X
    )
    assert (
        activity.rounds > 3 and activity.bytes > 1000 and activity.left == 0 and activity.rate > 0
    )
    assert seen and all(done <= parts and some <= rows for done, parts, some, rows in seen)


def test_a_progress_line_of_a_cluster(tmp_path):
    cluster, out = near(tmp_path, 6, workers=3), io.StringIO()
    line = pc.ProgressLine(out, engine=cluster)
    cluster.activity.begin(3, 6, 600)
    cluster.activity.add(6, 600)
    line(Round(1, "", "t", "p", 1.0, {"round": 1, "rounds": 2}))
    first, second = out.getvalue().splitlines()
    assert first.startswith("round 1 of 2") and second.startswith("3 workers   6 partitions")
    assert "dashboard" not in out.getvalue()
