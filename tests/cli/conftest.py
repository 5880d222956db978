"""A model of random weights, saved once as a user would have it, a picture to ask it about, and the command."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Ran
from PIL import Image

from groma.cli import main
from groma.pretrained import save
from small_models import small_groma


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a saved model."""
    folder = tmp_path_factory.mktemp("model") / "random"
    save(small_groma(), folder)
    return str(folder)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A 120x90 PNG."""
    path = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def groma(model: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs a command in this process. `{model}` in an argument becomes the model's folder."""

    def run(*arguments: object) -> Ran:
        status = main([str(argument).replace("{model}", model) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run
