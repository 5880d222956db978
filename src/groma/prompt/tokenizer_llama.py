"""The SentencePiece tokenizer of Llama and Vicuna, as the published weights were trained with it.

Those weights saw text through the slow Llama tokenizer of transformers 4.32, whose habits are part of their
interface (golden README, "Prompt"; method.md, section 3, "Trap"):

* text is cut at special tokens, and every piece loses the blanks at both ends;
* legacy: a piece is encoded by itself, so SentencePiece puts a blank in front of it;
* not legacy (what Vicuna's files ask for): "<unk>" is glued in front, the whole is encoded, and as many
  tokens as "<unk>" alone has are cut off again. No blank is added, except before the first piece; but a "."
  or "," that merges with the ">" is cut off with it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from sentencepiece import SentencePieceProcessor

from groma.errors import CheckpointError
from groma.prompt.tokenizer_base import PromptTokenizer, check_fields, write_description
from groma.prompt.tokens import NEW_TOKENS, PUBLISHED_REGIONS, SpecialTokenIds, new_token_names
from groma.storage import read_json_object

MODEL_FILE = "tokenizer.model"
_BLANK_MARK = "\u2581"  # what SentencePiece writes for a blank
_GLUE = "<unk>"


class LlamaSentencePieceTokenizer(PromptTokenizer):
    """Llama's slow tokenizer of transformers 4.32, in either of its modes.

    Not lossless: blanks next to special tokens are dropped, U+2581 is read as a blank, and outside the legacy
    mode a piece may lose punctuation at its start. `parse` rebuilds the blanks.
    """

    KIND = "llama_sentencepiece"
    lossless = False

    def __init__(self, model: bytes, *, legacy: bool, num_regions: int = PUBLISHED_REGIONS) -> None:
        """Set up from the bytes of a `tokenizer.model`.

        Args:
            model: A serialized SentencePiece model.
            legacy: Which of the two habits above the weights were trained with.
            num_regions: How many region tokens there are.

        Raises:
            CheckpointError: The bytes are no SentencePiece model.
        """
        try:
            self._sentencepiece = SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise CheckpointError(f"the SentencePiece model cannot be read: {error}") from error
        pieces = self._sentencepiece
        special = SpecialTokenIds.after(
            pieces.vocab_size(),
            num_regions=num_regions,
            bos=pieces.bos_id(),
            eos=pieces.eos_id(),
            unk=pieces.unk_id(),
        )
        super().__init__(special, frozenset({pieces.bos_id(), pieces.eos_id(), pieces.unk_id()}))
        self.legacy = legacy
        self._model = model
        self._glue_length = len(pieces.encode(_GLUE))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of base ids, without the blank that SentencePiece puts in front."""
        return super().decode(ids).removeprefix(" ")

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes that one id stands for; empty if the id is not text."""
        if token_id in self.control_ids or not 0 <= token_id < self.vocab_size:
            return b""
        piece = self._sentencepiece.id_to_piece(token_id)
        if self._sentencepiece.is_byte(token_id):  # spelled <0xAB>
            return bytes([int(piece[3:5], 16)])
        return piece.replace(_BLANK_MARK, " ").encode("utf-8")

    def token_name(self, token_id: int) -> str:
        """How one id is spelled."""
        if 0 <= token_id < self.vocab_size:
            return self._sentencepiece.id_to_piece(token_id)
        return self.special.name(token_id) or f"<{token_id}>"

    def save(self, folder: Path) -> None:
        """Write `tokenizer.model` and the description."""
        (folder / MODEL_FILE).write_bytes(self._model)
        description = {"kind": self.KIND, "legacy": self.legacy, "num_regions": self.special.num_regions}
        write_description(folder, description)

    @classmethod
    def from_saved(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """Read what `save` wrote."""
        check_fields(description, {"kind": (str,), "legacy": (bool,), "num_regions": (int,)}, folder)
        legacy, num_regions = description["legacy"], description["num_regions"]
        return cls(_read_model(folder), legacy=legacy, num_regions=num_regions)

    @classmethod
    def from_published(cls, folder: Path) -> Self:
        """Read a folder in the published checkpoint's layout.

        The layout is `tokenizer.model`, `tokenizer_config.json` and `added_tokens.json` (token -> id).

        Raises:
            CheckpointError: A file is missing or broken, or an added token has another id than it must have.
        """
        # Without the entry, transformers 4.32 fell back to the legacy mode.
        legacy = read_json_object(folder / "tokenizer_config.json", error=CheckpointError).get("legacy", True)
        path = folder / "added_tokens.json"
        added = read_json_object(path, error=CheckpointError)
        num_regions = sum(re.fullmatch(r"<r\d+>", name) is not None for name in added)
        if num_regions == 0:
            raise CheckpointError(f"{path} lists no region token <r0>; this is not a Groma checkpoint")
        tokenizer = cls(_read_model(folder), legacy=bool(legacy), num_regions=num_regions)
        _check_added_tokens(added, tokenizer, path)
        return tokenizer

    def _encode(self, text: str, *, first: bool) -> list[int]:
        if not self.legacy:
            text = text.replace(_BLANK_MARK, " ")
        text = text.rstrip() if first else text.strip()
        if not text:
            return []
        if self.legacy:
            return self._sentencepiece.encode(text)
        glued = _GLUE + (_BLANK_MARK if first else "") + text
        return self._sentencepiece.encode(glued)[self._glue_length :]


def _read_model(folder: Path) -> bytes:
    path = folder / MODEL_FILE
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _check_added_tokens(added: Mapping[str, Any], tokenizer: LlamaSentencePieceTokenizer, path: Path) -> None:
    names = new_token_names(tokenizer.special.num_regions)
    expected = {name: tokenizer.vocab_size + offset for offset, name in enumerate(names)}
    faults = [
        f"{name} has id {added.get(name)}, expected {expected.get(name)}"
        for name in sorted(added.keys() | expected.keys())
        if added.get(name) != expected.get(name)
    ]
    if faults:
        raise CheckpointError(
            f"{path} does not place {len(NEW_TOKENS)} named and {len(names) - len(NEW_TOKENS)} region tokens "
            f"after the {tokenizer.vocab_size} base tokens: {'; '.join(faults)}"
        )
