"""What every tokenizer of the project can do: pieces of plain text to base ids, and base ids to bytes.

A piece is a run of plain text between two special tokens. Special tokens are written by `render` as ids; they
never pass through a tokenizer as text, so text that merely spells one stays text.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from groma.errors import CheckpointError, InputError
from groma.prompt.tokens import SpecialTokenIds

DESCRIPTION_FILE = "groma_tokenizer.json"
"""Says, in a folder of our own, which kind of tokenizer it holds and how it is set up."""


class PromptTokenizer(ABC):
    """Plain text <-> ids of the base vocabulary, with Groma's new tokens behind it.

    Attributes:
        special: Ids of the special tokens.
        control_ids: Base ids that are not text (begin, end, unknown, a chat template's markers):
            `encode_piece` never yields one, and `decode` passes over them.
        lossless: `decode(encode_piece(text)) == text`, blanks at the ends included, up to the Unicode
            normalization that the tokenizer's own file asks for. Where False, blanks next to special tokens
            are lost.
    """

    lossless: ClassVar[bool]

    def __init__(self, special: SpecialTokenIds, control_ids: frozenset[int]) -> None:
        self.special = special
        self.control_ids = control_ids

    @property
    def vocab_size(self) -> int:
        """Size V of the base vocabulary; new tokens have the ids V and up."""
        return self.special.base_vocab_size

    def encode_piece(self, text: str, *, first: bool) -> list[int]:
        """Ids of a run of plain text between special tokens; none of them is ever a special token.

        Args:
            text: The run, whatever it spells.
            first: It is the very first piece of a prompt, with nothing but the begin token before it.

        Raises:
            InputError: The text is no valid Unicode, or the vocabulary cannot spell it.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"the text holds half of a surrogate pair ({text[error.start]!r} at {error.start}), "
                "which no tokenizer can encode; remove it"
            ) from error
        ids = self._encode(text, first=first)
        if not self.control_ids.isdisjoint(ids):
            raise InputError(f"the vocabulary has no tokens for the text {text[:80]!r}")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of base ids; ids that are not text contribute nothing, broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes that one id stands for (perhaps part of a character); empty if the id is not text."""

    @abstractmethod
    def token_name(self, token_id: int) -> str:
        """How one id is spelled, e.g. "</s>" or "<roi>"; for messages and raw text only."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all files that `load_tokenizer` needs into a folder that exists."""

    @abstractmethod
    def _encode(self, text: str, *, first: bool) -> list[int]: ...


def write_description(folder: Path, description: Mapping[str, object]) -> None:
    """Write a tokenizer's description beside its other files."""
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")


def check_fields(found: Mapping[str, object], expected: Mapping[str, tuple[type, ...]], path: Path) -> None:
    """Compare a description with the fields and types it must have.

    Raises:
        CheckpointError: Lists every unknown, missing and mistyped field.
    """
    faults = [f"unknown field {name!r}" for name in found.keys() - expected.keys()]
    faults += [f"missing field {name!r}" for name in expected.keys() - found.keys()]
    for name in found.keys() & expected.keys():
        if type(found[name]) not in expected[name]:
            faults.append(f"field {name!r} is {found[name]!r}")
    if faults:
        raise CheckpointError(f"{path} does not describe a tokenizer: {'; '.join(sorted(faults))}")
