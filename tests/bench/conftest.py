"""A model of random weights, whose every figure takes a moment."""

import pytest
from PIL import Image

from groma.bench.stages import Task
from groma.inference.assistant import Groma
from small_models import picture, small_groma


@pytest.fixture(scope="session")
def assistant() -> Groma:
    return small_groma()


@pytest.fixture(scope="session")
def image() -> Image.Image:
    return picture()


@pytest.fixture
def task(assistant: Groma, image: Image.Image) -> Task:
    return Task(assistant=assistant, image=image, repeats=1, new_tokens=6)


@pytest.fixture
def rough_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's rates in a moment, where they do not matter."""
    monkeypatch.setattr("groma.bench.machine.FOOTPRINTS", (1 << 20,))
    monkeypatch.setattr("groma.bench.machine.SHAPES", {"cpu": ((128, 128, 128),)})
