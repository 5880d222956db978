"""A language model compares two answers: pairwise, in both orders, behind any OpenAI-compatible endpoint.

    question, what is in the picture, two answers --request--> endpoint --two numbers--> Verdict
    the same with the answers exchanged, so that a liking for the first or the second one cancels out

Asked through groma.curate's Asker: retries, pace, budget, and a file of answers from which nothing is paid for twice.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from groma.curate.asking import Asker, NotAskedError, UnansweredError
from groma.curate.endpoint import OpenAIEndpoint, find_access
from groma.curate.ledger import Ledger
from groma.curate.pace import Stop
from groma.curate.request import Request, make_request
from groma.curate.settings import Asking, Budget, Line
from groma.errors import InputError
from groma.evaluate.data_folder import Judge

PROMPT_VERSION = 1
"""Grows when the wording below changes: verdicts of other wordings are not mixed."""

INSTRUCTIONS = """\
Two assistants were asked about a picture. You cannot see it, but you are told what is in it. Judge how helpful, \
relevant, accurate and detailed each of their answers is. What an answer says about the picture counts only as far as \
the description bears it out. The order of the answers means nothing, and neither does their length by itself.

Write two numbers from 1 to 10 on the first line, separated by a blank: the score of answer 1, then that of answer 2. \
Higher is better. On the lines below give your reasons in a few sentences."""

ASKING = Asking(answer_tokens=400, temperature=0.0, json_mode=False, picture_tokens=1)
LEDGER = "judge.jsonl"
"""File in a run's folder with all requests to the judge and its answers."""

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers to one question."""

    question: str
    picture: str
    """What is in the picture, in words."""
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Scores of both answers, 1..10."""

    first: float
    second: float


def judge_model(judge: Judge, environment_model: str | None) -> str:
    """The judge's name.

    Raises:
        InputError: nobody is named.
    """
    name = judge.model or (environment_model or "")
    if not name:
        raise InputError("this benchmark needs a judge: give --judge MODEL or set OPENAI_MODEL.")
    return name


def judge_pairs(
    pairs: Sequence[Pair], *, judge: Judge, model: str, out: Path | None
) -> list[tuple[Verdict | None, Verdict | None]]:
    """Have every pair judged in both orders.

    Args:
        pairs: n pairs.
        judge: how the endpoint is talked to.
        model: who judges.
        out: folder for the file of answers; None: nothing is kept.

    Returns:
        For each pair the verdict in its own order and that of the exchanged order, put back; None where the judge
        wrote no two numbers.

    Raises:
        InputError: there is no key, the endpoint is of no use, the budget is spent or an answer did not come; what was
            answered is kept, and the same run goes on from there.
        MissingExtraError: openai is not installed.
    """
    if out is None:
        with TemporaryDirectory() as folder:
            return asyncio.run(_judge_all(pairs, judge, model, Path(folder)))
    return asyncio.run(_judge_all(pairs, judge, model, out))


async def _judge_all(
    pairs: Sequence[Pair], judge: Judge, model: str, out: Path
) -> list[tuple[Verdict | None, Verdict | None]]:
    line = Line(concurrency=judge.concurrency)
    endpoint = OpenAIEndpoint(find_access(url=judge.url or None), timeout_s=line.timeout_s)
    stop = Stop()
    try:
        with Ledger(out / LEDGER) as ledger:
            budget = Budget(max_tokens=judge.max_tokens)
            asker = Asker(endpoint, ledger, line=line, budget=budget, asking=ASKING, stop=stop)
            gate = asyncio.Semaphore(judge.concurrency)
            requests = [_request(pair, model, exchanged=turn) for pair in pairs for turn in (False, True)]
            texts = await asyncio.gather(*(_ask(asker, request, gate) for request in requests))
    finally:
        await endpoint.close()
    if stop.error is not None:
        raise stop.error
    missing = sum(text is None for text in texts)
    if missing:
        why = "the budget is spent" if stop.reason == "budget" else "the endpoint did not answer"
        raise InputError(f"{missing} of {len(texts)} verdicts are missing, as {why}: run the same command again.")
    verdicts = [None if text is None else read_verdict(text) for text in texts]
    return [
        (own, None if other is None else Verdict(other.second, other.first))
        for own, other in zip(verdicts[::2], verdicts[1::2], strict=True)
    ]


async def _ask(asker: Asker, request: Request, gate: asyncio.Semaphore) -> str | None:
    async with gate:
        try:
            return (await asker.ask(request)).content
        except (NotAskedError, UnansweredError):
            return None


def read_verdict(text: str) -> Verdict | None:
    """The two numbers on the first line that has any; None if there are not just two, from 1 to 10."""
    for line in text.strip().splitlines():
        numbers = [float(number) for number in _NUMBER.findall(line.replace("/10", " "))]
        if numbers:
            fits = len(numbers) == 2 and all(1 <= number <= 10 for number in numbers)
            return Verdict(numbers[0], numbers[1]) if fits else None
    return None


def _request(pair: Pair, model: str, *, exchanged: bool) -> Request:
    one, two = (pair.second, pair.first) if exchanged else (pair.first, pair.second)
    told = (
        f"What is in the picture:\n{pair.picture}\n\nQuestion:\n{pair.question}\n\n"
        f"Answer 1:\n{one}\n(end of answer 1)\n\nAnswer 2:\n{two}\n(end of answer 2)"
    )
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": told}]
    return make_request(messages, model=model, asking=ASKING)
