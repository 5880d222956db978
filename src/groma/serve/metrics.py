"""What Prometheus reads."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from groma.engine.observer import Observer
from groma.engine.pictures import PictureCache
from groma.engine.ticket import Usage

if TYPE_CHECKING:
    from groma.engine.engine import Engine

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics(Observer):
    """Counts what the engine tells; one registry for each server."""

    def __init__(self) -> None:
        """Nothing counted yet."""
        self.registry = CollectorRegistry()
        registry = self.registry
        self._replies = Counter("groma_replies", "Replies over HTTP, by status", ["status"], registry=registry)
        self._questions = Counter("groma_questions", "Questions that ended, by outcome", ["outcome"], registry=registry)
        self._tokens = Counter("groma_tokens", "Tokens: read, reused (read before), said", ["kind"], registry=registry)
        self._pictures = Counter("groma_pictures_encoded", "Pictures that went through the encoder", registry=registry)
        self._steps = Counter("groma_steps", "Steps, each a token of every running answer", registry=registry)
        self._batch = Histogram(
            "groma_batch_size", "Answers in a step", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self._queued = _seconds("groma_queue_seconds", "Time in the queue", registry)
        self._first = _seconds("groma_first_token_seconds", "Time to the first token", registry)
        self._whole = _seconds("groma_question_seconds", "Time to the end", registry)
        self._step_seconds = _seconds("groma_step_seconds", "Time of a step", registry)
        self._encode_seconds = _seconds("groma_encode_seconds", "Time of encoding new pictures", registry)

    def watch(self, engine: "Engine") -> None:
        """Read what an engine holds whenever it is asked for."""
        pictures, prefixes = engine.pictures, engine.prefixes
        values = {
            "groma_queue_length": ("Questions that wait", lambda: engine.waiting),
            "groma_running": ("Answers on their way", lambda: engine.running),
            "groma_picture_cache_bytes": ("Memory of pictures that were seen", lambda: pictures.num_bytes),
            "groma_prefix_cache_bytes": ("Memory of conversations that were read", lambda: prefixes.num_bytes),
            "groma_ready": ("1 when questions are taken", lambda: int(engine.ready)),
        }
        for name, (text, read) in values.items():
            Gauge(name, text, registry=self.registry).set_function(read)
        self.registry.register(_Lookups(pictures))

    def replied(self, status: int) -> None:
        """A request was answered."""
        self._replies.labels(str(status)).inc()

    def stepped(self, batch: int, seconds: float) -> None:
        """See `Observer`."""
        self._steps.inc()
        self._batch.observe(batch)
        self._step_seconds.observe(seconds)
        self._tokens.labels("said").inc(batch)

    def encoded(self, pictures: int, seconds: float) -> None:
        """See `Observer`."""
        self._pictures.inc(pictures)
        self._encode_seconds.observe(seconds)

    def began(self, waited_s: float) -> None:
        """See `Observer`."""
        self._queued.observe(waited_s)

    def said_first(self, seconds: float) -> None:
        """See `Observer`."""
        self._first.observe(seconds)

    def ended(self, outcome: str, seconds: float, usage: Usage) -> None:
        """See `Observer`."""
        self._questions.labels(outcome).inc()
        self._whole.observe(seconds)
        self._tokens.labels("reused").inc(usage.cached_tokens)
        self._tokens.labels("read").inc(max(0, usage.prompt_tokens - usage.cached_tokens))


class _Lookups(Collector):
    """How often pictures were found in the cache; the cache itself counts."""

    def __init__(self, pictures: PictureCache) -> None:
        self._pictures = pictures

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily("groma_picture_cache_hits", "Pictures found in the cache", self._pictures.hits)
        yield CounterMetricFamily("groma_picture_cache_misses", "Pictures not found there", self._pictures.misses)


def _seconds(name: str, text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, buckets=SECONDS, registry=registry)
