"""The answers that are on their way: questions join, each step says a token of every answer, who has ended leaves.

    join: picture encoded (once) -> prompt -> back end        step: back end -> transcript -> events of the ticket

All of it happens in the engine's thread. What goes wrong with a question is told to who asked it, and to nobody else.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from groma.engine.observer import Observer
from groma.engine.pictures import Picture, PictureCache
from groma.engine.ticket import Answered, EngineError, Ticket, Usage, with_boxes
from groma.errors import GromaError, InputError
from groma.inference.assistant import Groma
from groma.inference.decoder import Backend, Failed, Said
from groma.inference.pictures import Seen
from groma.inference.preparing import Prepared, Request
from groma.prompt.parse import Event, Grounded, TextDelta

LOG = logging.getLogger("groma.engine")

Given = TypeVar("Given")
Made = TypeVar("Made")

Asking = tuple[Ticket, Seen]
"""A question, and what the model makes of its picture."""


@dataclass(slots=True)
class _Running:
    """An answer on its way."""

    ticket: Ticket
    prepared: Prepared
    said: int = 0
    cached: int = 0

    @property
    def usage(self) -> Usage:
        return Usage(len(self.prepared.prompt), self.cached, self.said)


class Batch:
    """Answers side by side."""

    def __init__(self, assistant: Groma, backend: Backend, pictures: PictureCache, observer: Observer) -> None:
        """Without any."""
        self._assistant, self._backend = assistant, backend
        self._pictures, self._observer = pictures, observer
        self._running: dict[int, _Running] = {}
        self.seconds_each = 0.5
        """What an answer lately took of the engine's time."""

    def __len__(self) -> int:
        return len(self._running)

    @property
    def tickets(self) -> list[Ticket]:
        """Whose answers are on their way."""
        return [one.ticket for one in self._running.values()]

    def close(self) -> None:
        """Free what the back end holds, as far as it can."""
        try:
            self._backend.close()
        except Exception:
            LOG.exception("the back end could not be closed")

    # --- joining -----------------------------------------------------------------------------------------------------

    def join(self, tickets: Sequence[Ticket]) -> None:
        """Begin to answer."""
        now = time.monotonic()
        for ticket in tickets:
            ticket.began = now
            self._observer.began(now - ticket.submitted)
        asking = self._together(tickets, self._see, whose=lambda ticket: ticket)
        asking = [one for one in asking if not self._looked_only(*one)]
        for ticket, prepared in self._together(asking, self._prepare, whose=lambda one: one[0]):
            try:
                self._backend.add(ticket.number, prepared.prompt)
            except Exception as error:  # noqa: BLE001  # this prompt is not taken; what runs goes on
                self.fail(ticket, error)
                continue
            self._running[ticket.number] = _Running(ticket, prepared)

    def _together(
        self, given: Sequence[Given], work: Callable[[Sequence[Given]], list[Made]], *, whose: Callable[[Given], Ticket]
    ) -> list[Made]:
        """Do what is done to all at once; if that fails, to each alone, so that only those fail that must."""
        try:
            return work(given) if given else []
        except Exception as error:  # noqa: BLE001
            if len(given) == 1:
                self.fail(whose(given[0]), error)
                return []
        # not within "except": what was raised holds on to memory
        return [result for one in given for result in self._together([one], work, whose=whose)]

    def _see(self, tickets: Sequence[Ticket]) -> list[Asking]:
        """What the model makes of pictures; new ones are encoded together, each once."""
        known: dict[str, Seen] = {}
        new: dict[str, Picture] = {}
        for picture in (ticket.job.picture for ticket in tickets):
            if picture.digest not in known and picture.digest not in new:
                # another question may have brought it since this one was asked
                seen = picture.seen or self._pictures.find(picture.digest, counted=False)
                if seen is None:
                    new[picture.digest] = picture
                else:
                    known[picture.digest] = seen
        if new:
            known |= self._encode(new)
        for digest, seen in known.items():
            self._pictures.keep(digest, seen)  # also for those who come while this one is prepared
        return [(ticket, known[ticket.job.picture.digest]) for ticket in tickets]

    def _encode(self, new: dict[str, Picture]) -> dict[str, Seen]:
        began = time.monotonic()
        pixels = np.stack([picture.pixels for picture in new.values() if picture.pixels is not None])
        seen = self._assistant.see_pixels(pixels, [picture.size_px for picture in new.values()])
        self._observer.encoded(len(new), time.monotonic() - began)
        return dict(zip(new, seen, strict=True))

    def _looked_only(self, ticket: Ticket, seen: Seen) -> bool:
        """Answer at once where only regions are asked for."""
        if ticket.job.exchange is not None:
            return False
        try:
            regions = tuple(self._assistant.found(seen))
        except Exception as error:  # noqa: BLE001  # this question's own
            self.fail(ticket, error)
        else:
            self._end(ticket, Answered(None, regions, Usage(0, 0, 0)))
        return True

    def _prepare(self, asking: Sequence[Asking]) -> list[tuple[Ticket, Prepared]]:
        requests: list[Request] = []
        for ticket, seen in asking:
            assert ticket.job.exchange is not None
            requests.append(Request(seen, ticket.job.exchange, ticket.job.decoding, at_least=ticket.job.at_least))
        prepared = self._assistant.prepare(requests)
        for ticket, seen in asking:
            self._pictures.keep(ticket.job.picture.digest, seen)  # it has grown by the regions that were chosen
        return [(ticket, one) for (ticket, _), one in zip(asking, prepared, strict=True)]

    # --- speaking ----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One token of every answer."""
        if not self._running:
            return
        began = time.monotonic()
        said = self._backend.step()
        tokens = sum(isinstance(one, Said) for one in said.values())
        self._observer.stepped(tokens, time.monotonic() - began)
        if not said and not self._backend.running:  # nobody is to wait for what will never be said
            raise GromaError("the back end has lost the answers that it was giving")
        for number, one in said.items():  # a back end may say nothing of some yet
            running = self._running[number]
            try:
                self._hear(running, one)
            except Exception as error:  # noqa: BLE001  # this answer is lost; what runs beside it goes on
                self.fail(running.ticket, error)

    def _hear(self, running: _Running, said: Said | Failed) -> None:
        if isinstance(said, Failed):
            raise said.error
        running.said += 1
        running.cached = running.cached or said.cached_tokens
        ticket, transcript = running.ticket, running.prepared.transcript
        if ticket.first_said is None:
            ticket.first_said = time.monotonic()
            self._observer.said_first(ticket.first_said - ticket.asked)
        events = transcript.add(said)
        if said.ended:
            events += transcript.finish()
        self._tell(running, events)
        if said.ended:
            answer = running.prepared.answer
            del self._running[ticket.number]
            self._end(ticket, Answered(answer, answer.regions, running.usage))

    def _tell(self, running: _Running, events: Iterable[Event]) -> None:
        ticket, transcript = running.ticket, running.prepared.transcript
        if not ticket.job.streams:
            return
        for event in events:
            if isinstance(event, TextDelta):
                ticket.tell(event)
            elif isinstance(event, Grounded):
                ticket.tell(with_boxes(transcript.entity(event.phrase), transcript.regions))

    def _end(self, ticket: Ticket, answered: Answered) -> None:
        now = time.monotonic()
        share = (now - (ticket.began or ticket.submitted)) / (len(self._running) + 1)
        self.seconds_each += 0.1 * (share - self.seconds_each)
        self._observer.ended("answered", now - ticket.asked, answered.usage)
        ticket.tell(answered)

    # --- leaving -----------------------------------------------------------------------------------------------------

    def leave(self, ticket: Ticket, error: GromaError, outcome: str) -> None:
        """Tell why a question is not answered, and free its place if it has one."""
        self._drop(ticket.number)
        running = self._running.pop(ticket.number, None)
        usage = Usage(0, 0, 0) if running is None else running.usage
        self._observer.ended(outcome, time.monotonic() - ticket.asked, usage)
        ticket.tell(error)

    def _drop(self, number: int) -> None:
        try:
            self._backend.drop(number)
        except Exception:
            LOG.exception("the back end could not drop question %d", number)

    def fail(self, ticket: Ticket, error: Exception) -> None:
        """Something went wrong with a question: what users can mend they are told, the rest is logged."""
        if isinstance(error, InputError):
            self.leave(ticket, error, "refused")
            return
        LOG.error("question %d failed", ticket.number, exc_info=error)
        told = error if isinstance(error, GromaError) else EngineError("the model could not answer this question")
        self.leave(ticket, told, "failed")

    def fail_all(self, joining: Iterable[Ticket], error: Exception) -> None:
        """Nothing can be saved of what runs and of those who were joining."""
        self.close()
        for ticket in {ticket.number: ticket for ticket in (*joining, *self.tickets)}.values():
            if not ticket.done:
                self.fail(ticket, error)
