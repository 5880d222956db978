"""The models that the engine's tests share."""

import pytest

from groma.inference.assistant import Groma
from small_models import endless_groma, small_groma


@pytest.fixture(scope="module")
def assistant() -> Groma:
    return small_groma(seed=1)


@pytest.fixture(scope="module")
def endless() -> Groma:
    """Whose answers are as long as they may be."""
    return endless_groma(seed=1)
