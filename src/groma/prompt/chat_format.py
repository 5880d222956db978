"""How a family of language models writes a conversation down: the text and tokens around what people say.

    opening   question   answer_start   answer   answer_end   between   question   answer_start   ...

Every conversation opens with the same exchange, which brings the picture and its regions in. A family that
has a chat template of its own needs no entry here: "chat_template" reads its format from that template.
"""

from collections.abc import Callable
from dataclasses import dataclass

from groma.errors import InputError
from groma.prompt.tokenizer_base import PromptTokenizer
from groma.prompt.tokenizer_fast import FastPromptTokenizer
from groma.prompt.tokens import Special, SpecialTokenIds

Part = str | Special | int
"""Text, one of Groma's tokens, or the id of a token of the family's own vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """What stands around questions and answers. None of it is trained on but `answer_end`.

    Attributes:
        opening: From the beginning to the first question; holds <image> and <region> once, in this order.
        answer_start: Between a question and its answer. It ends the prompt of an answer to be generated, so
            the blank before an answer belongs here.
        answer_end: Right after an answer; learned with it, so that generation stops.
        between: From there to the next question.
    """

    opening: tuple[Part, ...]
    answer_start: tuple[Part, ...]
    answer_end: tuple[Part, ...]
    between: tuple[Part, ...]

    def stop_ids(self, special: SpecialTokenIds) -> frozenset[int]:
        """Ids that end a generated answer: the end token, and what this format puts after an answer."""
        ends = (special.of(part) if isinstance(part, Special) else part for part in self.answer_end)
        return frozenset({special.eos, *(end for end in ends if isinstance(end, int))})


_OPENING_QUESTION: tuple[Part, ...] = (
    "Here is an image with region crops from it. Image: ",
    Special.IMAGE,
    ". Regions: ",
    Special.REGION_LIST,
    ".",
)
_OPENING_ANSWER = "Thank you for the image! How can I assist you with it?"
_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_VICUNA_OPENING: tuple[Part, ...] = (
    Special.BOS,
    f"{_VICUNA_SYSTEM} USER: ",
    *_OPENING_QUESTION,
    f" ASSISTANT: {_OPENING_ANSWER}",
)

VICUNA = ChatFormat(
    opening=(*_VICUNA_OPENING, Special.EOS, "USER: "),
    answer_start=(" ASSISTANT: ",),
    answer_end=(Special.EOS,),
    between=("USER: ",),
)
"""Vicuna's template to the letter, part of the published weights' interface (golden README, "Prompt")."""

VICUNA_PRETRAIN = ChatFormat(
    opening=(*_VICUNA_OPENING, " USER: "),
    answer_start=(" ASSISTANT: ",),
    answer_end=(),
    between=(" USER: ",),
)
"""The published template of stage 2: a blank in place of every </s>."""

COMPACT = ChatFormat(
    opening=(
        Special.BOS,
        Special.IMG_OPEN,
        Special.IMAGE,
        Special.IMG_CLOSE,
        Special.REGION_LIST,
        "\nUSER: ",
    ),
    answer_start=("\nASSISTANT:",),
    answer_end=(Special.EOS,),
    between=("\nUSER: ",),
)
"""Few tokens, for small models of our own; an answer follows the colon without a blank."""


def from_chat_template(tokenizer: PromptTokenizer) -> ChatFormat:
    """Read a family's format from its own chat template.

    The template renders one conversation in which marks stand for what people say; the text between the marks
    is the format. So neither questions nor answers ever pass through the template, and every turn is written
    the same way, however a template treats its last one.

    Raises:
        InputError: There is no template, or it does not repeat the messages once each, in order.
    """
    if not isinstance(tokenizer, FastPromptTokenizer):
        raise InputError("the chat format 'chat_template' needs a tokenizer that brings a chat template")
    image, regions, *said = (chr(0xF5A0 + number) for number in range(6))  # private use: no template has them
    marks = {Special.IMAGE: image, Special.REGION_LIST: regions}
    greeting = "".join(marks[part] if isinstance(part, Special) else str(part) for part in _OPENING_QUESTION)
    contents = [greeting, _OPENING_ANSWER, *said]
    roles = ("user", "assistant") * 3
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    )
    pieces: list[list[str | int]] = []
    for mark in (image, regions, *said):
        piece, found, text = text.partition(mark)
        if not found or mark in text:
            raise InputError("the chat template does not write every message once, in order; write a ChatFormat")
        pieces.append(tokenizer.split_template(piece))
    before_image, before_regions, before_question, answer_start, after_answer, _ = pieces
    answer_end, between = _split_end(after_answer)
    return ChatFormat(
        opening=(*before_image, Special.IMAGE, *before_regions, Special.REGION_LIST, *before_question),
        answer_start=tuple(answer_start),
        answer_end=answer_end,
        between=between,
    )


def _split_end(after_answer: list[str | int]) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Split what follows an answer into its end token and the rest.

    Blanks before the end token are dropped, so that an answer ends with its own last character. A template
    without an end token gets the vocabulary's.
    """
    match after_answer:
        case [int(end), *rest]:
            return (end,), tuple(rest)
        case [str(blank), int(end), *rest] if not blank.strip():
            return (end,), tuple(rest)
        case _:
            return (Special.EOS,), tuple(after_answer)


CHAT_FORMATS: dict[str, Callable[[PromptTokenizer], ChatFormat]] = {
    "vicuna": lambda _: VICUNA,
    "vicuna_pretrain": lambda _: VICUNA_PRETRAIN,
    "compact": lambda _: COMPACT,
    "chat_template": from_chat_template,
}
"""Chat formats by name; each makes itself for a tokenizer."""


def chat_format(name: str, tokenizer: PromptTokenizer) -> ChatFormat:
    """The chat format of a name, made for a tokenizer.

    Raises:
        InputError: There is no such format, or the tokenizer cannot write it.
    """
    if name not in CHAT_FORMATS:
        raise InputError(f"unknown chat format {name!r}; known are {', '.join(CHAT_FORMATS)}")
    return CHAT_FORMATS[name](tokenizer)
