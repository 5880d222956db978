"""All that the proposer found in a picture, before any of it is selected: what proposals are measured on."""

from collections.abc import Sequence

from groma.boxes import cxcywh_to_xyxy_px, to_tuples
from groma.inference.assistant import Groma
from groma.inference.pictures import Seen
from groma.inference.result import Region
from groma.model.selection import objectness


def all_proposals(assistant: Groma, pictures: Sequence[Seen]) -> list[list[Region]]:
    """Every proposal of each picture, best first, equal ones in the proposer's order; ids count from the best.

    Args:
        assistant: who saw the pictures.
        pictures: P pictures.
    """
    weights = assistant.model.config.selection.source_weights or {}
    found: list[list[Region]] = []
    for seen in pictures:
        proposals = seen.tokens.proposals
        scores = objectness(proposals, weights)[0].cpu()
        order = scores.argsort(descending=True, stable=True)
        boxes_xyxy_px = cxcywh_to_xyxy_px(proposals.boxes_cxcywh[0].float().cpu()[order], *seen.size_px)
        ordered: list[float] = scores[order].numpy(force=True).tolist()
        rows = zip(to_tuples(boxes_xyxy_px), ordered, strict=True)
        found.append(
            [
                Region(id=number, box_xyxy_px=box, objectness=score, source="proposal")
                for number, (box, score) in enumerate(rows)
            ]
        )
    return found
