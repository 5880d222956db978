"""What the figures should be, and whether they are. A target that a run says nothing about is left open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groma.bench.growth import Growth, Turn
from groma.bench.machine import Machine
from groma.bench.stages import Answers, Stages

TARGET_BATCH = 8
"""Pictures of the batch whose time is compared with that of one."""

BATCH_LIMITS = {"cuda": 4.0, "cpu": 7.0}
"""Kind of device -> how much longer TARGET_BATCH pictures may take than one."""

EXPONENT_LIMIT = 1.5
"""Between linear, 1, and quadratic, 2."""

SHARE_LIMIT = 0.02
"""Of an answer's time, for selection and prompt together."""

FULL_SIZE = 10**9
"""Parameters from which on a model's shares of time say something about full size."""

SLACK_TOKENS = 1.05
"""How many times the new tokens of a turn may be processed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One of them."""

    name: str
    """What it asks."""
    value: float | None
    """What was measured; None: not in this run."""
    limit: float
    """What it may be at most."""
    applies: bool = True
    """Whether it is meant for a model of this size."""

    @property
    def met(self) -> bool | None:
        """None where it was not measured or does not apply."""
        return self.value <= self.limit if self.applies and self.value is not None else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"name": self.name, "value": self.value, "limit": self.limit, "met": self.met}


def targets(
    machine: Machine,
    stages: Stages,
    answers: Mapping[int, Answers],
    turns: Sequence[Turn],
    growth: Mapping[str, Growth] | None,
    *,
    parameters: int,
) -> list[Target]:
    """All targets beside what was measured.

    Args:
        machine: that it ran on.
        stages: of one picture.
        answers: number of pictures -> their answers.
        turns: of a conversation about one picture.
        growth: name of a cost -> how it grows; None: not measured.
        parameters: of the model.
    """
    kind = machine.device.partition(":")[0]
    share = stages.of("selection", "prompt") / answers[1].seconds
    later = turns[1:]
    processed = max((turn.prefilled_tokens / turn.new_tokens for turn in later), default=None)
    slopes = [cost.last_exponent for name, cost in (growth or {}).items() if name.startswith("regions.")]
    slope = max((value for value in slopes if value is not None), default=None)
    return [
        Target(
            name=f"time of {TARGET_BATCH} pictures over that of one",
            value=_batch_ratio(answers, growth),
            limit=BATCH_LIMITS.get(kind, BATCH_LIMITS["cpu"]),
        ),
        Target(
            name="encodings of a picture in a conversation",
            value=sum(turn.encoded_pictures for turn in turns),
            limit=1,
        ),
        Target(name="tokens a turn processes over its new ones", value=processed, limit=SLACK_TOKENS),
        Target(name="steepest exponent of a cost in regions", value=slope, limit=EXPONENT_LIMIT),
        Target(
            name="share of selection and prompt in an answer",
            value=share,
            limit=SHARE_LIMIT,
            applies=parameters >= FULL_SIZE,
        ),
    ]


def _batch_ratio(answers: Mapping[int, Answers], growth: Mapping[str, Growth] | None) -> float | None:
    if TARGET_BATCH in answers:
        return answers[TARGET_BATCH].seconds / answers[1].seconds
    batch = dict(zip(growth["batch"].sizes, growth["batch"].seconds, strict=True)) if growth else {}
    return batch[TARGET_BATCH] / batch[1] if TARGET_BATCH in batch else None
