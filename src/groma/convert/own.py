"""A `config.json` of our own format -> GromaConfig, strictly: no unknown name, no value of another type."""

import difflib
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from groma.errors import CheckpointError
from groma.model.config import GromaConfig, ProposerConfig, RegionEncoderConfig, SelectionConfig
from groma.prompt.chat_format import CHAT_FORMATS

OUR_PARTS = {"proposer": ProposerConfig, "selection": SelectionConfig, "region_encoder": RegionEncoderConfig}
"""Sections whose names are ours to check; transformers checks those of the encoder and the language model."""

OTHER_NAMES = frozenset({"quantization_config"})
"""Names of the whole configuration that only some checkpoints carry."""


def own_config(values: Mapping[str, Any]) -> GromaConfig:
    """Build the configuration of a checkpoint in our own format.

    Args:
        values: the parsed `config.json`.

    Raises:
        CheckpointError: it is of another kind of model, or a name or value is wrong; lists all offenders.
    """
    kind = values.get("model_type")
    if kind != GromaConfig.model_type:
        classes = ", ".join(values.get("architectures") or ())
        found = f"of type {kind!r}" + (f" ({classes})" if classes else "") if kind else "of no type (no model_type)"
        raise CheckpointError(f"config.json is {found}; a Groma checkpoint was expected.")
    faults = [f"{name} is missing" for name in GromaConfig.sub_configs if not isinstance(values.get(name), Mapping)]
    if not faults:
        faults = _faults(values, GromaConfig().to_dict(), known=OTHER_NAMES)
        for part, kind_of_part in OUR_PARTS.items():
            faults += [f"{part}.{fault}" for fault in _faults(values[part], kind_of_part().to_dict())]
    if not faults and values.get("chat_format", GromaConfig.chat_format) not in CHAT_FORMATS:
        faults = [f"chat_format is {values['chat_format']!r}, known are {', '.join(CHAT_FORMATS)}"]
    if faults:
        raise CheckpointError(f"config.json does not describe a Groma model: {'; '.join(faults)}.")
    try:
        return GromaConfig(**{name: value for name, value in values.items() if name not in ("model_type", "dtype")})
    except (StrictDataclassError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"config.json does not describe a Groma model: {reason[:500]}") from error


def _faults(
    values: Mapping[str, Any], defaults: Mapping[str, Any], *, known: frozenset[str] = frozenset()
) -> list[str]:
    """Names that do not exist, and values whose type is not that of the default."""
    faults = []
    for name, value in values.items():
        if name not in defaults.keys() | known:
            near = difflib.get_close_matches(name, defaults, n=1)
            faults.append(f"{name} is unknown" + (f" (is it {near[0]}?)" if near else ""))
        elif name in defaults and not _fits(value, defaults[name]):
            faults.append(f"{name} is {value!r}, expected something like {defaults[name]!r}")
    return faults


def _fits(value: Any, default: Any) -> bool:
    """Whether a JSON value can stand where this default stands; what is None by default may be anything."""
    if default is None or isinstance(default, Mapping):
        return value is None or default is None or isinstance(value, Mapping)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, list):
        return isinstance(value, list) and all(_fits(item, default[0]) for item in value)
    return isinstance(value, type(default))
