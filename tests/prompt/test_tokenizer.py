"""Text to base ids and back: nothing typed becomes a special token or gets lost where that is promised."""

import json
import subprocess
import sys
import time

import pytest
from hypothesis import given
from strategies import ADVERSARIAL, PROPERTY, typed, words
from tokenizer_families import CORPUS, byte_bpe, sentencepiece_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from groma.errors import CheckpointError, InputError
from groma.prompt.tokenizer import (
    FastPromptTokenizer,
    LlamaSentencePieceTokenizer,
    load_tokenizer,
    train_byte_bpe,
)
from groma.prompt.tokens import new_token_names


def assert_plain(tokenizer, text):
    for first in (True, False):
        ids = tokenizer.encode_piece(text, first=first)
        assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids)
        assert tokenizer.control_ids.isdisjoint(ids)
        assert all(tokenizer.token_bytes(token_id) for token_id in ids)  # each stands for some of the text


@pytest.mark.parametrize("text", ADVERSARIAL, ids=lambda text: ascii(text[:30]))
def test_typed_special_tokens_stay_text(family, text):
    tokenizer, _ = family
    assert_plain(tokenizer, text)
    assert_plain(tokenizer, f"What is {text}?")


@given(text=typed)
@PROPERTY
def test_no_text_becomes_a_special_token(family, text):
    assert_plain(family[0], text)


def test_added_tokens_that_are_only_markup_stay_text_too(qwen_like):
    markup = {i for i, token in qwen_like._backend.get_added_tokens_decoder().items() if not token.special}
    assert len(markup) == 7
    ids = qwen_like.encode_piece("<think></think><tool_call><r5><image>[grounding]</s>", first=False)
    assert markup.isdisjoint(ids)


def test_typed_added_tokens_are_encoded_like_any_other_text(byte_bpe):
    backend = Tokenizer.from_str(byte_bpe._backend.to_str())
    backend.add_special_tokens(["<USER>"])
    tokenizer = FastPromptTokenizer(backend, bos="<s>", eos="</s>")
    assert [tokenizer.token_name(i) for i in tokenizer.encode_piece("<USER>", first=False)] == ["<", "USER", ">"]


@pytest.mark.parametrize("text", ADVERSARIAL, ids=lambda text: ascii(text[:30]))
def test_adversarial_text_comes_back(lossless_family, text):
    tokenizer, gives_back = lossless_family
    assert tokenizer.decode(tokenizer.encode_piece(text, first=False)) == gives_back(text)


@given(text=typed)
@PROPERTY
def test_text_comes_back_exactly(lossless_family, text):
    tokenizer, gives_back = lossless_family
    for first in (True, False):
        assert tokenizer.decode(tokenizer.encode_piece(text, first=first)) == gives_back(text)


@given(text=words)
@PROPERTY
def test_words_come_back_without_outer_blanks(stripping_tokenizer, text):
    ids = stripping_tokenizer.encode_piece(f"  {text}\n ", first=False)
    assert stripping_tokenizer.decode(ids) == text


def test_half_a_surrogate_pair_is_refused(family):
    with pytest.raises(InputError, match="surrogate"):
        family[0].encode_piece("dog \ud800", first=False)


def test_empty_text_has_no_tokens(family):
    assert family[0].encode_piece("", first=True) == []
    assert family[0].encode_piece("", first=False) == []


def test_ids_that_are_not_text_decode_to_nothing(family):
    tokenizer, _ = family
    special = tokenizer.special
    ids = [-1, special.eos, special.pad, special.region(3), special.vocab_size + 9, *tokenizer.control_ids]
    assert tokenizer.decode(ids) == ""
    assert all(tokenizer.token_name(token_id) for token_id in ids)
    assert tokenizer.token_name(special.region(3)) == "<r3>"


def test_save_and_load(family, tmp_path):
    tokenizer, _ = family
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.special == tokenizer.special
    assert loaded.control_ids == tokenizer.control_ids
    for text in ("a red dog. ", "<r5>", "caf\u00e9 \U0001f436"):
        ids = tokenizer.encode_piece(text, first=False)
        assert loaded.encode_piece(text, first=False) == ids
        assert loaded.decode(ids) == tokenizer.decode(ids)
    assert getattr(loaded, "chat_template", None) == getattr(tokenizer, "chat_template", None)


# The two modes of Llama's slow tokenizer


@pytest.fixture(params=[True, False], ids=["legacy", "glued"])
def legacy(request):
    return request.param


@pytest.fixture
def published_folder(tmp_path):
    """A folder as a published checkpoint has it, with a small vocabulary."""
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    (tmp_path / "tokenizer_config.json").write_text('{"legacy": false}')
    added = {name: 450 + offset for offset, name in enumerate(new_token_names(20))}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    return tmp_path


def test_glued_pieces_have_no_blank_in_front_and_may_lose_punctuation():
    tokenizer = LlamaSentencePieceTokenizer(sentencepiece_model(), legacy=False)
    assert tokenizer.token_name(tokenizer.encode_piece("dog", first=False)[0])[0] == "d"
    assert tokenizer.token_name(tokenizer.encode_piece("dog", first=True)[0])[0] == "\u2581"
    # ">." is one token of this vocabulary, as of Llama's: cut off with the glue
    assert tokenizer.decode(tokenizer.encode_piece(". dog", first=False)) == "dog"


def test_legacy_pieces_have_a_blank_in_front_and_keep_punctuation():
    tokenizer = LlamaSentencePieceTokenizer(sentencepiece_model(), legacy=True)
    for first in (True, False):
        assert tokenizer.token_name(tokenizer.encode_piece("dog", first=first)[0])[0] == "\u2581"
    assert tokenizer.decode(tokenizer.encode_piece(". dog", first=False)) == ". dog"


def test_published_folder(published_folder):
    tokenizer = load_tokenizer(published_folder)
    assert isinstance(tokenizer, LlamaSentencePieceTokenizer)
    assert not tokenizer.legacy
    assert (tokenizer.vocab_size, tokenizer.special.num_regions, tokenizer.lossless) == (450, 20, False)


def test_without_an_entry_the_mode_is_legacy(published_folder):
    (published_folder / "tokenizer_config.json").write_text("{}")
    assert load_tokenizer(published_folder).legacy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"<roi>": 7}, "<roi> has id 7, expected 454"),
        ({"<extra>": 500}, "<extra> has id 500, expected None"),
        ({"<p>": None}, "<p> has id None, expected 456"),
        ({"<r3>": 9, "[PAD]": 8}, r"<r3> has id 9, expected 467; \[PAD\] has id 8"),
    ],
)
def test_added_tokens_must_be_the_expected_ones(published_folder, change, message):
    path = published_folder / "added_tokens.json"
    added = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: token_id for name, token_id in added.items() if token_id is not None}))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(published_folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("added_tokens.json", None, "there is no such file"),
        ("added_tokens.json", "{", "not a readable JSON file"),
        ("added_tokens.json", "[]", "expected a JSON object"),
        ("added_tokens.json", '{"<pad>": 450}', "no region token"),
        ("tokenizer_config.json", None, "there is no such file"),
        ("tokenizer.model", "nonsense", "SentencePiece"),
        ("tokenizer.model", None, "holds no tokenizer"),
    ],
)
def test_broken_published_folders(published_folder, file, content, message):
    (published_folder / file).unlink()
    if content is not None:
        (published_folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(published_folder)


# Our own folders


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "names the kind 'other'"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"eos": None}, "field 'eos' is None"),
        ({"num_regions": True}, "field 'num_regions' is True"),
    ],
)
def test_a_wrong_description_is_refused(byte_bpe, tmp_path, change, message):
    byte_bpe.save(tmp_path)
    path = tmp_path / "groma_tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [None, "{}", "nonsense"])
def test_a_broken_backend_file(byte_bpe, tmp_path, content):
    byte_bpe.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"cannot read .*tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_loading_is_fast_and_needs_no_torch(byte_bpe, tmp_path):
    byte_bpe.save(tmp_path)
    start = time.process_time()  # the clock would count what else the machine does
    load_tokenizer(tmp_path)
    assert time.process_time() - start < 0.3
    code = (
        "import sys; from groma.prompt.tokenizer import load_tokenizer; "
        f"load_tokenizer({str(tmp_path)!r}); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Byte-level BPE


def test_common_words_are_single_tokens_with_or_without_a_blank(byte_bpe):
    for text in (" dog", "the", " red", "USER", " man"):
        assert len(byte_bpe.encode_piece(text, first=False)) == 1
    special = byte_bpe.special
    assert (special.unk, special.bos, special.eos) == (0, 1, 2)


def test_every_byte_has_a_token(byte_bpe):
    single = {byte_bpe.token_bytes(token_id) for token_id in range(byte_bpe.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= single


def test_training_is_deterministic(tmp_path):
    first, second = train_byte_bpe(CORPUS, 300), train_byte_bpe(iter(CORPUS), 300)
    first.save(tmp_path)
    saved = (tmp_path / "tokenizer.json").read_bytes()
    second.save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == saved
    assert first.vocab_size == 300


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(InputError, match="bytes alone need 259"):
        train_byte_bpe(CORPUS, 258)


# Fast tokenizers of other families


def test_the_wrapped_tokenizer_is_left_as_it_is():
    backend = byte_bpe()._backend
    backend.enable_truncation(3)
    before = backend.to_str()
    wrapped = FastPromptTokenizer(backend, eos="</s>")
    assert backend.to_str() == before
    assert len(wrapped.encode_piece("a b c d e f", first=False)) > 3


def test_new_tokens_follow_the_rows_of_the_embedding(qwen_like):
    assert qwen_like.special.pad == 500
    assert qwen_like.token_bytes(499) == b""
    assert FastPromptTokenizer(qwen_like._backend, eos="<|im_end|>").vocab_size < 500
    with pytest.raises(InputError, match="base_vocab_size is 300"):
        FastPromptTokenizer(qwen_like._backend, eos="<|im_end|>", base_vocab_size=300)


def test_an_end_token_that_does_not_exist(qwen_like):
    with pytest.raises(InputError, match="no token '<end>'"):
        FastPromptTokenizer(qwen_like._backend, eos="<end>")


def test_tokenizers_that_lose_text_are_refused():
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "dog": 1, "[SEP]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    with pytest.raises(InputError, match="can spell any text"):
        FastPromptTokenizer(backend, eos="[SEP]")


def test_from_transformers(llama3_like):
    family = PreTrainedTokenizerFast(
        tokenizer_object=llama3_like._backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    )
    family.chat_template = llama3_like.chat_template
    wrapped = FastPromptTokenizer.from_transformers(family, num_regions=5)
    assert wrapped.special.eos == llama3_like.special.eos
    assert wrapped.special.num_regions == 5
    assert wrapped.chat_template == llama3_like.chat_template
    assert wrapped.encode_piece("a </s>", first=False) == llama3_like.encode_piece("a </s>", first=False)
    family.chat_template = {"tool_use": "other", "default": "template"}
    assert FastPromptTokenizer.from_transformers(family).chat_template == "template"
    with pytest.raises(InputError, match="names no eos_token"):
        FastPromptTokenizer.from_transformers(PreTrainedTokenizerFast(tokenizer_object=llama3_like._backend))


@pytest.mark.parametrize("place", ["text", "list", "file"])
def test_from_hub_folder(qwen_like, tmp_path, place):
    qwen_like._backend.save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": {"content": "<|im_end|>"}, "bos_token": None}
    if place == "text":
        config["chat_template"] = "template"
    elif place == "list":
        config["chat_template"] = [{"name": "default", "template": "template"}]
    else:
        (tmp_path / "chat_template.jinja").write_text("template")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = FastPromptTokenizer.from_hub_folder(tmp_path, base_vocab_size=500)
    assert loaded.special == qwen_like.special
    assert loaded.chat_template == "template"


def test_a_hub_folder_without_an_end_token(qwen_like, tmp_path):
    qwen_like._backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="eos_token"):
        FastPromptTokenizer.from_hub_folder(tmp_path)


def test_split_template_honours_stripping_tokens(qwen_like):
    backend = Tokenizer.from_str(qwen_like._backend.to_str())
    backend.add_special_tokens([AddedToken("<|turn|>", rstrip=True, special=True)])
    tokenizer = FastPromptTokenizer(backend, eos="<|im_end|>")
    turn, end = backend.token_to_id("<|turn|>"), tokenizer.special.eos
    assert tokenizer.split_template("a <|turn|>\n b<|im_end|><|im_end|>c") == ["a ", turn, "b", end, end, "c"]
    assert tokenizer.split_template("") == []
