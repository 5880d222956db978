"""Groma's language model as a plain checkpoint of transformers: what other engines, such as vLLM, can run.

    config.json, generation_config.json, model*.safetensors   a causal LM of the base's family with V + A tokens
    tokenizer.json, tokenizer_config.json                     what AutoTokenizer reads, see `_plain_tokenizer`
    groma/export.json                                         ids of Groma's tokens, and which model this was
    groma/...                                                 Groma's own tokenizer, exact: `load_tokenizer(folder)`

The added rows, which stand beside the base in a Groma, become the last rows of its embedding and of its output head.
The two tables differ, so the exported model never ties them. V base vocabulary, A added tokens, D width.
"""

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from groma.convert.build import quiet_transformers
from groma.errors import InputError
from groma.model.fingerprint import fingerprint
from groma.model.groma import GromaModel
from groma.model.language import LanguageModel
from groma.prompt.chat_format import chat_format
from groma.prompt.tokenizer import FastPromptTokenizer, LlamaSentencePieceTokenizer, PromptTokenizer
from groma.prompt.tokenizer_fast import BACKEND_FILE, _without_prefix
from groma.prompt.tokenizer_llama import MODEL_FILE
from groma.prompt.tokens import NEW_TOKENS, new_token_names
from groma.storage import atomic_folder, read_json_object, write_json, write_text

METADATA = "groma/export.json"
"""Path of the description inside an exported folder."""

FORMAT = 1
"""Of the description; a reader refuses any other."""

SHARD_SIZE = re.compile(r"[1-9]\d*(KB|MB|GB|TB)")


def export_language(
    model: GromaModel,
    tokenizer: PromptTokenizer,
    folder: Path,
    *,
    source: str,
    dtype: torch.dtype | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Write the language model of a Groma, its added tokens merged in: the whole folder or nothing.

    Args:
        model: the whole model; it is left as it is.
        tokenizer: belongs to it.
        folder: a new or empty folder.
        source: what the model is called, for the description.
        dtype: type to store the parameters in; None: as they are.
        max_shard_size: a file of weights is at most this large, e.g. "5GB".

    Raises:
        InputError: the folder holds something already, the size is none, or the family cannot be written this way.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already: give a new or an empty folder.")
    if not SHARD_SIZE.fullmatch(max_shard_size):
        raise InputError(f"max_shard_size is {max_shard_size!r}, expected a number and a unit, such as 5GB or 500MB.")
    merged = merge_added_tokens(model.language)
    special, stop_ids = tokenizer.special, chat_format(model.config.chat_format, tokenizer).stop_ids(tokenizer.special)
    for config in (merged.config, merged.config.get_text_config()):
        config.bos_token_id, config.eos_token_id = special.bos, special.eos
    merged.generation_config = GenerationConfig(
        bos_token_id=special.bos, eos_token_id=sorted(stop_ids), pad_token_id=special.pad, do_sample=False
    )
    with atomic_folder(folder) as temporary:
        _write_model(merged, temporary, dtype=dtype or model.language.base.dtype, max_shard_size=max_shard_size)
        (temporary / METADATA).parent.mkdir()
        tokenizer.save((temporary / METADATA).parent)
        names = _write_plain_tokenizer(tokenizer, temporary, context=_context(merged))
        write_json(temporary / METADATA, _description(model, tokenizer, names, stop_ids, source))


# --- the model -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def merge_added_tokens(language: LanguageModel) -> PreTrainedModel:
    """A model of the base's class that knows all V + A tokens, and says what the language model says.

    It shares every parameter but the two tables with the base, which is left as it is.

    Raises:
        InputError: the family does not come out right: its vocabulary or its output is made in a way not known here.
    """
    base, added = language.base, language.added_embeddings.num_embeddings
    merged: Any = copy.deepcopy(base, memo={id(p): p for p in base.parameters()})
    table, head = merged.get_input_embeddings(), merged.get_output_embeddings()
    rows = len(table.weight) + added
    if len(head.weight) != len(table.weight) or getattr(merged.config, "quantization_config", None) is not None:
        raise _cannot_export(merged, "its tables cannot take more rows")
    table.weight = _longer(table.weight, language.added_embeddings.weight)
    table.num_embeddings = rows
    head.weight = _longer(head.weight, language.added_head.weight)
    head.out_features = rows
    if getattr(head, "bias", None) is not None:
        head.bias = _longer(head.bias, head.bias.new_zeros(added))
    for config in (merged.config, merged.config.get_text_config()):
        config.vocab_size, config.tie_word_embeddings = rows, False
    merged.all_tied_weights_keys = {}
    _check_outputs(language, merged)
    _check_shapes(merged)
    return merged


def _longer(rows: Tensor, more: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat((rows.detach(), more.detach().to(rows))), requires_grad=False)


def _check_outputs(language: LanguageModel, merged: Any) -> None:
    """Both say the same about some tokens of either kind."""
    first = language.base_vocab_size - 4
    ids = torch.arange(first, first + 8, device=merged.device)[None] % len(merged.get_input_embeddings().weight)
    hidden, _ = language(language.embed(ids), use_cache=False)
    ours, theirs = language.logits(hidden), merged(ids, use_cache=False).logits.float()
    tolerance = 1e-4 if merged.dtype == torch.float32 else 2e-2
    if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * float(ours.abs().max())):
        raise _cannot_export(merged, "with more rows it says something else")


def _check_shapes(merged: PreTrainedModel) -> None:
    """Built anew from its configuration, as whoever loads it does, the model has just these tensors, each its own."""
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(merged.config)
    wanted = {name: tuple(tensor.shape) for name, tensor in fresh.state_dict().items()}
    if wanted != {name: tuple(tensor.shape) for name, tensor in merged.state_dict().items()}:
        raise _cannot_export(merged, "its configuration asks for other tensors")
    if fresh.get_output_embeddings().weight is fresh.get_input_embeddings().weight:
        raise _cannot_export(merged, "its output head is always its embedding, but Groma's tokens have rows in both")


def _cannot_export(merged: PreTrainedModel, reason: str) -> InputError:
    kind = merged.config.model_type
    return InputError(f"A language model of the family {kind!r} cannot be exported as a plain one: {reason}.")


def _write_model(merged: PreTrainedModel, folder: Path, *, dtype: torch.dtype, max_shard_size: str) -> None:
    state: dict[str, Tensor] = merged.state_dict()
    weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with quiet_transformers():
        merged.save_pretrained(  # pyright: ignore[reportUnknownMemberType]
            folder, state_dict=weights, max_shard_size=max_shard_size
        )
    config = folder / "config.json"
    write_json(config, read_json_object(config) | {"dtype": str(dtype).removeprefix("torch.")})
    for file in folder.glob("*.safetensors"):  # written for their owner's eyes alone
        file.chmod(config.stat().st_mode)


def _context(merged: PreTrainedModel) -> int | None:
    return getattr(merged.config.get_text_config(), "max_position_embeddings", None)


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def _write_plain_tokenizer(tokenizer: PromptTokenizer, folder: Path, *, context: int | None) -> dict[str, str]:
    """Write what AutoTokenizer reads.

    Returns:
        Name of each of Groma's tokens -> how it is spelled there.
    """
    backend = _plain_tokenizer(tokenizer, folder / Path(METADATA).parent)
    special = tokenizer.special
    names = {name: _unused(backend, name) for name in new_token_names(special.num_regions)}
    size = backend.get_vocab_size(with_added_tokens=True)
    fillers = [f"<groma unused {token_id}>" for token_id in range(size, special.base_vocab_size)]
    # blanks beside a special token are lost in a tokenizer that is not lossless
    glue = {} if tokenizer.lossless else {"lstrip": True, "rstrip": True}
    added = [AddedToken(name, special=True, normalized=False, **glue) for name in (*fillers, *names.values())]
    backend.add_special_tokens(added)  # pyright: ignore[reportArgumentType]
    places = {name: backend.token_to_id(spelled) for name, spelled in names.items()}
    if list(places.values()) != list(range(special.base_vocab_size, special.vocab_size)):
        raise InputError("The tokenizer's ids have gaps, so Groma's tokens cannot follow them in a tokenizer.json.")
    backend.save(str(folder / BACKEND_FILE))
    roles = {"bos": special.bos, "eos": special.eos, "unk": special.unk, "pad": special.pad}
    config: dict[str, Any] = {
        f"{role}_token": backend.id_to_token(token_id) for role, token_id in roles.items() if token_id is not None
    }
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {"padding_side": "left"} | ({} if context is None else {"model_max_length": context})
    write_json(folder / "tokenizer_config.json", config)
    template = getattr(tokenizer, "chat_template", None)
    if template is not None:
        write_text(folder / "chat_template.jinja", template)
    return names


def _plain_tokenizer(tokenizer: PromptTokenizer, saved: Path) -> Tokenizer:
    """A tokenizer that reads a text as Groma reads a piece of one, from the files that Groma's wrote.

    Raises:
        InputError: the tokenizer is of a kind that is not known here.
    """
    if isinstance(tokenizer, FastPromptTokenizer):
        definition = json.loads((saved / BACKEND_FILE).read_text(encoding="utf-8"))
        definition["post_processor"] = None  # prompts bring their own begin token
        definition |= {stage: _without_prefix(definition.get(stage)) for stage in ("normalizer", "pre_tokenizer")}
        return Tokenizer.from_str(json.dumps(definition))
    if isinstance(tokenizer, LlamaSentencePieceTokenizer):
        return _from_sentencepiece((saved / MODEL_FILE).read_bytes(), tokenizer)
    raise InputError(f"A tokenizer of the kind {type(tokenizer).__name__} cannot be written as a tokenizer.json.")


def _from_sentencepiece(model: bytes, tokenizer: LlamaSentencePieceTokenizer) -> Tokenizer:
    """Llama's SentencePiece model as a BPE: pieces joined in the order of their scores.

    Not exact: outside the legacy mode, punctuation after a special token may be lost in Groma's (the published
    weights were trained so), and here it is not.
    """
    pieces = SentencePieceProcessor(model_proto=model)
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    merges = [
        (-pieces.get_score(token_id), vocabulary[piece[:cut]], vocabulary[piece[cut:]], piece[:cut], piece[cut:])
        for piece, token_id in vocabulary.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    joined = [(left, right) for *_, left, right in sorted(merges)]
    unknown = pieces.id_to_piece(pieces.unk_id())
    backend = Tokenizer(models.BPE(vocabulary, joined, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    first_alone = "always" if tokenizer.legacy else "first"
    stages: Any = backend  # its properties are known to the library alone
    stages.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=first_alone, split=False)
    stages.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    control = [pieces.id_to_piece(i) for i in sorted(tokenizer.control_ids)]
    backend.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in control])  # pyright: ignore[reportArgumentType]
    return backend


def _unused(backend: Tokenizer, name: str) -> str:
    """A spelling that the vocabulary does not have already for something else."""
    while backend.token_to_id(name) is not None:
        name = f"<groma>{name}"
    return name


# --- the description -------------------------------------------------------------------------------------------------


def silent_ids(tokenizer: PromptTokenizer) -> frozenset[int]:
    """Base ids that spell nothing: control tokens, and rows of the embedding that no token uses."""
    return frozenset(i for i in range(tokenizer.vocab_size) if not tokenizer.token_bytes(i))


def _description(
    model: GromaModel, tokenizer: PromptTokenizer, names: Mapping[str, str], stop_ids: frozenset[int], source: str
) -> dict[str, Any]:
    special = tokenizer.special
    return {
        "format": FORMAT,
        "source": source,
        "fingerprint": fingerprint(sorted(model.state_dict().items())),
        "language_fingerprint": fingerprint(sorted(model.language.state_dict().items())),
        "chat_format": model.config.chat_format,
        "base_vocab_size": special.base_vocab_size,
        "num_regions": special.num_regions,
        "bos": special.bos,
        "eos": special.eos,
        "unk": special.unk,
        "added_token_ids": {token.value: special.of(token) for token in NEW_TOKENS},
        "region_token_ids": list(special.region_ids),
        "spelled_otherwise": {name: spelled for name, spelled in names.items() if name != spelled},
        "stop_ids": sorted(stop_ids),
        "silent_ids": sorted(silent_ids(tokenizer)),
    }
