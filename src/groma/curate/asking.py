"""Gets a request answered: from the file of answers, or by asking as often as it takes, within pace and budget.

answered before? -> wait for the turn -> fits the budget? -> write "sent" -> ask -> write "answered"
^                                        |
+---- wait, longer each time <---- fault that may pass
"""

import asyncio
from collections import Counter

from groma.curate.endpoint import Endpoint, EndpointError
from groma.curate.ledger import Ledger, Reply, Tokens, allows
from groma.curate.pace import Pace, Stop
from groma.curate.request import Request
from groma.curate.settings import Asking, Budget, Line
from groma.errors import InputError

SPARE = 1.2
"""The largest question so far, times this, is what the next one is taken to cost: pictures differ."""


class NotAskedError(Exception):
    """The run ended before a request was sent; never leaves this folder."""


class UnansweredError(Exception):
    """A request got no answer however often it was sent, or was refused; never leaves this folder."""

    def __init__(self, kind: str, told: str) -> None:
        """`kind` as in `EndpointError`; `told` for people."""
        super().__init__(told)
        self.kind = kind


class Asker:
    """Asks for all workers of a run.

    Attributes:
        counts: In this run: requests "sent", "answered", and "from_ledger".
        faults: In this run: kind of `EndpointError` -> how often.
    """

    def __init__(
        self, endpoint: Endpoint, ledger: Ledger, *, line: Line, budget: Budget, asking: Asking, stop: Stop
    ) -> None:
        """Prepare.

        Args:
            endpoint: Who is asked.
            ledger: Where requests and answers are kept.
            line: How fast and how often.
            budget: What may be spent.
            asking: What an answer may cost.
            stop: Ends the run; is set here when the budget is spent or the endpoint is of no use.
        """
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._endpoint = endpoint
        self._ledger = ledger
        self._line = line
        self._budget = budget
        self._asking = asking
        self._stop = stop
        self._pace = Pace(line, stop)
        self._locks: dict[str, asyncio.Lock] = {}
        self._failures_in_a_row = 0
        self._first = asyncio.Lock()
        self._under_way = 0
        self._settled = asyncio.Condition()

    async def ask(self, request: Request) -> Reply:
        """The answer to a request.

        Raises:
            NotAskedError: The run ended before.
            UnansweredError: There is none; this picture may be tried again in another run.
            InputError: The file of answers cannot be written.
        """
        lock = self._locks.setdefault(request.key, asyncio.Lock())
        async with lock:  # two equal requests at the same time would be paid for twice
            kept = self._ledger.reply(request.key)
            if kept is not None:
                self.counts["from_ledger"] += 1
                return kept
            if self._ledger.counts["answered"] == 0:
                # Until one request has been answered, one alone is under way: a wrong key or an unknown model shows
                # at once, and its cost says what to reserve for the others.
                async with self._first:
                    if self._ledger.counts["answered"] == 0:
                        return await self._ask_until_answered(request)
            return await self._ask_until_answered(request)

    async def _ask_until_answered(self, request: Request) -> Reply:
        failures = lost = 0
        while True:
            await self._pace.turn()
            await self._reserve(request)
            try:
                reply = await self._endpoint.ask(request.body)
                self._ledger.answered(request.key, reply)
            except EndpointError as caught:
                error = caught
                failures += 1
                lost += error.may_be_paid
                self.faults[error.kind] += 1
                if not error.may_be_paid:
                    self._ledger.void(request.key, error.kind)
            else:
                self.counts["answered"] += 1
                self._failures_in_a_row = 0
                return reply
            finally:
                await self._settle()
            is_last = failures == self._line.tries or lost == self._line.lost_answers or not error.may_retry
            await self._wait_or_give_up(error, failures, is_last=is_last)

    async def _reserve(self, request: Request) -> None:
        """Set the most that a request may cost aside, once it fits the budget, and write down that it leaves.

        What requests under way have set aside is mostly not needed in the end: the budget is only spent when nobody is
        under way any more. So it does not depend on how many workers there are.

        Raises:
            NotAskedError: The run ended, or it does not fit.
        """
        async with self._settled:
            while self._stop.reason is None:
                estimate = request.text_tokens + self._asking.picture_tokens
                question = max(estimate, round(SPARE * self._ledger.largest_question))
                reserve = Tokens(question, self._asking.answer_tokens)
                if allows(self._budget, self._ledger, reserve):
                    self._ledger.sent(request.key, reserve)
                    self.counts["sent"] += 1
                    self._under_way += 1
                    return
                if self._under_way == 0:
                    self._stop.now("budget")
                    break
                await self._settled.wait()
        raise NotAskedError

    async def _settle(self) -> None:
        """A request is not under way any more: somebody else may fit into the budget now."""
        async with self._settled:
            self._under_way -= 1
            self._settled.notify_all()

    async def _wait_or_give_up(self, error: EndpointError, failures: int, *, is_last: bool) -> None:
        """Wait for the next try after so many failures, unless this was the last.

        Raises:
            UnansweredError: There will be none.
        """
        if error.is_fatal:
            self._stop.now("endpoint", InputError(str(error)))
            raise UnansweredError(error.kind, str(error))
        if error.wait_s is not None and error.wait_s > self._line.patience_s:
            told = f"{error}: it asks to wait {error.wait_s:.0f} s; run the same command again after that"
            self._stop.now("endpoint", InputError(told))
            raise UnansweredError(error.kind, told)
        if is_last:
            self._count_failure(error)
            raise UnansweredError(error.kind, str(error))
        if error.wait_s:
            self._pace.hold(error.wait_s)
        else:
            await self._stop.sleep(self._pace.wait_s(failures))

    def _count_failure(self, error: EndpointError) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._line.failures_in_a_row:
            told = f"{self._failures_in_a_row} pictures in a row got no answer, the last one because: {error}"
            self._stop.now("endpoint", InputError(told))
