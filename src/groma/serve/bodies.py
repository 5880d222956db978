"""What requests and replies look like (pydantic), with the examples of the API's description."""

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

# lists fail with their first error: one that is wrong in a million places costs no more than in one
BoxXyxyPx = Annotated[
    list[float], Field(fail_fast=True), Field(min_length=4, max_length=4, description="x1, y1, x2, y2 in pixels")
]
Boxes = Annotated[list[BoxXyxyPx], Field(fail_fast=True), Field(max_length=1000)]


def _check_empty(value: Any) -> Any:
    if value:
        raise ValueError("this cannot be done here: leave it out")
    return value


Nothing = Annotated[Any, AfterValidator(_check_empty)]
"""What OpenAI's clients may send empty."""


def _check_one(value: int | None) -> int | None:
    if value not in (None, 1):
        raise ValueError("one answer is given: leave it out")
    return value


One = Annotated[int | None, AfterValidator(_check_one)]

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGO8IyfHgA0wYRUdtBIA4FYBKCgCg6AAAAAA"
    "SUVORK5CYII="
)
"""A red square of 8 x 8 pixels, for examples."""


class Body(BaseModel):
    """Base of request bodies: an unknown name is an error that tells the nearest known one."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest(cls, values: Any) -> Any:
        """Names without a value ask for nothing: clients that write down all they know send many."""
        if not isinstance(values, dict):
            return values
        known = {field.alias or name for name, field in cls.model_fields.items()}
        for name, value in values.items():
            if name not in known and value is not None:
                told = str(name)[:60]
                near = get_close_matches(told, known, n=1, cutoff=0.75)
                raise ValueError(f"there is no field {told!r}" + (f": {near[0]!r}?" if near else ""))
        return {name: value for name, value in values.items() if name in known}


class TextPart(Body):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(Body):
    """Where a picture is."""

    url: str
    detail: str | None = None


class ImagePart(Body):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl

    @field_validator("image_url", mode="before")
    @classmethod
    def _take_text(cls, value: Any) -> Any:
        """Some clients send the address alone."""
        return {"url": value} if isinstance(value, str) else value


class PastPart(BaseModel):
    """A part of an earlier answer, perhaps another model's."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None


def _kind_of_content(value: Any) -> str:
    return AS_PARTS if isinstance(value, list) else AS_TEXT


AS_TEXT, AS_PARTS = "as text", "as parts"
"""Forms of a message's content; an error is that of the form which was sent."""

Parts = Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(fail_fast=True)]
PastParts = Annotated[list[PastPart], Field(fail_fast=True)]
Content = Annotated[Annotated[str, Tag(AS_TEXT)] | Annotated[Parts, Tag(AS_PARTS)], Discriminator(_kind_of_content)]
PastContent = Annotated[
    Annotated[str, Tag(AS_TEXT)] | Annotated[PastParts, Tag(AS_PARTS)], Discriminator(_kind_of_content)
]


class GroundingEntity(BaseModel):
    """A phrase of an earlier answer, as it was told."""

    model_config = ConfigDict(extra="ignore")
    image: int = 0
    phrase: str
    start: int
    end: int
    boxes_xyxy_px: Boxes


class GroundingImage(BaseModel):
    """A picture's part of an earlier answer."""

    model_config = ConfigDict(extra="ignore")
    start: int
    end: int


class Grounding(BaseModel):
    """What an earlier answer named, as it was told; whatever else it holds is not needed again."""

    model_config = ConfigDict(extra="ignore")
    images: Annotated[list[GroundingImage], Field(fail_fast=True)] = Field(default_factory=list, max_length=64)
    entities: Annotated[list[GroundingEntity], Field(fail_fast=True)] = Field(default_factory=list, max_length=1000)


class SystemMessage(BaseModel):
    """Taken, and left out: the model was trained without."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer"]
    content: Any = None


class UserMessage(Body):
    """A question, with pictures and boxes."""

    role: Literal["user"]
    content: Content
    name: str | None = None
    regions: Boxes | None = Field(None, description="boxes that the question points at: [1], [2], ...")
    grounded: bool | None = Field(None, description="ask for phrases that are tied to boxes")


class AssistantMessage(BaseModel):
    """An earlier answer, as it came."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["assistant"]
    content: PastContent | None = None
    grounding: Grounding | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Body):
    """More about streams."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class TextFormat(Body):
    """The one form of answers."""

    type: Literal["text"]


class ChatBody(Body):
    """A conversation whose last message is a question."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "groma-tiny",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": PIXEL}},
                                {"type": "text", "text": "What is [1]?"},
                            ],
                            "regions": [[1, 1, 7, 7]],
                        }
                    ],
                    "max_tokens": 64,
                }
            ]
        },
    )

    messages: Annotated[list[Message], Field(fail_fast=True)] = Field(min_length=1)
    model: str | None = Field(None, description="any name; there is one model")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100, description="0, the default: deterministic")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    regions: Boxes | None = Field(None, description="of the last message; see there")
    grounded: bool | None = Field(None, description="of the last message; see there")
    # what OpenAI's clients may send; it must ask for what is done anyway
    n: One = None
    stop: Nothing = None
    logprobs: Nothing = None
    top_logprobs: Nothing = None
    presence_penalty: Nothing = None
    frequency_penalty: Nothing = None
    logit_bias: Nothing = None
    tools: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    # what changes nothing
    user: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    @property
    def most_tokens(self) -> int | None:
        """Tokens that the answer may have; None: nothing is said of it."""
        return self.max_completion_tokens or self.max_tokens


class _PictureBody(Body):
    image: str = Field(description="a data URL, or an https address where the server fetches such")

    @field_validator("image")
    @classmethod
    def _is_given(cls, value: str) -> str:
        if not value:
            raise ValueError("the picture is missing")
        return value


class LocateBody(_PictureBody):
    """Where is it?"""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"image": PIXEL, "phrase": "the red square", "all": False}]}
    )
    phrase: str = Field(max_length=2000)
    all: bool = Field(False, description="every instance, instead of the one that is meant")


class DescribeBody(_PictureBody):
    """What is in these boxes?"""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"image": PIXEL, "boxes": [[1, 1, 7, 7]]}]}
    )
    boxes: Annotated[list[BoxXyxyPx], Field(fail_fast=True), Field(min_length=1, max_length=100)]


class RegionsBody(_PictureBody):
    """What did the proposer find?"""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"image": PIXEL, "min_objectness": 0.3}]})
    min_objectness: float = Field(0.0, ge=0, le=1)
