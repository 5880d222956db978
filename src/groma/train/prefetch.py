"""Batches made ahead of time by a background thread, without changing which batch comes when."""

import copy
import queue
import threading
from dataclasses import dataclass
from typing import Any

from groma.train.objective import BatchStream

_POLL_S = 0.1  # how often a waiting thread looks whether it should end, in seconds


@dataclass(frozen=True, slots=True)
class _Made:
    """What the thread hands over: a batch and where the stream stood after it, or the error that ended it."""

    batch: Any = None
    state: dict[str, Any] | None = None
    error: BaseException | None = None


class PrefetchingStream(BatchStream):
    """A stream that reads another one ahead. Its state is that of the last batch *given*, not of the last one made."""

    def __init__(self, stream: BatchStream, ahead: int) -> None:
        """Wrap `stream`; at most `ahead` batches wait at any time."""
        self._stream = stream
        self._ahead = ahead
        self._state = copy.deepcopy(stream.state_dict())
        self._thread: threading.Thread | None = None

    def next(self) -> Any:
        """The next micro-batch; an error raised while it was made is raised here."""
        if self._thread is None:
            self._start()
        made = self._queue.get()
        if made.error is not None:
            self.close()
            raise made.error
        assert made.state is not None
        self._state = made.state
        return made.batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stood after the last batch that was given."""
        return copy.deepcopy(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Drop what was made ahead and go where `state` says."""
        self.close()
        self._state = copy.deepcopy(state)

    def close(self) -> None:
        """End the thread and put the wrapped stream back to the last batch that was given."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None
        self._stream.load_state_dict(copy.deepcopy(self._state))

    def _start(self) -> None:
        self._stream.load_state_dict(copy.deepcopy(self._state))
        self._ended = threading.Event()
        self._queue: queue.Queue[_Made] = queue.Queue(self._ahead)
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                batch = self._stream.next()
                made = _Made(batch=batch, state=copy.deepcopy(self._stream.state_dict()))
            except BaseException as error:  # noqa: BLE001 - handed to the reader, who raises it
                made = _Made(error=error)
            while not self._ended.is_set():
                try:
                    self._queue.put(made, timeout=_POLL_S)
                    break
                except queue.Full:
                    continue
            if made.error is not None:
                return
