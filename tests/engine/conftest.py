"""The model that the engine's tests share."""

import pytest

from groma.inference.assistant import Groma
from small_models import small_groma


@pytest.fixture(scope="module")
def assistant() -> Groma:
    return small_groma(seed=1)
