"""Checkpoints on the Hugging Face hub -> a folder in the local cache."""

import re
from pathlib import Path

from groma.errors import CheckpointError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""How a model on the hub is called: owner/name."""

SMALL_FILES = ("*.json", "*.model", "*.jinja", "*.md")
"""Configuration, tokenizer, preprocessing, model card."""


def download(name: str) -> Path:
    """Fetch a model of the hub, or find it in the cache: its small files and one kind of weights.

    Args:
        name: owner/name.

    Returns:
        The snapshot's folder in the cache.

    Raises:
        CheckpointError: the hub has no such model, it is not public for this user, or the hub cannot be reached and
            nothing is cached.
    """
    folder = _snapshot(name, [*SMALL_FILES, "*.safetensors"])
    if not any(folder.glob("*.safetensors")):
        folder = _snapshot(name, [*SMALL_FILES, "*.bin"])
    return folder


def _snapshot(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} on the Hugging Face hub asks for its terms to be accepted: do that on its page, then log in with "
            "`hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name} is no folder here and no model on the Hugging Face hub (or a private one: `hf auth login`)."
        ) from error
    except HFValidationError as error:
        raise CheckpointError(f"{name!r} is no folder here and no name that a model on the hub can have.") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{name} is no folder here, it is not in the cache, and the Hugging Face hub cannot be reached: check the "
            "connection (and HF_HUB_OFFLINE), or give a folder."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{name} could not be fetched from the Hugging Face hub: {reason}") from error
