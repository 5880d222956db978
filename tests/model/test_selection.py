"""Region selection: the rules one by one, a slow restatement of them, and the golden decisions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golden_folder import GOLDEN
from groma.boxes import suppress_overlaps
from groma.errors import InputError
from groma.model.config import SelectionConfig
from groma.model.selection import match_regions, objectness, select_regions
from groma.model.types import Proposals, Regions


def logit(scores: list[float]) -> Tensor:
    return torch.tensor(scores, dtype=torch.float64).logit().float()


def one_picture(boxes_cxcywh: Tensor | list, scores: list[float]) -> Proposals:
    """Proposals of one picture whose objectness is `scores`, from a single head."""
    return Proposals(boxes_cxcywh=torch.as_tensor(boxes_cxcywh)[None], logits={"coco": logit(scores)[None]})


def config(**changes: object) -> SelectionConfig:
    return SelectionConfig(**{"source_weights": {"coco": 1.0}, **changes})


def apart(count: int) -> list[list[float]]:
    """Boxes in a row that do not touch."""
    return [[(k + 0.5) / count, 0.5, 0.5 / count, 0.5] for k in range(count)]


# --- rules --------------------------------------------------------------------------------------------------


def test_objectness_is_the_weighted_geometric_mean() -> None:
    proposals = Proposals(
        boxes_cxcywh=torch.rand(1, 2, 4),
        logits={"coco": logit([0.9, 0.2])[None], "sa1b": logit([0.5, 0.7])[None]},
    )
    fused = objectness(proposals, {"coco": 0.4, "sa1b": 0.6})
    torch.testing.assert_close(fused, torch.tensor([[0.9**0.4 * 0.5**0.6, 0.2**0.4 * 0.7**0.6]]))
    torch.testing.assert_close(objectness(proposals, {"coco": 1.0}), torch.tensor([[0.9, 0.2]]))


@pytest.mark.parametrize("weights", [{"coco": 0.4, "lvis": 0.6}, {}])
def test_weights_must_name_heads_that_exist(weights: dict[str, float]) -> None:
    with pytest.raises(InputError, match="coco"):
        objectness(one_picture(apart(1), [0.5]), weights)


def test_best_first_and_threshold_is_strict() -> None:
    half = torch.tensor(0.5).item()  # sigmoid(0) is exactly 0.5
    proposals = one_picture(apart(4), [0.6, 0.5, 0.4, 0.9])
    (regions,) = select_regions(proposals, config=config(score_threshold=half))
    assert regions.candidate.tolist() == [3, 0]
    torch.testing.assert_close(regions.scores, torch.tensor([0.9, 0.6]))
    assert torch.equal(regions.boxes_cxcywh, proposals.boxes_cxcywh[0, [3, 0]])


def test_the_single_best_candidate_stays_if_none_passes() -> None:
    (regions,) = select_regions(one_picture(apart(3), [0.01, 0.05, 0.02]), config=config())
    assert regions.candidate.tolist() == [1]
    assert len(regions) == 1


def test_overlap_limit_is_strict_and_a_dropped_box_drops_nothing() -> None:
    # unit-high boxes from 0 to 8, 2 to 10 and 4 to 12: neighbours overlap by 6 / 10, the outer two by 4 / 12
    boxes_xyxy = torch.tensor([[0.0, 0, 8, 1], [2.0, 0, 10, 1], [4.0, 0, 12, 1]])
    assert suppress_overlaps(boxes_xyxy, 0.59, 9) == [0, 2]
    assert suppress_overlaps(boxes_xyxy, (torch.tensor(6.0) / 10).item(), 9) == [0, 1, 2]
    assert suppress_overlaps(boxes_xyxy, 0.3, 9) == [0]
    assert suppress_overlaps(boxes_xyxy, 0.59, 1) == [0]


def test_user_boxes_come_first_in_their_order_and_replace_what_they_overlap() -> None:
    boxes = apart(6)
    user = torch.tensor([boxes[4], boxes[2], [0.5, 0.05, 0.9, 0.05]])
    proposals = one_picture(boxes, [0.5, 0.6, 0.7, 0.8, 0.95, 0.99])
    (regions,) = select_regions(proposals, config=config(), user_boxes_cxcywh=[user])
    assert regions.candidate.tolist() == [6, 7, 8, 5, 3, 1, 0]
    assert regions.from_user.tolist() == [True] * 3 + [False] * 4
    assert not regions.from_annotation.any()
    assert torch.equal(regions.boxes_cxcywh[:3], user)
    assert regions.scores[:3].tolist() == [1.0] * 3


def test_a_user_box_under_another_one_leads_to_the_kept_one() -> None:
    user = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.39], [0.1, 0.1, 0.1, 0.1]])
    (regions,) = select_regions(one_picture(apart(3), [0.9] * 3), config=config(), user_boxes_cxcywh=[user])
    assert regions.candidate.tolist()[:2] == [3, 5]
    assert match_regions(user, regions).tolist() == [0, 0, 1]


def test_annotated_boxes_give_way_to_better_proposals_and_fall_to_the_cap() -> None:
    boxes = apart(5)
    proposals = one_picture(boxes[:3], [0.5, 0.16, 0.1])
    annotated = torch.tensor([boxes[0], boxes[1], boxes[3], boxes[4]])
    (regions,) = select_regions(proposals, config=config(), annotated_boxes_cxcywh=[annotated])
    assert regions.candidate.tolist() == [0, 4, 5, 6]
    assert regions.from_annotation.tolist() == [False, True, True, True]
    assert regions.scores.tolist() == pytest.approx([0.5, 0.2, 0.2, 0.2])
    (regions,) = select_regions(proposals, config=config(max_regions=2), annotated_boxes_cxcywh=[annotated])
    assert regions.candidate.tolist() == [0, 4]


def test_pictures_of_a_batch_are_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    proposals = Proposals(
        boxes_cxcywh=torch.rand(3, 30, 4, generator=generator) * 0.5 + 0.1,
        logits={"coco": torch.randn(3, 30, generator=generator)},
    )
    user = [torch.rand(n, 4, generator=generator) * 0.5 + 0.1 for n in (0, 2, 1)]
    batch = select_regions(proposals, config=config(), user_boxes_cxcywh=user)
    for index in range(3):
        alone = Proposals(
            boxes_cxcywh=proposals.boxes_cxcywh[index : index + 1],
            logits={"coco": proposals.logits["coco"][index : index + 1]},
        )
        (expected,) = select_regions(alone, config=config(), user_boxes_cxcywh=user[index : index + 1])
        assert torch.equal(batch[index].candidate, expected.candidate)
        assert batch[index].num_user == len(user[index])


def test_a_picture_too_few_is_refused() -> None:
    with pytest.raises(InputError, match="2 pictures, but there are 1"):
        select_regions(one_picture(apart(2), [0.5, 0.5]), config=config(), user_boxes_cxcywh=[torch.rand(1, 4)] * 2)


def test_shuffle_draws_the_order_alone_and_follows_the_seed() -> None:
    proposals = one_picture(apart(20), [0.9 - 0.01 * k for k in range(20)])
    (plain,) = select_regions(proposals, config=config(max_regions=15))

    def shuffled(seed: int) -> Regions:
        draw = [torch.Generator().manual_seed(seed)]
        (regions,) = select_regions(proposals, config=config(max_regions=15), shuffle=draw)
        return regions

    assert plain.candidate.tolist() == list(range(15))
    assert shuffled(1).candidate.tolist() == shuffled(1).candidate.tolist()
    assert shuffled(1).candidate.tolist() != shuffled(2).candidate.tolist()
    assert sorted(shuffled(1).candidate.tolist()) == list(range(15))
    assert torch.equal(shuffled(1).boxes_cxcywh, proposals.boxes_cxcywh[0, shuffled(1).candidate])


def test_regions_carry_no_gradient_and_half_precision_is_lifted() -> None:
    proposals = Proposals(
        boxes_cxcywh=torch.rand(1, 8, 4, requires_grad=True).bfloat16(),
        logits={"coco": torch.randn(1, 8, requires_grad=True).bfloat16()},
    )
    (regions,) = select_regions(proposals, config=config())
    assert not regions.boxes_cxcywh.requires_grad
    assert not regions.scores.requires_grad
    assert regions.boxes_cxcywh.dtype == regions.scores.dtype == torch.float32


def test_match_takes_the_first_of_equals_and_survives_boxes_without_area() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.6, 0.6, 0.2, 0.2], [0.6, 0.6, 0.2, 0.2], [0.9, 0.9, 0.0, 0.0]])
    regions = Regions(boxes_cxcywh=boxes, scores=torch.ones(4), candidate=torch.arange(4), num_proposals=4, num_user=0)
    asked = torch.tensor([[0.6, 0.6, 0.2, 0.2], [0.25, 0.2, 0.2, 0.2], [0.9, 0.9, 0.0, 0.0], [0.9, 0.1, 0.1, 0.1]])
    assert match_regions(asked, regions).tolist() == [1, 0, 0, 0]
    assert match_regions(torch.empty(0, 4), regions).tolist() == []


# --- a slow restatement -------------------------------------------------------------------------------------


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    overlap = max(width, 0.0) * max(height, 0.0)
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)


def slow_select(boxes: list[list[float]], scores: list[float], settings: SelectionConfig) -> list[int]:
    ranked = sorted(range(len(boxes)), key=lambda row: (-scores[row], row))
    kept: list[int] = []
    for row in ranked:
        passes = scores[row] > settings.score_threshold
        if passes and all(iou(boxes[row], boxes[better]) <= settings.nms_iou for better in kept):
            kept.append(row)
    return kept[: settings.max_regions] or ranked[:1]


# A coarse grid makes equal scores and equal boxes common, and rounding decides nothing: all sums are exact in
# float32, and an IoU, a ratio of integers below 512, is never closer to 0.5501 than 1 / 5,120,000.
coarse = st.integers(1, 8).map(lambda k: k / 8)
candidate = st.tuples(coarse, coarse, coarse, coarse)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(candidate, st.integers(1, 9)), min_size=1, max_size=25),
    st.lists(candidate, max_size=4),
    st.lists(candidate, max_size=4),
    st.integers(1, 12),
)
def test_equals_a_slow_restatement(
    proposed: list[tuple[tuple, int]], user: list[tuple], annotated: list[tuple], max_regions: int
) -> None:
    settings = config(max_regions=max_regions, nms_iou=0.5501, score_threshold=0.15)
    boxes = [list(box) for box, _ in proposed]
    (regions,) = select_regions(
        one_picture(boxes, [score / 10 for _, score in proposed]),
        config=settings,
        user_boxes_cxcywh=[torch.tensor(user).reshape(-1, 4)],
        annotated_boxes_cxcywh=[torch.tensor(annotated).reshape(-1, 4)],
    )
    # an annotated box scores 0.2, as a proposal may: both restatements must see the very same float32 numbers
    scores = objectness(one_picture(boxes, [score / 10 for _, score in proposed]), {"coco": 1.0})[0].tolist()
    scores += [1.0] * len(user) + [torch.tensor(0.2).item()] * len(annotated)
    everything = boxes + [list(box) for box in user + annotated]
    assert regions.candidate.tolist() == slow_select(everything, scores, settings)
    assert regions.num_proposals == len(proposed)


# --- golden data --------------------------------------------------------------------------------------------


def golden_cases() -> list[tuple[str, str]]:
    """(configuration, case) whose first picture has its proposals stored: those of `encode`."""
    cases = []
    for encode in sorted(GOLDEN.glob("*/encode.npz")):
        picture, seed = np.load(encode)["image"], weights_seed(encode)
        for path in sorted(encode.parent.glob("*.npz")):
            arrays = np.load(path)
            same = "image" not in arrays or np.array_equal(arrays["image"], picture)
            if "nms_indices" in arrays and same and weights_seed(path) == seed:
                cases.append((encode.parent.name, path.stem))
    return cases


def weights_seed(path: Path) -> int:
    return json.loads(path.with_suffix(".json").read_text())["weights_seed"]


def test_golden_cases_were_found() -> None:
    assert any(case == "encode" for _, case in golden_cases()), f"no golden data in {GOLDEN}"


@pytest.mark.parametrize(("configuration", "case"), golden_cases())
def test_golden_decisions(configuration: str, case: str) -> None:
    encode = np.load(GOLDEN / configuration / "encode.npz")
    arrays = np.load(GOLDEN / configuration / f"{case}.npz")
    stored = json.loads((GOLDEN / configuration / f"{case}.json").read_text())
    proposals = Proposals(
        boxes_cxcywh=torch.from_numpy(encode["pred_boxes"])[None],
        logits={source: torch.from_numpy(encode[f"logits_{source}"])[None] for source in ("coco", "sa1b")},
    )
    settings = SelectionConfig(
        nms_iou=stored["nms_iou_threshold"],
        score_threshold=stored["box_score_threshold"],
        max_regions=stored["max_regions"],
    )
    user = torch.from_numpy(arrays["refer_boxes"]) if "refer_boxes" in arrays else torch.empty(0, 4)
    annotated = torch.from_numpy(arrays["ground_boxes"]) if "ground_boxes" in arrays else torch.empty(0, 4)

    fused = objectness(proposals, settings.source_weights or {})[0].numpy()
    np.testing.assert_allclose(fused, arrays["candidate_scores"][: len(fused)], atol=1e-6)
    (regions,) = select_regions(
        proposals, config=settings, user_boxes_cxcywh=[user], annotated_boxes_cxcywh=[annotated]
    )
    assert regions.candidate.tolist() == arrays["nms_indices"].tolist()
    np.testing.assert_allclose(regions.boxes_cxcywh.numpy(), arrays["selected_boxes"], atol=1e-6)
    np.testing.assert_allclose(regions.scores.numpy(), arrays["candidate_scores"][arrays["nms_indices"]], atol=1e-6)
    matched = regions.candidate[match_regions(user, regions)].tolist()
    own = range(len(fused), len(fused) + len(user))
    assert all(found == row for row, found in zip(own, matched, strict=True) if row in regions.candidate)
