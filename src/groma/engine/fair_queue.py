"""Who waits: first come, first served for each client, and clients in turn."""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from groma.engine.ticket import BusyError, Ticket


class FairQueue:
    """Tickets that wait. Not safe for threads: the engine has a lock."""

    def __init__(self, limit: int, *, share: float = 0.5) -> None:
        """Hold so many.

        Args:
            limit: tickets.
            share: of these, what one client may hold, so that others find a place.
        """
        self.limit, self.own_limit = limit, max(1, math.ceil(limit * share))
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, tickets: Sequence[Ticket], *, seconds_each: float) -> None:
        """Wait; all or none.

        Who has nothing waiting gets in with any number as long as there is room for one: else a request of more
        questions than that could come again for ever.

        Args:
            tickets: of one client.
            seconds_each: what a ticket takes lately, to say when to come again.

        Raises:
            BusyError: too many wait.
        """
        client = tickets[0].job.client
        own = self._waiting.get(client, ())
        if self._count >= self.limit or (own and len(own) + len(tickets) > self.own_limit):
            waiting = self._count if self._count >= self.limit else len(own)
            whose = "" if self._count >= self.limit else " of this client"
            after_s = min(60, max(1, math.ceil(waiting * seconds_each / 2)))
            raise BusyError(f"{waiting} questions{whose} wait already: come again in {after_s} s", after_s)
        self._waiting.setdefault(client, deque()).extend(tickets)
        self._count += len(tickets)

    def pop(self) -> Ticket | None:
        """Who is next; their client goes to the end of the turn."""
        if not self._waiting:
            return None
        client, tickets = next(iter(self._waiting.items()))
        ticket = tickets.popleft()
        self._count -= 1
        if tickets:
            self._waiting.move_to_end(client)
        else:
            del self._waiting[client]
        return ticket

    def take(self, unwanted: Callable[[Ticket], bool]) -> list[Ticket]:
        """Take out all that are not wanted any more."""
        taken: list[Ticket] = []
        for client, tickets in list(self._waiting.items()):
            gone = [ticket for ticket in tickets if unwanted(ticket)]
            if gone:
                left = deque(ticket for ticket in tickets if ticket not in gone)
                taken += gone
                if left:
                    self._waiting[client] = left
                else:
                    del self._waiting[client]
        self._count -= len(taken)
        return taken
