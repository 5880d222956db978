"""Every request that was sent and every answer that came, so that nothing is paid for twice and no budget is passed.

    sent      before a request leaves: its key and the most that it may cost
    answered  the answer and what it cost; from now on the request is answered from here
    void      it was refused before anything was done, so that it costs nothing

What was sent and neither answered nor void may have been paid for: the process was killed, or the connection broke
while the answer was on its way. It counts with the most that it may cost, for good.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from groma.curate.journal import Journal
from groma.curate.settings import Budget
from groma.errors import InputError


@dataclass(frozen=True, slots=True)
class Tokens:
    """How much was asked and answered."""

    question: int = 0
    """Tokens of questions, pictures included."""
    answer: int = 0
    """Tokens of answers."""

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.question + other.question, self.answer + other.answer)

    def __sub__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.question - other.question, self.answer - other.answer)

    @property
    def total(self) -> int:
        """Both together."""
        return self.question + self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What an endpoint answered."""

    content: str
    """What the model wrote; empty if it declined."""
    finish: str
    """Why it ended: "stop", "length", "content_filter" or the endpoint's own word."""
    refusal: str = ""
    """What it said when it declined."""
    tokens: Tokens | None = None
    """What it cost; None if the endpoint does not say."""
    model: str = ""
    """Which model answered, in the endpoint's words."""


class Ledger:
    """The file of all requests and answers; used as a context manager.

    Attributes:
        paid: What all answers cost. One that came without its cost counts with what was reserved for it.
        open: What requests without an answer may have cost, or may cost while they are under way.
        counts: How many requests were sent, answered, void, and answered without saying what it cost.
    """

    def __init__(self, path: Path) -> None:
        """Open the file or begin it.

        Raises:
            InputError: It cannot be written, another process holds it, or it is damaged.
        """
        self._journal = Journal(path)
        self.paid = Tokens()
        self.open = Tokens()
        self.counts: Counter[str] = Counter()
        self.largest_question = 0
        self._place_of: dict[str, int] = {}
        self._reserved: dict[str, list[Tokens]] = {}
        try:
            for place, entry in self._journal.entries():
                self._take_in(place, entry)
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()

    def reply(self, key: str) -> Reply | None:
        """The answer to a request that was answered before."""
        place = self._place_of.get(key)
        return None if place is None else _reply(self._journal.read(place)["reply"])

    def sent(self, key: str, reserve: Tokens) -> None:
        """A request is about to leave; `reserve` is the most that it may cost."""
        self._write({"event": "sent", "key": key, "reserve": asdict(reserve)})

    def answered(self, key: str, reply: Reply) -> None:
        """Its answer came."""
        self._write({"event": "answered", "key": key, "reply": asdict(reply)})

    def void(self, key: str, reason: str) -> None:
        """It was refused and costs nothing."""
        self._write({"event": "void", "key": key, "reason": reason})

    def _write(self, entry: dict[str, Any]) -> None:
        self._take_in(self._journal.append(entry), entry)

    def _take_in(self, place: int, entry: Mapping[str, Any]) -> None:
        try:
            key, event = entry["key"], entry["event"]
            reserved = self._reserved.setdefault(key, [])
            self.counts[event] += 1
            if event == "sent":
                reserve = Tokens(**entry["reserve"])
                reserved.append(reserve)
                self.open += reserve
                return
            reserve = reserved.pop()
            self.open -= reserve
            if event == "answered":
                self._place_of[key] = place
                self._book(_reply(entry["reply"]).tokens, reserve)
        except (KeyError, TypeError, IndexError) as error:
            raise InputError(
                f"{self._journal.path} is no file of answers ({type(error).__name__}: {error}): give another one"
            ) from error

    def _book(self, tokens: Tokens | None, reserve: Tokens) -> None:
        if tokens is None:
            self.counts["uncounted"] += 1
        else:
            self.largest_question = max(self.largest_question, tokens.question)
        self.paid += tokens or reserve


def money(tokens: Tokens, budget: Budget) -> float | None:
    """What tokens cost, in the unit of the prices; None without prices."""
    if budget.price_in is None or budget.price_out is None:
        return None
    return (tokens.question * budget.price_in + tokens.answer * budget.price_out) / 1e6


def allows(budget: Budget, ledger: Ledger, reserve: Tokens) -> bool:
    """Whether one more request may be sent, at the most that it may cost."""
    total = ledger.paid + ledger.open + reserve
    if budget.max_tokens is not None and total.total > budget.max_tokens:
        return False
    spent = money(total, budget)
    return budget.max_money is None or spent is None or spent <= budget.max_money + 1e-9


def _reply(entry: Mapping[str, Any]) -> Reply:
    fields = dict(entry)
    if fields["tokens"] is not None:
        fields["tokens"] = Tokens(**fields["tokens"])
    return Reply(**fields)
