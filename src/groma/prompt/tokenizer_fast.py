"""Any Hugging Face fast tokenizer as a prompt tokenizer, and the byte-level BPE of our own small models.

Text is encoded by a copy of the tokenizer that has no added tokens and adds no blank in front, so that text
which spells a special token stays text and every piece comes back exactly. Groma's tokens follow its own.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, cast

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from groma.errors import CheckpointError, InputError
from groma.prompt.tokenizer_base import PromptTokenizer, check_fields, write_description
from groma.prompt.tokens import PUBLISHED_REGIONS, SpecialTokenIds
from groma.storage import read_json_object

BACKEND_FILE = "tokenizer.json"
_BLANK_MARK = "\u2581"
_PROBES = (
    " two  blanks \n",
    "don't (stop).",
    "caf\u00e9 \u4e2d\u6587 \U0001f436 \x00",
)  # NFC, as some normalize


class FastPromptTokenizer(PromptTokenizer):
    """A `tokenizers.Tokenizer` that can spell any text (byte level, or with byte fallback), made lossless.

    Attributes:
        chat_template: The family's Jinja chat template, if it has one.
    """

    KIND = "fast"
    lossless = True

    def __init__(
        self,
        backend: Tokenizer,
        *,
        eos: str,
        bos: str | None = None,
        unk: str | None = None,
        base_vocab_size: int | None = None,
        num_regions: int = PUBLISHED_REGIONS,
        chat_template: str | None = None,
    ) -> None:
        """Wrap a tokenizer; it is copied and left as it is.

        Args:
            backend: The tokenizer, with its own added tokens.
            eos: Its token that ends an answer.
            bos: Its token that begins a sequence, if there is one.
            unk: Its token for unknown text, if there is one.
            base_vocab_size: V; give the rows of the model's embedding where those are more than the tokens.
            num_regions: How many region tokens there are.
            chat_template: Jinja source of the family's chat template.

        Raises:
            InputError: A token does not exist, V is smaller than the vocabulary, or the tokenizer loses text.
        """
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        definition = json.loads(self._backend.to_str())
        self._plain = _without_added_tokens(definition)
        self._byte_of_char = _byte_of_char() if _mentions(definition.get("decoder"), "ByteLevel") else None
        self._added = self._backend.get_added_tokens_decoder()
        self._names = {"bos": bos, "eos": eos, "unk": unk}
        self.chat_template = chat_template

        size = max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if base_vocab_size is not None and base_vocab_size < size:
            raise InputError(f"base_vocab_size is {base_vocab_size}, but the tokenizer has {size} tokens")
        special = SpecialTokenIds.after(
            base_vocab_size or size,
            num_regions=num_regions,
            bos=None if bos is None else self._id_of("bos", bos),
            eos=self._id_of("eos", eos),
            unk=None if unk is None else self._id_of("unk", unk),
        )
        control = {token_id for token_id, token in self._added.items() if token.special}
        control |= {i for i in (special.bos, special.eos, special.unk) if i is not None}
        super().__init__(special, frozenset(control))
        # Added tokens that are no control tokens ("<tool_call>") are markup all the same, and "<0x0A>" is no line
        # break: some models find the names of their byte tokens in text.
        byte_tokens = (self._backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        self._never_spelled = frozenset({*control, *self._added, *(i for i in byte_tokens if i is not None)})
        self._probe()

    @classmethod
    def from_transformers(
        cls, tokenizer: Any, *, base_vocab_size: int | None = None, num_regions: int = PUBLISHED_REGIONS
    ) -> Self:
        """Wrap a `PreTrainedTokenizerFast` with its special tokens and chat template.

        Raises:
            InputError: As the constructor; or no token ends an answer.
        """
        if tokenizer.eos_token is None:
            raise InputError("the tokenizer names no eos_token, so an answer could never end; set one")
        template: str | Mapping[str, str] | None = tokenizer.chat_template
        if isinstance(template, Mapping):  # several templates by name
            template = template.get("default")
        return cls(
            tokenizer.backend_tokenizer,
            eos=tokenizer.eos_token,
            bos=tokenizer.bos_token,
            unk=tokenizer.unk_token,
            base_vocab_size=base_vocab_size,
            num_regions=num_regions,
            chat_template=template,
        )

    @classmethod
    def from_saved(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """Read what `save` wrote."""
        text = (str, type(None))
        fields = {"kind": (str,), "bos": text, "eos": (str,), "unk": text, "base_vocab_size": (int,)}
        check_fields(description, fields | {"num_regions": (int,), "chat_template": text}, folder)
        options = {name: value for name, value in description.items() if name != "kind"}
        return cls(_read_backend(folder), **options)

    @classmethod
    def from_hub_folder(
        cls, folder: Path, *, base_vocab_size: int | None = None, num_regions: int = PUBLISHED_REGIONS
    ) -> Self:
        """Read a language model's own folder: `tokenizer.json`, its configuration and chat template.

        Raises:
            CheckpointError: A file is missing or broken, or no token ends an answer.
        """
        path = folder / "tokenizer_config.json"
        config = read_json_object(path, error=CheckpointError)
        names = {role: _content(config.get(f"{role}_token")) for role in ("bos", "eos", "unk")}
        eos = names.pop("eos")
        if eos is None:
            raise CheckpointError(f"{path} names no eos_token, so an answer could never end")
        template_file = folder / "chat_template.jinja"
        template = config.get("chat_template")
        if template_file.is_file():
            template = template_file.read_text(encoding="utf-8")
        elif isinstance(template, list):  # older files: several templates by name
            entries = cast(list[dict[str, str]], template)
            template = next((entry["template"] for entry in entries if entry["name"] == "default"), None)
        return cls(
            _read_backend(folder),
            eos=eos,
            **names,
            base_vocab_size=base_vocab_size,
            num_regions=num_regions,
            chat_template=template,
        )

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes that one id stands for (perhaps part of a character); empty if the id is not text."""
        if token_id in self.control_ids or not 0 <= token_id < self.vocab_size:
            return b""
        if token_id in self._added:
            return self._added[token_id].content.encode("utf-8")
        token = self._backend.id_to_token(token_id)
        if token is None:  # a row of the model's embedding that no token uses
            return b""
        if self._byte_of_char is not None:
            if self._byte_of_char.keys() >= set(token):
                return bytes(self._byte_of_char[char] for char in token)
            return token.encode("utf-8")  # a token that no text is encoded with
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return token.replace(_BLANK_MARK, " ").encode("utf-8")

    def token_name(self, token_id: int) -> str:
        """How one id is spelled."""
        known = 0 <= token_id < self.vocab_size
        name = self._backend.id_to_token(token_id) if known else self.special.name(token_id)
        return name or f"<{token_id}>"

    def split_template(self, text: str) -> list[str | int]:
        """Cut a chat template's own text, never a user's, into runs of text and the family's token ids."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        parts: list[str | int] = []
        cursor = 0
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id in self._added:
                parts += [text[cursor:start], token_id] if start > cursor else [token_id]
                cursor = end
        return [*parts, text[cursor:]] if cursor < len(text) else parts

    def apply_chat_template(self, messages: list[dict[str, str]]) -> str:
        """Text of a conversation in the family's own format, without a prompt for the next answer.

        Raises:
            InputError: There is no template, or it refuses the messages.
        """
        if self.chat_template is None:
            raise InputError("the tokenizer has no chat template; choose another chat format")
        from jinja2 import TemplateError
        from transformers import PreTrainedTokenizerFast

        names = {f"{role}_token": name for role, name in self._names.items() if name is not None}
        family = PreTrainedTokenizerFast(tokenizer_object=self._backend, **names)
        family.chat_template = self.chat_template
        try:
            # Templates that print today's date take this one, so that a prompt is the same every day.
            text: Any = family.apply_chat_template(  # pyright: ignore[reportUnknownMemberType]
                messages, tokenize=False, date_string="26 Jul 2024"
            )
        except TemplateError as error:
            raise InputError(f"the chat template cannot render a conversation: {error}") from error
        return str(text)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and the description."""
        self._backend.save(str(folder / BACKEND_FILE))
        description = {"kind": self.KIND, **self._names, "base_vocab_size": self.vocab_size}
        description |= {"num_regions": self.special.num_regions, "chat_template": self.chat_template}
        write_description(folder, description)

    def _encode(self, text: str, *, first: bool) -> list[int]:
        encoding = self._plain.encode(text, add_special_tokens=False)
        if self._never_spelled.isdisjoint(encoding.ids):
            return encoding.ids
        # The vocabulary itself holds a token that this text spells: encode its characters apart. (One character
        # that has such a token is no spelling: a byte token for a character, an added token for a blank.)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        spelled = (range(start + 1, end) for i, (start, end) in spans if i in self._never_spelled)
        cuts = sorted({cut for inside in spelled for cut in inside})
        if not cuts:
            return encoding.ids
        parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        return [token_id for part in parts for token_id in self._encode(part, first=False)]

    def _id_of(self, role: str, name: str) -> int:
        token_id = self._backend.token_to_id(name)
        if token_id is None:
            raise InputError(f"the tokenizer has no token {name!r}, which is given as its {role} token")
        return token_id

    def _probe(self) -> None:
        for text in _PROBES:
            back = self.decode(self._encode(text, first=True))
            if back != text:
                raise InputError(
                    f"the tokenizer turns {text!r} into {back!r}; Groma needs one that can spell any text "
                    "(byte-level BPE, or byte fallback)"
                )


def train_byte_bpe(
    texts: Iterable[str], vocab_size: int, *, num_regions: int = PUBLISHED_REGIONS
) -> FastPromptTokenizer:
    """Learn a byte-level BPE whose common words are single tokens and which can spell any text.

    The ids are <unk> 0, <s> 1, </s> 2, then the 256 bytes, then merges by frequency. Deterministic.

    Args:
        texts: Runs of text as they will be encoded (`text_runs` yields a dialogue's).
        vocab_size: Size of the base vocabulary; smaller if the texts do not give enough merges.
        num_regions: How many region tokens follow.

    Raises:
        InputError: The size cannot hold the 3 special tokens and the 256 bytes.
    """
    special = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(_byte_of_char())
    if vocab_size < len(special) + len(alphabet):
        raise InputError(f"vocab_size is {vocab_size}; bytes alone need {len(special) + len(alphabet)}")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return FastPromptTokenizer(backend, bos="<s>", eos="</s>", unk="<unk>", num_regions=num_regions)


def _without_added_tokens(definition: Mapping[str, Any]) -> Tokenizer:
    """Copy a tokenizer without added tokens, and without anything that puts a blank in front of text."""
    plain: dict[str, Any] = {**definition, "added_tokens": [], "post_processor": None}
    for stage in ("normalizer", "pre_tokenizer"):
        plain[stage] = _without_prefix(definition.get(stage))
    return Tokenizer.from_str(json.dumps(plain))


def _without_prefix(stage: Any) -> Any:
    match stage:
        case {"type": "Prepend"}:
            return None
        case {"type": "ByteLevel"}:
            return stage | {"add_prefix_space": False}
        case {"type": "Metaspace"}:
            return stage | {"prepend_scheme": "never"}
        case {"type": "Sequence"}:
            name = "normalizers" if "normalizers" in stage else "pretokenizers"
            return stage | {name: [kept for one in stage[name] if (kept := _without_prefix(one))]}
        case _:
            return stage


def _mentions(stage: Mapping[str, Any] | None, kind: str) -> bool:
    """Whether a stage of a tokenizer's definition is of a kind, or a sequence that has one."""
    if stage is None:
        return False
    return stage["type"] == kind or any(_mentions(inner, kind) for inner in stage.get("decoders", ()))


def _byte_of_char() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _content(token: str | Mapping[str, str] | None) -> str | None:
    return token["content"] if isinstance(token, Mapping) else token


def _read_backend(folder: Path) -> Tokenizer:
    path = folder / BACKEND_FILE
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception for every fault of a file
        raise CheckpointError(f"cannot read {path}: {error}") from error
