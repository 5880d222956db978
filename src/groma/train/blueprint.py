"""What a run builds: architecture, tokenizer and preprocessing, by name or from the model that it starts from."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from groma.errors import InputError
from groma.image import Preprocessing
from groma.model.config import GromaConfig
from groma.pretrained import CONFIG, find_checkpoint, load_interface
from groma.prompt.tokenizer import PromptTokenizer, load_tokenizer
from groma.train.checkpoint import MODEL
from groma.train.models import MODELS
from groma.train.stage import LANGUAGE_STAGES, StageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """All of a model but its weights."""

    model: GromaConfig
    """The architecture."""
    preprocessing: Preprocessing
    """Size and normalization of pictures."""
    tokenizer: PromptTokenizer | None
    """Text <-> ids; None for stages without language whose architecture was given by name."""
    origin: str = ""
    """Name or folder of the model that it was read from; empty: the architecture was given by name."""

    def speaks(self) -> PromptTokenizer:
        """The tokenizer, where the stage needs one.

        Raises:
            InputError: there is none.
        """
        if self.tokenizer is None:
            raise InputError("This stage needs a tokenizer: give StageConfig.tokenizer.")
        return self.tokenizer


def make_blueprint(config: StageConfig, init: Sequence[Path] = ()) -> Blueprint:
    """What a run of this configuration builds.

    Args:
        config: of the run.
        init: what it starts from.

    Raises:
        InputError: there is no such architecture, or none is named and `init` holds no whole model.
        CheckpointError: the model or the tokenizer cannot be read.
    """
    if config.model:
        model = find_model(config.model)
        side_px = model.image_size if config.mixture.file else config.data.size_px
        needs_tokenizer = config.stage in LANGUAGE_STAGES
        return Blueprint(
            model=model,
            preprocessing=Preprocessing(size_px=side_px),
            tokenizer=find_tokenizer(config.tokenizer) if needs_tokenizer else None,
        )
    for checkpoint in init:
        folder = checkpoint / MODEL if (checkpoint / MODEL).is_dir() else checkpoint
        if (find_checkpoint(str(folder)) / CONFIG).is_file():
            return read_blueprint(str(folder), origin=str(checkpoint))
    raise InputError(
        "This recipe trains on from a model: give one with --from, such as groma-tiny, a folder that `groma.load` "
        "takes, or a checkpoint of stage align or instruct."
    )


def read_blueprint(model: str, *, origin: str = "") -> Blueprint:
    """That of a whole model; `origin` is what it is called, None of its weights are read.

    Raises:
        CheckpointError: there is no such model.
    """
    read = load_interface(model)
    return Blueprint(
        model=read.config, preprocessing=read.preprocessing, tokenizer=read.tokenizer, origin=origin or model
    )


def find_model(name: str) -> GromaConfig:
    """The architecture of that name, a key of MODELS.

    Raises:
        InputError: there is none.
    """
    if name not in MODELS:
        raise InputError(f"There is no architecture {name!r}; known are {', '.join(MODELS)}.")
    return MODELS[name]()


def find_tokenizer(name: str) -> PromptTokenizer:
    """A tokenizer that comes with the package, or that of a folder.

    Raises:
        CheckpointError: there is none.
    """
    packaged = Path(str(files("groma") / "assets" / name))
    return load_tokenizer(packaged if packaged.is_dir() else Path(name))
