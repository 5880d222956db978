r"""Your own data: one JSON object a line.

```json
{"image": "a.jpg", "boxes": [[10, 20, 110, 220], [150, 30, 200, 90]], "labels": ["red car", "tree"],
 "caption": "[A red car](0) stands before [a tree](1).",
 "conversation": [{"question": "What is [1]?", "answer": "It is [a tree](1).", "grounded": true, "boxes": [1]}]}
```

`image` is all that must be there. `boxes` are left, top, right, bottom in pixels of the picture; `width` and `height`,
where given, are checked against it. `labels` has one text a box: a class, an expression or a description, as the task
reads it. In `caption` and in answers `[phrase](0)` ties a phrase to a box by its number, `[phrase](0,2)` to several,
and `\[` is a bracket that means nothing. In questions `[1]`, `[2]`, ... stand for the boxes that `boxes` of the turn
lists, as in `groma ask`; `grounded` asks for an answer with boxes and is true by itself where the answer has some.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groma.data.annotation import Annotation, Box, Exchange, Passage, Span
from groma.data.json_stream import elements
from groma.data.record_index import RecordIndex, index_records
from groma.errors import InputError

FIELDS = frozenset({"image", "width", "height", "boxes", "labels", "caption", "conversation"})
TURN_FIELDS = frozenset({"question", "answer", "boxes", "grounded"})

_MARK = re.compile(r"\\(?P<escaped>[\[\]\\])|\[(?P<phrase>(?:\\.|[^\[\]\\])+)\]\((?P<boxes>\d+(?:\s*,\s*\d+)*)\)")
_POINTER = re.compile(r"\[(\d+)\]")


def open_index(file: Path) -> RecordIndex:
    """The samples of a JSONL file (or of a JSON list of such objects).

    Raises:
        InputError: the file is of another shape.
        MissingExtraError: ijson is not installed.
    """
    return index_records(file, elements(file), kind="own")


def read_own(record: Mapping[str, Any], shared: Mapping[str, Any]) -> Annotation:
    """One line.

    Raises:
        InputError: a field is unknown, missing or of another shape.
    """
    _check_fields(record, FIELDS, needed={"image"})
    boxes_xyxy_px = tuple(_box(box) for box in record.get("boxes", ()))
    labels = tuple(record.get("labels", ()))
    if labels and len(labels) != len(boxes_xyxy_px):
        raise InputError(f"{len(labels)} labels for {len(boxes_xyxy_px)} boxes: give one each, or none")
    if ("width" in record) != ("height" in record):
        raise InputError("give both width and height, or neither")
    return Annotation(
        picture=record["image"],
        frame=(float(record["width"]), float(record["height"])) if "width" in record else None,
        boxes_xyxy_frame=boxes_xyxy_px,
        labels=labels,
        passages=(read_markup(record["caption"]),) if record.get("caption") else (),
        exchanges=tuple(_exchange(turn) for turn in record.get("conversation", ())),
    )


def read_markup(text: str) -> Passage:
    r"""`[phrase](0,2)` -> the phrase, tied to boxes; `\[`, `\]` and `\\` -> the character."""
    plain, spans, cursor = "", list[Span](), 0
    for match in _MARK.finditer(text):
        plain += text[cursor : match.start()]
        cursor = match.end()
        if match["escaped"]:
            plain += match["escaped"]
            continue
        phrase = re.sub(r"\\(.)", r"\1", match["phrase"])
        boxes = tuple(int(number) for number in match["boxes"].split(","))
        spans.append(Span(len(plain), len(plain) + len(phrase), boxes))
        plain += phrase
    return Passage(plain + text[cursor:], tuple(spans))


def write_markup(passage: Passage) -> str:
    """The inverse of `read_markup`."""
    text, cursor = "", 0
    for span in passage.spans:
        phrase = _escaped(passage.text[span.start : span.end])
        text += f"{_escaped(passage.text[cursor : span.start])}[{phrase}]({','.join(map(str, span.boxes))})"
        cursor = span.end
    return text + _escaped(passage.text[cursor:])


def _escaped(text: str) -> str:
    return re.sub(r"([\[\]\\])", r"\\\1", text)


def _exchange(turn: Mapping[str, Any]) -> Exchange:
    _check_fields(turn, TURN_FIELDS, needed={"question", "answer"})
    answer = read_markup(turn["answer"])
    return Exchange(
        question=_pointing(turn["question"], turn.get("boxes", ())),
        answer=answer,
        grounded=bool(turn.get("grounded", bool(answer.spans))),
    )


def _pointing(question: str, boxes: Sequence[int]) -> Passage:
    """A question in which [k] stands for the k-th of `boxes`; each must be used."""
    spans = tuple(Span(m.start(), m.end(), (_nth(boxes, int(m[1])),)) for m in _POINTER.finditer(question) if boxes)
    if {box for span in spans for box in span.boxes} != set(boxes):
        raise InputError(f"question {question[:60]!r} must point at each of its boxes {list(boxes)} as [1], [2], ...")
    return Passage(question, spans)


def _nth(boxes: Sequence[int], number: int) -> int:
    if not 1 <= number <= len(boxes):
        raise InputError(f"a question points at [{number}], but its turn has {len(boxes)} boxes")
    return int(boxes[number - 1])


def _box(values: Any) -> Box:
    if not isinstance(values, Sequence) or len(values) != 4:
        raise InputError(f"box {values!r} is not four numbers x1, y1, x2, y2")
    x1, y1, x2, y2 = (float(value) for value in values)
    return x1, y1, x2, y2


def _check_fields(found: Mapping[str, Any], known: frozenset[str], *, needed: set[str]) -> None:
    if unknown := found.keys() - known:
        raise InputError(f"unknown fields {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}")
    if missing := needed - found.keys():
        raise InputError(f"missing fields {', '.join(sorted(missing))}")
