"""What an answer is: clean text, phrases tied to regions, regions as boxes of the original picture.

    GroundedAnswer
      text      "A red car stands before a tree."
      entities  "A red car" 0..9, regions (3,); "a tree" 24..30, regions (0, 7)
      regions   0, 1, 2, 3, ...   all that the model could name, whether named or not

Boxes are left, top, right, bottom in pixels of the picture as it is seen (EXIF orientation applied).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from groma.errors import InputError

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from groma.inference.lettering import FontSource
    from groma.inference.pictures import Picture

Box = tuple[float, float, float, float]

FinishReason = Literal["stop", "length", "cancelled"]
FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One region of the picture that the model knows by a number."""

    id: int
    """The number k of its token <rk>."""
    box_xyxy_px: Box
    """Left, top, right, bottom in pixels of the original picture."""
    objectness: float
    """How sure the proposer is that something is there, 0..1; 1 for a box the user gave."""
    source: Literal["proposal", "user"]
    """Whether the proposer found it or the user pointed at it."""
    numbers: tuple[int, ...] = ()
    """The numbers [1], [2], ... by which the question names it (several if boxes coincide); else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """A phrase of the answer and the regions that it stands for."""

    phrase: str
    """`text[start:end]` of the answer; empty for regions that came without a phrase."""
    start: int
    """First character of the phrase in the answer's clean text."""
    end: int
    """One behind its last character."""
    region_ids: tuple[int, ...]
    """Ids of its regions, in the order in which the model named them."""
    score: float
    """Confidence, 0..1: probability of its region tokens, renormalized over the regions that exist."""
    region_scores: tuple[float, ...]
    """The same for each region."""
    boxes_xyxy_px: tuple[Box, ...] = field(default=(), repr=False)
    """The boxes of its regions; filled in by the GroundedAnswer that holds the entity."""

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Short for `boxes_xyxy_px`."""
        return self.boxes_xyxy_px


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedAnswer:
    """One answer about one picture; `print` shows its text, rich also its phrases and boxes.

    Raises:
        InputError: The parts contradict each other: a span outside the text or other than its phrase, a
            region that does not exist, scores that do not match the regions; or it ended for no known reason.
    """

    text: str
    """The answer without any tags."""
    entities: tuple[Entity, ...]
    """Phrases with regions, in the order of the text."""
    regions: tuple[Region, ...]
    """Every region the model could name, by id."""
    finish_reason: FinishReason
    """"stop": the model ended it; "length": cut at the token limit; "cancelled": cut by the caller."""
    raw_text: str
    """The answer as generated, tags and region tokens included."""
    image_size_px: tuple[int, int]
    """Width and height of the original picture."""
    question: str = ""
    """The question as the user asked it."""
    grounded: bool = False
    """Whether phrases tied to boxes were asked for."""
    looked_for: str | None = None
    """The phrase that `locate` was asked for; None: another question."""
    looked_for_all: bool = False
    """Whether every instance of it was asked for."""

    def __post_init__(self) -> None:
        boxes_xyxy_px = {region.id: region.box_xyxy_px for region in self.regions}
        if len(boxes_xyxy_px) != len(self.regions):
            raise InputError("an answer holds two regions of the same id")
        if self.finish_reason not in FINISH_REASONS:
            raise InputError(f"finish_reason is {self.finish_reason!r}, expected one of {', '.join(FINISH_REASONS)}")
        for entity in self.entities:
            if not 0 <= entity.start <= entity.end <= len(self.text):
                raise InputError(
                    f"entity {entity.phrase!r} has the span {entity.start}..{entity.end}, "
                    f"but the text has {len(self.text)} characters"
                )
            if self.text[entity.start : entity.end] != entity.phrase:
                spanned = self.text[entity.start : entity.end]
                raise InputError(f"entity {entity.phrase!r} has the span of {spanned!r}")
            if missing := sorted(set(entity.region_ids) - set(boxes_xyxy_px)):
                raise InputError(f"entity {entity.phrase!r} names regions that do not exist: {missing}")
            if len(entity.region_scores) != len(entity.region_ids):
                raise InputError(
                    f"entity {entity.phrase!r} has {len(entity.region_scores)} region scores "
                    f"for {len(entity.region_ids)} regions"
                )
        filled = tuple(
            replace(entity, boxes_xyxy_px=tuple(boxes_xyxy_px[k] for k in entity.region_ids))
            for entity in self.entities
        )
        object.__setattr__(self, "entities", filled)

    def __str__(self) -> str:
        return self.text

    def region(self, region_id: int) -> Region:
        """The region of that id; InputError if there is none."""
        for region in self.regions:
            if region.id == region_id:
                return region
        raise InputError(f"the answer has no region {region_id}: it has {len(self.regions)} regions")

    def regions_of(self, entity: Entity) -> tuple[Region, ...]:
        """The regions that an entity of this answer names."""
        return tuple(self.region(region_id) for region_id in entity.region_ids)

    def boxes_of(self, entity: Entity) -> tuple[Box, ...]:
        """Their boxes, xyxy in pixels of the original picture."""
        return tuple(region.box_xyxy_px for region in self.regions_of(entity))

    def draw(
        self,
        image: "Picture",
        *,
        width_px: int | None = None,
        font: "FontSource | None" = None,
        show_user_regions: bool = True,
        show_all_regions: bool = False,
        show_scores: bool = False,
        caption: bool = False,
    ) -> "Image.Image":
        """The picture with this answer's boxes and phrases on it; see `groma.inference.draw.draw`."""
        from groma.inference.draw import draw

        return draw(
            image,
            self,
            width_px=width_px,
            font=font,
            show_user_regions=show_user_regions,
            show_all_regions=show_all_regions,
            show_scores=show_scores,
            caption=caption,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `json.dumps` takes; `from_dict` reads them back."""
        values = asdict(self)
        return {"question": values.pop("question"), **_lists(values)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GroundedAnswer":
        """Reads what `to_dict` wrote, also after a trip through JSON.

        Raises:
            InputError: Something is missing, unknown or contradictory.
        """
        try:
            width, height = values["image_size_px"]
            parts: dict[str, Any] = {
                "regions": tuple(map(_region, values["regions"])),
                "entities": tuple(map(_entity, values["entities"])),
                "image_size_px": (width, height),
            }
            return cls(**{**values, **parts})
        except InputError:
            raise
        except KeyError as error:
            raise InputError(f"not an answer as to_dict writes it: {error.args[0]!r} is missing") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"not an answer as to_dict writes it: {error}") from None

    def to_supervision(self) -> Any:
        """`supervision.Detections`; see `groma.inference.converters.to_supervision`."""
        from groma.inference.converters import to_supervision

        return to_supervision(self)

    def to_coco(self, image_id: int = 1) -> dict[str, Any]:
        """A COCO dictionary of this one picture; see `groma.inference.converters.to_coco`."""
        from groma.inference.converters import to_coco

        return to_coco([self], [image_id])

    def to_kosmos2(self) -> tuple[str, list[tuple[str, tuple[int, int], list[Box]]]]:
        """Text and entities in Kosmos-2's shape; see `groma.inference.converters.to_kosmos2`."""
        from groma.inference.converters import to_kosmos2

        return to_kosmos2(self)

    def to_transformers_detection(self) -> dict[str, Any]:
        """Transformers' grounded detections; see `groma.inference.converters.to_transformers_detection`."""
        from groma.inference.converters import to_transformers_detection

        return to_transformers_detection(self)

    def __rich__(self) -> "Group | Text":
        """The text with coloured phrases, and a table of the regions that are named or the user's."""
        from rich.console import Group

        table = self._rich_table()
        return Group(self._rich_text(), table) if table.row_count else self._rich_text()

    def _rich_text(self) -> "Text":
        from rich.text import Text

        from groma.inference.draw import phrase_colors

        text = Text(self.text)
        for entity, color in zip(self.entities, phrase_colors(self.entities), strict=True):
            text.stylize(_rich_style(color), entity.start, entity.end)
        return text

    def _rich_table(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        from groma.inference.draw import phrase_colors

        table = Table("phrase", "score", "region", "x1", "y1", "x2", "y2", "from", "objectness")
        colors = phrase_colors(self.entities)
        for entity, color in zip(self.entities, colors, strict=True):
            rows = zip(self.regions_of(entity), entity.region_scores, strict=True)
            for region, score in rows:
                phrase = Text(entity.phrase or "-", style=_rich_style(color))
                table.add_row(phrase, f"{score:.2f}", *_rich_cells(region))
        named = {region_id for entity in self.entities for region_id in entity.region_ids}
        for region in self.regions:
            if region.source == "user" and region.id not in named:
                table.add_row("-", "", *_rich_cells(region))
        return table


def _rich_cells(region: Region) -> "tuple[Text | str, ...]":
    from rich.text import Text

    box = (f"{value:.0f}" for value in region.box_xyxy_px)
    names = "".join(f" [{number}]" for number in region.numbers)
    return Text(f"r{region.id}{names}"), *box, region.source, f"{region.objectness:.2f}"


def _rich_style(color: tuple[int, int, int]) -> str:
    """Black or white on the colour: readable on dark and on light terminals."""
    from groma.inference.lettering import text_color_on

    written, filled = ("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in (text_color_on(color), color))
    return f"{written} on {filled}"


def _region(values: Mapping[str, Any]) -> Region:
    x1, y1, x2, y2 = (float(value) for value in values["box_xyxy_px"])
    parts: dict[str, Any] = {"box_xyxy_px": (x1, y1, x2, y2), "numbers": tuple(values.get("numbers", ()))}
    return Region(**{**values, **parts})


def _entity(values: Mapping[str, Any]) -> Entity:
    parts: dict[str, Any] = {name: tuple(values[name]) for name in ("region_ids", "region_scores")}
    parts["boxes_xyxy_px"] = ()  # the answer fills them in
    return Entity(**{**values, **parts})


def _lists(value: Any) -> Any:
    """Tuples as lists, all the way down, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in cast(Mapping[str, Any], value).items()}
    if isinstance(value, tuple | list):
        return [_lists(item) for item in cast(Sequence[Any], value)]
    return value
