"""Decoding never leaves the grammar, and never changes an answer that keeps it."""

import re
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groma.inference.constraint import AnswerState, Place, is_well_formed
from groma.inference.decoder import decode
from groma.inference.generate import Decoding
from groma.prompt.parse import parse
from groma.prompt.tokens import SpecialTokenIds
from small_models import byte_bpe, picture, small_groma

TOKENS = SpecialTokenIds.after(20, num_regions=6, bos=1, eos=2, unk=0)
SILENT = frozenset({7})
STOP = frozenset({TOKENS.eos})
REGIONS = 4


def start(num_regions: int = REGIONS) -> AnswerState:
    return AnswerState(TOKENS, num_regions, STOP, SILENT)


def allowed(state: AnswerState, remaining: int = 100) -> set[int]:
    return set(state.allowed(remaining).nonzero().flatten().tolist())


def after(*token_ids: int) -> AnswerState:
    state = start()
    for token_id in token_ids:
        state = state.after(token_id)
    return state


TEXT = set(range(20)) - {TOKENS.bos, TOKENS.eos, TOKENS.unk, *SILENT}
EXISTING = set(TOKENS.region_ids[:REGIONS])
P, _P, ROI, _ROI = TOKENS.phrase_open, TOKENS.phrase_close, TOKENS.roi_open, TOKENS.roi_close
R = TOKENS.region_ids


@pytest.mark.parametrize(
    ("said", "may_follow"),
    [
        ((), TEXT | {TOKENS.eos, P, ROI}),
        ((5,), TEXT | {TOKENS.eos, P, ROI}),
        ((P,), TEXT),
        ((P, 5), TEXT | {_P}),
        ((P, 5, _P), TEXT | {TOKENS.eos, P, ROI}),
        ((ROI,), EXISTING),
        ((ROI, R[2]), EXISTING - {R[2]} | {_ROI}),
        ((ROI, R[2], R[0], _ROI), TEXT | {TOKENS.eos, P, ROI}),
        ((ROI, R[2], _ROI, ROI), EXISTING),
        ((ROI, *R[:REGIONS]), {_ROI}),
    ],
)
def test_what_may_follow(said, may_follow):
    assert allowed(after(*said)) == may_follow


@pytest.mark.parametrize(
    ("said", "remaining", "may_follow"),
    [
        ((), 3, TEXT | {TOKENS.eos, P, ROI}),
        ((), 2, TEXT | {TOKENS.eos}),
        ((), 1, TEXT | {TOKENS.eos}),
        ((P,), 2, TEXT),
        ((P, 5), 2, TEXT | {_P}),
        ((P, 5), 1, {_P}),
        ((ROI,), 2, EXISTING),
        ((ROI, R[1]), 2, EXISTING - {R[1]} | {_ROI}),
        ((ROI, R[1]), 1, {_ROI}),
    ],
)
def test_what_is_open_is_closed_before_the_limit(said, remaining, may_follow):
    assert allowed(after(*said), remaining) == may_follow


def test_other_tokens_of_groma_are_never_said():
    never = {TOKENS.pad, TOKENS.sep, TOKENS.image, TOKENS.region_list, TOKENS.refer_box, TOKENS.ground_box}
    never |= {TOKENS.refer_feat, TOKENS.grounding, TOKENS.img_open, TOKENS.img_close, *R[REGIONS:]}
    for said in ((), (P,), (P, 5), (ROI,), (ROI, R[0])):
        assert not never & allowed(after(*said))


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 6))
def test_whatever_is_chosen_is_well_formed_at_the_limit(data, budget, num_regions):
    state, said = start(num_regions), []
    for remaining in range(budget, 0, -1):
        choices = sorted(allowed(state, remaining))
        assert choices, "the grammar has a dead end"
        token = data.draw(st.sampled_from(choices))
        said.append(token)
        if token in STOP:
            break
        state = state.after(token)
    assert is_well_formed(said, start(num_regions))
    assert len(said) <= budget


text = st.lists(st.sampled_from(sorted(TEXT)), min_size=1, max_size=3)
group = st.lists(st.sampled_from(sorted(EXISTING)), min_size=1, unique=True).map(lambda ks: [ROI, *ks, _ROI])
phrase = text.map(lambda ids: [P, *ids, _P])
well_formed = st.tuples(
    st.lists(st.one_of(text, phrase, group), max_size=4).map(lambda parts: list(chain(*parts))),
    st.sampled_from([[], [TOKENS.eos]]),
).map(lambda parts: parts[0] + parts[1])


@settings(max_examples=300, deadline=None)
@given(well_formed, st.integers(0, 3))
def test_an_answer_that_keeps_the_grammar_is_never_changed(answer, spare):
    """Every one of its tokens is allowed where it stands, also if the limit is its very length."""
    assert is_well_formed(answer, start())
    state = start()
    for place, token in enumerate(answer):
        assert state.allowed(len(answer) + spare - place)[token]
        state = state.after(token)
    assert state.place is Place.TEXT


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([5, 7, TOKENS.eos, TOKENS.pad, P, _P, ROI, _ROI, R[0], R[1], R[5]]), max_size=8))
def test_well_formed_means_what_the_grammar_says(token_ids):
    spelled = "".join(
        {5: "t", 7: "?", TOKENS.eos: ".", TOKENS.pad: "?", P: "<", _P: ">", ROI: "[", _ROI: "]"}.get(
            token, {R[0]: "0", R[1]: "1"}.get(token, "?")
        )
        for token in token_ids
    )
    expected = re.fullmatch(r"(t|<t+>|\[(0|1|01|10)\])*\.?", spelled) is not None
    assert is_well_formed(token_ids, start()) == expected


# --- with models of random weights -----------------------------------------------------------------------------------


def generate(groma, count, decoding):
    """`count` answers of one model: the generated ids of each, and its AnswerState at the start."""
    from groma.inference import assistant

    kept = []

    def recording(decoder, prompts):
        said = [[] for _ in prompts]
        kept.append((said, [prompt.num_regions for prompt in prompts]))
        for step in decode(decoder, prompts):
            for number, one in step.items():
                said[number].append(one.token_id)
            yield step

    original, assistant.decode = assistant.decode, recording
    try:
        answers = groma.ask([picture(n) for n in range(count)], "What is it?", decoding=decoding)
    finally:
        assistant.decode = original
    ids = [row for said, _ in kept for row in said]
    counts = [number for _, numbers in kept for number in numbers]
    return answers, ids, counts


def test_500_answers_of_random_models_are_well_formed():
    tokenizer = byte_bpe()
    budgets = [*range(1, 9), 12, 16]
    total = tagged = 0
    for seed in range(5):
        groma = small_groma(seed=seed)
        for number, budget in enumerate(budgets):
            decoding = Decoding(max_new_tokens=budget, temperature=float(number % 2), seed=100 * seed + number)
            answers, ids, regions = generate(groma, 10, decoding)
            for answer, row, num_regions in zip(answers, ids, regions, strict=True):
                state = AnswerState(tokenizer.special, num_regions, groma.stop_ids, tokenizer.control_ids)
                assert is_well_formed(row, state), answer.raw_text
                assert len(row) <= budget
                # and the parser found nothing to mend: what it read, written down again, are the same tags
                parsed = parse(row, tokenizer, stop_ids=groma.stop_ids)
                groups = [p.regions for p in parsed.phrases if p.regions]
                assert len(groups) == row.count(tokenizer.special.roi_open)
                assert all(k < num_regions for group in groups for k in group)
                assert [e.region_ids for e in answer.entities] == groups
                total += 1
                tagged += any(token >= tokenizer.vocab_size for token in row)
    assert total == 500
    assert tagged > 150, "the small models have gone dull: tags must be common for this test to mean something"


def test_without_the_constraint_random_models_do_leave_the_grammar():
    groma = small_groma(seed=0)
    decoding = Decoding(max_new_tokens=12, constrained=False)
    _, ids, regions = generate(groma, 10, decoding)
    states = [AnswerState(groma.tokenizer.special, count, groma.stop_ids) for count in regions]
    assert sum(not is_well_formed(row, state) for row, state in zip(ids, states, strict=True)) > 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_constraint_leaves_well_formed_answers_alone(temperature):
    """An answer that keeps the grammar by itself is the same under the constraint, greedy or sampled."""
    unchanged = 0
    for seed in range(8):
        groma = small_groma(seed=seed)
        with torch.no_grad():  # tags become rarer, so that answers keep the grammar now and then
            groma.model.language.added_head.weight.mul_(0.5)
        options = {"max_new_tokens": 6, "temperature": temperature, "seed": seed}
        _, ids, regions = generate(groma, 16, Decoding(constrained=False, **options))
        _, constrained, _ = generate(groma, 16, Decoding(**options))
        for row, other, count in zip(ids, constrained, regions, strict=True):
            state = AnswerState(groma.tokenizer.special, count, groma.stop_ids, groma.tokenizer.control_ids)
            if is_well_formed(row, state):
                assert row == other
                unchanged += 1
    assert unchanged > 10
