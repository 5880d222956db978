"""Annotation files that are a list of samples: GRIT, LLaVA and ShareGPT-4V, Groma Instruct."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from groma.data.annotation import NORMALIZED, Annotation, Box, Exchange, Passage, Span
from groma.data.json_stream import elements
from groma.data.record_index import RecordIndex, index_records
from groma.errors import InputError

Record = Mapping[str, Any]

_GROUNDED = re.compile(r"<p>(?P<phrase>.*?)</p>\s*<roi>(?P<boxes>(?:\s*<ground_box>\s*)+)</roi>", re.DOTALL)
_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def open_index(file: Path) -> RecordIndex:
    """The samples of a JSON list or of a JSONL file.

    Raises:
        InputError: the file is of another shape.
        MissingExtraError: ijson is not installed.
    """
    return index_records(file, elements(file), kind="list")


def read_grit(record: Record, shared: Mapping[str, Any]) -> Annotation:
    """`{filename, caption, ref_exps: [[start, end, x1, y1, x2, y2, score], ...]}`, boxes normalized."""
    boxes: list[Box] = []
    boxes_of: dict[tuple[int, int], list[int]] = {}
    for start, end, x1, y1, x2, y2, *_ in record["ref_exps"]:
        boxes_of.setdefault((int(start), int(end)), []).append(len(boxes))
        boxes.append((float(x1), float(y1), float(x2), float(y2)))
    spans = tuple(Span(start, end, tuple(numbers)) for (start, end), numbers in sorted(boxes_of.items()))
    return Annotation(
        picture=str(record["filename"]),
        frame=NORMALIZED,
        boxes_xyxy_frame=tuple(boxes),
        passages=(Passage(str(record["caption"]), spans),),
    )


def read_llava(record: Record, shared: Mapping[str, Any]) -> Annotation:
    """`{id, image, conversations: [{from, value}, ...]}`; `<image>` and line breaks in a value are dropped."""
    values = [re.sub(r"<image>|\n", "", value).strip() for value in _alternating(record["conversations"])]
    pairs = zip(values[::2], values[1::2], strict=True)
    return Annotation(
        picture=str(record["image"]),
        frame=NORMALIZED,
        exchanges=tuple(Exchange(question=Passage(q), answer=Passage(a)) for q, a in pairs),
    )


def read_groma_instruct(record: Record, shared: Mapping[str, Any]) -> Annotation:
    """`{file_name, width, height, boxes, conversation: [{from, value, box_inds}, ...]}`, boxes `[x, y, w, h]` px."""
    values = list(_alternating(record["conversation"]))
    inds = [turn.get("box_inds") or [] for turn in record["conversation"]]
    return Annotation(
        picture=str(record["file_name"]),
        frame=(float(record["width"]), float(record["height"])),
        boxes_xyxy_frame=tuple((x, y, x + w, y + h) for x, y, w, h in (map(float, box) for box in record["boxes"])),
        exchanges=tuple(
            Exchange(question=Passage(question.strip()), answer=_grounded(answer, boxes), grounded=True)
            for question, answer, boxes in zip(values[::2], values[1::2], inds[1::2], strict=True)
        ),
    )


def _grounded(value: str, box_inds: Sequence[int]) -> Passage:
    """An answer in the published notation: each <ground_box> is the next of `box_inds`."""
    text, spans, cursor, used = "", list[Span](), 0, 0
    for match in _GROUNDED.finditer(value):
        count = match["boxes"].count("<ground_box>")
        text += value[cursor : match.start()]
        boxes = tuple(int(number) for number in box_inds[used : used + count])
        spans.append(Span(len(text), len(text) + len(match["phrase"]), boxes))
        text += match["phrase"]
        cursor, used = match.end(), used + count
    text += value[cursor:]
    if used != len(box_inds) or "<ground_box>" in text:
        raise InputError(f"answer {value[:60]!r} has {value.count('<ground_box>')} boxes, box_inds {len(box_inds)}")
    return _stripped(Passage(text, tuple(spans)))


def _stripped(passage: Passage) -> Passage:
    """Without blanks at the ends."""
    lead = len(passage.text) - len(passage.text.lstrip())
    spans = tuple(Span(span.start - lead, span.end - lead, span.boxes) for span in passage.spans)
    return Passage(passage.text.strip(), spans)


def _alternating(turns: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The values of turns that alternate between person and assistant and end with an answer."""
    for number, turn in enumerate(turns):
        expected = ("human", "gpt")[number % 2]
        if _SPEAKERS.get(turn["from"]) != expected:
            raise InputError(f"turn {number} is from {turn['from']!r}, expected {expected!r}")
        yield turn["value"]
    if len(turns) % 2 or not turns:
        raise InputError(f"a conversation of {len(turns)} turns does not end with an answer")
