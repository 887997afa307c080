"""A few troubles of every kind; all of them: scripts/chaos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from tests.network.chaos import ONE, Case, cut, full, killed, play, stage_of
from tests.network.chaos_stage import HUB, Chaos

pytestmark = pytest.mark.slow
CASES = {
    "killed": Case([killed("waiting", 0.0, HUB), killed("round 9", 0.05, "both")]),
    "parts": Case([killed("round 3", 0.1, HUB, "driver"), cut("round 14", 0.1, 2.0)]),
    "full": Case([full("round 4", HUB, 1.5), full("round 16", ONE, 1.5)]),
}


@pytest.fixture(scope="module")
def stage(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    with stage_of(tmp_path_factory.mktemp("chaos"), data_dir) as stage:
        yield stage


@pytest.mark.parametrize("name", CASES)
def test_it_ends_by_itself_with_the_same_bytes(stage: Chaos, name: str) -> None:
    if name == "full" and not stage.disks:
        pytest.skip("a small disk is mounted, which needs root")
    found = play(stage, f"trouble-{name}", CASES[name], list(CASES).index(name))
    assert not found.wrong
    assert len(found.struck) == len(CASES[name].blows)


def test_the_status_was_true_all_the_time(stage: Chaos) -> None:
    assert stage.eyes.looks > 20
    assert not stage.eyes.lies
