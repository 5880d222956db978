"""Where the numbers of boxes stand: beside their box, apart from each other, over as little as possible.

Rectangles are left, top, right, bottom in whole pixels of the canvas, right and bottom one behind the last pixel.

Every badge has some dozens of places to choose from: around its box, inside it, and further away, tied to it by a
line. What a place hides is counted once; then badges take turns, smallest box first, each moving to the place that is
best while the others stay, until none moves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Rect = tuple[int, int, int, int]
Size = tuple[int, int]
Point = tuple[int, int]

ON_BADGE = 100.0
"""Cost of lying on another badge with the whole area: worse than everything else together."""
ON_TIE = 2.0
"""Cost of a tie between a badge and its box that another badge hides."""
ON_OTHER_BOX = 4.0
"""Cost of hiding another box altogether."""
ON_OWN_BOX = 3.0
"""Cost of hiding the own box altogether."""
ON_OUTLINE = 0.25
"""Cost of touching another box's outline: the line is hidden, and the number may be taken for that box's."""
AWAY = 0.6
"""Cost of each badge height between a badge and its box."""
OUTLINE_PX = 3
"""How near to another box's edge counts as touching it."""
STEPS = 10
"""Places along each side of a box, at most."""
ROUNDS = 8
"""How often badges take turns at most."""


@dataclass(frozen=True, slots=True)
class _Place:
    """One place for a badge and what it costs whatever the other badges do."""

    rect: Rect
    tie: tuple[Point, Point] | None
    cost: float


def place_badges(boxes_xyxy_canvas: Sequence[Rect], sizes: Sequence[Size], canvas: Size) -> list[Rect]:
    """Choose a place for the badge of every box.

    Args:
        boxes_xyxy_canvas: n boxes, inside the canvas.
        sizes: n widths and heights of badges in pixels, none larger than the canvas.
        canvas: Width and height of the picture in pixels.

    Returns:
        n rectangles inside the canvas.
    """
    options = [
        [
            _place(rect, index, boxes_xyxy_canvas, rank)
            for rank, rect in enumerate(dict.fromkeys(_rects(box, size, canvas)))
        ]
        for index, (box, size) in enumerate(zip(boxes_xyxy_canvas, sizes, strict=True))
    ]
    order = sorted(range(len(options)), key=lambda index: area(boxes_xyxy_canvas[index]))
    chosen: dict[int, _Place] = {}
    for _ in range(ROUNDS):
        before = dict(chosen)
        for index in order:
            others = [place for other, place in chosen.items() if other != index]
            chosen[index] = min(options[index], key=lambda place: place.cost + _crowding(place, others))
        if chosen == before:
            break
    return [chosen[index].rect for index in range(len(options))]


def tie(badge: Rect, box: Rect) -> tuple[Point, Point] | None:
    """The line from a badge's centre to the nearest point of its box; None where they touch or overlap."""
    if gap_px(badge, box) == 0:
        return None
    x, y = (badge[0] + badge[2]) // 2, (badge[1] + badge[3]) // 2
    return (x, y), (min(max(x, box[0]), box[2] - 1), min(max(y, box[1]), box[3] - 1))


def area(rect: Rect) -> int:
    """Pixels of a rectangle."""
    return max(0, rect[2] - rect[0]) * max(0, rect[3] - rect[1])


def shared(a: Rect, b: Rect) -> int:
    """Pixels that two rectangles share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def gap_px(a: Rect, b: Rect) -> int:
    """Pixels between two rectangles, the larger of both directions; 0 where they touch or overlap."""
    across = max(a[0] - b[2], b[0] - a[2], 0)
    down = max(a[1] - b[3], b[1] - a[3], 0)
    return max(across, down)


def _crowding(place: _Place, others: Sequence[_Place]) -> float:
    """What a place costs because of the other badges."""
    on_badges = sum(shared(place.rect, other.rect) for other in others) / area(place.rect)
    on_ties = sum(_crosses(place.tie, other.rect) + _crosses(other.tie, place.rect) for other in others)
    return ON_BADGE * on_badges + ON_TIE * on_ties


def _place(rect: Rect, own: int, boxes: Sequence[Rect], rank: int) -> _Place:
    """A place and what it costs whatever the other badges do: what it hides, and how far off it is."""
    hidden = [shared(rect, box) for box in boxes]
    line = tie(rect, boxes[own])
    cost = 0.001 * rank + AWAY * gap_px(rect, boxes[own]) / (rect[3] - rect[1])
    for index, (box, pixels) in enumerate(zip(boxes, hidden, strict=True)):
        cost += (ON_OWN_BOX if index == own else ON_OTHER_BOX) * pixels / area(box)
        if index != own:
            cost += ON_OUTLINE * (_touches_outline(rect, box) + _crosses(line, box))
    return _Place(rect, line, cost)


def _crosses(line: tuple[Point, Point] | None, rect: Rect) -> bool:
    """Whether a line runs through a rectangle: clipped to each of its sides in turn, something is left of it."""
    if line is None:
        return False
    (x1, y1), (x2, y2) = line
    first, last = 0.0, 1.0
    for step, room in ((x1 - x2, x1 - rect[0]), (x2 - x1, rect[2] - 1 - x1), (y1 - y2, y1 - rect[1]),
                       (y2 - y1, rect[3] - 1 - y1)):  # fmt: skip
        if step == 0 and room < 0:
            return False
        if step < 0:
            first = max(first, room / step)
        elif step > 0:
            last = min(last, room / step)
    return first <= last


def _touches_outline(rect: Rect, box: Rect) -> bool:
    left, top, right, bottom = box
    near = (left - OUTLINE_PX, top - OUTLINE_PX, right + OUTLINE_PX, bottom + OUTLINE_PX)
    inner = (left + OUTLINE_PX, top + OUTLINE_PX, right - OUTLINE_PX, bottom - OUTLINE_PX)
    return shared(rect, near) > 0 and shared(rect, inner) < area(rect)


def _rects(box: Rect, size: Size, canvas: Size) -> Iterator[Rect]:
    """Places for a badge, corners first: outside along the box's sides, inside along them, then further away."""
    left, top, right, bottom = box
    width, height = size
    across, down = _along(left, right, width), _along(top, bottom, height)
    spots = [(x, y) for x in across for y in (top - height, bottom)]
    spots += [(x, y) for y in down for x in (left - width, right)]
    spots += [(x, y) for x in across for y in (top, bottom - height)]
    spots += [(x, y) for y in down for x in (left, right - width)]
    for step in (1, 2, 3):
        far_across = (left - width - step * height, (left + right - width) // 2, right + step * height)
        far_down = (top - height - step * height, (top + bottom - height) // 2, bottom + step * height)
        spots += [(x, y) for x in far_across for y in far_down]
    for x, y in spots:
        x, y = min(max(x, 0), canvas[0] - width), min(max(y, 0), canvas[1] - height)
        yield x, y, x + width, y + height


def _along(low: int, high: int, length: int) -> list[int]:
    """Where a badge may begin along a side: at its ends, then evenly between them."""
    last = high - length
    if last <= low:
        return [(low + last) // 2, low, last]
    steps = min(STEPS, (last - low) // length)
    return [low, last, *(low + (last - low) * step // (steps + 1) for step in range(1, steps + 1))]
