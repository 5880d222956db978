"""Where pictures enter prompts: slots, padding, and prompts that share a row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groma.errors import InputError
from groma.model.groma import GromaModel
from groma.model.splice import WORD, Spliced, insert_features, pack, pad, splice
from groma.prompt.tokens import IGNORE_INDEX, SpecialTokenIds
from small_models import MAX_REGIONS, enliven, small_config

TOKENS = SpecialTokenIds.after(20, num_regions=MAX_REGIONS)
R = TOKENS.region_ids
IMAGE, LIST = TOKENS.image, TOKENS.region_list
REFER, FEAT, GROUND = TOKENS.refer_box, TOKENS.refer_feat, TOKENS.ground_box
NO = IGNORE_INDEX


def spliced(ids, labels=None, *, refer=(), ground=(), images=2, regions=3):
    return splice(
        ids,
        labels,
        refer_regions=torch.tensor(refer, dtype=torch.long),
        ground_regions=torch.tensor(ground, dtype=torch.long),
        num_image_tokens=images,
        num_regions=regions,
        tokens=TOKENS,
    )


# --- one prompt ------------------------------------------------------------------------------------------------------


def test_every_slot_is_filled():
    ids = [1, IMAGE, 5, LIST, 6, REFER, FEAT, REFER, FEAT, 7, GROUND, GROUND, 2]
    labels = [NO] * 9 + [7, NO, GROUND, 2]
    found = spliced(ids, labels, refer=(2, 0), ground=(1, 2))
    regions = [R[0], LIST, R[1], LIST, R[2], LIST]
    assert found.ids.tolist() == [1, IMAGE, IMAGE, 5, *regions, 6, R[2], FEAT, R[0], FEAT, 7, R[1], R[2], 2]
    features = [WORD, 0, 1, WORD, WORD, 2, WORD, 3, WORD, 4, WORD, WORD, 4, WORD, 2, WORD, WORD, WORD, WORD]
    assert found.feature_index.tolist() == features
    # an annotated box is a target even where it was masked (golden README, "Prompt")
    assert found.labels.tolist() == [NO] * 15 + [7, R[1], R[2], 2]
    assert len(found) == 19


def test_the_prompt_that_comes_in_stays_as_it_is():
    ids, labels = torch.tensor([1, IMAGE, LIST, REFER, FEAT, GROUND]), torch.full((6,), NO)
    before = ids.clone(), labels.clone()
    spliced(ids, labels, refer=(1,), ground=(0,))
    assert torch.equal(ids, before[0]) and torch.equal(labels, before[1])


def test_without_labels_nothing_is_trained_on():
    assert set(spliced([1, IMAGE, LIST, GROUND], ground=(0,)).labels.tolist()) == {NO}


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([1, LIST], {}, "0 <image> slots, but 1"),
        ([1, IMAGE, IMAGE, LIST], {}, "2 <image> slots, but 1"),
        ([1, IMAGE], {}, "0 <region> slots, but 1"),
        ([1, LIST, IMAGE], {}, "<region> before <image>"),
        ([1, IMAGE, LIST, REFER, FEAT], {}, "1 <refer_box> slots, but 0"),
        ([1, IMAGE, LIST, REFER], {"refer": (0,)}, "0 <refer_feat> slots, but 1"),
        ([1, IMAGE, LIST], {"refer": (0,)}, "0 <refer_box> slots, but 1"),
        ([1, IMAGE, LIST, GROUND, GROUND], {"ground": (0,)}, "2 <ground_box> slots, but 1"),
        ([1, IMAGE, LIST], {"regions": MAX_REGIONS + 1}, f"{MAX_REGIONS + 1} regions, but the vocabulary has"),
    ],
)
def test_slots_are_counted_before_they_are_filled(ids, options, message):
    with pytest.raises(InputError, match=message):
        spliced(ids, **options)


# --- batches ---------------------------------------------------------------------------------------------------------


def row(*ids, labels=None, features=None):
    return Spliced(
        ids=torch.tensor(ids),
        labels=torch.tensor(labels or [NO] * len(ids)),
        feature_index=torch.tensor(features or [WORD] * len(ids)),
    )


def test_padding_on_either_side():
    rows = [row(1, 5, labels=[NO, 5], features=[WORD, 0]), row(1, 5, 6)]
    left, right = pad(rows, pad_id=TOKENS.pad, side="left"), pad(rows, pad_id=TOKENS.pad, side="right")
    assert left.ids.tolist() == [[TOKENS.pad, 1, 5], [1, 5, 6]]
    assert right.ids.tolist() == [[1, 5, TOKENS.pad], [1, 5, 6]]
    assert left.attention_mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert left.position_ids.tolist() == [[0, 0, 1], [0, 1, 2]]
    assert right.position_ids[0, :2].tolist() == [0, 1]
    assert left.labels.tolist() == [[NO, NO, 5], [NO, NO, NO]]
    assert right.feature_index.tolist() == [[WORD, 0, WORD], [WORD] * 3]


def test_features_replace_words_where_they_belong():
    words = torch.zeros(2, 4, 3)
    features = [torch.arange(6.0).reshape(2, 3) + 1, torch.full((5, 3), 9.0)]
    index = torch.tensor([[WORD, 1, 0, WORD], [4, WORD, WORD, WORD]])
    found = insert_features(words, index, features)
    assert found[0].tolist() == [[0, 0, 0], [4, 5, 6], [1, 2, 3], [0, 0, 0]]
    assert found[1].tolist() == [[9, 9, 9], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_packing_writes_what_is_common_once():
    asked = [row(1, 5, 6, 7, 8, labels=[NO, NO, NO, NO, 8]), row(1, 5, 9, 2, labels=[NO, NO, NO, 2])]
    packed = pack([asked], pad_id=TOKENS.pad)
    assert packed.ids.tolist() == [[1, 5, 6, 7, 8, 9, 2]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 2, 3]]
    sees = packed.attention_mask[0, 0]
    assert sees[4].tolist() == [True] * 5 + [False] * 2  # the first branch sees what it shares and itself
    assert sees[6].tolist() == [True, True, False, False, False, True, True]  # never another branch
    assert sees[1].tolist() == [True, True] + [False] * 5


def test_what_is_trained_on_is_never_shared():
    """Nor is the token before it, from which it is predicted."""
    asked = [row(1, 5, 6, 7, 8, labels=[NO, NO, 6, 7, 8]), row(1, 5, 6, 9, labels=[NO, NO, 6, 9])]
    packed = pack([asked], pad_id=TOKENS.pad)
    assert packed.ids.tolist() == [[1, 5, 6, 7, 8, 5, 6, 9]]
    assert sorted(packed.labels[0][packed.labels[0] != NO].tolist()) == [6, 6, 7, 8, 9]


def test_padding_of_packed_rows_is_not_seen_and_sees_something():
    packed = pack([[row(1, 5, 6)], [row(1, 5, 6, 7, 8)]], pad_id=TOKENS.pad)
    sees = packed.attention_mask[0, 0]
    assert not sees[:3, 3:].any()
    assert sees.any(dim=1).all()  # a row without anything to look at has no softmax


# --- a row that is shared is as good as rows of one's own ------------------------------------------------------------


@pytest.fixture(scope="module")
def lively():
    model = enliven(GromaModel(small_config(vocab_size=20)), seed=0)
    pixels = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model, model.tokenize(model.read(model.perceive(pixels)))


words = st.lists(st.integers(3, 19), min_size=1, max_size=6)
exchanges = st.lists(st.tuples(words, words), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(st.tuples(exchanges, exchanges))
def test_packed_prompts_lose_as_much_as_prompts_in_rows_of_their_own(lively, asked):
    """Per-token losses are equal to 1e-5, whatever the questions and answers share."""
    model, visual = lively
    count = model.config.num_image_tokens
    rows = [
        [
            spliced(
                [1, IMAGE, LIST, *question, *answer, 2],
                [NO] * (3 + len(question)) + [*answer, 2],
                images=count,
                regions=len(seen.regions),
            )
            for question, answer in exchange
        ]
        for exchange, seen in zip(asked, visual, strict=True)
    ]
    flat = [prompt for prompts in rows for prompt in prompts]
    pictures = [seen for prompts, seen in zip(rows, visual, strict=True) for _ in prompts]
    with torch.no_grad():
        packed = model(pack(rows, pad_id=TOKENS.pad), visual)
        alone = model(pad(flat, pad_id=TOKENS.pad, side="right"), pictures)
    assert torch.equal(packed.targets, alone.targets)
    torch.testing.assert_close(packed.per_token, alone.per_token, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed.total, alone.total, atol=1e-5, rtol=1e-5)
