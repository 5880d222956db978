"""Small tokenizers built like those of well-known families, for tests that must hold for every family.

Each family is a `Family`: how to build it, and which text comes back for a text that went in.
"""

import io
import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sentencepiece
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from groma.prompt.tokenizer import (
    FastPromptTokenizer,
    LlamaSentencePieceTokenizer,
    PromptTokenizer,
    train_byte_bpe,
)

GOLDEN_FOLDER = Path(os.environ.get("GROMA_GOLDEN") or Path(__file__).parents[1] / "golden" / "data")

CORPUS = [
    "the red car left of the dog",
    "Describe the image in detail. What is in the picture?",
    "a man in a red hat throws a ball to two dogs.",
    "Here is an image with region crops from it. USER: ASSISTANT:",
    "Locate all dogs, if x >. y >, z </s> <s>",
] * 20

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim "
    "+ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def byte_bpe() -> FastPromptTokenizer:
    return train_byte_bpe(CORPUS, 420)


def qwen_like() -> FastPromptTokenizer:
    """NFC, no begin token, control tokens and plain added tokens behind the vocabulary, padded embedding."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"])
    plain = ["<think>", "</think>", "<tool_call>", "<r5>", "<image>", "[grounding]", "</s>"]
    backend.add_tokens([AddedToken(name, normalized=False, special=False) for name in plain])
    return FastPromptTokenizer(backend, eos="<|im_end|>", base_vocab_size=500, chat_template=CHATML)


def llama3_like() -> FastPromptTokenizer:
    """Control tokens that also stand in the model's own vocabulary, words looked up whole, a begin token."""
    control = [
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<s>",
        "</s>",
        "<r5>",
    ]
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=control,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    backend.enable_truncation(8)
    return FastPromptTokenizer(backend, bos="<|begin_of_text|>", eos="<|eot_id|>", chat_template=HEADERS)


def llama2_fast_like() -> FastPromptTokenizer:
    """A blank mark put in front of every text, single bytes as a last resort."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["\u2581", *"abcdefghijklmnopqrstuvwxyz<>/s.", "re", "\u2581re", "\u2581red"]
    vocab = {name: number for number, name in enumerate(dict.fromkeys(names))}
    merges = [("r", "e"), ("\u2581", "re"), ("\u2581re", "d")]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return FastPromptTokenizer(backend, bos="<s>", eos="</s>", unk="<unk>", num_regions=7)


def unigram_like() -> FastPromptTokenizer:
    """A vocabulary whose best segmentation of "</s>" is the control token itself."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    pieces += [(char, -3.0) for char in "\u2581abcdefghijklmnopqrstuvwxyz</>"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return FastPromptTokenizer(backend, bos="<s>", eos="</s>", unk="<unk>")


@cache
def sentencepiece_model() -> bytes:
    """A small model with Llama's settings: BPE, byte fallback, no normalization."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type="bpe",
        vocab_size=450,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def vicuna_model() -> bytes | None:
    path = GOLDEN_FOLDER / "tokenizer" / "tokenizer.model"
    return path.read_bytes() if path.is_file() else None


def blank_marks_read_as_blanks(text: str) -> str:
    return text.replace("\u2581", " ")


@dataclass(frozen=True)
class Family:
    """How to build a tokenizer (None: its files are not at hand), and the text it gives back for a text."""

    build: Callable[[], PromptTokenizer | None]
    gives_back: Callable[[str], str]


def _vicuna(legacy: bool) -> LlamaSentencePieceTokenizer | None:
    model = vicuna_model()
    return None if model is None else LlamaSentencePieceTokenizer(model, legacy=legacy)


LOSSLESS = {
    "byte_bpe": Family(byte_bpe, str),
    "qwen_like": Family(qwen_like, lambda text: unicodedata.normalize("NFC", text)),
    "llama3_like": Family(llama3_like, str),
    "llama2_fast_like": Family(llama2_fast_like, blank_marks_read_as_blanks),
    "unigram_like": Family(unigram_like, blank_marks_read_as_blanks),
}
STRIPPING = {
    "llama_legacy": Family(
        lambda: LlamaSentencePieceTokenizer(sentencepiece_model(), legacy=True), blank_marks_read_as_blanks
    ),
    "llama_glued": Family(
        lambda: LlamaSentencePieceTokenizer(sentencepiece_model(), legacy=False), blank_marks_read_as_blanks
    ),
    "vicuna_legacy": Family(lambda: _vicuna(legacy=True), blank_marks_read_as_blanks),
    "vicuna_glued": Family(lambda: _vicuna(legacy=False), blank_marks_read_as_blanks),
}
FAMILIES = LOSSLESS | STRIPPING
