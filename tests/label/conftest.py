"""A small model, saved as a user would have it; and a task that needs none."""

from pathlib import Path

import pytest
from label_workers import Echo

from groma.label.tasks import TASKS
from groma.pretrained import save
from small_models import endless_groma


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task that needs no model."""
    monkeypatch.setitem(TASKS, "echo", Echo)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a saved model of random weights."""
    folder = tmp_path_factory.mktemp("model") / "random"
    save(endless_groma(), folder)
    return folder
