"""What users hold: a model that sees pictures once and answers many questions about them.

path, PIL, array --load_image--> Seen --+
question, regions, history --> Exchange -+--> render, splice --> decode --> parse --> GroundedAnswer
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast, overload
from uuid import uuid4

import numpy as np
import torch
from PIL import Image

from groma.errors import InputError
from groma.image import Preprocessing, load_image
from groma.inference.decoder import Decoder, decode
from groma.inference.generate import Decoding, check_decoding
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
from groma.inference.prefix import PrefixStore
from groma.inference.preparing import Prepared, Preparer, Request, regions_of
from groma.inference.request import BoxesXyxyPx, check_boxes_xyxy_px
from groma.inference.result import GroundedAnswer, Region
from groma.inference.transcript import AnswerStream
from groma.inference.turns import asking, locating
from groma.model.groma import GromaModel
from groma.prompt.chat_format import chat_format
from groma.prompt.tokenizer_base import PromptTokenizer

BATCH_SIZE = 16
"""Pictures that are encoded together and answers that are decoded together; a longer list is worked off so many at a
time, and no more pictures than these are held at once."""

DESCRIBE = "Please briefly describe [1]."
"""What `describe` asks about a box, in the words that the method was trained with."""


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
        self.silent_ids = frozenset(i for i in range(tokenizer.vocab_size) if not tokenizer.token_bytes(i))
        self.preparer = Preparer(self.model, tokenizer, self.chat_format, self.stop_ids)

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
        pixels = np.stack([self.preprocessing.to_pixels(image) for image in images])
        seen = self.see_pixels(pixels, [image.size for image in images])
        return [replace(one, original=image) for one, image in zip(seen, images, strict=True)]

    @torch.inference_mode()
    def see_pixels(self, pixels: np.ndarray, sizes_px: Sequence[tuple[int, int]]) -> list[Seen]:
        """Encode pictures that are resized already, of which only that is left.

        Args:
            pixels: (B, S, S, 3) uint8, as `Preprocessing.to_pixels` makes them.
            sizes_px: B original sizes, (width, height).
        """
        weight = next(self.model.encoder.parameters())  # frozen parts may be of another type in training
        inputs = self.preprocessing.normalize(pixels).to(device=weight.device, dtype=weight.dtype)
        tokens = self.model.read(self.model.perceive(inputs))
        return [
            Seen(size_px=size_px, tokens=tokens.take([number]), seen_by=self.identity)
            for number, size_px in enumerate(sizes_px)
        ]

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
                found.append(self.found(seen))
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
            seen = self._see(cast(Picture, image))
            request = self.to_ask(
                seen, cast(str, question), regions, grounded=grounded, history=history, decoding=decoding
            )
            return self._stream(request) if stream else self._answer([request])[0]
        _refuse_to_stream(stream)
        questions = per_picture(question, len(image), "questions")
        boxes = lists_per_picture(regions, len(image), "regions", default=None)
        past = lists_per_picture(history, len(image), "histories", default=())
        answers: list[GroundedAnswer] = []
        for rows in batches(list(zip(image, questions, boxes, past, strict=True)), self.batch_size):
            seen = self._see_all([row[0] for row in rows])
            requests = [
                self.to_ask(s, q, r, grounded=grounded, history=h, decoding=decoding)
                for s, (_, q, r, h) in zip(seen, rows, strict=True)
            ]
            answers += self._answer(requests)
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
            request = self.to_locate(self._see(cast(Picture, image)), cast(str, phrase), all=all, decoding=decoding)
            return self._stream(request) if stream else self._answer([request])[0]
        _refuse_to_stream(stream)
        phrases = per_picture(phrase, len(image), "phrases")
        answers: list[GroundedAnswer] = []
        for rows in batches(list(zip(image, phrases, strict=True)), self.batch_size):
            seen = self._see_all([row[0] for row in rows])
            requests = [self.to_locate(s, p, all=all, decoding=decoding) for s, (_, p) in zip(seen, rows, strict=True)]
            answers += self._answer(requests)
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
            requests = self.to_describe(self._see(cast(Picture, image)), boxes, decoding=decoding)
            if not stream:
                return self._answer(requests)
            if len(requests) != 1:
                raise InputError(f"streaming takes one box at a time, got {len(requests)}: call describe for each box")
            return self._stream(requests[0])
        _refuse_to_stream(stream)
        if not is_list(boxes) or len(boxes) != len(image):
            raise InputError(f"{len(image)} pictures need a list of {len(image)} lists of boxes, one for each picture")
        described: list[list[GroundedAnswer]] = []
        for rows in batches(list(zip(image, boxes, strict=True)), self.batch_size):
            seen = self._see_all([row[0] for row in rows])
            requests = [self.to_describe(s, given, decoding=decoding) for s, (_, given) in zip(seen, rows, strict=True)]
            answers = iter(self._answer([request for own in requests for request in own]))
            described += [[next(answers) for _ in own] for own in requests]
        return described

    # --- from questions to requests ----------------------------------------------------------------------------------

    def to_ask(
        self,
        seen: Seen,
        question: str,
        regions: BoxesXyxyPx | None = None,
        *,
        grounded: bool = True,
        history: Sequence[GroundedAnswer] = (),
        decoding: Decoding | None = None,
    ) -> Request:
        """What `ask` makes of its arguments, checked and not yet answered."""
        exchange = asking(
            question,
            regions,
            size_px=seen.size_px,
            max_regions=self.max_regions,
            grounded=grounded,
            history=history,
        )
        return Request(seen, exchange, check_decoding(decoding))

    def to_locate(self, seen: Seen, phrase: str, *, all: bool = False, decoding: Decoding | None = None) -> Request:
        """The same for `locate`."""
        return Request(seen, locating(phrase, all=all), check_decoding(decoding))

    def to_describe(self, seen: Seen, boxes: BoxesXyxyPx, *, decoding: Decoding | None = None) -> list[Request]:
        """The same for `describe`, a request for each box; any number, as each is asked about on its own."""
        checked = check_boxes_xyxy_px(boxes, *seen.size_px, limit=10**6)
        return [self.to_ask(seen, DESCRIBE, box[None], grounded=False, decoding=decoding) for box in checked]

    def prepare(self, requests: Sequence[Request]) -> list[Prepared]:
        """Make prompts of requests.

        Raises:
            InputError: a conversation is too long for the model.
        """
        return self.preparer.prepare(requests)

    def found(self, seen: Seen) -> list[Region]:
        """What the proposer found in a picture, best first."""
        visual = self.preparer.without_boxes(seen)
        return list(regions_of(visual, seen, torch.zeros(0, 4)))

    # --- from prompts to answers -------------------------------------------------------------------------------------

    def decoder(self, prefixes: PrefixStore | None = None) -> Decoder:
        """What answers prompts, without any yet; `prefixes` is what was read before."""
        return Decoder(
            self.model,
            tokens=self.tokenizer.special,
            stop_ids=self.stop_ids,
            silent_ids=self.silent_ids,
            prefixes=prefixes,
        )

    def ask_on(self, request: Request, decoder: Decoder) -> GroundedAnswer:
        """Answer with a decoder that knows what was read before: what `groma.Conversation` is made of."""
        return self._decoded(self.prepare([request]), decoder)[0]

    def _answer(self, requests: Sequence[Request]) -> list[GroundedAnswer]:
        answers: list[GroundedAnswer] = []
        for batch in batches(requests, self.batch_size):
            answers += self._decoded(self.prepare(batch), self.decoder())
        return answers

    def _decoded(self, prepared: Sequence[Prepared], decoder: Decoder) -> list[GroundedAnswer]:
        for step in decode(decoder, [one.prompt for one in prepared]):
            for number, said in step.items():
                prepared[number].transcript.add(said)
        return [one.answer for one in prepared]

    def _stream(self, request: Request) -> AnswerStream:
        (prepared,) = self.prepare([request])
        steps = (step[0] for step in decode(self.decoder(), [prepared.prompt]))
        return AnswerStream(steps, prepared.transcript, finish=request.finish)
