"""A worker that reads more rows than it may hold."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
from pyarrow import parquet

import polyclinic as pc
from polyclinic.engines.clusters import Cluster
from polyclinic.engines.held import Holder
from tests.engines.near import Near

ROWS, GROUP = 1_500_000, 65_536
SCHEMA = """
format = 1
name = "numbers"
[columns]
x = { type = "number", range = [-9, 9] }
y = { type = "number", range = [-99, 99] }
"""


class Watched(Holder):
    """Knows the most that was allocated during an answer, beside what was there before."""

    peak = 0

    def answer(self, message):
        tracemalloc.start()
        try:
            return super().answer(message)
        finally:
            self.peak = max(self.peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()


def test_memory_does_not_grow_with_the_rows_that_are_read_in_parts(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, ROWS)
    table = pa.table({"x": x, "y": 2 * x + rng.normal(size=ROWS)})
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=GROUP)
    (tmp_path / "rows.toml").write_text(SCHEMA)
    machines = Near(tmp_path, 1)
    machines.holders = {"w0": Watched(memory=1000)}
    data = pc.scan(tmp_path / "*.parquet", schema=tmp_path / "rows.toml")
    model = pc.LinearRegression().fit(data, "y ~ x", engine=Cluster(1, 1, machines=machines))
    assert abs(model.coef_[0] - np.polyfit(x, table["y"].to_numpy(), 1)[0]) < 1e-9
    a_part = 8 * GROUP

    assert machines.holders["w0"].peak < 0, machines.holders["w0"].peak / a_part
