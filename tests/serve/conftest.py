"""One server for the tests of this folder; tests that need other limits start their own."""

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from serving import Served, served

from groma.inference.assistant import Groma
from small_models import small_groma


@pytest.fixture(scope="session")
def assistant() -> Groma:
    groma = small_groma(seed=1)
    groma.model.config.selection.score_threshold = (
        0.72  # few regions, so that numbers are left for boxes of later turns
    )
    return groma


@pytest.fixture(scope="module")
def server(assistant) -> Served:
    with served(assistant) as running:
        yield running
        running.wait_idle()
