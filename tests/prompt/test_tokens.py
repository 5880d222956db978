"""Ids of the special tokens: the published ones, and any other vocabulary's."""

import pytest

from groma.errors import InputError
from groma.prompt.tokens import NEW_TOKENS, Special, SpecialTokenIds, new_token_names


def test_published_ids():
    special = SpecialTokenIds.after(32000)
    published = {
        "[PAD]": 32000, "<sep>": 32001, "<img>": 32002, "</img>": 32003, "<roi>": 32004, "</roi>": 32005,
        "<p>": 32006, "</p>": 32007, "<image>": 32008, "<region>": 32009, "<refer_box>": 32010,
        "<ground_box>": 32011, "<refer_feat>": 32012, "[grounding]": 32013, "<s>": 1, "</s>": 2, "<unk>": 0,
    }  # fmt: skip
    assert {token.value: special.of(token) for token in Special} == published
    assert (special.region(0), special.region(99)) == (32014, 32113)
    assert (special.num_new_tokens, special.vocab_size) == (114, 32114)


def test_names_are_in_the_order_of_ids():
    special = SpecialTokenIds.after(320, num_regions=12)
    names = [special.name(token_id) for token_id in range(320, special.vocab_size)]
    assert tuple(names) == new_token_names(12)
    assert special.name(319) is None
    assert special.name(special.vocab_size) is None


def test_every_new_token_is_explained():
    assert set(NEW_TOKENS) == set(Special) - {Special.BOS, Special.EOS, Special.UNK}
    assert all(sentence.endswith(".") for sentence in NEW_TOKENS.values())


def test_region_numbers_and_ids_are_inverse():
    special = SpecialTokenIds.after(50, num_regions=9)
    assert [special.region_number(special.region(k)) for k in range(9)] == list(range(9))
    others = set(range(special.vocab_size + 5)) - set(special.region_ids)
    assert all(special.region_number(token_id) is None for token_id in others)


@pytest.mark.parametrize("number", [-1, 9])
def test_a_region_that_does_not_exist(number):
    with pytest.raises(InputError, match=f"region number {number} does not exist"):
        SpecialTokenIds.after(50, num_regions=9).region(number)


@pytest.mark.parametrize("options", [{"num_regions": 0}, {"eos": 50}, {"bos": -1}])
def test_impossible_vocabularies_are_refused(options):
    with pytest.raises(InputError):
        SpecialTokenIds.after(50, **options)


def test_a_vocabulary_without_begin_and_unknown_tokens():
    special = SpecialTokenIds.after(50, bos=None, eos=7, unk=None)
    assert (special.of(Special.BOS), special.of(Special.EOS), special.of(Special.UNK)) == (None, 7, None)
