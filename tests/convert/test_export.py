"""The language model as a plain checkpoint: transformers alone says with it what Groma says."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import groma
from groma.cli import main
from groma.convert import export
from groma.convert.export import export_language, silent_ids
from groma.errors import InputError
from groma.inference.assistant import Groma
from groma.inference.generate import Decoding
from groma.model.fingerprint import fingerprint
from groma.prompt.tokenizer import load_tokenizer
from groma.prompt.tokens import new_token_names
from small_models import small_groma
from spoken_prompts import answers, own_decoder, prompts, token_ids

TIED: dict[str, Any] = {"tie_word_embeddings": True}
HEADS: dict[str, Any] = {"head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": TIED,
    "gemma": HEADS | TIED,
    "gemma2": HEADS | TIED | {"final_logit_softcapping": 3.0},
    "gemma3_text": HEADS | TIED,
    "cohere": TIED | {"logit_scale": 0.25},
    "granite": {"logits_scaling": 6.0},
    "phi": {},
}
"""Scaled embeddings, scaled and capped logits, tied tables, an output head with a bias."""
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=[*FAMILIES, "groma-tiny"])
def pair(request, tmp_path_factory) -> tuple[Groma, Path]:
    """A model and its export."""
    kind = request.param
    if kind == "groma-tiny":
        model = groma.load(kind, device="cpu")
    else:
        model = small_groma(seed=2, model_type=kind, **FAMILIES[kind])
    folder = tmp_path_factory.mktemp(kind) / "out"
    export_language(model.model, model.tokenizer, folder, source=kind)
    return model, folder


@pytest.fixture(scope="module")
def llama() -> Groma:
    return small_groma(seed=2)


def load_plain(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def write(model: Groma, folder: Path, **options: Any) -> Path:
    export_language(model.model, model.tokenizer, folder, source="small", **options)
    return folder


@torch.no_grad()
def test_the_logits_are_groma_s(pair):
    """Of prompts with a picture, given as embeddings, and of text, given as ids of both kinds."""
    model, folder = pair
    plain, language = load_plain(folder), model.model.language
    special = model.tokenizer.special
    for prompt in prompts(model, [Decoding(max_new_tokens=8)] * 2):
        hidden, _ = language(prompt.embeddings[None], use_cache=False)
        expected = language.logits(hidden)
        got = plain(inputs_embeds=prompt.embeddings[None]).logits.float()
        assert got.shape[-1] == special.vocab_size
        assert float((got - expected).abs().max()) <= TOLERANCE
        assert float(expected.std()) > 0.02, "so flat that everything would be equal"
    ids = torch.tensor([[5, special.phrase_open, 17, 100, special.phrase_close, special.roi_open, *special.region_ids]])
    hidden, _ = language(language.embed(ids), use_cache=False)
    assert float((plain(ids).logits.float() - language.logits(hidden)).abs().max()) <= TOLERANCE


@torch.no_grad()
def test_it_generates_what_groma_says_without_its_grammar(pair):
    model, folder = pair
    plain = load_plain(folder)
    given = prompts(model, [Decoding(max_new_tokens=20, constrained=False)] * 2)
    for prompt, said in zip(given, answers(own_decoder(model), given), strict=True):
        made = plain.generate(inputs_embeds=prompt.embeddings[None], max_new_tokens=20)
        assert made[0].tolist() == token_ids(said)


def test_the_configuration_tells_what_is_in_it(pair):
    model, folder = pair
    config = json.loads((folder / "config.json").read_text())
    special = model.tokenizer.special
    assert config["vocab_size"] == special.vocab_size and config["tie_word_embeddings"] is False
    assert (config["bos_token_id"], config["eos_token_id"]) == (special.bos, special.eos)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == sorted(model.stop_ids) and generation["pad_token_id"] == special.pad


def test_the_description_tells_which_tokens_and_which_model(pair):
    model, folder = pair
    told = json.loads((folder / "groma" / "export.json").read_text())
    special = model.tokenizer.special
    assert told["region_token_ids"] == list(special.region_ids)
    assert told["added_token_ids"]["<roi>"] == special.roi_open
    assert len(told["added_token_ids"]) + len(told["region_token_ids"]) == special.num_new_tokens
    assert told["stop_ids"] == sorted(model.stop_ids)
    assert set(told["silent_ids"]) == {i for i in range(special.base_vocab_size) if not model.tokenizer.token_bytes(i)}
    assert told["fingerprint"] == fingerprint(sorted(model.model.state_dict().items()))
    assert load_tokenizer(folder / "groma").special == special


def test_the_model_stays_as_it_is(tmp_path):
    model = small_groma(seed=2, model_type="qwen2", **TIED)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    write(model, tmp_path / "out", dtype=torch.bfloat16)
    after = model.model.state_dict()
    assert after.keys() == before.keys()
    assert all(
        torch.equal(tensor, after[name]) and tensor.dtype == after[name].dtype for name, tensor in before.items()
    )
    base = model.model.language.base
    assert base.config.vocab_size == model.tokenizer.vocab_size and base.config.tie_word_embeddings is True
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight


def test_types_and_shards_as_asked_for(llama, tmp_path):
    folder = write(llama, tmp_path / "out", dtype=torch.bfloat16, max_shard_size="40KB")
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 1 and (folder / "model.safetensors.index.json").is_file()
    assert all(file.stat().st_mode & 0o777 == (folder / "config.json").stat().st_mode & 0o777 for file in files)
    plain = load_plain(folder, dtype="auto")
    assert plain.dtype == torch.bfloat16
    whole = load_plain(write(llama, tmp_path / "whole"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(plain.state_dict()[name], tensor.to(torch.bfloat16))


@pytest.mark.parametrize("size", ["5", "GB", "0GB", "5 pounds", ""])
def test_sizes_that_are_none_are_refused(llama, tmp_path, size):
    with pytest.raises(InputError, match="max_shard_size"):
        write(llama, tmp_path / "out", max_shard_size=size)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(llama, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="is there already"):
        write(llama, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_it_is_written_whole_or_not_at_all(llama, tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(export, "_write_plain_tokenizer", fail)
    with pytest.raises(OSError, match="no space"):
        write(llama, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_family_that_says_something_else_with_more_rows_is_refused(tmp_path):
    odd = small_groma(seed=2)
    odd.model.language.base.config.logit_scale = 0.5  # Groma heeds it, a Llama does not
    with pytest.raises(InputError, match=r"^A language model of the family 'llama' cannot be exported.*\.$"):
        write(odd, tmp_path / "out")


def test_a_family_that_is_always_tied_is_refused(llama, tmp_path, monkeypatch):
    build = AutoModelForCausalLM.from_config

    def tied(config: Any) -> Any:
        model = build(config)
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", tied)
    with pytest.raises(InputError, match="always its embedding"):
        write(llama, tmp_path / "out")


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def _families() -> Any:
    """The tokenizers of the tests of prompts."""
    path = Path(__file__).parents[1] / "prompt" / "tokenizer_families.py"
    spec = importlib.util.spec_from_file_location("tokenizer_families", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TEXTS = (
    "the red car left of the dog",
    "Describe the image in detail. What is in the picture?",
    "a man, in a red hat; throws 27 balls to two dogs!",
    "caf\u00e9 \u4e2d\u6587 \U0001f436",
)
SPACED = (" dog", "dog ", "two  blanks", "a line\nand another\n", "")


@pytest.mark.parametrize("kind", ["byte_bpe", "qwen_like", "llama3_like", "llama2_fast_like", "unigram_like"])
def test_transformers_reads_text_as_groma_does(kind, tmp_path):
    families = _families()
    tokenizer = families.LOSSLESS[kind].build()
    names, plain = plain_tokenizer(tokenizer, tmp_path)
    for text in (*TEXTS, *SPACED):
        expected = tokenizer.encode_piece(text, first=True)
        assert plain.encode(text, add_special_tokens=False) == expected
        assert plain(text)["input_ids"] == expected, "a begin token is the prompt's own matter"
    check_added_tokens(tokenizer, plain, names)
    # spelled as nothing in its own vocabulary is
    assert all(name == spelled or tokenizer._backend.token_to_id(name) is not None for name, spelled in names.items())


@pytest.mark.parametrize("kind", ["llama_legacy", "llama_glued", "vicuna_legacy", "vicuna_glued"])
def test_transformers_reads_text_as_llama_s_tokenizer_does(kind, tmp_path):
    families = _families()
    tokenizer = families.STRIPPING[kind].build()
    if tokenizer is None:
        pytest.skip("Llama's tokenizer files are not at hand")
    names, plain = plain_tokenizer(tokenizer, tmp_path)
    for text in (*TEXTS, *families.CORPUS[:5], "two  blanks", "x <> y", "a\nb"):
        if "<s>" not in text:  # there it is a token, in Groma a text
            assert plain.encode(text) == tokenizer.encode_piece(text, first=True)
    check_added_tokens(tokenizer, plain, names)
    special = tokenizer.special
    mixed = f"a dog {names['<roi>']} {names['<r3>']} {names['</roi>']} on the left"
    assert plain.encode(mixed) == [
        *tokenizer.encode_piece("a dog ", first=True),
        *(special.roi_open, special.region(3), special.roi_close),
        *tokenizer.encode_piece(" on the left", first=False),
    ]


def plain_tokenizer(tokenizer: Any, folder: Path) -> tuple[dict[str, str], Any]:
    """What AutoTokenizer makes of the files, and how Groma's tokens are spelled in them."""
    (folder / "groma").mkdir()
    tokenizer.save(folder / "groma")
    names = export._write_plain_tokenizer(tokenizer, folder, context=77)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return names, AutoTokenizer.from_pretrained(folder)


def check_added_tokens(tokenizer: Any, plain: Any, names: dict[str, str]) -> None:
    special = tokenizer.special
    ids = list(range(special.base_vocab_size, special.vocab_size))
    assert list(names) == list(new_token_names(special.num_regions))
    assert plain.convert_tokens_to_ids(list(names.values())) == ids
    assert plain.encode("".join(names.values()), add_special_tokens=False) == ids
    assert plain.decode(ids, skip_special_tokens=True) == ""
    assert len(plain) == special.vocab_size and plain.model_max_length == 77
    assert plain.pad_token_id == special.pad
    assert (plain.bos_token_id, plain.eos_token_id, plain.unk_token_id) == (special.bos, special.eos, special.unk)


def test_the_family_s_chat_template_stays(tmp_path):
    families = _families()
    tokenizer = families.LOSSLESS["qwen_like"].build()
    _, plain = plain_tokenizer(tokenizer, tmp_path)
    talk = [{"role": "user", "content": "dog"}]
    assert plain.apply_chat_template(talk, tokenize=False) == tokenizer.apply_chat_template(talk)


def test_the_exported_folder_brings_its_tokenizer(pair):
    model, folder = pair
    plain = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert plain.encode(text) == model.tokenizer.encode_piece(text, first=True)
    assert plain.convert_tokens_to_ids("<r0>") == model.tokenizer.special.region(0)


def test_ids_with_gaps_are_refused(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "new_token_names", lambda number: new_token_names(number)[1:])
    with pytest.raises(InputError, match="gaps"):
        write(llama, tmp_path / "out")


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    out = tmp_path / "tiny"
    assert main(["export-language", "groma-tiny", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": str(out)}
    assert load_plain(out, dtype="auto").dtype == torch.float16, "as it is stored"
    told = json.loads((out / "groma" / "export.json").read_text())
    assert told["source"] == "groma-tiny"
    assert main(["export-language", "groma-tiny", "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_silent_ids_are_those_that_spell_nothing(llama):
    assert silent_ids(llama.tokenizer) == {0, 1, 2}
