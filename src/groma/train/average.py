"""The running (exponential moving) average of the trained weights: steadier than the last step's."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from groma.train.sharding import assign, local


class WeightAverage:
    """average <- d * average + (1 - d) * weights after each step, in float32.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the first steps' weights are soon forgotten.
    """

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]], decay: float) -> None:
        self._parameters = [parameter for _, parameter in parameters]
        self._names = [name for name, _ in parameters]
        self._decay = decay
        self._updates = 0
        self._average = [parameter.detach().float().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for average, weight in zip(self._average, self._parameters, strict=True):
            local(average).lerp_(local(weight).float(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the weights for the duration of a `with` block, then restore them exactly."""
        with torch.no_grad():
            originals = [parameter.detach().clone() for parameter in self._parameters]
            self._assign(self._average)
        try:
            yield
        finally:
            with torch.no_grad():
                self._assign(originals)

    def _assign(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            local(parameter).copy_(local(value))

    def state_dict(self) -> dict[str, Tensor]:
        """The number of updates under "updates", and parameter name -> average."""
        averages = dict(zip(self._names, self._average, strict=True))
        return {"updates": torch.tensor(self._updates)} | {f"average.{key}": value for key, value in averages.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state_dict` gave."""
        self._updates = int(state["updates"])
        for name, average in zip(self._names, self._average, strict=True):
            assign(average, state[f"average.{name}"])
