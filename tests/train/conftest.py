"""What several tests of training share."""

from pathlib import Path

import pytest
import torch
from micro import SIDE_PX, micro_config

from groma.image import Preprocessing
from groma.model.groma import GromaModel
from groma.pretrained import save_whole
from groma.train.blueprint import find_tokenizer
from groma.train.models import MODELS
from groma.train.recipes import TOKENIZER


@pytest.fixture(scope="session", autouse=True)
def micro_architecture():
    """The name "micro" in the registry of architectures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "micro", micro_config)
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A whole model of random weights, as `groma.load` takes it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base") / "model"
    save_whole(GromaModel(micro_config()), find_tokenizer(TOKENIZER), Preprocessing(size_px=SIDE_PX), folder)
    return folder
