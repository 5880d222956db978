"""The published format of Groma Instruct, written: an annotation with a conversation -> a record, records -> a file.

    {"file_name": "a.jpg", "width": 640, "height": 480, "boxes": [[x, y, w, h], ...],
     "conversation": [{"from": "human", "value": "Who waits?", "box_inds": null},
                      {"from": "gpt", "value": "<p>A dog</p><roi><ground_box></roi> does.", "box_inds": [0]}, ...]}

Boxes are in pixels of the picture. Every <ground_box> of an answer is the box that the next entry of its `box_inds`
names. `groma.data.sources` reads such files back ("groma_instruct").
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from groma.boxes import to_tuples, xyxy_to_xywh
from groma.data.annotation import Annotation, Passage
from groma.errors import InputError
from groma.prompt.tokens import Special
from groma.storage import atomic_file, json_text

_MARKUP = (Special.PHRASE_OPEN, Special.PHRASE_CLOSE, Special.ROI_OPEN, Special.ROI_CLOSE, Special.GROUND_BOX)


def to_record(annotation: Annotation) -> dict[str, Any]:
    """One record of the published format.

    Args:
        annotation: Its frame is the picture's size in pixels. Its boxes and its conversation are written, nothing else.

    Raises:
        InputError: The frame is not in pixels, there is no conversation, a question has phrases, spans overlap or a
            text spells the format's own tags.
    """
    if annotation.frame is None or annotation.is_normalized:
        raise InputError(f"{annotation.picture}: its boxes must be measured in pixels to be written as Groma Instruct")
    if not annotation.exchanges:
        raise InputError(f"{annotation.picture}: there is no conversation to write as Groma Instruct")
    boxes_xyxy_px = torch.tensor(annotation.boxes_xyxy_frame, dtype=torch.float64).reshape(-1, 4)
    conversation: list[dict[str, Any]] = []
    for exchange in annotation.exchanges:
        if exchange.question.spans:
            raise InputError(f"{annotation.picture}: the format has no boxes in questions: {exchange.question.text!r}")
        value, box_inds = _marked_up(exchange.answer, annotation.picture)
        question, _ = _marked_up(exchange.question, annotation.picture)
        conversation.append({"from": "human", "value": question, "box_inds": None})
        conversation.append({"from": "gpt", "value": value, "box_inds": box_inds})
    return {
        "file_name": annotation.picture,
        "width": round(annotation.frame[0]),
        "height": round(annotation.frame[1]),
        "boxes": [[round(value, 2) for value in box] for box in to_tuples(xyxy_to_xywh(boxes_xyxy_px))],
        "conversation": conversation,
    }


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write a file of the published format, whole or not at all, a record a line; returns how many were written.

    Args:
        path: The file.
        records: Made by `to_record`; they are not held in memory together.

    Raises:
        InputError: A record cannot be written as JSON.
        OSError: The file cannot be written.
    """
    count = 0
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for record in records:
            file.write(("," if count else "") + "\n" + json_text(record, what=str(path)))
            count += 1
        file.write("\n]\n")
    return count


def _marked_up(passage: Passage, picture: str) -> tuple[str, list[int]]:
    """Text with tags, and the boxes of its <ground_box> tags in their order."""
    for tag in _MARKUP:
        if tag.value in passage.text:
            raise InputError(f"{picture}: a text spells {tag.value}, which the format could not tell from its own tag")
    value, box_inds, cursor = "", list[int](), 0
    for span in passage.spans:
        if span.start < cursor:
            raise InputError(f"{picture}: phrases overlap in {passage.text!r}, which the format has no form for")
        boxes = Special.GROUND_BOX.value * len(span.boxes)
        value += passage.text[cursor : span.start]
        value += f"{Special.PHRASE_OPEN}{passage.text[span.start : span.end]}{Special.PHRASE_CLOSE}"
        value += f"{Special.ROI_OPEN}{boxes}{Special.ROI_CLOSE}"
        box_inds += span.boxes
        cursor = span.end
    return value + passage.text[cursor:], box_inds
