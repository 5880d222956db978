"""Configuration and tensors -> a model in memory: strictly, without random weights and without a second copy."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from groma.errors import CheckpointError
from groma.model.config import GromaConfig
from groma.model.groma import GromaModel


def build_model(config: GromaConfig, tensors: Mapping[str, Tensor], *, dtype: torch.dtype) -> GromaModel:
    """A model whose parameters are these tensors; where the type is theirs already, they are not even copied.

    Names in files do not depend on the transformers release; `from_pretrained` turns them into those in memory.

    Args:
        config: what to build.
        tensors: by name in our files.
        dtype: floating point type of the parameters.

    Raises:
        CheckpointError: the configuration cannot be built, or a tensor is unknown, missing or of another shape; lists
            all offenders.
    """
    try:
        with quiet_transformers():
            loaded = GromaModel.from_pretrained(
                None,
                config=config,
                state_dict=dict(tensors),
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are all reported below, not only the first
                local_files_only=True,
            )
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"The configuration cannot be built: {error}") from error
    model, report = cast(tuple[GromaModel, dict[str, Any]], loaded)  # because of output_loading_info
    problems = [f"{name}: unknown name" for name in report["unexpected_keys"]]
    problems += [f"{name}: missing from the checkpoint" for name in report["missing_keys"]]
    problems += [
        f"{name}: shape {tuple(found)}, the model has {tuple(wanted)}"
        for name, found, wanted in report["mismatched_keys"]
    ]
    problems += [str(message) for message in report["error_msgs"]]
    if problems:
        raise CheckpointError(f"The weights do not fit ({len(problems)} problems): " + "; ".join(sorted(problems)))
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' reports and progress bars off the terminal: what matters is raised."""
    verbosity, had_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
