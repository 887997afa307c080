from __future__ import annotations

import pytest

from tests.site.world import World


@pytest.fixture
def world(tmp_path):
    found = World(tmp_path)
    yield found
    found.close()
