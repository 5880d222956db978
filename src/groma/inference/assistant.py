"""What users hold: a model that sees pictures once and answers many questions about them.

path, PIL, array --load_image--> Seen --+
question, regions, history --> Dialogue -+--> render, splice --> decode --> parse --> GroundedAnswer
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard, TypeVar, overload

import torch
from PIL import Image
from torch import Tensor

from groma.boxes import cxcywh_to_xyxy_px, xyxy_px_to_cxcywh
from groma.errors import InputError
from groma.image import ImageSource, Preprocessing, load_image
from groma.inference.generate import Decoding, Step, decode
from groma.inference.request import BoxesXyxyPx, check_boxes_xyxy_px, check_question, question_segments
from groma.inference.result import GroundedAnswer, Region
from groma.inference.transcript import AnswerStream, Transcript
from groma.model.groma import GromaModel, PictureTokens, VisualTokens
from groma.model.selection import match_regions
from groma.model.splice import Spliced, pad, splice
from groma.prompt.chat_format import chat_format
from groma.prompt.dialogue import Dialogue, Grounding, Phrase, Segment, Text, Turn
from groma.prompt.parse import IncrementalParser
from groma.prompt.render import fit
from groma.prompt.tokenizer_base import PromptTokenizer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture that was encoded: ask about it as often as you like, with any boxes."""

    image: Image.Image
    """the picture as it is seen, RGB"""
    tokens: PictureTokens
    """what the model made of it, a batch of one"""

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the original picture."""
        return self.image.size


Picture = ImageSource | Seen


@dataclass(frozen=True, slots=True)
class _Request:
    """One question about one picture, ready for the model."""

    seen: Seen
    question: str
    dialogue: Dialogue
    user_boxes: tuple[int, ...]
    """indices of the dialogue's boxes that the user points at, earlier turns' included"""
    asked: tuple[int, ...]
    """of those, the ones of this question: [1], [2], ..."""


class Groma:
    """A grounded assistant. Make one with `groma.load`."""

    def __init__(self, model: GromaModel, tokenizer: PromptTokenizer, preprocessing: Preprocessing) -> None:
        """Join a model with the tokenizer and the preprocessing that it was trained with."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.chat_format = chat_format(model.config.chat_format, tokenizer)
        self.stop_ids = self.chat_format.stop_ids(tokenizer.special)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.model.parameters()).device

    @property
    def max_regions(self) -> int:
        """Regions a picture can have; boxes of one question cannot be more."""
        return self.model.config.selection.max_regions

    # --- seeing ----------------------------------------------------------------------------------------------

    @overload
    def see(self, images: Sequence[Picture]) -> list[Seen]: ...
    @overload
    def see(self, images: Picture) -> Seen: ...

    @torch.inference_mode()
    def see(self, images: Picture | Sequence[Picture]) -> Seen | list[Seen]:
        """Encode one picture or several at once.

        Args:
            images: path, bytes, PIL image, array (H, W, 3), a picture already seen, or a list of these.

        Raises:
            InputError: a picture cannot be read.
        """
        if not _is_list(images):
            return self.see([images])[0]
        loaded = [i if isinstance(i, Seen) else load_image(i) for i in images]
        fresh = [image for image in loaded if not isinstance(image, Seen)]
        encoded = iter(self._encode(fresh))
        return [image if isinstance(image, Seen) else next(encoded) for image in loaded]

    def _encode(self, images: Sequence[Image.Image]) -> list[Seen]:
        if not images:
            return []
        weight = next(self.model.parameters())
        pixels = self.preprocessing(images).to(device=weight.device, dtype=weight.dtype)
        tokens = self.model.read(self.model.perceive(pixels))
        return [Seen(image, tokens.take([number])) for number, image in enumerate(images)]

    # --- asking ----------------------------------------------------------------------------------------------

    def ask(
        self,
        image: Picture | Sequence[Picture],
        question: str | Sequence[str],
        *,
        regions: BoxesXyxyPx | Sequence[BoxesXyxyPx | None] | None = None,
        grounded: bool = True,
        history: Sequence[GroundedAnswer] | Sequence[Sequence[GroundedAnswer]] = (),
        stream: bool = False,
        decoding: Decoding | None = None,
    ) -> "GroundedAnswer | list[GroundedAnswer] | AnswerStream":
        """Ask about a picture.

        Args:
            image: one picture, or a list of them: then everything else may be a list as well, and so is the answer.
            question: text; [1], [2], ... stand for `regions` (groma.inference.request).
            regions: boxes that the question points at, xyxy in pixels of the original picture.
            grounded: ask for phrases that are tied to boxes.
            history: earlier answers about the same picture, oldest first.
            stream: return an iterator over what is new after each token; its `answer` is the whole. One picture only.
            decoding: how tokens are chosen; deterministic by default.

        Raises:
            InputError: picture, question or regions cannot be used, or the conversation is too long.
        """
        if not _is_list(image):
            request = self._request(image, question, regions, grounded=grounded, history=history)
            if not stream:
                return self._answer([request], decoding)[0]
            steps, transcripts = self._prepare([request], decoding or Decoding())
            return AnswerStream(steps, transcripts[0])
        if stream:
            raise InputError("Streaming takes one picture at a time; call ask for each picture, or leave stream out.")
        seen = self.see(image)
        questions = _per_picture(question, len(seen), "questions")
        boxes = _regions_per_picture(regions, len(seen))
        past = _history_per_picture(history, len(seen))
        return self._answer(
            [
                self._request(s, q, r, grounded=grounded, history=h)
                for s, q, r, h in zip(seen, questions, boxes, past, strict=True)
            ],
            decoding,
        )

    def locate(
        self,
        image: Picture | Sequence[Picture],
        phrase: str | Sequence[str],
        *,
        all: bool = False,
        decoding: Decoding | None = None,
    ) -> GroundedAnswer | list[GroundedAnswer]:
        """Where is it? One entity with its region(s); none if the model says that it is not there.

        Args:
            image: one picture or a list.
            phrase: what to look for, e.g. "the red car"; one for all pictures or one each.
            all: look for every instance ("dog") instead of the one that is meant ("the dog on the left").
            decoding: how tokens are chosen; deterministic by default.
        """
        seen = self.see(image if _is_list(image) else [image])
        phrases = [check_question(p) for p in _per_picture(phrase, len(seen), "phrases")]
        before, after = ("Locate all ", " in this image.") if all else ("Locate ", " in the image.")
        requests = [
            _Request(s, f"{before}{p}{after}", _single(Text(before), Phrase(p), Text(after)), (), ())
            for s, p in zip(seen, phrases, strict=True)
        ]
        answers = [
            _name_bare_groups(answer, p, first_only=not all)
            for answer, p in zip(self._answer(requests, decoding), phrases, strict=True)
        ]
        return answers if _is_list(image) else answers[0]

    def describe(
        self,
        image: Picture | Sequence[Picture],
        boxes: BoxesXyxyPx | Sequence[BoxesXyxyPx],
        *,
        decoding: Decoding | None = None,
    ) -> list[GroundedAnswer] | list[list[GroundedAnswer]]:
        """Describe each box, on its own.

        Args:
            image: one picture or a list.
            boxes: xyxy in pixels: (n, 4) for one picture, or such a list for each picture.
            decoding: how tokens are chosen; deterministic by default.

        Returns:
            One answer a box; for a list of pictures, a list of these.
        """
        seen = self.see(image if _is_list(image) else [image])
        per_picture = list(boxes) if _is_list(image) else [boxes]
        if len(per_picture) != len(seen):
            raise InputError(f"{len(seen)} pictures, but boxes for {len(per_picture)}; give one list of boxes each.")
        requests, counts = [], []
        for picture, given in zip(seen, per_picture, strict=True):
            checked = check_boxes_xyxy_px(given, *picture.size_px, limit=10**6)
            counts.append(len(checked))
            question = "Please briefly describe [1]."
            requests += [self._request(picture, question, box[None], grounded=False) for box in checked]
        answers = iter(self._answer(requests, decoding))
        grouped = [[next(answers) for _ in range(count)] for count in counts]
        return grouped if _is_list(image) else grouped[0]

    @torch.inference_mode()
    def regions(self, image: Picture | Sequence[Picture]) -> list[Region] | list[list[Region]]:
        """What the proposer found: the regions the model can speak about, best first."""
        seen = self.see(image if _is_list(image) else [image])
        found = []
        for picture in seen:
            visual = self.model.tokenize(picture.tokens)[0]
            found.append(list(self._regions(visual, picture, torch.zeros(0, 4))))
        return found if _is_list(image) else found[0]

    # --- from questions to prompts ---------------------------------------------------------------------------

    def _request(
        self,
        image: Picture,
        question: str,
        regions: BoxesXyxyPx | None,
        *,
        grounded: bool,
        history: Sequence[GroundedAnswer] = (),
    ) -> _Request:
        seen = self.see(image)
        width, height = seen.size_px
        boxes: list[tuple[float, ...]] = []
        user: list[int] = []

        def add(boxes_xyxy_px: Tensor, *, from_user: bool) -> tuple[int, ...]:
            first = len(boxes)
            boxes.extend(map(tuple, xyxy_px_to_cxcywh(boxes_xyxy_px, width, height).tolist()))
            added = tuple(range(first, len(boxes)))
            user.extend(added if from_user else ())
            return added

        turns = [_past_turn(answer, seen, add) for answer in history]
        checked = check_boxes_xyxy_px(regions, width, height, limit=self.max_regions - len(user))
        asked = add(checked, from_user=True)
        segments = question_segments(question, len(asked), first_box=asked[0] if asked else 0)
        turns.append(Turn(question=segments, grounded=grounded))
        return _Request(seen, question, Dialogue(tuple(turns), tuple(boxes)), tuple(user), asked)  # pyright: ignore[reportArgumentType]

    def _splice(self, request: _Request, visual: VisualTokens, decoding: Decoding) -> Spliced:
        config = self.model.config
        context = getattr(config.language, "max_position_embeddings", None) or 1 << 30
        room = context - config.num_image_tokens - 2 * len(visual.regions) - decoding.max_new_tokens + 2
        rendered = fit(request.dialogue, self.tokenizer, self.chat_format, max_tokens=room)
        matched = match_regions(_boxes(request.dialogue).to(self.device), visual.regions).cpu()
        return splice(
            rendered.token_ids,
            None,
            refer_regions=matched[list(rendered.refer_slots)],
            ground_regions=matched[list(rendered.ground_slots)],
            num_image_tokens=config.num_image_tokens,
            num_regions=len(visual.regions),
            tokens=self.tokenizer.special,
        )

    # --- from prompts to answers -----------------------------------------------------------------------------

    @torch.inference_mode()
    def _prepare(
        self, requests: Sequence[_Request], decoding: Decoding
    ) -> tuple[Iterator[Step], list[Transcript]]:
        """Tokenize the pictures with the questions' boxes, splice, and start decoding."""
        seen = list({id(r.seen): r.seen for r in requests}.values())
        places = {id(s): place for place, s in enumerate(seen)}
        visual = self.model.tokenize(
            PictureTokens.join([s.tokens for s in seen]),
            numbers=[places[id(r.seen)] for r in requests],
            user_boxes_cxcywh=[_boxes(r.dialogue)[list(r.user_boxes)].to(self.device) for r in requests],
        )
        samples = [self._splice(r, v, decoding) for r, v in zip(requests, visual, strict=True)]
        batch = pad(samples, pad_id=self.tokenizer.special.pad, side="left").to(self.device)
        transcripts = [
            Transcript(
                IncrementalParser(self.tokenizer, stop_ids=self.stop_ids),
                self.stop_ids,
                question=r.question,
                regions=self._regions(v, r.seen, _boxes(r.dialogue)[list(r.asked)]),
                image_size_px=r.seen.size_px,
                grounded=r.dialogue.turns[-1].grounded,
            )
            for r, v in zip(requests, visual, strict=True)
        ]
        steps = decode(
            self.model, batch, visual, tokens=self.tokenizer.special, decoding=decoding, stop_ids=self.stop_ids
        )
        return steps, transcripts

    def _answer(self, requests: Sequence[_Request], decoding: Decoding | None) -> list[GroundedAnswer]:
        if not requests:
            return []
        steps, transcripts = self._prepare(requests, decoding or Decoding())
        for step in steps:
            for index, transcript in enumerate(transcripts):
                transcript.add(step, index)
        return [transcript.answer() for transcript in transcripts]

    def _regions(self, visual: VisualTokens, seen: Seen, asked_cxcywh: Tensor) -> tuple[Region, ...]:
        """The kept regions in pixels, and by which numbers the question names them."""
        kept = visual.regions
        named = match_regions(asked_cxcywh.to(self.device), kept).tolist() if len(asked_cxcywh) else []
        boxes_xyxy_px = cxcywh_to_xyxy_px(kept.boxes_cxcywh.float(), *seen.size_px).tolist()
        sources: tuple[Literal["proposal", "user"], ...] = ("proposal", "user")
        return tuple(
            Region(
                id=number,
                box_xyxy_px=(box[0], box[1], box[2], box[3]),
                objectness=float(score),
                source=sources[bool(from_user)],
                numbers=tuple(k for k, region in enumerate(named, start=1) if region == number),
            )
            for number, (box, score, from_user) in enumerate(
                zip(boxes_xyxy_px, kept.scores.tolist(), kept.from_user.tolist(), strict=True)
            )
        )


# --- small helpers ---------------------------------------------------------------------------------------------


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple)


def _per_picture(value: T | Sequence[T], count: int, what: str) -> Sequence[T]:
    """One value for all pictures, or one each."""
    if not _is_list(value):
        return [value] * count  # pyright: ignore[reportReturnType]
    if len(value) != count:
        raise InputError(f"{count} pictures, but {len(value)} {what}; give one for all or one each.")
    return value


def _regions_per_picture(
    regions: BoxesXyxyPx | Sequence[BoxesXyxyPx | None] | None, count: int
) -> Sequence[BoxesXyxyPx | None]:
    if regions is None:
        return [None] * count
    if not _is_list(regions) or len(regions) != count:
        raise InputError(f"{count} pictures need a list of {count} lists of regions (None where there are none).")
    return regions


def _history_per_picture(history: Sequence[Any], count: int) -> Sequence[Sequence[GroundedAnswer]]:
    if not history:
        return [()] * count
    if len(history) != count or not all(_is_list(h) for h in history):
        raise InputError(f"{count} pictures need a list of {count} histories, each a list of answers.")
    return history


def _single(*question: Segment) -> Dialogue:
    return Dialogue((Turn(question=question),))


def _boxes(dialogue: Dialogue) -> Tensor:
    """(n, 4) the dialogue's boxes, cxcywh normalized."""
    return torch.tensor(dialogue.boxes_cxcywh, dtype=torch.float32).reshape(-1, 4)


def _past_turn(answer: GroundedAnswer, seen: Seen, add: Callable[..., tuple[int, ...]]) -> Turn:
    """An earlier answer as context. Its regions are given as boxes: their numbers may differ by now."""
    if answer.image_size_px != seen.size_px:
        ours, theirs = seen.size_px, answer.image_size_px
        raise InputError(
            f"The history is about a picture of {theirs[0]}x{theirs[1]} pixels, this one has {ours[0]}x{ours[1]}; "
            "a conversation stays with one picture."
        )
    asked = {n: region.box_xyxy_px for region in answer.regions for n in region.numbers}
    boxes = add(torch.tensor([asked[n] for n in sorted(asked)]).reshape(-1, 4), from_user=True)
    question = question_segments(answer.question, len(asked), first_box=boxes[0] if boxes else 0)
    segments: list[Segment] = []
    cursor = 0
    for entity in answer.entities:
        segments += [Text(answer.text[cursor : entity.start])] if entity.start > cursor else []
        named = add(torch.tensor(entity.boxes_xyxy_px).reshape(-1, 4), from_user=False)
        segments.append(Phrase(entity.phrase, boxes=named) if entity.phrase else Grounding(boxes=named))
        cursor = entity.end
    segments += [Text(answer.text[cursor:])] if cursor < len(answer.text) else []
    return Turn(question=question, answer=tuple(segments), grounded=answer.grounded)


def _name_bare_groups(answer: GroundedAnswer, phrase: str, *, first_only: bool) -> GroundedAnswer:
    """Published weights answer "Locate" with regions alone: give them the phrase that was asked for.

    A text that is nothing but regions becomes the phrase itself, so that spans stay true.
    """
    entities = answer.entities
    if first_only and entities:
        first = entities[0]
        scores = first.region_scores[:1]
        entities = (replace(first, region_ids=first.region_ids[:1], region_scores=scores, score=scores[0]),)
    text = answer.text
    if not text.strip() and entities:
        text = phrase
        entities = tuple(replace(e, phrase=phrase, start=0, end=len(phrase)) for e in entities)
    return replace(answer, text=text, entities=entities)
