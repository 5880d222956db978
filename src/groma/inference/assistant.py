"""What users hold: a model that sees pictures once and answers many questions about them.

path, PIL, array --load_image--> Seen --+
question, regions, history --> Exchange -+--> render, splice --> decode --> parse --> GroundedAnswer
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, overload
from uuid import uuid4

import torch
from PIL import Image
from torch import Tensor

from groma.boxes import cxcywh_to_xyxy_px, to_tuples
from groma.errors import InputError
from groma.image import Preprocessing, load_image
from groma.inference.generate import Decoding, Step, check_decoding, decode
from groma.inference.pictures import (
    Picture,
    Pictures,
    Seen,
    batches,
    check_own,
    is_list,
    lists_per_picture,
    per_picture,
)
from groma.inference.prefix import Prefix
from groma.inference.request import BoxesMergedWarning, BoxesXyxyPx, check_boxes_xyxy_px
from groma.inference.result import GroundedAnswer, Region
from groma.inference.transcript import AnswerStream, Transcript
from groma.inference.turns import Exchange, asking, located, locating
from groma.model.groma import GromaModel, PictureTokens, VisualTokens
from groma.model.selection import match_regions
from groma.model.splice import Spliced, pad, splice
from groma.prompt.chat_format import chat_format
from groma.prompt.render import fit
from groma.prompt.tokenizer_base import PromptTokenizer

BATCH_SIZE = 16
"""Pictures that are encoded together and answers that are decoded together; a longer list is worked off so many at a
time, and no more pictures than these are held at once."""

DESCRIBE = "Please briefly describe [1]."
"""What `describe` asks about a box, in the words that the method was trained with."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A question about a picture."""

    seen: Seen
    exchange: Exchange

    def finish(self, answer: GroundedAnswer) -> GroundedAnswer:
        """The answer as the user gets it."""
        exchange = self.exchange
        return answer if exchange.looked_for is None else located(answer, exchange.looked_for, all=exchange.all)


def _refuse_to_stream(stream: bool) -> None:
    if stream:
        raise InputError("streaming takes one picture at a time: call it for each picture, or leave stream out")


class Groma:
    """A grounded assistant. Make one with `groma.load`.

    Every method takes one picture or a list of them; for a list, everything else may be a list as well, and so is
    what comes back, equal to asking one by one.
    """

    def __init__(self, model: GromaModel, tokenizer: PromptTokenizer, preprocessing: Preprocessing) -> None:
        """Join a model with the tokenizer and the preprocessing that it was trained with."""
        self.model = model.eval()
        self.identity = uuid4().hex  # what it sees is for itself alone
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.batch_size = BATCH_SIZE  # may be changed: results stay the same
        self.chat_format = chat_format(model.config.chat_format, tokenizer)
        self.stop_ids = self.chat_format.stop_ids(tokenizer.special)
        self._silent_ids = frozenset(i for i in range(tokenizer.vocab_size) if not tokenizer.token_bytes(i))

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.model.parameters()).device

    @property
    def max_regions(self) -> int:
        """Regions a picture can have; boxes of one conversation cannot be more."""
        return self.model.config.selection.max_regions

    # --- seeing ------------------------------------------------------------------------------------------------------

    @overload
    def see(self, images: Picture) -> Seen: ...
    @overload
    def see(self, images: Pictures) -> list[Seen]: ...

    def see(self, images: Picture | Pictures) -> Seen | list[Seen]:
        """Encode one picture or several.

        Args:
            images: path, bytes, PIL image, array (H, W, 3), a picture already seen, or a list of these.

        Raises:
            InputError: a picture cannot be read.
        """
        return self._see_all(images) if is_list(images) else self._see(images)

    def _see(self, image: Picture | Pictures) -> Seen:
        """One picture; type checkers cannot tell a text from a list of texts."""
        return self._see_all([cast(Picture, image)])[0]

    def _see_all(self, images: Pictures) -> list[Seen]:
        loaded = [check_own(i, self.identity) if isinstance(i, Seen) else load_image(i) for i in images]
        fresh = [image for image in loaded if not isinstance(image, Seen)]
        encoded = iter([seen for batch in batches(fresh, self.batch_size) for seen in self._encode(batch)])
        return [image if isinstance(image, Seen) else next(encoded) for image in loaded]

    @torch.inference_mode()
    def _encode(self, images: Sequence[Image.Image]) -> list[Seen]:
        weight = next(self.model.encoder.parameters())  # frozen parts may be of another type in training
        pixels = self.preprocessing(images).to(device=weight.device, dtype=weight.dtype)
        tokens = self.model.read(self.model.perceive(pixels))
        return [Seen(image, tokens.take([number]), self.identity) for number, image in enumerate(images)]

    @overload
    def regions(self, image: Picture) -> list[Region]: ...
    @overload
    def regions(self, image: Pictures) -> list[list[Region]]: ...

    @torch.inference_mode()
    def regions(self, image: Picture | Pictures) -> list[Region] | list[list[Region]]:
        """What the proposer found: the regions the model can speak about, best first."""
        images = image if is_list(image) else [cast(Picture, image)]
        found: list[list[Region]] = []
        for batch in batches(images, self.batch_size):
            for seen in self._see_all(batch):
                (visual,) = self.model.tokenize(seen.tokens)
                found.append(list(self._regions(visual, seen, torch.zeros(0, 4))))
        return found if is_list(image) else found[0]

    # --- asking ------------------------------------------------------------------------------------------------------

    @overload
    def ask(
        self,
        image: Picture,
        question: str,
        *,
        regions: BoxesXyxyPx | None = None,
        grounded: bool = True,
        history: Sequence[GroundedAnswer] = (),
        stream: Literal[False] = False,
        decoding: Decoding | None = None,
    ) -> GroundedAnswer: ...
    @overload
    def ask(
        self,
        image: Picture,
        question: str,
        *,
        regions: BoxesXyxyPx | None = None,
        grounded: bool = True,
        history: Sequence[GroundedAnswer] = (),
        stream: Literal[True],
        decoding: Decoding | None = None,
    ) -> AnswerStream: ...
    @overload
    def ask(
        self,
        image: Pictures,
        question: str | Sequence[str],
        *,
        regions: Sequence[BoxesXyxyPx | None] | None = None,
        grounded: bool = True,
        history: Sequence[Sequence[GroundedAnswer]] = (),
        stream: Literal[False] = False,
        decoding: Decoding | None = None,
    ) -> list[GroundedAnswer]: ...
    @overload
    def ask(
        self,
        image: Picture | Pictures,
        question: str | Sequence[str],
        *,
        regions: Any = None,
        grounded: bool = True,
        history: Any = (),
        stream: bool = False,
        decoding: Decoding | None = None,
    ) -> GroundedAnswer | list[GroundedAnswer] | AnswerStream: ...

    def ask(
        self,
        image: Picture | Pictures,
        question: str | Sequence[str],
        *,
        regions: Any = None,
        grounded: bool = True,
        history: Any = (),
        stream: bool = False,
        decoding: Decoding | None = None,
    ) -> GroundedAnswer | list[GroundedAnswer] | AnswerStream:
        """Ask about a picture.

        Args:
            image: one picture, or a list of them.
            question: text; [1], [2], ... stand for `regions` (groma.inference.request).
            regions: boxes that the question points at, xyxy in pixels of the original picture; for a list of pictures
                a list with such boxes, or None, for each.
            grounded: ask for phrases that are tied to boxes.
            history: earlier answers about the same picture, oldest first; for a list of pictures a list of these.
            stream: return an iterator over what is new after each token; its `answer` is the whole. One picture only.
            decoding: how tokens are chosen; deterministic by default.

        Raises:
            InputError: picture, question or regions cannot be used, or the conversation is too long.
        """
        decoding = check_decoding(decoding)
        if not is_list(image):
            request = self._request(
                self._see(cast(Picture, image)), cast(str, question), regions, grounded=grounded, history=history
            )
            return self._stream(request, decoding) if stream else self._answer([request], decoding)[0]
        _refuse_to_stream(stream)
        questions = per_picture(question, len(image), "questions")
        boxes = lists_per_picture(regions, len(image), "regions", default=None)
        past = lists_per_picture(history, len(image), "histories", default=())
        answers: list[GroundedAnswer] = []
        for rows in batches(list(zip(image, questions, boxes, past, strict=True)), self.batch_size):
            seen = self._see_all([row[0] for row in rows])
            requests = [
                self._request(s, q, r, grounded=grounded, history=h) for s, (_, q, r, h) in zip(seen, rows, strict=True)
            ]
            answers += self._answer(requests, decoding)
        return answers

    @overload
    def locate(
        self,
        image: Picture,
        phrase: str,
        *,
        all: bool = False,
        stream: Literal[False] = False,
        decoding: Decoding | None = None,
    ) -> GroundedAnswer: ...
    @overload
    def locate(
        self,
        image: Picture,
        phrase: str,
        *,
        all: bool = False,
        stream: Literal[True],
        decoding: Decoding | None = None,
    ) -> AnswerStream: ...
    @overload
    def locate(
        self,
        image: Pictures,
        phrase: str | Sequence[str],
        *,
        all: bool = False,
        stream: Literal[False] = False,
        decoding: Decoding | None = None,
    ) -> list[GroundedAnswer]: ...

    def locate(
        self,
        image: Picture | Pictures,
        phrase: str | Sequence[str],
        *,
        all: bool = False,
        stream: bool = False,
        decoding: Decoding | None = None,
    ) -> GroundedAnswer | list[GroundedAnswer] | AnswerStream:
        """Where is it? One entity with its region(s); none if the model says that it is not there.

        Args:
            image: one picture or a list.
            phrase: what to look for, e.g. "the red car"; one for all pictures or one each.
            all: look for every instance ("dog") instead of the one that is meant ("the dog on the left").
            stream: as for `ask`.
            decoding: how tokens are chosen; deterministic by default.

        Raises:
            InputError: picture or phrase cannot be used.
        """
        decoding = check_decoding(decoding)
        if not is_list(image):
            request = _Request(self._see(cast(Picture, image)), locating(cast(str, phrase), all=all))
            return self._stream(request, decoding) if stream else self._answer([request], decoding)[0]
        _refuse_to_stream(stream)
        phrases = per_picture(phrase, len(image), "phrases")
        answers: list[GroundedAnswer] = []
        for rows in batches(list(zip(image, phrases, strict=True)), self.batch_size):
            seen = self._see_all([row[0] for row in rows])
            requests = [_Request(s, locating(p, all=all)) for s, (_, p) in zip(seen, rows, strict=True)]
            answers += self._answer(requests, decoding)
        return answers

    @overload
    def describe(
        self, image: Picture, boxes: BoxesXyxyPx, *, stream: Literal[False] = False, decoding: Decoding | None = None
    ) -> list[GroundedAnswer]: ...
    @overload
    def describe(
        self, image: Picture, boxes: BoxesXyxyPx, *, stream: Literal[True], decoding: Decoding | None = None
    ) -> AnswerStream: ...
    @overload
    def describe(
        self,
        image: Pictures,
        boxes: Sequence[BoxesXyxyPx],
        *,
        stream: Literal[False] = False,
        decoding: Decoding | None = None,
    ) -> list[list[GroundedAnswer]]: ...

    def describe(
        self, image: Picture | Pictures, boxes: Any, *, stream: bool = False, decoding: Decoding | None = None
    ) -> list[GroundedAnswer] | list[list[GroundedAnswer]] | AnswerStream:
        """Describe each box, on its own.

        Args:
            image: one picture or a list.
            boxes: xyxy in pixels: (n, 4) for one picture, or such a list for each picture.
            stream: as for `ask`; one box only.
            decoding: how tokens are chosen; deterministic by default.

        Returns:
            One answer a box; for a list of pictures, a list of these.

        Raises:
            InputError: a picture or a box cannot be used.
        """
        decoding = check_decoding(decoding)
        if not is_list(image):
            requests = self._descriptions(self._see(cast(Picture, image)), boxes)
            if not stream:
                return self._answer(requests, decoding)
            if len(requests) != 1:
                raise InputError(f"streaming takes one box at a time, got {len(requests)}: call describe for each box")
            return self._stream(requests[0], decoding)
        _refuse_to_stream(stream)
        if not is_list(boxes) or len(boxes) != len(image):
            raise InputError(f"{len(image)} pictures need a list of {len(image)} lists of boxes, one for each picture")
        described: list[list[GroundedAnswer]] = []
        for rows in batches(list(zip(image, boxes, strict=True)), self.batch_size):
            seen = self._see_all([row[0] for row in rows])
            requests = [self._descriptions(s, given) for s, (_, given) in zip(seen, rows, strict=True)]
            answers = iter(self._answer([request for own in requests for request in own], decoding))
            described += [[next(answers) for _ in own] for own in requests]
        return described

    def _descriptions(self, seen: Seen, boxes: BoxesXyxyPx) -> list[_Request]:
        """A question for each box of a picture; any number, as each is asked about on its own."""
        checked = check_boxes_xyxy_px(boxes, *seen.size_px, limit=10**6)
        return [self._request(seen, DESCRIBE, box[None], grounded=False) for box in checked]

    # --- from questions to prompts -----------------------------------------------------------------------------------

    def _request(
        self,
        seen: Seen,
        question: str,
        regions: BoxesXyxyPx | None,
        *,
        grounded: bool,
        history: Sequence[GroundedAnswer] = (),
    ) -> _Request:
        exchange = asking(
            question,
            regions,
            size_px=seen.size_px,
            max_regions=self.max_regions,
            grounded=grounded,
            history=history,
        )
        return _Request(seen, exchange)

    def _splice(self, exchange: Exchange, visual: VisualTokens, decoding: Decoding) -> Spliced:
        """Render the dialogue and put the picture into it, leaving room for the answer."""
        config = self.model.config
        picture_tokens = config.num_image_tokens + 2 * len(visual.regions)
        context = getattr(config.language, "max_position_embeddings", None) or 1 << 30
        room = context - picture_tokens - decoding.max_new_tokens
        if room <= 0:
            raise InputError(
                f"the model's context has {context} tokens, of which the picture takes {picture_tokens} and the answer "
                f"may take {decoding.max_new_tokens}: allow a shorter answer (max_new_tokens)"
            )
        # the prompt's own <image> and <region> make way for the picture's tokens
        rendered = fit(exchange.dialogue, self.tokenizer, self.chat_format, max_tokens=room + 2)
        matched = match_regions(exchange.boxes_cxcywh.to(self.device), visual.regions).cpu()
        return splice(
            rendered.token_ids,
            None,
            refer_regions=matched[list(rendered.refer_slots)],
            ground_regions=matched[list(rendered.ground_slots)],
            num_image_tokens=config.num_image_tokens,
            num_regions=len(visual.regions),
            tokens=self.tokenizer.special,
        )

    # --- from prompts to answers -------------------------------------------------------------------------------------

    def ask_on(
        self,
        seen: Seen,
        question: str,
        regions: BoxesXyxyPx | None,
        *,
        grounded: bool,
        history: Sequence[GroundedAnswer],
        prefix: Prefix,
        decoding: Decoding | None,
    ) -> GroundedAnswer:
        """`ask`, going on from what was read of the conversation: what `groma.Conversation` is made of."""
        request = self._request(seen, question, regions, grounded=grounded, history=history)
        return self._answer([request], check_decoding(decoding), prefix)[0]

    def _answer(
        self, requests: Sequence[_Request], decoding: Decoding, prefix: Prefix | None = None
    ) -> list[GroundedAnswer]:
        answers: list[GroundedAnswer] = []
        for batch in batches(requests, self.batch_size):
            steps, transcripts = self._start(batch, decoding, prefix)
            for step in steps:
                for index, transcript in enumerate(transcripts):
                    transcript.add(step, index)
            rows = zip(batch, transcripts, strict=True)
            answers += [request.finish(transcript.answer()) for request, transcript in rows]
        return answers

    def _stream(self, request: _Request, decoding: Decoding) -> AnswerStream:
        steps, transcripts = self._start([request], decoding)
        return AnswerStream(steps, transcripts[0], finish=request.finish)

    @torch.inference_mode()
    def _start(
        self, requests: Sequence[_Request], decoding: Decoding, prefix: Prefix | None = None
    ) -> tuple[Iterator[Step], list[Transcript]]:
        """Tokenize the pictures with the questions' boxes, splice, and start decoding."""
        seen = list({id(r.seen): r.seen for r in requests}.values())
        places = {id(s): place for place, s in enumerate(seen)}
        visual = self.model.tokenize(
            PictureTokens.join([s.tokens for s in seen]),
            numbers=[places[id(r.seen)] for r in requests],
            user_boxes_cxcywh=[r.exchange.user_boxes_cxcywh.to(self.device) for r in requests],
        )
        samples = [self._splice(r.exchange, v, decoding) for r, v in zip(requests, visual, strict=True)]
        batch = pad(samples, pad_id=self.tokenizer.special.pad, side="left").to(self.device)
        regions = [
            self._regions(v, r.seen, r.exchange.asked_boxes_cxcywh) for r, v in zip(requests, visual, strict=True)
        ]
        for found in regions:
            _warn_of_merged(found)
        transcripts = [
            Transcript(
                self.tokenizer,
                self.stop_ids,
                question=r.exchange.question,
                regions=found,
                image_size_px=r.seen.size_px,
                grounded=r.exchange.grounded,
            )
            for r, found in zip(requests, regions, strict=True)
        ]
        steps = decode(
            self.model,
            batch,
            visual,
            tokens=self.tokenizer.special,
            decoding=decoding,
            stop_ids=self.stop_ids,
            silent_ids=self._silent_ids,
            prefix=prefix,
        )
        return steps, transcripts

    def _regions(self, visual: VisualTokens, seen: Seen, asked_cxcywh: Tensor) -> tuple[Region, ...]:
        """The kept regions in pixels, and by which numbers the question names them."""
        kept = visual.regions
        named: list[int] = match_regions(asked_cxcywh.to(self.device), kept).numpy(force=True).tolist()
        boxes_xyxy_px = to_tuples(cxcywh_to_xyxy_px(kept.boxes_cxcywh.float(), *seen.size_px))
        scores: list[float] = kept.scores.float().numpy(force=True).tolist()
        from_user: list[bool] = kept.from_user.numpy(force=True).tolist()
        rows = zip(boxes_xyxy_px, scores, from_user, strict=True)
        return tuple(
            Region(
                id=number,
                box_xyxy_px=box_xyxy_px,
                objectness=score,
                source="user" if is_user else "proposal",
                numbers=tuple(k for k, region in enumerate(named, start=1) if region == number),
            )
            for number, (box_xyxy_px, score, is_user) in enumerate(rows)
        )


def _warn_of_merged(regions: Sequence[Region]) -> None:
    """Tell if two boxes of a question became one region: the answer cannot tell them apart."""
    for first, *others in (region.numbers for region in regions if len(region.numbers) > 1):
        for number in others:
            warnings.warn(
                f"boxes [{first}] and [{number}] overlap so much that they are one region for the model",
                BoxesMergedWarning,
                stacklevel=2,
            )
