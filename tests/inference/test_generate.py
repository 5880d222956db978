"""The decoding loop: limits, sampling, scores, and that a batch changes nothing."""

from collections import Counter

import pytest
import torch

from groma.errors import InputError
from groma.inference.decoder import Decoder, Prompt, decode
from groma.inference.generate import Decoding
from groma.model.groma import GromaModel
from groma.model.splice import pad, splice
from groma.prompt.tokens import SpecialTokenIds
from small_models import MAX_REGIONS, byte_bpe, enliven, small_config

TOKENS = SpecialTokenIds.after(20, num_regions=6)
P, _P, ROI, _ROI = TOKENS.phrase_open, TOKENS.phrase_close, TOKENS.roi_open, TOKENS.roi_close
R = TOKENS.region_ids


class Scripted:
    """A model that wants to say given tokens, one list a sample; the rest of its logits are seeded noise."""

    def __init__(self, *scripts, strength=20.0):
        steps = max(map(len, scripts))
        generator = torch.Generator().manual_seed(0)
        self.tables = torch.randn(steps, len(scripts), TOKENS.vocab_size, generator=generator)
        for sample, script in enumerate(scripts):
            for step in range(steps):
                self.tables[step, sample, script[min(step, len(script) - 1)]] += strength
        self.count = len(scripts)
        self.language = self
        self.has_windows = False
        self.positions = []

    def check_maskable(self):
        pass

    def embed(self, token_ids):
        return torch.zeros(*token_ids.shape, 2)

    def __call__(self, embeddings, *, attention_mask, position_ids, past_key_values, use_cache):
        assert attention_mask is None, "rows of one length need no mask"
        step = len(self.positions)
        self.positions.append(position_ids[:, -1].tolist())
        return torch.tensor([step])[:, None].expand(len(embeddings), embeddings.shape[1]), past_key_values

    def logits(self, hidden):
        return torch.stack([self.tables[step, row] for step, row in zip(hidden.tolist(), self.rows(), strict=False)])

    def rows(self):
        """The samples that are not yet done, in the decoder's order."""
        return [row.key for row in self.decoder._rows] or range(self.count)

    def say(self, **options):
        self.positions.clear()
        self.decoder = Decoder(self, tokens=TOKENS)
        prompt = Prompt(
            embeddings=torch.zeros(3, 2),
            token_ids=torch.zeros(3, dtype=torch.int64),
            feature_index=torch.full((3,), -1),
            num_regions=4,
            decoding=Decoding(**options),
        )
        steps = list(decode(self.decoder, [prompt] * self.count))
        said = [[step[k].token_id for step in steps if k in step] for k in range(self.count)]
        return said, steps


def test_a_well_formed_answer_is_said_as_it_is():
    answer = [5, P, 6, 7, _P, ROI, R[3], R[0], _ROI, 8, TOKENS.eos]
    ((said,), _) = Scripted(answer).say(max_new_tokens=len(answer))
    assert said == answer


def test_what_breaks_the_grammar_is_replaced_by_the_likeliest_that_keeps_it():
    wanted = [_P, ROI, R[5], R[1], R[1], P, 5, _ROI]
    model = Scripted(wanted)
    ((said,), steps) = model.say(max_new_tokens=len(wanted))
    assert said[1] == ROI
    assert said[2] in R[:4]
    assert len({said[2], said[3]}) == 2
    for place, (token, wish) in enumerate(zip(said, wanted, strict=True)):
        logits = steps[place][0].logits
        assert token == wish or logits[wish] > logits[token]


def test_decoding_stops_when_all_have_stopped():
    model = Scripted([5, TOKENS.eos], [5, 6, 7, TOKENS.eos])
    (first, second), steps = model.say(max_new_tokens=9)
    assert first == [5, TOKENS.eos]
    assert second == [5, 6, 7, TOKENS.eos]
    assert model.positions == [[2, 2], [3, 3], [4], [5]], "who has ended costs nothing"
    assert [step[1].ended for step in steps] == [False, False, False, True]


def test_the_limit_counts_every_token():
    assert len(Scripted([5, 6, 7, 8]).say(max_new_tokens=2)[0][0]) == 2


def test_region_probabilities_are_over_the_regions_that_exist():
    model = Scripted([ROI, R[2], R[0], _ROI, TOKENS.eos], strength=2.0)
    _, steps = model.say(max_new_tokens=5, constrained=True)
    for step in steps:
        number = TOKENS.region_number(step[0].token_id)
        if number is None:
            assert step[0].region_probabilities is None
            continue
        weights = [2.718281828459045 ** float(step[0].logits[R[k]]) for k in range(4)]
        expected = {k: weight / sum(weights) for k, weight in enumerate(weights)}
        assert step[0].region_probabilities == pytest.approx(expected, abs=1e-6)
        assert sum(step[0].region_probabilities.values()) == pytest.approx(1)


def test_sampling_follows_the_probabilities():
    model = Scripted([5])
    model.tables = torch.full((1, 1, TOKENS.vocab_size), -1e4)
    model.tables[0, 0, [5, 6, 7]] = torch.tensor([0.6, 0.3, 0.1]).log()

    def draws(**options):
        said = [model.say(max_new_tokens=1, temperature=1.0, seed=seed, **options)[0][0][0] for seed in range(400)]
        return Counter(said)

    counts = draws()
    assert set(counts) == {5, 6, 7}
    assert counts[5] == pytest.approx(240, abs=40)
    assert set(draws(top_p=0.8)) == {5, 6}
    assert set(draws(top_p=0.5)) == {5}
    for temperature in (1e-5, 1e-30, 1e-320):
        cold = [model.say(max_new_tokens=1, temperature=temperature, seed=seed)[0][0][0] for seed in range(9)]
        assert set(cold) == {5}


def test_a_seed_gives_the_same_whatever_else_is_in_the_batch():
    options = {"max_new_tokens": 8, "temperature": 1.0, "seed": 4}
    together = Scripted([5, 6, 7], [8, 9, 5], strength=1.0)
    alone = Scripted([5, 6, 7], strength=1.0)
    alone.tables[:, 0] = together.tables[:, 0]
    (one, _), _ = together.say(**options | {"max_new_tokens": 3})
    (other,), _ = alone.say(**options | {"max_new_tokens": 3})
    assert one == other


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.5},
        {"seed": 1.5},
        {"seed": -1},
        {"temperature": "warm"},
        {"top_p": None},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"constrained": "no"},
    ],
)
def test_decoding_options_are_checked(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Decoding(**options)


@torch.no_grad()
def test_who_else_is_there_changes_no_logit():
    model, tokens = enliven(GromaModel(small_config()), seed=2), byte_bpe().special
    pixels = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(1))
    visual = model.tokenize(model.read(model.perceive(pixels)))
    none = torch.zeros(0, dtype=torch.long)
    samples = [
        splice(
            [tokens.bos, tokens.image, tokens.region_list, *question],
            None,
            refer_regions=none,
            ground_regions=none,
            num_image_tokens=model.config.num_image_tokens,
            num_regions=len(seen.regions),
            tokens=tokens,
        )
        for seen, question in zip(visual, (range(30, 60), range(100, 107)), strict=True)
    ]
    assert len(samples[0]) != len(samples[1])
    assert 1 < len(visual[0].regions) <= MAX_REGIONS

    def steps(rows):
        prompts = [
            Prompt(
                embeddings=model.embed(pad([samples[k]], pad_id=tokens.pad, side="left"), [visual[k]])[0],
                token_ids=samples[k].ids,
                feature_index=samples[k].feature_index,
                num_regions=len(visual[k].regions),
                decoding=Decoding(max_new_tokens=12),
            )
            for k in rows
        ]
        return list(decode(Decoder(model, tokens=tokens), prompts))

    both = steps([0, 1])
    for row in (0, 1):
        for alone, together in zip(steps([row]), both, strict=False):
            assert alone[0].token_id == together[row].token_id
            torch.testing.assert_close(alone[0].logits, together[row].logits, atol=1e-4, rtol=0)
