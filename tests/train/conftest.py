"""What several tests of training share."""

import pytest
import torch
from micro import micro_config

from groma.train.models import MODELS


@pytest.fixture(scope="session", autouse=True)
def micro_architecture():
    """The name "micro" in the registry of architectures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "micro", micro_config)
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """More threads only slow down what is so small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
