"""What the training loop can be told: plain values, checked where they enter, the same for every stage.

The checks are for the stages' own configurations, too.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from groma.errors import InputError


def require(owner: object, field_name: str, ok: bool, expected: str) -> None:
    """Raise an InputError that names the field and its value, unless `ok`."""
    if not ok:
        value = getattr(owner, field_name)
        raise InputError(f"{type(owner).__name__}.{field_name} must be {expected}, got {value!r}.")


def check_numbers(owner: object, *names: str, minimum: float, below: float = math.inf) -> None:
    """Each named field must be a finite number in [minimum, below)."""
    expected = f"at least {minimum:g}" + ("" if below == math.inf else f" and below {below:g}")
    for name in names:
        value = getattr(owner, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        require(owner, name, is_number and minimum <= value < below, f"a number, {expected}")


def check_counts(owner: object, *names: str, minimum: int) -> None:
    """Each named field must be a whole number, `minimum` or more."""
    for name in names:
        value = getattr(owner, name)
        is_count = isinstance(value, int) and not isinstance(value, bool)
        require(owner, name, is_count and value >= minimum, f"a whole number, at least {minimum}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How long and how the loop runs."""

    steps: int
    """Optimizer steps in all."""
    accumulate: int = 1
    """Micro-batches of each process per optimizer step."""
    clip_norm: float | None = 1.0
    """Largest global L2 norm of the gradient; longer ones are scaled down. None: never."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Arithmetic of the forward pass: bf16 is autocast; weights, gradients and optimizer stay as they are. auto: bf16
    on a GPU, fp32 on a CPU, most of which are no faster in bf16."""
    seed: int = 0
    """Seed of the global random generators (dropout and the like), made distinct for each process."""
    log_every: int = 20
    """Optimizer steps between two lines of metrics; each averages the steps since the last."""
    save_every: int = 500
    """Optimizer steps between two checkpoints. 0: only one at the end (and when interrupted)."""
    evaluate_every: int = 0
    """Optimizer steps between two evaluations; the last step is then evaluated too. 0: never."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept. 0: all of them."""
    ema_decay: float = 0.0
    """Share of the running average of the weights that one step keeps, e.g. 0.999. 0: no average."""
    sharding: Literal["replicate", "full"] = "replicate"
    """Several processes: each holds all weights, gradients and momenta (replicate), or a part of each (full, FSDP2)."""
    activation_checkpointing: bool = False
    """Layers compute their activations again in the backward pass, instead of keeping them: less memory, a third more
    arithmetic, the same results."""
    compile: bool = False
    """Compile the transformers' layers (torch.compile). The first steps then take minutes."""
    model_every: int = 1
    """Every so many-eth checkpoint, and the last, holds the model as `groma.load` takes it; the others only what
    resuming needs."""
    threads: int = 0
    """Threads of torch in each process. 0: leave it as it is."""
    prefetch: int = 0
    """Micro-batches made ahead by a background thread. 0: made when needed."""

    def __post_init__(self) -> None:
        check_counts(self, "steps", "accumulate", "log_every", "model_every", minimum=1)
        check_counts(self, "seed", "save_every", "evaluate_every", minimum=0)
        check_counts(self, "keep_checkpoints", "threads", "prefetch", minimum=0)
        check_numbers(self, "ema_decay", minimum=0, below=1)
        if self.clip_norm is not None:
            check_numbers(self, "clip_norm", minimum=0)
            require(self, "clip_norm", self.clip_norm > 0, "above 0, or None for no clipping")
        require(self, "sharding", self.sharding in ("replicate", "full"), '"replicate" or "full"')
        require(self, "precision", self.precision in ("fp32", "bf16", "auto"), '"fp32", "bf16" or "auto"')


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW for everything, with averages of 32 or 8 bits, or Muon for hidden matrices and AdamW for the rest."""

    name: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """muon: groups marked as such are trained by Muon (Jordan et al. 2024), the others by AdamW. adamw8bit: AdamW that
    keeps its two running averages in eight bits (package torchao)."""
    lr: float = 2e-4
    """AdamW's peak learning rate, before a group's own factor."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the running mean and mean square of the gradient."""
    eps: float = 1e-8
    """AdamW's addition to the denominator."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of both optimizers, for groups that name none."""
    muon_lr: float | None = None
    """Muon's peak learning rate, before a group's own factor. None: the same as `lr`."""
    muon_momentum: float = 0.95
    """Muon's decay of the running mean of the gradient (Nesterov)."""
    muon_iterations: int = 5
    """Newton-Schulz iterations that make Muon's update orthogonal."""
    muon_scale: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """How Muon's step depends on the matrix: as large as AdamW's (0.2 sqrt(max side); a fit for AdamW's learning
    rates), or the original's (sqrt(max(1, rows / columns)); a fit for rates around 0.02)."""

    def __post_init__(self) -> None:
        require(self, "name", self.name in ("adamw", "adamw8bit", "muon"), '"adamw", "adamw8bit" or "muon"')
        check_numbers(self, "lr", "eps", "weight_decay", minimum=0)
        check_numbers(self, "muon_momentum", minimum=0, below=1)
        check_counts(self, "muon_iterations", minimum=1)
        betas_fit = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(self, "betas", betas_fit, "two numbers, each at least 0 and below 1")
        if self.muon_lr is not None:
            check_numbers(self, "muon_lr", minimum=0)
        scales = ("match_rms_adamw", "original")
        require(self, "muon_scale", self.muon_scale in scales, " or ".join(f'"{scale}"' for scale in scales))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Linear warm-up, then half a cosine down."""

    warmup_steps: int = 0
    """Length of the warm-up in optimizer steps; give this or the fraction."""
    warmup_fraction: float = 0.0
    """Length of the warm-up as a share of all steps."""
    final_fraction: float = 0.0
    """Learning rate at the end as a share of the peak. 1: constant after the warm-up."""

    def __post_init__(self) -> None:
        check_counts(self, "warmup_steps", minimum=0)
        check_numbers(self, "warmup_fraction", minimum=0, below=1)
        check_numbers(self, "final_fraction", minimum=0)
        require(self, "final_fraction", self.final_fraction <= 1, "at most 1")
        both = self.warmup_steps > 0 and self.warmup_fraction > 0
        require(self, "warmup_fraction", not both, f"0 when warmup_steps ({self.warmup_steps}) is given")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything the loop is told; written into each checkpoint."""

    loop: LoopConfig
    """How long and how."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Which update rule."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over time."""

    def __post_init__(self) -> None:
        if self.optimizer.name == "adamw8bit" and self.loop.sharding == "full":
            raise InputError(
                'optimizer.name "adamw8bit" needs loop.sharding "replicate": eight-bit averages cannot be read back '
                'from sharded checkpoints; "adamw" shards its own.'
            )

    def on(self, device_type: str) -> "TrainingConfig":
        """The same with the precision that "auto" means on a kind of device, "cpu" or "cuda"."""
        if self.loop.precision != "auto":
            return self
        return replace(self, loop=replace(self.loop, precision="fp32" if device_type == "cpu" else "bf16"))

    def to_dict(self) -> dict[str, Any]:
        """The values as nested dictionaries that survive JSON unchanged (tuples become lists)."""
        values = asdict(self)
        values["optimizer"]["betas"] = list(self.optimizer.betas)
        return values
