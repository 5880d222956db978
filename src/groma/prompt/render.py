"""Dialogue -> token ids, labels and box slots. The only tokenization in the project.

Training and inference prompts come from here: a dialogue whose last answer is None renders to an exact prefix
of the same dialogue with the answer. Whether a token is trained on is said when it is written, never marked
and found again later. <image> and <region> are one slot each here; the model expands them.
"""

from dataclasses import dataclass, field

from groma.errors import InputError
from groma.prompt.chat_format import ChatFormat, Part
from groma.prompt.dialogue import Dialogue, Grounding, Phrase, Referred, Segment, Text
from groma.prompt.tokenizer_base import PromptTokenizer
from groma.prompt.tokens import IGNORE_INDEX, Special


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """A dialogue as tokens.

    Attributes:
        token_ids: All ids, base and new ones, without padding.
        labels: As long as `token_ids` and not shifted: the id where it is trained on, else IGNORE_INDEX.
        refer_slots: For the k-th <refer_box> and the k-th <refer_feat>: index into `Dialogue.boxes_cxcywh`.
        ground_slots: For the k-th <ground_box>: index into `Dialogue.boxes_cxcywh`.
    """

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]
    refer_slots: tuple[int, ...]
    ground_slots: tuple[int, ...]


@dataclass(slots=True)
class _Run:
    """Plain text between two tokens. Once `closed` it does not grow: a prompt ends where an answer begins."""

    text: str
    trained: bool
    closed: bool = False


@dataclass(frozen=True, slots=True)
class _Token:
    """A token that is no text: a name, a region number, or an id of the family's own vocabulary."""

    token: Special | int
    trained: bool
    is_region: bool = False


@dataclass(slots=True)
class _Layout:
    """What a dialogue consists of, before any text is encoded."""

    items: list[_Run | _Token] = field(default_factory=list["_Run | _Token"])
    refer_slots: list[int] = field(default_factory=list[int])
    ground_slots: list[int] = field(default_factory=list[int])

    def write(self, part: Part, *, trained: bool) -> None:
        """Append text, one of Groma's tokens or a family token; text joins the open run before it."""
        last = self.items[-1] if self.items else None
        if isinstance(part, Special | int):
            self.items.append(_Token(part, trained))
        elif isinstance(last, _Run) and not last.closed:
            last.text += part
        elif part:
            self.items.append(_Run(part, trained))

    def close_run(self) -> None:
        """Keep the text before from growing together with the text after."""
        if self.items and isinstance(self.items[-1], _Run):
            self.items[-1].closed = True

    def write_segment(self, segment: Segment, *, trained: bool) -> None:
        """Append one segment of a question or answer."""
        match segment:
            case Text(text):
                self.write(text, trained=trained)
            case Phrase(text, boxes, regions):
                self.write(Special.PHRASE_OPEN, trained=trained)
                self.write(text, trained=trained)
                self.write(Special.PHRASE_CLOSE, trained=trained)
                if boxes or regions:
                    self._write_group(boxes, regions, trained=trained)
            case Grounding(boxes, regions):
                self._write_group(boxes, regions, trained=trained)
            case Referred(box):
                for token in (Special.ROI_OPEN, Special.REFER_BOX, Special.ROI_CLOSE, Special.REFER_FEAT):
                    self.write(token, trained=trained)
                self.refer_slots.append(box)

    def _write_group(self, boxes: tuple[int, ...], regions: tuple[int, ...], *, trained: bool) -> None:
        self.write(Special.ROI_OPEN, trained=trained)
        for box in boxes:
            self.write(Special.GROUND_BOX, trained=trained)
            self.ground_slots.append(box)
        self.items += [_Token(number, trained, is_region=True) for number in regions]
        self.write(Special.ROI_CLOSE, trained=trained)


def _lay_out(dialogue: Dialogue, chat_format: ChatFormat) -> _Layout:
    """Write a dialogue down in a format; this is where it is decided what is trained on."""
    layout = _Layout()
    for number, turn in enumerate(dialogue.turns):
        for part in chat_format.opening if number == 0 else chat_format.between:
            layout.write(part, trained=False)
        if turn.grounded:
            layout.write(Special.GROUNDING, trained=False)
        for segment in turn.question:
            layout.write_segment(segment, trained=False)
        for part in chat_format.answer_start:
            layout.write(part, trained=False)
        layout.close_run()
        if turn.answer is None:
            break
        for segment in turn.answer:
            layout.write_segment(segment, trained=turn.target)
        for part in chat_format.answer_end:
            layout.write(part, trained=turn.target)
        layout.close_run()
    return layout


def render(dialogue: Dialogue, tokenizer: PromptTokenizer, chat_format: ChatFormat) -> RenderedPrompt:
    """Turn a dialogue into tokens, labels and box slots.

    Trained on are the answers of turns with `target`, each with the token that ends it (golden README,
    "Labels").

    Args:
        dialogue: What is said. If the last turn has no answer, the result is the prompt for generating it.
        tokenizer: Encodes the plain text and knows the ids of the special tokens.
        chat_format: What stands around questions and answers (`chat_format(name, tokenizer)`).

    Raises:
        InputError: A text that cannot be encoded, or a region number that the vocabulary does not have.
    """
    layout = _lay_out(dialogue, chat_format)
    special = tokenizer.special
    token_ids: list[int] = []
    labels: list[int] = []

    def add(ids: list[int], trained: bool) -> None:
        token_ids.extend(ids)
        labels.extend(ids if trained else [IGNORE_INDEX] * len(ids))

    for item in layout.items:
        match item:
            case _Run(text, trained):
                first = not token_ids or token_ids == [special.bos]
                add(tokenizer.encode_piece(text, first=first), trained)
            case _Token(int(number), trained, is_region=True):
                add([special.region(number)], trained)
            case _Token(Special() as name, trained):
                token_id = special.of(name)
                add([] if token_id is None else [token_id], trained)  # a family without a begin token
            case _Token(token, trained):
                add([int(token)], trained)
    return RenderedPrompt(
        token_ids=tuple(token_ids),
        labels=tuple(labels),
        refer_slots=tuple(layout.refer_slots),
        ground_slots=tuple(layout.ground_slots),
    )


def fit(dialogue: Dialogue, tokenizer: PromptTokenizer, chat_format: ChatFormat, *, max_tokens: int) -> RenderedPrompt:
    """Render a dialogue and refuse it if it is too long.

    Args:
        dialogue: What is said.
        tokenizer: As for `render`.
        chat_format: As for `render`.
        max_tokens: How many ids may come out. <image> and <region> count one each, so take what the model
            adds for them, and what is to be generated, off the context length first.

    Raises:
        InputError: More ids came out; the text has the counts and says what to shorten.
    """
    rendered = render(dialogue, tokenizer, chat_format)
    count = len(rendered.token_ids)
    if count <= max_tokens:
        return rendered
    message = f"the prompt has {count} tokens, but only {max_tokens} fit"
    if len(dialogue.turns) == 1:
        raise InputError(f"{message}; shorten the question")
    last = Dialogue(turns=dialogue.turns[-1:], boxes_cxcywh=dialogue.boxes_cxcywh)
    alone = len(render(last, tokenizer, chat_format).token_ids)
    advice = "leave out earlier turns" if alone <= max_tokens else "shorten the question"
    raise InputError(f"{message} ({alone} without its {len(dialogue.turns) - 1} earlier turns); {advice}")


def text_runs(dialogue: Dialogue, chat_format: ChatFormat) -> list[str]:
    """The runs of plain text that `render` encodes, cut where it cuts them; for training a tokenizer."""
    return [item.text for item in _lay_out(dialogue, chat_format).items if isinstance(item, _Run)]
