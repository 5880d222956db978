"""What can be set when conversations are made. Plain values; nothing heavy is imported here.

`Recipe` decides what the data are; a folder of results belongs to one. `Line` and `Budget` decide how fast they are
asked for and when to stop; they may change from one run to the next.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from groma.errors import InputError

TokensField = Literal["max_tokens", "max_completion_tokens"]
Detail = Literal["low", "high", "auto"]

SET_ELSEWHERE = ("model", "messages", "stream", "stream_options", "n", "tools")
"""Fields of a request that `Asking.extra` must not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSettings:
    """Which boxes of a picture become numbered regions."""

    nms_iou: float = 0.5
    """Of two boxes that overlap more than this (intersection over union), one is dropped."""
    least: int = 3
    """A picture with fewer regions is passed over."""
    most: int = 10
    """Of more regions, so many are drawn by lot."""
    min_side: float = 0.025
    """Boxes narrower or lower than this share of the picture's longer side are dropped."""
    max_area: float = 0.95
    """Boxes that cover more than this share of the picture are dropped."""
    trusted_iou: float = 0.5
    """Where trusted annotations are given, a box must overlap one of theirs at least so much."""

    def __post_init__(self) -> None:
        shares = ("nms_iou", "min_side", "max_area", "trusted_iou")
        _check_shares("regions", **{name: getattr(self, name) for name in shares})
        _check_counts("regions", least=self.least, most=self.most)
        if self.least > self.most:
            raise InputError(f"regions: least is {self.least}, more than most, which is {self.most}.")
        if self.most > 99:
            raise InputError(f"regions: most is {self.most}, expected at most 99: numbers have two digits.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSettings:
    """How a picture is sent."""

    min_side_px: int = 768
    """Smaller pictures are magnified until their longer side has so many pixels, so that numbers hide less."""
    max_side_px: int = 1024
    """Larger pictures are shrunk until their longer side has so many pixels."""
    jpeg_quality: int = 90
    """Quality of the JPEG that is sent, 1..95."""
    detail: Detail | None = None
    """The `detail` of the picture in the request, where the endpoint knows it."""

    def __post_init__(self) -> None:
        _check_counts("picture", min_side_px=self.min_side_px, max_side_px=self.max_side_px)
        if self.min_side_px > self.max_side_px:
            raise InputError(f"picture: min_side_px is {self.min_side_px}, more than max_side_px, {self.max_side_px}.")
        if not 1 <= self.jpeg_quality <= 95:
            raise InputError(f"picture: jpeg_quality is {self.jpeg_quality}, expected 1 to 95.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a conversation must be like to be kept."""

    min_exchanges: int = 2
    """Questions with an answer, at least."""
    max_exchanges: int = 6
    """At most; what comes after them is cut off."""
    min_phrases: int = 2
    """Grounded phrases in the whole conversation, at least."""
    max_phrase_words: int = 12
    """Words of a grounded phrase, at most."""
    max_question_chars: int = 300
    """Characters of a question, at most."""
    max_answer_chars: int = 1500
    """Characters of an answer without its notation, at most."""

    def __post_init__(self) -> None:
        _check_counts("rules", **{name: getattr(self, name) for name in self.__slots__})
        if self.min_exchanges > self.max_exchanges:
            raise InputError(
                f"rules: min_exchanges is {self.min_exchanges}, more than max_exchanges, {self.max_exchanges}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What the endpoint is asked for, beside the messages."""

    answer_tokens: int = 1500
    """Tokens an answer may have at most; what it could cost is reserved before it is asked for."""
    attempts: int = 2
    """How often a picture is asked about: after a bad answer, its faults are named and it is asked for again."""
    temperature: float | None = None
    """How freely the model words its answer. None: as the endpoint has it."""
    json_mode: bool = True
    """Ask for an answer that is one JSON object (`response_format`); not every endpoint can."""
    tokens_field: TokensField = "max_tokens"
    """How the endpoint calls the limit of an answer's tokens."""
    picture_tokens: int = 1500
    """What a picture may cost in tokens, until the first answer tells."""
    extra: str = "{}"
    """Further fields of the request, as a JSON object, e.g. {"top_p": 0.9}."""

    def __post_init__(self) -> None:
        _check_counts("asking", answer_tokens=self.answer_tokens, attempts=self.attempts)
        if self.picture_tokens < 0:
            raise InputError(f"asking: picture_tokens is {self.picture_tokens}, expected 0 or more.")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise InputError(f"asking: temperature is {self.temperature}, expected 0 to 2.")
        taken = sorted({*SET_ELSEWHERE, self.tokens_field} & self.extra_fields().keys())
        if taken:
            raise InputError(f"asking: extra must not name {', '.join(taken)}: those are set elsewhere.")

    def extra_fields(self) -> dict[str, Any]:
        """The fields that `extra` names.

        Raises:
            InputError: It is no JSON object.
        """
        try:
            found: Any = json.loads(self.extra)
        except json.JSONDecodeError as error:
            raise InputError(f"asking: extra is {self.extra!r}, which is no JSON ({error.msg}).") from error
        if not isinstance(found, dict):
            raise InputError(f"asking: extra is {self.extra!r}, expected a JSON object like {{}}.")
        return cast(dict[str, Any], found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides what the conversations are."""

    model: str
    """Name of the vision model, as the endpoint calls it."""
    seed: int = 0
    """Which regions are drawn by lot."""
    regions: RegionSettings = field(default_factory=RegionSettings)
    """Which boxes become regions."""
    picture: PictureSettings = field(default_factory=PictureSettings)
    """How a picture is sent."""
    rules: Rules = field(default_factory=Rules)
    """What is kept."""
    asking: Asking = field(default_factory=Asking)
    """What is asked for."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise InputError("the model has no name: give --model or set OPENAI_MODEL.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How an endpoint is talked to: how fast, how long, how often."""

    concurrency: int = 4
    """Requests under way at the same time, at most."""
    per_minute: float | None = None
    """Requests a minute, at most, retries included. None: as many as get through."""
    timeout_s: float = 120.0
    """Seconds to wait for a whole answer."""
    stream: bool = False
    """Let answers come piece by piece: for proxies that cut quiet connections."""
    tries: int = 6
    """How often a request is sent until it is answered."""
    lost_answers: int = 2
    """After so many answers to a request that were lost on their way (time-outs, broken connections) it is given up, as
    each may have been paid for."""
    first_wait_s: float = 1.0
    """Seconds before the second try; each further wait is twice as long."""
    longest_wait_s: float = 60.0
    """Seconds between two tries, at most, unless the endpoint asks for more."""
    patience_s: float = 600.0
    """If the endpoint asks to wait for longer than so many seconds (Retry-After), the run stops."""
    failures_in_a_row: int = 10
    """So many pictures without an answer, one after the other, stop the run."""

    def __post_init__(self) -> None:
        counts = ("concurrency", "tries", "lost_answers", "failures_in_a_row")
        _check_counts("line", **{name: getattr(self, name) for name in counts})
        for name in ("per_minute", "timeout_s", "first_wait_s", "longest_wait_s", "patience_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"line: {name} is {value}, expected a number above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be spent, over all runs of a folder."""

    max_tokens: int | None = None
    """Tokens, those of questions and answers together. None: no limit."""
    max_money: float | None = None
    """Money, in the unit of the prices. None: no limit."""
    price_in: float | None = None
    """Price of a million tokens of questions."""
    price_out: float | None = None
    """Price of a million tokens of answers."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_money", "price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"budget: {name} is {value}, expected 0 or more.")
        if (self.price_in is None) != (self.price_out is None):
            raise InputError("budget: give both prices, price_in and price_out, or neither.")
        if self.max_money is not None and self.price_in is None:
            raise InputError("budget: max_money needs the prices of a million tokens, price_in and price_out.")


def _check_counts(what: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{what}: {name} is {value}, expected 1 or more.")


def _check_shares(what: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise InputError(f"{what}: {name} is {value}, expected a share from 0 to 1.")
