"""Labels pictures with a loaded model; what one worker does, whatever kind of process it is.

items --prepare--> opened pictures --label--> outcome: rows of labels, and failures with their reasons
"""

import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from groma.errors import GromaError, InputError
from groma.label.items import Item, Reader
from groma.label.tasks import LabelTask
from groma.storage import json_text

if TYPE_CHECKING:
    from PIL import Image

    from groma.inference.assistant import Groma
    from groma.inference.result import Box

DECODING_THREADS = 4
"""Pictures that a worker decodes at the same time, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a worker needs to know; goes to other processes."""

    model: str
    """As for `groma.load`."""
    device: str | None
    """Where it runs; None or "cuda", with several devices: each worker on the next one."""
    dtype: Any
    """As for `groma.load`."""
    task: LabelTask
    """What is asked."""
    batch_size: int
    """Pictures that are labelled together."""
    threads: int
    """Threads that torch computes with; 0: as many as it likes."""
    load: "Callable[[Setup, int], Groma]"
    """Loads the model for a worker of that number."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of some pictures."""

    rows: tuple[tuple[int, dict[str, Any]], ...] = ()
    """Number of a picture, and its line of labels.jsonl."""
    failures: tuple[tuple[int, str], ...] = ()
    """Number of a picture, and why it has no label, in one sentence."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture that was opened, or why it was not."""

    number: int
    """Its number in the input."""
    item: Item
    """Where it came from."""
    image: "Image.Image | None" = None
    """The picture; None: it cannot be used."""
    boxes_xyxy_px: "tuple[Box, ...] | None" = None
    """Boxes that came with it, within the picture; None: none are told."""
    clipped: int = 0
    """How many of these reached beyond it."""
    reason: str = field(default="")
    """Why it cannot be used."""


def load_model(setup: Setup, worker: int) -> "Groma":
    """The model of a worker, where several devices are there on its own.

    Raises:
        GromaError: As `groma.load`.
    """
    import torch

    from groma.pretrained import load

    device = setup.device
    if device in (None, "cuda") and torch.cuda.device_count() > 1:
        device = f"cuda:{worker % torch.cuda.device_count()}"
    return load(setup.model, device=device, dtype=setup.dtype)


class Labeller:
    """One worker's model, and what it does with it."""

    def __init__(self, setup: Setup, worker: int) -> None:
        """Load the model.

        Raises:
            GromaError: It cannot be loaded.
        """
        import torch

        if setup.threads:
            torch.set_num_threads(setup.threads)
        self._task = setup.task
        self._assistant = setup.load(setup, worker)
        self._assistant.batch_size = setup.batch_size
        self._reader = Reader(with_boxes=setup.task.wants_boxes)
        self._pool = ThreadPoolExecutor(max(1, min(DECODING_THREADS, torch.get_num_threads())))

    def about(self) -> dict[str, Any]:
        """What tells its model from others, and where it runs, as JSON values."""
        from groma.model.fingerprint import fingerprint

        weight = next(self._assistant.model.parameters())
        return {
            "model": fingerprint(sorted(self._assistant.model.state_dict().items())),
            "dtype": str(weight.dtype).removeprefix("torch."),
            "device": str(weight.device),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def prepare(self, items: Sequence[tuple[int, Item]]) -> list[Prepared]:
        """Open pictures, several at a time."""
        return list(self._pool.map(self._open, items))

    def label(self, prepared: Sequence[Prepared]) -> Outcome:
        """Label pictures together; if that fails, one by one, so that a failure is one picture's own."""
        usable = [one for one in prepared if one.image is not None]
        failures = [(one.number, one.reason) for one in prepared if one.image is None]
        try:
            rows = self._rows(usable)
        except Exception as error:  # noqa: BLE001  # told with the picture that it belongs to
            if len(usable) > 1:
                alone = [self.label([one]) for one in usable]
                rows = [row for outcome in alone for row in outcome.rows]
                failures += [failure for outcome in alone for failure in outcome.failures]
            else:
                rows = []
                failures.append((usable[0].number, _told(error)))
        return Outcome(tuple(rows), tuple(sorted(failures)))

    def close(self) -> None:
        """Let go of files and threads."""
        self._pool.shutdown()
        self._reader.close()

    def _open(self, numbered: tuple[int, Item]) -> Prepared:
        from groma.image import load_image

        number, item = numbered
        try:
            found = self._reader.read(item)
            image = load_image(found.source)
            if not self._task.wants_boxes or found.boxes is None:
                return Prepared(number, item, image)
            return Prepared(number, item, image, *_boxes_within(found.boxes, found.frame, image.size))
        except Exception as error:  # noqa: BLE001  # whatever a file may hold, it is that picture's own failure
            return Prepared(number, item, reason=_told(error))

    def _rows(self, pictures: Sequence[Prepared]) -> list[tuple[int, dict[str, Any]]]:
        images = [one.image for one in pictures if one.image is not None]
        if not images:
            return []
        labels = self._task.label(self._assistant, self._assistant.see(images), [one.boxes_xyxy_px for one in pictures])
        rows = [
            (one.number, label.to_row(one.item.key, image.size, clipped=one.clipped))
            for one, image, label in zip(pictures, images, labels, strict=True)
        ]
        json_text([row for _, row in rows], what="a label")  # a score that is no number fails here, with its picture
        return rows


def _boxes_within(
    boxes: Any, frame: tuple[float, float] | None, size_px: tuple[int, int]
) -> "tuple[tuple[Box, ...], int]":
    """Boxes in pixels of the picture, within it, and how many were clipped to it.

    Clipped here, where it is counted, and not by the check, which would warn of each.

    Raises:
        InputError: One cannot be used.
    """
    from groma.boxes import to_tuples
    from groma.evaluate.questions import BOX_DIGITS
    from groma.inference.request import check_boxes_xyxy_px

    if not isinstance(boxes, Sequence) or isinstance(boxes, str | bytes):
        raise InputError(f"its boxes are {str(boxes)[:60]!r}, expected a list of x1, y1, x2, y2")
    rows = [_clipped(box, frame or size_px, size_px) for box in boxes]
    checked = to_tuples(check_boxes_xyxy_px([row for row, _ in rows], *size_px, limit=10**6))
    rounded = ((round(x1, BOX_DIGITS), round(y1, BOX_DIGITS), round(x2, BOX_DIGITS), round(y2, BOX_DIGITS))
               for x1, y1, x2, y2 in checked)  # fmt: skip
    return tuple(rounded), sum(was_clipped for _, was_clipped in rows)


def _clipped(box: Any, frame: tuple[float, float], size_px: tuple[int, int]) -> tuple[Any, bool]:
    """A box in pixels of the picture, clipped to it if something is left of it then, and whether it was."""
    from groma.inference.request import MIN_SIDE_PX, OVERHANG_PX

    try:
        x1, y1, x2, y2 = (float(v) * s / f for v, s, f in zip(box, size_px * 2, (*frame, *frame), strict=True))
    except (TypeError, ValueError, ArithmeticError):  # the check says what is wrong with it
        return box, False
    width, height = size_px
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    beyond = max(abs(a - b) for a, b in zip(inside, (x1, y1, x2, y2), strict=True)) > OVERHANG_PX
    is_left = inside[2] - inside[0] >= MIN_SIDE_PX and inside[3] - inside[1] >= MIN_SIDE_PX
    return (inside, True) if beyond and is_left else ((x1, y1, x2, y2), False)


def _told(error: Exception) -> str:
    """One sentence."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GromaError) else f"{type(error).__name__}: {text}"
