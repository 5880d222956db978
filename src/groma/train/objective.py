"""The contract between a training stage and the training loop: what a stage trains, its loss, its batches.

    BatchStream.next() -> batch -> Objective.weight(batch)           how much is supervised, before the forward pass
                                -> Objective(batch, total_weight=W)  -> Losses, already divided by W

W is the sum of the weights of all micro-batches of all processes of one optimizer step. As every loss is divided by
the same W, the sum of their gradients is the gradient of one big batch, however the step was cut up.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Losses:
    """What an objective makes of one micro-batch."""

    total: Tensor
    """() the loss to differentiate, divided by the step's total weight."""
    terms: dict[str, Tensor]
    """Name -> () detached, divided the same way: summed over a step's micro-batches they are what is reported."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParameterGroup:
    """Parameters that are trained alike."""

    name: str
    """For logs and errors, e.g. "proposer"."""
    parameters: Sequence[tuple[str, nn.Parameter]]
    """(unique name, parameter); all require gradients."""
    lr_scale: float = 1.0
    """Factor on the configured learning rate."""
    weight_decay: float | None = None
    """Decoupled weight decay; None: the configured one. Norms and biases usually want 0."""
    muon: bool = False
    """Hidden (out, in) matrices that Muon may train; meaningless to AdamW."""


class Objective(nn.Module, ABC):
    """A stage's loss. It owns (references) the model.

    The loop calls `train()` before the first step and after each evaluation; a stage that keeps frozen parts in
    evaluation mode overrides it.
    """

    @abstractmethod
    def weight(self, batch: Any) -> float:
        """The number of supervised things (boxes, tokens) in this batch, known before the forward pass; >= 0."""

    @abstractmethod
    def forward(self, batch: Any, *, total_weight: float) -> Losses:
        """The losses of one micro-batch.

        Args:
            batch: What the stream gave. If it has a `to(device)` method it was called. A `source` attribute (text),
                where there is one, is named in errors.
            total_weight: Sum of `weight` over all micro-batches of all processes of this step; 1 if that sum is 0.

        Returns:
            Losses divided by `total_weight`. In a step all processes see the same source; parameters of other
            sources get no gradient and are left alone.
        """

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Name -> module: what this stage hands on to the next, frozen parts included, throw-away heads not."""

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter that requires gradients, each in exactly one group, in a fixed order."""


class BatchStream(ABC):
    """An endless, seeded source of micro-batches for this process.

    It draws from generators of its own, never from Python's, numpy's or torch's global ones: then batches do not
    depend on when they are made, and may be made ahead of time.
    """

    @abstractmethod
    def next(self) -> Any:
        """The next micro-batch."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, after the last batch it gave; JSON values only, small."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where `state` says: the next batch is the one that would have followed."""
