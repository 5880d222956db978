"""A model of random weights, whose every figure takes a moment."""

from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from groma.bench.stages import Task
from groma.inference.assistant import Groma
from small_models import picture, small_groma


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """On a busy machine threads that wait for each other take a hundred times as long; here nothing is to be fast."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
