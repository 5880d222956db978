"""Tokenizers of every family at hand, built once."""

from functools import cache

import pytest
from tokenizer_families import FAMILIES, GOLDEN_FOLDER, LOSSLESS, STRIPPING

from groma.prompt.tokenizer import PromptTokenizer


@cache
def build(name: str) -> PromptTokenizer | None:
    return FAMILIES[name].build()


def _get(name: str) -> PromptTokenizer:
    tokenizer = build(name)
    if tokenizer is None:
        pytest.skip(
            f"{GOLDEN_FOLDER / 'tokenizer' / 'tokenizer.model'} is not there (its licence keeps it out of "
            "the repository); set GROMA_GOLDEN to a folder that has it"
        )
    return tokenizer


@pytest.fixture(scope="session", params=list(FAMILIES))
def family(request):
    """(tokenizer, what it gives back for a text) of every family."""
    return _get(request.param), FAMILIES[request.param].gives_back


@pytest.fixture(scope="session", params=list(LOSSLESS))
def lossless_family(request):
    return _get(request.param), FAMILIES[request.param].gives_back


@pytest.fixture(scope="session", params=list(STRIPPING))
def stripping_tokenizer(request):
    return _get(request.param)


@pytest.fixture(scope="session")
def byte_bpe():
    return _get("byte_bpe")


@pytest.fixture(scope="session")
def qwen_like():
    return _get("qwen_like")


@pytest.fixture(scope="session")
def llama3_like():
    return _get("llama3_like")
