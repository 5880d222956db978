"""What decides the losses of each stage: plain values, checked where they enter.

Apart from the losses themselves, which need torch: `groma train RECIPE --help` shows all of them at once.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from groma.train.config import check_counts, check_numbers, require

Assignment = Literal["one_to_one", "task_aligned"]
LanguageTraining = Literal["all", "lora", "added"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingConfig:
    """Weights of the losses."""

    name_weight: float = 1.0
    """Weight of the cross-entropy over object names."""
    colour_weight: float = 0.5
    """Weight of the cross-entropy over colours."""
    box_weight: float = 0.5
    """Weight of objectness and box losses together."""
    label_smoothing: float = 0.05
    """Share of the name's target spread over all names."""
    jitter: float = 0.05
    """How far the sides of a box move before its features are read, as a share of its size (normal deviation)."""
    imitation: float = 0.0
    """Weight of how far the region encoder's tokens are from the ones that stage "speak" imagined of the same objects;
    with 0 there is no region encoder in this stage."""

    def __post_init__(self) -> None:
        check_numbers(self, "name_weight", "colour_weight", "box_weight", "jitter", "imitation", minimum=0)
        check_numbers(self, "label_smoothing", minimum=0, below=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionLossConfig:
    """Costs of the matching and weights of the losses; the defaults are the published ones."""

    class_cost: float = 2.0
    """Weight of the focal class cost in the matching."""
    box_cost: float = 5.0
    """Weight of the L1 distance of normalized cxcywh in the matching."""
    giou_cost: float = 2.0
    """Weight of the negative GIoU in the matching."""
    class_weight: float = 2.0
    """Weight of the focal loss."""
    box_weight: float = 5.0
    """Weight of the L1 loss."""
    giou_weight: float = 2.0
    """Weight of the GIoU loss."""
    focal_alpha: float = 0.25
    """Share of the focal loss that positives get."""
    focal_gamma: float = 2.0
    """Exponent that plays down easy predictions."""
    assignment: Assignment = "one_to_one"
    """"one_to_one": Hungarian matching as published. "task_aligned": each box teaches its `aligned_topk` best
    predictions (arXiv 2108.07755), which learns far faster from few pictures; selection's NMS removes the twins."""
    aligned_topk: int = 6
    """task_aligned only: predictions that one annotated box teaches at most."""

    def __post_init__(self) -> None:
        check_numbers(self, "class_cost", "box_cost", "giou_cost", minimum=0)
        check_numbers(self, "class_weight", "box_weight", "giou_weight", "focal_gamma", minimum=0)
        check_numbers(self, "focal_alpha", minimum=0, below=1)
        check_counts(self, "aligned_topk", minimum=1)
        known = get_args(Assignment)
        require(self, "assignment", self.assignment in known, f"one of {', '.join(known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HintConfig:
    """Which layers are shown where to look, and how much that counts."""

    weight: float = 0.3
    """Weight of each hint beside the loss on answers; 0: no hints."""
    number_layer: int | None = None
    """Layer whose first head should look from a region token to its number; None: after the first quarter."""
    pointing_layer: int | None = None
    """Layer whose first heads should look from where a number is due to the region that is right; None: after the
    first half."""
    pointing_heads: int = 2
    """How many of them."""

    def __post_init__(self) -> None:
        check_numbers(self, "weight", minimum=0)
        check_counts(self, *(n for n in ("number_layer", "pointing_layer") if getattr(self, n) is not None), minimum=0)
        check_counts(self, "pointing_heads", minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImaginationConfig:
    """How much the imagined regions leave to be guessed."""

    noise: float = 0.3
    """Standard deviation of the normal noise on a region token, whose content starts out with 0.7."""
    box_jitter: float = 0.05
    """Normal deviation of a region's centre and size, as a share of its size; no more than twice that is drawn."""
    distractors: int = 8
    """Regions that show nothing or a piece of an object, at most."""
    hints: HintConfig = field(default_factory=HintConfig)
    """Where the language model should look."""

    def __post_init__(self) -> None:
        check_numbers(self, "noise", minimum=0)
        check_numbers(self, "box_jitter", minimum=0, below=0.1)
        check_counts(self, "distractors", minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Adapters beside the language model's linear layers (groma.train.adapters)."""

    rank: int = 16
    """Rows of A, columns of B."""
    alpha: float = 32.0
    """What the adapters add is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is dropped in training."""
    targets: tuple[str, ...] = ()
    """Layers that get one, by the ends of their names, such as q_proj v_proj; none: every linear layer but the output
    head."""

    def __post_init__(self) -> None:
        check_counts(self, "rank", minimum=1)
        check_numbers(self, "alpha", minimum=0)
        check_numbers(self, "dropout", minimum=0, below=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageConfig:
    """How a language stage trains."""

    train: LanguageTraining = "all"
    """Stage 3: what learns of the language model. "all": every weight; "lora": adapters beside its frozen weights;
    "added": nothing but the rows of Groma's own tokens, as in stage 2."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """The adapters, if there are any."""
    frozen_precision: Precision = "fp32"
    """Type in which the language model's frozen weights are kept: bf16 takes half the memory."""

    language_lr_scale: float = 1.0
    """Stage 3: factor on the learning rate of the language model and its added rows."""
    imitation: float = 0.0
    """Weight of how far region tokens are from the ones that stage "speak" imagined of the same objects
    (groma.train.region_tables), beside the loss on answers; 0: none. For a language model that learned from those."""

    def __post_init__(self) -> None:
        check_numbers(self, "language_lr_scale", "imitation", minimum=0)
        for name, kinds in (("train", LanguageTraining), ("frozen_precision", Precision)):
            require(self, name, getattr(self, name) in get_args(kinds), f"one of {', '.join(get_args(kinds))}")
