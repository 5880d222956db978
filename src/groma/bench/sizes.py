"""Models of any size with random weights: by name or by configuration, made where they run, no checkpoint read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch

from groma.bench.machine import free_bytes
from groma.errors import InputError
from groma.image import Preprocessing
from groma.inference.assistant import Groma
from groma.model.config import GromaConfig
from groma.model.groma import GromaModel
from groma.pretrained import DTYPES, LARGE_PARAMETERS, find_checkpoint, load_interface
from groma.prompt.tokenizer import FastPromptTokenizer
from groma.prompt.tokenizer_base import DESCRIPTION_FILE
from groma.storage import read_json_object

WORDS_OF = "groma-tiny"
"""Model inside the package whose tokenizer speaks for random weights; their vocabulary may be wider."""

TEXT_TOKENS = 128
"""What a prompt's words take, generously, where memory is estimated."""

DINOV2 = {"patch_size": 14, "image_size": 518}
"""What the DINOv2 of all sizes have in common (arXiv 2304.07193)."""

GIB = 1 << 30


def tiny() -> GromaConfig:
    """That of groma-tiny."""
    return load_interface(WORDS_OF).config


def base() -> GromaConfig:
    """Between the two: pictures and tokens as published, DINOv2-base, a language model of 270 million weights.

    Its region encoder has smaller levels than the published one, which takes seconds a picture on a CPU.
    """
    return GromaConfig(
        encoder={"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12} | DINOV2,
        region_encoder={"upsample": (2, 1, 1), "num_fuse_steps": 3, "roi_size": 7},
        language=_llama(width=1024, layers=16, heads=16, inner=2816),
    )


def published() -> GromaConfig:
    """The published 7B model: DINOv2-large and Vicuna (arXiv 2404.13013, section 3; 2304.07193)."""
    return GromaConfig(
        encoder={"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16} | DINOV2,
        language=_llama(width=4096, layers=32, heads=32, inner=11008),
    )


SIZES: dict[str, Callable[[], GromaConfig]] = {"tiny": tiny, "base": base, "7b": published}
"""Name of a size -> its configuration."""


def _llama(*, width: int, layers: int, heads: int, inner: int) -> dict[str, object]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": inner,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    }


def size_config(name: str) -> GromaConfig:
    """The configuration of a size.

    Raises:
        InputError: there is none of that name.
    """
    if name not in SIZES:
        raise InputError(
            f"there is no size {name!r}: give one of {', '.join(SIZES)}, or the config.json of an architecture"
        )
    return SIZES[name]()


def random_assistant(config: GromaConfig, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Groma:
    """An assistant of random weights that sees as many regions as it has room for.

    The proposer computes in float32, as in every model that is loaded. A chat template belongs to a tokenizer that
    is not here, so Vicuna's format stands for it.

    Args:
        config: the architecture; it is left as it is.
        device: where the weights are made.
        dtype: of the weights.
        seed: of the weights.

    Raises:
        InputError: the vocabulary is too small for the words of WORDS_OF, or the device for the weights.
    """
    config = deepcopy(config)
    config.selection.score_threshold = 0.0  # random weights are sure of nothing: without it one region is left
    if config.chat_format == "chat_template":
        config.chat_format = "vicuna"
    torch.manual_seed(seed)
    try:
        with torch.device(device), _default_dtype(dtype):
            model = GromaModel(config)
            # some initializations compute in float32 and leave it so
            model.to(dtype=dtype)  # pyright: ignore[reportCallIssue]  # decorated
            model.proposer.float()
    except torch.OutOfMemoryError as error:
        raise InputError(f"a model of this size does not fit on {device}: give a smaller --size") from error
    folder = find_checkpoint(WORDS_OF)
    words = read_json_object(folder / DESCRIPTION_FILE)
    vocabulary = config.language.get_text_config().vocab_size
    words |= {"base_vocab_size": vocabulary, "num_regions": config.selection.max_regions}
    tokenizer = FastPromptTokenizer.from_saved(folder, words)
    return Groma(model, tokenizer, Preprocessing(size_px=config.image_size))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Floating point tensors are made in this type: a large model is never in memory in a wider one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def find_device(name: str | None) -> torch.device:
    """The device of a name; None: a CUDA device if there is one, else the CPU.

    Raises:
        InputError: there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch asserts that it was built with CUDA
        raise InputError(f"there is no device {name!r} here: give --device cpu, or one that torch finds") from error
    if device.type == "meta":
        raise InputError("nothing can be measured on the meta device: give --device cpu")
    return device


def find_dtype(name: str | None, config: GromaConfig, device: torch.device) -> torch.dtype:
    """The type of a name; None: float32, but bfloat16 for large models on a GPU, as `groma.load` does.

    Raises:
        InputError: random weights are not stored in any type.
    """
    if name == "stored":
        raise InputError(f"random weights are not stored: give --dtype {', '.join(DTYPES)} or none")
    if name is None:
        large = count_parameters(config) > LARGE_PARAMETERS
        return torch.bfloat16 if large and device.type == "cuda" else torch.float32
    return DTYPES[name]


def count_parameters(config: GromaConfig) -> int:
    """How many parameters a model has, without making them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GromaModel(config).parameters())


def needed_bytes(config: GromaConfig, dtype: torch.dtype, *, pictures: int, new_tokens: int) -> int:
    """About how much memory answers take: weights, keys and values, the region encoder's levels and pooled regions.

    Args:
        config: the architecture.
        dtype: of the weights.
        pictures: answered about together.
        new_tokens: tokens of an answer.
    """
    text = config.language.get_text_config()
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    regions, encoder = config.selection.max_regions, config.region_encoder
    tokens = config.num_image_tokens + 2 * regions + TEXT_TOKENS + new_tokens
    cache = 2 * text.num_hidden_layers * kv_heads * head * tokens
    cells = config.grid_size**2 * sum(factor**2 for factor in encoder.upsample)
    pooled = regions * encoder.roi_size**2 * len(encoder.upsample)
    maps = (3 * cells + 3 * pooled) * config.encoder.hidden_size  # before, between and after a step
    return (count_parameters(config) + pictures * (cache + maps)) * dtype.itemsize


def check_fits(
    config: GromaConfig, dtype: torch.dtype, device: torch.device, *, what: str, pictures: int, new_tokens: int
) -> None:
    """Refuse a model that the machine has no room for before a byte of it is made.

    Args:
        config: the architecture.
        dtype: of the weights.
        device: where it would run.
        what: the model's name, for the error.
        pictures: answered about together.
        new_tokens: tokens of an answer.

    Raises:
        InputError: it needs more memory than is free.
    """
    free = free_bytes(device)
    needed = needed_bytes(config, dtype, pictures=pictures, new_tokens=new_tokens)
    if free is not None and needed > free:
        raise InputError(
            f"{what} needs about {needed / GIB:.1f} GiB in {str(dtype).removeprefix('torch.')} for {pictures} pictures "
            f"at once, but {device} has {free / GIB:.1f} GiB free: give a smaller --size, --batch-size 1, --dtype "
            "bfloat16 or another --device"
        )
