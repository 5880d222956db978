"""The tokenizers a checkpoint can bring, and how its folder tells which one it is.

Published folders: `tokenizer.model`, `tokenizer_config.json` (says "legacy"), `added_tokens.json`. Our own
folders: `groma_tokenizer.json` says which kind the other file is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from groma.errors import CheckpointError
from groma.prompt.tokenizer_base import DESCRIPTION_FILE, PromptTokenizer
from groma.prompt.tokenizer_fast import FastPromptTokenizer, train_byte_bpe
from groma.prompt.tokenizer_llama import MODEL_FILE, LlamaSentencePieceTokenizer
from groma.storage import read_json_object

__all__ = [
    "FastPromptTokenizer",
    "LlamaSentencePieceTokenizer",
    "PromptTokenizer",
    "load_tokenizer",
    "train_byte_bpe",
]

KINDS: dict[str, Callable[[Path, Mapping[str, Any]], PromptTokenizer]] = {
    LlamaSentencePieceTokenizer.KIND: LlamaSentencePieceTokenizer.from_saved,
    FastPromptTokenizer.KIND: FastPromptTokenizer.from_saved,
}


def load_tokenizer(folder: str | Path) -> PromptTokenizer:
    """Load the tokenizer of a checkpoint folder, our own or a published one.

    Raises:
        CheckpointError: The folder holds no tokenizer of Groma's, or a broken one.
    """
    folder = Path(folder)
    description_file = folder / DESCRIPTION_FILE
    if description_file.is_file():
        description = read_json_object(description_file, error=CheckpointError)
        kind = description.get("kind")
        if kind not in KINDS:
            raise CheckpointError(f"{description_file} names the kind {kind!r}; known are {', '.join(KINDS)}")
        return KINDS[kind](folder, description)
    if (folder / MODEL_FILE).is_file():
        return LlamaSentencePieceTokenizer.from_published(folder)
    raise CheckpointError(f"{folder} holds no tokenizer: neither {DESCRIPTION_FILE} nor {MODEL_FILE} is there")
