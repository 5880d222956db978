"""Commands about one picture: ask, locate, describe, regions.

Everything that can be refused without the model is refused before it is loaded.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import tyro

from groma.cli.arguments import Switch, check_count, check_seed
from groma.cli.loading import DEFAULT_MODEL, ModelName, Placement
from groma.cli.output import check_picture_fits, check_picture_target, note, save_picture, show, write_json, write_line
from groma.errors import InputError

if TYPE_CHECKING:
    from PIL import Image
    from rich.table import Table

    from groma.inference.generate import Decoding
    from groma.inference.result import Box, GroundedAnswer, Region
    from groma.inference.transcript import AnswerStream

Picture = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
RegionTexts = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="region", metavar="X1,Y1,X2,Y2")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """In which form the result comes."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="PICTURE")] = None
    """Write the picture with the boxes drawn on it: .png, .jpg or .webp."""
    json: Switch = False
    """Print one JSON value and nothing else."""

    def open(self, picture: Path) -> "Image.Image":
        """The picture, once it is known that the result can be written.

        Raises:
            InputError: The picture cannot be read or `out` cannot be written.
        """
        if self.out is not None:
            check_picture_target(self.out, picture)
        from groma.image import load_image

        image = load_image(picture)
        if self.out is not None:
            check_picture_fits(self.out, image.size)
        return image

    def present(self, answer: "GroundedAnswer", image: "Image.Image") -> int:
        """Print an answer and draw it."""
        if self.json:
            write_json(answer.to_dict())
        else:
            show(answer)
        return self.finish([answer], lambda: answer.draw(image))

    def finish(self, answers: "Sequence[GroundedAnswer]", draw: Callable[[], "Image.Image"]) -> int:
        """What follows once answers are printed: the picture, and a word if an answer was cut."""
        if any(answer.finish_reason == "length" for answer in answers):
            note("warning: the answer was cut at its largest number of tokens (--max-new-tokens)")
        if self.out is not None:
            save_picture(draw(), self.out)
            if not self.json:
                write_line(f"drawn: {self.out}")
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the tokens of an answer are chosen."""

    max_new_tokens: int = 512
    """Tokens an answer may have at most."""
    temperature: float = 0.0
    """0: always the likeliest token. Above: sampled."""
    top_p: float = 1.0
    """Sample only from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Seed of the sampling."""

    def decoding(self) -> "Decoding":
        """The same for the library.

        Raises:
            InputError: A value is out of its range.
        """
        from groma.inference.generate import Decoding

        return Decoding(
            max_new_tokens=check_count(self.max_new_tokens, "--max-new-tokens"),
            temperature=self.temperature,
            top_p=self.top_p,
            seed=check_seed(self.seed),
        )


# Options that several commands have; the empty name puts their flags beside the command's own.
OutputOptions = Annotated[Output, tyro.conf.arg(name="")]
SamplingOptions = Annotated[Sampling, tyro.conf.arg(name="")]
PlacementOptions = Annotated[Placement, tyro.conf.arg(name="")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Ask a question about a picture; the answer's phrases are tied to boxes."""

    image: Picture
    """JPEG, PNG, WebP, GIF, BMP, TIFF and others."""
    question: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="QUESTION")]
    """What you want to know. [1], [2], ... stand for the regions, in their order."""
    regions: RegionTexts = ()
    """A box that the question points at, in pixels of the picture: left, top, right, bottom."""
    grounded: bool = True
    """Ask for phrases that are tied to boxes."""
    stream: Switch = False
    """Print the answer while it is being written."""
    output: OutputOptions = field(default_factory=Output)
    model: ModelName = DEFAULT_MODEL
    """A model that comes with the package, a checkpoint folder or a hub name."""
    placement: PlacementOptions = field(default_factory=Placement)
    sampling: SamplingOptions = field(default_factory=Sampling)

    def run(self) -> int:
        """Answer."""
        if self.stream and self.output.json:
            raise InputError("--stream is for people and --json for machines: leave one of them out")
        image = self.output.open(self.image)
        from groma.inference.request import check_question

        question, boxes_xyxy_px = check_question(self.question), _boxes_xyxy_px(self.regions)
        decoding = self.sampling.decoding()
        answer = self.placement.load(self.model).ask(
            image, question, regions=boxes_xyxy_px, grounded=self.grounded, stream=self.stream, decoding=decoding
        )
        if self.stream:
            streamed = _write_while_it_comes(cast("AnswerStream", answer))
            return self.output.finish([streamed], lambda: streamed.draw(image))
        return self.output.present(cast("GroundedAnswer", answer), image)


@dataclass(frozen=True, slots=True, kw_only=True)
class Locate:
    """Find what a phrase names; nothing is named if it is not there."""

    image: Picture
    """JPEG, PNG, WebP, GIF, BMP, TIFF and others."""
    phrase: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PHRASE")]
    """What to look for, e.g. "the red car on the left"."""
    all: Switch = False
    """Every one of a kind ("dog") instead of the one that is meant."""
    output: OutputOptions = field(default_factory=Output)
    model: ModelName = DEFAULT_MODEL
    """A model that comes with the package, a checkpoint folder or a hub name."""
    placement: PlacementOptions = field(default_factory=Placement)
    sampling: SamplingOptions = field(default_factory=Sampling)

    def run(self) -> int:
        """Look for it."""
        image = self.output.open(self.image)
        from groma.inference.request import check_phrase

        phrase, decoding = check_phrase(self.phrase), self.sampling.decoding()
        answer = self.placement.load(self.model).locate(image, phrase, all=self.all, decoding=decoding)
        return self.output.present(cast("GroundedAnswer", answer), image)


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe:
    """Describe regions of a picture, each on its own."""

    image: Picture
    """JPEG, PNG, WebP, GIF, BMP, TIFF and others."""
    regions: RegionTexts = ()
    """A box to describe, in pixels of the picture: left, top, right, bottom. Give one or more."""
    output: OutputOptions = field(default_factory=Output)
    model: ModelName = DEFAULT_MODEL
    """A model that comes with the package, a checkpoint folder or a hub name."""
    placement: PlacementOptions = field(default_factory=Placement)
    sampling: SamplingOptions = field(default_factory=Sampling)

    def run(self) -> int:
        """Describe each box."""
        if not self.regions:
            raise InputError("nothing to describe: give --region x1,y1,x2,y2 once or more")
        image = self.output.open(self.image)
        boxes_xyxy_px, decoding = _boxes_xyxy_px(self.regions), self.sampling.decoding()
        assistant = self.placement.load(self.model)
        answers = cast("list[GroundedAnswer]", assistant.describe(image, boxes_xyxy_px, decoding=decoding))
        if self.output.json:
            write_json([answer.to_dict() for answer in answers])
        else:
            for number, answer in enumerate(answers, start=1):
                write_line(f"[{number}] {answer.text}")
        return self.output.finish(answers, lambda: _draw_regions(image, _described(answers)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """Show the regions that the model finds and can speak about, best first."""

    image: Picture
    """JPEG, PNG, WebP, GIF, BMP, TIFF and others."""
    min_objectness: float = 0.0
    """Only regions that are at least so sure to be something, 0..1."""
    output: OutputOptions = field(default_factory=Output)
    model: ModelName = DEFAULT_MODEL
    """A model that comes with the package, a checkpoint folder or a hub name."""
    placement: PlacementOptions = field(default_factory=Placement)

    def run(self) -> int:
        """Find them."""
        if not 0 <= self.min_objectness <= 1:
            raise InputError(f"--min-objectness must be from 0 to 1, got {self.min_objectness}.")
        image = self.output.open(self.image)
        found = cast("list[Region]", self.placement.load(self.model).regions(image))
        regions = [region for region in found if region.objectness >= self.min_objectness]
        if self.output.json:
            write_json({"image_size_px": list(image.size), "regions": [_plain(region) for region in regions]})
        else:
            show(_region_table(regions))
        return self.output.finish([], lambda: _draw_regions(image, regions))


def _boxes_xyxy_px(texts: Iterable[str]) -> "list[Box]":
    """The boxes that were typed."""
    from groma.inference.request import parse_region_text

    return [parse_region_text(text) for text in texts]


def _write_while_it_comes(stream: "AnswerStream") -> "GroundedAnswer":
    """Write the text of an answer as it grows, then its boxes."""
    from rich.console import Group

    from groma.prompt.parse import TextDelta

    for event in stream:
        if isinstance(event, TextDelta):
            sys.stdout.write(event.text)
            sys.stdout.flush()
    write_line("")
    shown = stream.answer.__rich__()
    if isinstance(shown, Group):
        _, table = shown.renderables
        show(table)
    return stream.answer


def _described(answers: "Sequence[GroundedAnswer]") -> "list[Region]":
    """The box of each description, numbered as they are printed."""
    return [
        replace(region, id=number, numbers=(number,))
        for number, answer in enumerate(answers, start=1)
        for region in answer.regions
        if region.numbers
    ]


def _draw_regions(image: "Image.Image", regions: "Sequence[Region]") -> "Image.Image":
    from groma.inference.draw import draw_regions

    return draw_regions(image, regions)


def _plain(region: "Region") -> dict[str, object]:
    """A region as JSON has it."""
    return {**asdict(region), "box_xyxy_px": list(region.box_xyxy_px), "numbers": list(region.numbers)}


def _region_table(regions: "Sequence[Region]") -> "Table":
    from rich.table import Table

    table = Table("region", "objectness", "x1", "y1", "x2", "y2")
    for region in regions:
        table.add_row(f"r{region.id}", f"{region.objectness:.2f}", *(f"{v:.0f}" for v in region.box_xyxy_px))
    return table
