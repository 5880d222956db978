"""What an engine tells of its work."""

from groma.engine.ticket import Usage


class Observer:
    """What is told of what happens; this one listens to nothing. All calls come from the engine's thread."""

    def stepped(self, batch: int, seconds: float) -> None:
        """One token of so many answers."""

    def encoded(self, pictures: int, seconds: float) -> None:
        """So many pictures went through the encoder."""

    def began(self, waited_s: float) -> None:
        """A question left the queue."""

    def said_first(self, seconds: float) -> None:
        """The first token of an answer, since it was asked."""

    def ended(self, outcome: str, seconds: float, usage: Usage) -> None:
        """With the outcome "answered", "refused", "cancelled", "time_limit", "stopped" or "failed"."""
