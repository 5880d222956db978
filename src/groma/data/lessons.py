"""Samples -> what a stage learns from them: pixels with boxes (stage 1), or pixels with rendered dialogues (2 and 3).

    Sample --augment, filter boxes--> DetectionLesson
    Sample --task--> dialogues --renderer--> PicturePrompts --> DialogueLesson

A lesson is a pure function of the sample and its random generator. What cannot be learned from raises BadSampleError.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from groma.boxes import xyxy_to_cxcywh
from groma.data.annotated_set import Sample
from groma.data.augment import PUBLISHED_SIDE_PX, Augmentation, apply_to_boxes, apply_to_picture, draw_cut, visible
from groma.data.cleaning import BadSampleError, Fault
from groma.data.collate import VisionBatch
from groma.data.dialogues import DialogueBatch, PicturePrompts, prompts_of
from groma.data.mixture import MixtureSet
from groma.data.tasks import dialogues_of
from groma.errors import InputError
from groma.image import Preprocessing
from groma.prompt.chat_format import ChatFormat
from groma.prompt.dialogue import Dialogue, Text, Turn
from groma.prompt.render import render
from groma.prompt.tokenizer_base import PromptTokenizer

MIN_SIDE_PX = 2.0
"""Boxes of which a side is shorter than this in a picture of the model's size are not taught (released code)."""


@dataclass(frozen=True, slots=True)
class DetectionLesson:
    """A picture of stage 1; T boxes."""

    pixels: np.ndarray
    """(S, S, 3) uint8 RGB."""
    boxes_cxcywh: Tensor
    """(T, 4) normalized."""
    faults: tuple[Fault, ...]
    """What was mended."""


@dataclass(frozen=True, slots=True)
class DialogueLesson:
    """A picture of stages 2 and 3."""

    pixels: np.ndarray
    """(S, S, 3) uint8 RGB."""
    prompts: PicturePrompts
    """Dialogues about it."""
    faults: tuple[Fault, ...]
    """What was mended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionLessons:
    """Makes lessons of stage 1."""

    preprocessing: Preprocessing
    """Size and filter of pictures."""
    augmentation: Augmentation
    """How they are varied."""

    def __call__(self, sample: Sample, one: MixtureSet, rng: np.random.Generator) -> DetectionLesson:
        """One lesson; a picture without boxes teaches that there is nothing.

        Raises:
            BadSampleError: the picture has boxes, but none that can be taught.
        """
        side, resample = self.preprocessing.size_px, self.preprocessing.resample
        width, height = sample.picture.size
        boxes = np.array(sample.annotation.boxes_xyxy_frame, dtype=np.float64).reshape(-1, 4)
        assert sample.annotation.frame is not None, "samples are cleaned"
        boxes_px = boxes * np.tile(np.array((width, height)) / sample.annotation.frame, 2)
        cut = draw_cut((width, height), boxes_px, self.augmentation, side_px=side, rng=rng)
        shown = apply_to_boxes(boxes_px, cut)
        scale = (side / PUBLISHED_SIDE_PX) ** 2
        low, high = one.entry.area_px
        keep = visible(shown, side_px=side, min_side_px=MIN_SIDE_PX, area_px=(low * scale, high * scale))
        if len(boxes) and not keep.any():
            raise BadSampleError(Fault("nothing_to_learn", f"{sample.annotation.picture}: no box of a size to teach"))
        return DetectionLesson(
            pixels=apply_to_picture(sample.picture, cut, side_px=side, resample=resample),
            boxes_cxcywh=xyxy_to_cxcywh(torch.from_numpy(shown[keep]).float()),
            faults=sample.faults,
        )

    def collate(
        self, lessons: Sequence[DetectionLesson], one: MixtureSet, *, seeds: Sequence[int], faults: Sequence[Fault]
    ) -> VisionBatch:
        """A batch of one set; blank without lessons.

        Raises:
            InputError: the set teaches no objectness head.
        """
        if one.entry.head is None:
            raise InputError(f"set {one.name!r} is no detection set: leave it out of stage 1.")
        return VisionBatch(
            images=_stacked(lessons, self.preprocessing.size_px),
            boxes_cxcywh=tuple(lesson.boxes_cxcywh for lesson in lessons) or (torch.zeros(0, 4),),
            source=one.entry.head,
            set_name=one.name,
            faults=tuple(faults),
            blank=not lessons,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogueLessons:
    """Makes lessons of stages 2 and 3."""

    preprocessing: Preprocessing
    """Size and filter of pictures."""
    tokenizer: PromptTokenizer
    """The model's."""
    chat_format: ChatFormat
    """The model's."""
    max_tokens: int
    """Longest dialogue, in ids before the model puts image and regions in."""
    jitter: float = 0.0
    """Normal deviation of boxes that questions point at, as a share of their size; published: exact boxes."""

    def __call__(self, sample: Sample, one: MixtureSet, rng: np.random.Generator) -> DialogueLesson:
        """One lesson.

        Raises:
            BadSampleError: the task finds nothing to ask, or what it asks does not fit.
        """
        name = sample.annotation.picture
        dialogues = dialogues_of(one.task, sample.annotation, rng, one.options)
        if not dialogues:
            raise BadSampleError(Fault("nothing_to_learn", f"{name}: nothing for the task {one.task!r}"))
        prompts, cut = prompts_of(
            dialogues,
            rng,
            tokenizer=self.tokenizer,
            chat_format=self.chat_format,
            jitter=self.jitter,
            max_tokens=self.max_tokens,
        )
        if prompts is None:
            raise BadSampleError(Fault("too_long", f"{name}: no turn fits into {self.max_tokens} tokens"))
        shortened = (Fault("shortened", f"{name}: {cut} turns left out"),) if cut else ()
        return DialogueLesson(self.preprocessing.to_pixels(sample.picture), prompts, (*sample.faults, *shortened))

    def collate(
        self, lessons: Sequence[DialogueLesson], one: MixtureSet, *, seeds: Sequence[int], faults: Sequence[Fault]
    ) -> DialogueBatch:
        """A batch of one set; blank without lessons."""
        return DialogueBatch(
            pictures=tuple(lesson.prompts for lesson in lessons) or (self._nothing(),),
            images=_stacked(lessons, self.preprocessing.size_px),
            seeds=tuple(seeds) or (0,),
            source=one.name,
            set_name=one.name,
            faults=tuple(faults),
            blank=not lessons,
        )

    def _nothing(self) -> PicturePrompts:
        """A question that nobody answers."""
        rendered = render(Dialogue((Turn(question=(Text("?"),)),)), self.tokenizer, self.chat_format)
        none = torch.zeros(0, 4)
        return PicturePrompts(prompts=(rendered,), boxes_cxcywh=none, user_boxes_cxcywh=none)


def _stacked(lessons: Sequence[DetectionLesson] | Sequence[DialogueLesson], side_px: int) -> Tensor:
    """(B, S, S, 3) uint8; a black picture where there is none."""
    pixels = [lesson.pixels for lesson in lessons] or [np.zeros((side_px, side_px, 3), np.uint8)]
    return torch.from_numpy(np.stack(pixels))
