"""Models by name: load from the package, a folder or the hub; save; convert the published layout.

    groma-tiny | folder | owner/name --find--> folder --read--> configuration, tensors, tokenizer, preprocessing
        --build--> Groma --save--> folder of our own format

Our own format is a folder with

    config.json         GromaConfig: what shapes the model, and `provenance`, where its weights come from
    model.safetensors   parameters, under names that do not depend on the transformers release (shards above 5 GB)
    preprocessor.json   groma.image.Preprocessing
    tokenizer files     groma.prompt.tokenizer
    README.md           a model card, if one was given
"""

import importlib.resources
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from groma.convert.build import build_model, quiet_transformers
from groma.convert.hub import HUB_NAME, download
from groma.convert.own import own_config
from groma.convert.published import is_published, published_config, published_image_size, rename_published
from groma.convert.weight_files import read_weights
from groma.errors import CheckpointError, GromaError, InputError
from groma.image import Preprocessing
from groma.inference.assistant import Groma
from groma.model.config import GromaConfig
from groma.model.groma import GromaModel
from groma.prompt.tokenizer import PromptTokenizer, load_tokenizer
from groma.storage import atomic_folder, read_json_object, write_json, write_text

CONFIG, PREPROCESSOR, CARD = "config.json", "preprocessor.json", "README.md"
PUBLISHED_PREPROCESSOR = "preprocessor_config.json"

EMBEDDED = {"groma-tiny": "groma-tiny"}
"""Models inside the package: name -> folder in groma/assets."""

DTypeName = Literal["float32", "bfloat16", "float16", "stored"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LARGE_PARAMETERS = 10**9
"""Models with more parameters than this run in bfloat16 on a GPU unless told otherwise."""

MAX_SHARD_SIZE = "5GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """How a model is built and spoken to: all but its weights."""

    config: GromaConfig
    """What shapes it."""
    tokenizer: PromptTokenizer
    """Text <-> ids."""
    preprocessing: Preprocessing
    """What becomes of pictures."""
    is_published: bool
    """The folder has the published checkpoint's layout."""


def load_interface(name_or_path: str | Path) -> Interface:
    """What `load` reads of a model before its weights, in a moment and without their memory.

    Args:
        name_or_path: as for `load`.

    Raises:
        CheckpointError: as `load`.
    """
    folder = find_checkpoint(name_or_path)
    with _about(folder):
        return _read_interface(folder, str(name_or_path))


def load(
    name_or_path: str | Path, *, device: str | torch.device | None = None, dtype: DTypeName | torch.dtype | None = None
) -> Groma:
    """A model that is ready to answer.

    Args:
        name_or_path: "groma-tiny", the model inside this package; or a folder, in our own format or in the published
            checkpoint's layout, which is converted in memory; or "owner/name" on the Hugging Face hub. A folder that
            is called like the embedded model is given as "./groma-tiny".
        device: where it runs, such as "cpu", "cuda", "cuda:1" or "mps"; None: a CUDA device if there is one, else the
            CPU.
        dtype: type that the model computes in; "stored": as in the files. None: float32, whatever is stored, but
            bfloat16 for models of more than a billion parameters on a GPU. The proposer computes in float32 always.

    Raises:
        CheckpointError: there is no such model, or it is incomplete, damaged, of another kind, or does not fit
            together.
        InputError: the device does not exist, is too small, or cannot compute in `dtype`.
    """
    place = _device(device)
    folder = find_checkpoint(name_or_path)
    with _about(folder):
        interface = _read_interface(folder, str(name_or_path))
        tensors = read_weights(folder)
        if interface.is_published:
            tensors = rename_published(interface.config, tensors)
    chosen = _dtype(dtype, place, tensors)
    with _about(folder):
        model = build_model(interface.config, tensors, dtype=chosen)
    try:
        model.to(place)  # pyright: ignore[reportArgumentType, reportUnknownMemberType]  # decorated
    except torch.OutOfMemoryError as error:
        raise InputError(f'{name_or_path} does not fit on {place}: try dtype="bfloat16" or device="cpu".') from error
    return Groma(model, interface.tokenizer, interface.preprocessing)


def save(groma: Groma, folder: str | Path, *, dtype: torch.dtype | None = None, card: str | None = None) -> None:
    """Write a model in our own format: the whole folder or nothing.

    Args:
        groma: what to save.
        folder: a new or empty folder.
        dtype: type to store the parameters in; None: as they are.
        card: text of the model card.

    Raises:
        InputError: the folder holds something already, or models are not stored in that type.
    """
    if dtype is not None and dtype not in DTYPES.values():
        raise InputError(f"dtype is {dtype}, models are stored as one of torch.{', torch.'.join(DTYPES)}.")
    save_whole(groma.model, groma.tokenizer, groma.preprocessing, Path(folder), dtype=dtype, card=card)


def save_whole(
    model: GromaModel,
    tokenizer: PromptTokenizer,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    state: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    card: str | None = None,
) -> None:
    """`save` for a model that is still being trained: nothing about it is touched.

    Args:
        model: what is saved.
        tokenizer: belongs to it.
        preprocessing: belongs to it.
        folder: a new or empty folder.
        state: its state by name, where its own tensors are not whole; None: as they are.
        dtype: type to store the parameters in; None: as they are.
        card: text of the model card.

    Raises:
        InputError: the folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already: give a new or an empty folder.")
    with atomic_folder(folder) as temporary:
        own = model.state_dict() if state is None else state
        weights = {name: tensor.to(dtype or tensor.dtype) for name, tensor in own.items()}
        with quiet_transformers():
            model.save_pretrained(  # pyright: ignore[reportUnknownMemberType]
                temporary, state_dict=weights, max_shard_size=MAX_SHARD_SIZE
            )
        stored = str(dtype or model.dtype).removeprefix("torch.")
        write_json(temporary / CONFIG, dict(sorted((model.config.to_diff_dict() | {"dtype": stored}).items())))
        for file in temporary.glob("*.safetensors"):  # written for their owner's eyes alone
            file.chmod((temporary / CONFIG).stat().st_mode)
        write_json(temporary / PREPROCESSOR, preprocessing.to_dict())
        tokenizer.save(temporary)
        if card is not None:
            write_text(temporary / CARD, card)


def convert(source: str | Path, out: str | Path) -> Groma:
    """Load a checkpoint of any layout and save it in our own format, in the type it is stored in.

    Args:
        source: as for `load`.
        out: a new or empty folder.

    Returns:
        What was saved, on the CPU.

    Raises:
        CheckpointError: `source` cannot be loaded.
        InputError: `out` holds something already.
    """
    groma = load(source, device="cpu", dtype="stored")
    save(groma, out, dtype=groma.model.dtype)  # the proposer too, which is loaded in float32 whatever is stored
    return groma


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The folder of a model: inside the package, as given, or in the cache of the hub.

    Raises:
        CheckpointError: there is no such model.
    """
    name = str(name_or_path)
    if not name:  # as a path it would be the current folder
        raise CheckpointError(f"The model's name is empty; models inside the package: {', '.join(EMBEDDED)}.")
    if name in EMBEDDED:
        folder = Path(str(importlib.resources.files("groma"))) / "assets" / EMBEDDED[name]
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"{name} is missing from this installation of groma: install the package anew.")
        return folder
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file: give the folder that holds the checkpoint.")
    if isinstance(name_or_path, str) and HUB_NAME.fullmatch(name):
        return download(name)
    raise CheckpointError(
        f"{name} is no folder, no name on the Hugging Face hub (owner/name) and none of the models inside the package: "
        f"{', '.join(EMBEDDED)}."
    )


# --- reading a folder ------------------------------------------------------------------------------------------------


def _read_interface(folder: Path, name: str) -> Interface:
    """All but the weights of a folder in either layout."""
    values = read_json_object(folder / CONFIG, error=CheckpointError)
    if not is_published(values):
        config, published = own_config(values), False  # first of all: whether it is a Groma at all
        preprocessing = Preprocessing.from_dict(read_json_object(folder / PREPROCESSOR, error=CheckpointError))
    else:
        processor = read_json_object(folder / PUBLISHED_PREPROCESSOR, error=CheckpointError)
        size = published_image_size(processor)
        config, published = published_config(values, image_size=size), True
        config.provenance = {"converted_from": name if HUB_NAME.fullmatch(name) else folder.name, "layout": "published"}
        preprocessing = Preprocessing.from_preprocessor_config(processor, size_px=size)
    tokenizer = load_tokenizer(folder)
    _check_parts(config, tokenizer, preprocessing)
    return Interface(config=config, tokenizer=tokenizer, preprocessing=preprocessing, is_published=published)


def _check_parts(config: GromaConfig, tokenizer: PromptTokenizer, preprocessing: Preprocessing) -> None:
    """Parts that were not made for each other would load and then talk nonsense."""
    vocabulary = getattr(config.language, "vocab_size", tokenizer.vocab_size)
    pairs = (
        ("base vocabulary", tokenizer.vocab_size, vocabulary),
        ("number of region tokens", tokenizer.special.num_regions, config.selection.max_regions),
        ("picture size", preprocessing.size_px, config.image_size),
    )
    faults = [f"{what} is {found}, the model's {wanted}" for what, found, wanted in pairs if found != wanted]
    if faults:
        raise CheckpointError(f"Tokenizer or preprocessing do not belong to the model: {'; '.join(faults)}.")


@contextmanager
def _about(folder: Path) -> Generator[None, None, None]:
    """Make every error that reading a folder can raise a CheckpointError that says which folder it is."""
    try:
        yield
    except GromaError as error:
        if isinstance(error, CheckpointError) and str(folder) in str(error):
            raise
        raise CheckpointError(f"{folder}: {error}") from error


# --- options ---------------------------------------------------------------------------------------------------------


def _device(name: str | torch.device | None) -> torch.device:
    """A device that is there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch asserts that it was built with CUDA
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise InputError(f"There is no device {str(name)!r} here; there are {', '.join(there)}.") from error
    if device.type == "meta":
        raise InputError("A model on the meta device has no weights; choose another device.")
    return device


def _dtype(dtype: DTypeName | torch.dtype | None, device: torch.device, tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The type to compute in; see `load`."""
    stored = Counter(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    if dtype is None:
        large = sum(tensor.numel() for tensor in tensors.values()) > LARGE_PARAMETERS
        return torch.bfloat16 if large and device.type == "cuda" else torch.float32
    if dtype == "stored":
        return stored.most_common(1)[0][0] if stored else torch.float32
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise InputError(f'dtype is {dtype!r}, expected one of {", ".join(DTYPES)}, "stored".')
    return found
