"""Prompts against the reference's: every case of `prompts.json`, in both modes of the Llama tokenizer.

The folder is the one GROMA_GOLDEN names, else the committed copy. The copy lacks `tokenizer/`, whose licence is not
ours to pass on; the tests that need it are then skipped with that reason.
"""

import json
import re

import pytest

from golden_folder import GOLDEN
from groma.prompt.chat_format import VICUNA, VICUNA_PRETRAIN
from groma.prompt.dialogue import Dialogue, Grounding, Phrase, Referred, Text, Turn
from groma.prompt.render import render
from groma.prompt.tokenizer import LlamaSentencePieceTokenizer, load_tokenizer
from groma.prompt.tokens import Special

MODES = {"legacy_false": False, "legacy_true": True}
FORMATS = {"llava": VICUNA, "default": VICUNA_PRETRAIN}
BOX = (0.5, 0.5, 0.2, 0.2)

TAGGED = re.compile(
    r"<p>(?P<phrase>.*?)</p>(?:<roi>(?P<phrase_group>.*?)</roi>)?"
    r"|(?P<referred><roi><refer_box></roi><refer_feat>)"
    r"|<roi>(?P<group>.*?)</roi>"
)


def stored():
    path = GOLDEN / "prompts.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def cases():
    return [
        pytest.param(mode, case, id=f"{mode}-{name}")
        for mode, content in stored().items()
        for name, case in content["cases"].items()
    ]


def as_dialogue(case, *, answered):
    """Read the notation of the stored turns; the box of every slot is a new one."""
    boxes = []

    def group(text):
        first = len(boxes)
        boxes.extend([BOX] * text.count("<ground_box>"))
        return tuple(range(first, len(boxes))), tuple(int(number) for number in re.findall(r"<r(\d+)>", text))

    def segments(text):
        cursor = 0
        for found in TAGGED.finditer(text):
            yield Text(text[cursor : found.start()])
            cursor = found.end()
            if found["referred"]:
                boxes.append(BOX)
                yield Referred(len(boxes) - 1)
            elif found["phrase"]:
                yield Phrase(found["phrase"], *group(found["phrase_group"] or ""))
            else:
                yield Grounding(*group(found["group"]))
        yield Text(text[cursor:])

    turns = []
    for question, answer in case["turns"]:
        grounded = question.startswith("[grounding]")
        question = tuple(segments(question.removeprefix("[grounding]")))
        answer = tuple(segments(answer.replace("<sep>", "")))
        turns.append(Turn(question, answer, grounded=grounded))
    if not answered or not case["turns"][-1][1]:
        turns[-1] = Turn(turns[-1].question, None, grounded=turns[-1].grounded)
    return Dialogue(turns=tuple(turns), boxes_cxcywh=tuple(boxes))


@pytest.fixture(scope="module")
def tokenizers():
    model = GOLDEN / "tokenizer" / "tokenizer.model"
    if not model.is_file():
        pytest.skip(f"{model} is not there: the licence of Llama's tokenizer files keeps them out of the repository")
    return {mode: LlamaSentencePieceTokenizer(model.read_bytes(), legacy=legacy) for mode, legacy in MODES.items()}


def test_the_stored_prompts_are_there():
    found = stored()
    assert found, f"{GOLDEN / 'prompts.json'} is missing; GROMA_GOLDEN must name a folder of golden data"
    assert set(found) == set(MODES)
    assert all(content["cases"] for content in found.values())
    assert {case["template"] for content in found.values() for case in content["cases"].values()} <= set(FORMATS)


@pytest.mark.parametrize("mode", MODES)
def test_ids_of_special_tokens(tokenizers, mode):
    special = tokenizers[mode].special
    content = stored()[mode]
    ours = {token.value: special.of(token) for token in Special}
    ours |= {f"<r{number}>": special.region(number) for number in range(special.num_regions)}
    assert {name: ours[name] for name in content["special"]} == content["special"]
    assert (special.num_new_tokens, special.vocab_size) == (content["added"], content["vocab"])


@pytest.mark.parametrize(("mode", "case"), cases())
def test_template_text(mode, case):
    """The text around what is said, to the letter; needs no tokenizer."""
    chat_format = FORMATS[case["template"]]

    def spelled(parts):
        return "".join(parts)

    text = spelled(chat_format.opening)[len(Special.BOS) :]  # the begin token is no text in the reference
    for number, (question, answer) in enumerate(case["turns"]):
        text += spelled(chat_format.between) if number else ""
        text += question + spelled(chat_format.answer_start) + answer
        text += spelled(chat_format.answer_end) if answer else ""
    # an open prompt ends without the blank, and the pretraining template with one
    assert text.rstrip() == case["prompt"].rstrip()


@pytest.mark.parametrize(("mode", "case"), cases())
def test_prompt_ids_and_label_mask(tokenizers, mode, case):
    rendered = render(as_dialogue(case, answered=True), tokenizers[mode], FORMATS[case["template"]])
    if case["train"] is None:
        assert list(rendered.token_ids) == case["ids"]
    else:
        assert list(rendered.token_ids) == case["train"]["input_ids"]
        assert list(rendered.labels) == case["train"]["labels"]


@pytest.mark.parametrize(("mode", "case"), cases())
def test_inference_prompt_is_what_stands_before_the_last_answer(tokenizers, mode, case):
    tokenizer = tokenizers[mode]
    rendered = render(as_dialogue(case, answered=False), tokenizer, FORMATS[case["template"]])
    ids = [token_id for token_id in case["ids"] if token_id != tokenizer.special.sep]
    assert list(rendered.token_ids) == ids[: len(rendered.token_ids)]
    ends_with = tokenizer.encode_piece("ASSISTANT:", first=False)[-1]  # the colon
    assert rendered.token_ids[-1] == ends_with


def test_published_folder_is_recognised():
    folder = GOLDEN / "tokenizer"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the licence of Llama's tokenizer files keeps them out of the repository")
    tokenizer = load_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert isinstance(tokenizer, LlamaSentencePieceTokenizer)
    assert tokenizer.legacy == config["legacy"]
    added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    assert tokenizer.special.num_new_tokens == len(added)
