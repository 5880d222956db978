"""A back end that takes its time, so that a test can do something while an answer is given."""

import time
from collections.abc import Callable
from typing import Any

from groma.inference.assistant import Groma
from groma.inference.decoder import Backend, Failed, Said
from groma.inference.prefix import PrefixStore


class Slow:
    """The model's own back end; every step takes so many seconds longer."""

    def __init__(self, backend: Backend, seconds: float) -> None:
        self._backend, self._seconds = backend, seconds

    def step(self) -> dict[int, Said | Failed]:
        time.sleep(self._seconds)
        return self._backend.step()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def slowly(assistant: Groma, seconds: float) -> Callable[[PrefixStore], Backend]:
    """What an engine makes its back end with."""
    return lambda prefixes: Slow(assistant.decoder(prefixes), seconds)  # pyright: ignore[reportReturnType]
