"""What a model does while a question is answered: how often each part runs, and over how much."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from groma.model.groma import GromaModel


@dataclass(slots=True)
class Counts:
    """What ran since counting began."""

    encoded: int = 0
    """Pictures that went through the encoder."""
    proposed: int = 0
    """Pictures that went through the proposer."""
    region_tokens: int = 0
    """Regions that the region encoder described."""
    processed: list[int] = field(default_factory=list[int])
    """Tokens of each row in each call of the language model: a prompt's, then mostly 1."""
    positions: list[int] = field(default_factory=list[int])
    """Length of the conversation after each of these calls, of the longest row."""
    cache_bytes: int = 0
    """Keys and values after the last call."""


@contextmanager
def counted(model: GromaModel) -> Iterator[Counts]:
    """Count in a `with` block, by hooks: nothing of the model changes."""
    counts = Counts()

    def encoder(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        counts.encoded += len(inputs[0])

    def proposer(_module: Any, inputs: tuple[Any, ...]) -> None:
        counts.proposed += len(inputs[0].final)

    def regions(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        counts.region_tokens += len(inputs[0])

    def language(_module: Any, inputs: tuple[Tensor, ...], options: dict[str, Any], output: tuple[Tensor, Any]) -> None:
        counts.processed.append(inputs[0].shape[1])
        counts.positions.append(int(options["position_ids"].max()) + 1)
        counts.cache_bytes = getattr(output[1], "num_bytes", 0)

    hooks = [
        model.encoder.register_forward_pre_hook(encoder),
        model.proposer.register_forward_pre_hook(proposer),
        model.region_encoder.output_linear.register_forward_pre_hook(regions),
        model.language.register_forward_hook(language, with_kwargs=True),
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
