"""The file of answers: what was paid, what may have been paid, and whether one more request fits the budget."""

import json

import pytest

from groma.curate.ledger import Ledger, Reply, Tokens, allows, money
from groma.curate.settings import Budget
from groma.errors import InputError

REPLY = Reply(content="hello", finish="stop", tokens=Tokens(900, 100), model="m")
RESERVE = Tokens(1200, 300)


def test_answers_are_found_again(tmp_path):
    path = tmp_path / "answers.jsonl"
    with Ledger(path) as ledger:
        assert ledger.reply("a") is None
        ledger.sent("a", RESERVE)
        ledger.answered("a", REPLY)
        assert ledger.reply("a") == REPLY
    with Ledger(path) as ledger:
        assert ledger.reply("a") == REPLY
        assert ledger.reply("b") is None
        assert (ledger.paid, ledger.open) == (Tokens(900, 100), Tokens())
        assert ledger.largest_question == 900


def test_what_is_under_way_or_lost_counts_at_its_most(tmp_path):
    path = tmp_path / "answers.jsonl"
    with Ledger(path) as ledger:
        ledger.sent("a", RESERVE)
        ledger.sent("b", RESERVE)
        assert ledger.open == Tokens(2400, 600)
        ledger.void("b", "429")
        assert ledger.open == RESERVE
    with Ledger(path) as ledger:  # the process was killed before "a" was answered
        assert (ledger.paid, ledger.open) == (Tokens(), RESERVE)
        ledger.sent("a", Tokens(5, 5))
        ledger.answered("a", REPLY)
        assert (ledger.paid, ledger.open) == (Tokens(900, 100), RESERVE)


def test_an_endpoint_that_does_not_count(tmp_path):
    with Ledger(tmp_path / "answers.jsonl") as ledger:
        ledger.sent("a", RESERVE)
        ledger.answered("a", Reply(content="x", finish="stop"))
        assert (ledger.paid, ledger.counts["uncounted"]) == (RESERVE, 1)
        assert ledger.reply("a").tokens is None


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    for line in ({"picture": "a.jpg"}, {"event": "answered", "key": "a", "reply": {}}, ["x"]):
        path.write_text(json.dumps(line) + "\n")
        with pytest.raises(InputError, match="is no file of answers"):
            Ledger(path)


def test_money():
    prices = Budget(price_in=2.0, price_out=10.0)
    assert money(Tokens(1_000_000, 100_000), prices) == pytest.approx(3.0)
    assert money(Tokens(1, 1), Budget()) is None


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(), True),
        (Budget(max_tokens=4000), True),  # 1000 paid, 1500 under way, 1500 more
        (Budget(max_tokens=3999), False),
        (Budget(max_money=0.012, price_in=2.0, price_out=10.0), False),
        # 2 * (900 + 1200 + 1200) + 10 * (100 + 300 + 300), by the million
        (Budget(max_money=0.0136, price_in=2.0, price_out=10.0), True),
        (Budget(max_money=0.0135, price_in=2.0, price_out=10.0), False),
        (Budget(max_tokens=0), False),
    ],
)
def test_one_more_fits_only_if_everything_at_its_most_does(tmp_path, budget, expected):
    with Ledger(tmp_path / "answers.jsonl") as ledger:
        ledger.sent("a", RESERVE)
        ledger.answered("a", REPLY)
        ledger.sent("b", RESERVE)
        assert allows(budget, ledger, RESERVE) is expected
