"""Procedural scenes written as the published annotation files: fixtures, and examples of every format.

scenes -> pictures/000000.png, ... and annotations.json (or .jsonl), as groma.data.sources reads them back
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groma.data.annotation import Passage, Span
from groma.data.scenes.atlas import atlas
from groma.data.scenes.questions import question_of
from groma.data.scenes.referring import EXPRESSIONS
from groma.data.scenes.scene import Scene
from groma.data.scenes.wording import thing_of
from groma.data.sources.own import write_markup
from groma.data.wording import with_article
from groma.errors import InputError
from groma.prompt.dialogue import Phrase, Segment, Text
from groma.storage import atomic_file, write_json, write_text

PICTURES = "pictures"


def export_scenes(scenes: Sequence[Scene], format_name: str, folder: Path) -> Path:
    """Write pictures and annotations of scenes.

    Args:
        scenes: what is written.
        format_name: a key of groma.data.sources.FORMATS.
        folder: where; its pictures go to PICTURES below it.

    Returns:
        The annotation file.

    Raises:
        InputError: there is no such format.
    """
    if format_name not in EXPORTERS:
        raise InputError(f"There is no annotation format {format_name!r}; known are {', '.join(EXPORTERS)}.")
    for number, scene in enumerate(scenes):
        with atomic_file(folder / PICTURES / picture_name(number)) as temporary:
            Image.fromarray(scene.image).save(temporary, format="PNG")
    content = EXPORTERS[format_name](scenes)
    file = folder / ("annotations.jsonl" if format_name == "own" else "annotations.json")
    if format_name == "own":
        write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content))
    else:
        write_json(file, content)
    return file


def picture_name(number: int) -> str:
    """File name of scene `number`."""
    return f"{number:06d}.png"


def caption_of(scene: Scene, number: int) -> Passage:
    """A caption that names every object and is tied to its box; box k is object k."""
    question = question_of("caption", scene, np.random.default_rng(number))
    assert question is not None, "every scene can be captioned"
    return _passage(question.dialogue.turns[0].answer or (), question.box_objects)


def _passage(segments: Sequence[Segment], boxes: Sequence[int]) -> Passage:
    text, spans = "", list[Span]()
    for segment in segments:
        if isinstance(segment, Phrase):
            spans.append(Span(len(text), len(text) + len(segment.text), tuple(boxes[box] for box in segment.boxes)))
        if isinstance(segment, Phrase | Text):
            text += segment.text
    return Passage(text, tuple(spans))


def _bbox(box_xyxy_px: Sequence[int]) -> list[int]:
    x1, y1, x2, y2 = box_xyxy_px
    return [x1, y1, x2 - x1, y2 - y1]


def _coco(scenes: Sequence[Scene], images: list[Any], annotations: list[Any], names: Sequence[str]) -> dict[str, Any]:
    """The three lists; entries get their ids here."""
    for number, image in enumerate(images):
        scene = scenes[image.pop("scene")]
        image |= {"id": number, "width": scene.size_px, "height": scene.size_px}
    for number, entry in enumerate(annotations):
        entry |= {"id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _objects(scenes: Sequence[Scene], entry_of: Callable[[Scene, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """An annotation for each object."""
    return [
        {"image_id": number, "bbox": _bbox(scene.objects[k].box_xyxy_px)} | entry_of(scene, k)
        for number, scene in enumerate(scenes)
        for k in range(len(scene.objects))
    ]


def _images(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    return [{"scene": number, "file_name": picture_name(number)} for number in range(len(scenes))]


def _detection(scenes: Sequence[Scene]) -> Any:
    names = [*atlas().names, *atlas().held_out_names]
    numbers = {name: number for number, name in enumerate(names, start=1)}
    entries = _objects(scenes, lambda scene, k: {"category_id": numbers[scene.objects[k].name]})
    return _coco(scenes, _images(scenes), entries, names)


def _expressions(scenes: Sequence[Scene]) -> Any:
    images, annotations = list[Any](), list[Any]()
    for number, scene in enumerate(scenes):
        for make in EXPRESSIONS.values():
            for expression in make(scene):
                box = _bbox(scene.objects[expression.target].box_xyxy_px)
                annotations.append({"image_id": len(images), "bbox": box, "category_id": 1})
                images.append({"scene": number, "file_name": picture_name(number), "caption": expression.text})
    return _coco(scenes, images, annotations, ["object"])


def _region_captions(scenes: Sequence[Scene]) -> Any:
    def caption(scene: Scene, k: int) -> dict[str, Any]:
        return {"caption": _description(scene, k), "category_id": 1}

    return _coco(scenes, _images(scenes), _objects(scenes, caption), ["object"])


def _grounded_captions(scenes: Sequence[Scene]) -> Any:
    captions = [caption_of(scene, number) for number, scene in enumerate(scenes)]
    images = [image | {"caption": caption.text} for image, caption in zip(_images(scenes), captions, strict=True)]
    annotations = [
        {
            "image_id": number,
            "bbox": _bbox(scene.objects[box].box_xyxy_px),
            "category_id": 1,
            "tokens_positive": [[span.start, span.end]],
        }
        for number, (scene, caption) in enumerate(zip(scenes, captions, strict=True))
        for span in caption.spans
        for box in span.boxes
    ]
    return _coco(scenes, images, annotations, ["object"])


def _grit(scenes: Sequence[Scene]) -> Any:
    samples: list[Any] = []
    for number, scene in enumerate(scenes):
        caption = caption_of(scene, number)
        corners = [[value / scene.size_px for value in entry.box_xyxy_px] for entry in scene.objects]
        expressions = [[span.start, span.end, *corners[box], 1.0] for span in caption.spans for box in span.boxes]
        samples.append({"filename": picture_name(number), "caption": caption.text, "ref_exps": expressions})
    return samples


def _llava(scenes: Sequence[Scene]) -> Any:
    return [
        {
            "id": str(number),
            "image": picture_name(number),
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is in the picture?"},
                {"from": "gpt", "value": caption_of(scene, number).text},
            ],
        }
        for number, scene in enumerate(scenes)
    ]


def _groma_instruct(scenes: Sequence[Scene]) -> Any:
    samples: list[Any] = []
    for number, scene in enumerate(scenes):
        caption, answer, cursor = caption_of(scene, number), "", 0
        for span in caption.spans:
            marks = "<ground_box>" * len(span.boxes)
            answer += (
                f"{caption.text[cursor : span.start]}<p>{caption.text[span.start : span.end]}</p><roi>{marks}</roi>"
            )
            cursor = span.end
        turns = [
            {"from": "human", "value": "What is in the picture?", "box_inds": []},
            {
                "from": "gpt",
                "value": answer + caption.text[cursor:],
                "box_inds": [box for span in caption.spans for box in span.boxes],
            },
        ]
        samples.append(
            {
                "file_name": picture_name(number),
                "width": scene.size_px,
                "height": scene.size_px,
                "boxes": [_bbox(entry.box_xyxy_px) for entry in scene.objects],
                "conversation": turns,
            }
        )
    return samples


def _own(scenes: Sequence[Scene]) -> Any:
    return [
        {
            "image": picture_name(number),
            "boxes": [list(entry.box_xyxy_px) for entry in scene.objects],
            "labels": [entry.name for entry in scene.objects],
            "caption": write_markup(caption_of(scene, number)),
            "conversation": [
                {"question": "What is [1]?", "answer": f"It is {_description(scene, 0)}.", "boxes": [0]},
            ],
        }
        for number, scene in enumerate(scenes)
    ]


def _description(scene: Scene, k: int) -> str:
    return with_article(thing_of(scene.objects[k].name, scene.objects[k].colour))


EXPORTERS: dict[str, Callable[[Sequence[Scene]], Any]] = {
    "coco": _detection,
    "coco_expressions": _expressions,
    "coco_region_captions": _region_captions,
    "coco_grounded_captions": _grounded_captions,
    "grit": _grit,
    "llava": _llava,
    "groma_instruct": _groma_instruct,
    "own": _own,
}
"""Name of a format -> what its annotation file holds."""
