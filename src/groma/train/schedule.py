"""The learning rate over time, as a pure function of the step: nothing to save, nothing to restore."""

import math

from groma.train.config import ScheduleConfig


def warmup_steps(config: ScheduleConfig, steps: int) -> int:
    """Length of the warm-up in optimizer steps, of `steps` in all."""
    if config.warmup_steps:
        return min(config.warmup_steps, steps)
    return round(config.warmup_fraction * steps)


def learning_rate_factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """The factor on the peak learning rate for one optimizer step.

    Args:
        config: Warm-up length and final share.
        step: Which step, counted from 0.
        steps: How many there are in all.

    Returns:
        Rises as 1/w, 2/w, ..., 1 over the w steps of the warm-up, then falls along half a cosine towards
        `final_fraction`, which it would reach at step `steps`.
    """
    warmup = warmup_steps(config, steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
