"""What defines a run of a stage, and the run itself: model + objective + batches -> the one training loop."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from groma.train.config import TrainingConfig
from groma.train.detection_loss import DetectionLossConfig
from groma.train.pretraining import PretrainingConfig

Stage = Literal["pretrain", "detect", "align", "instruct"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneData:
    """Batches of procedural scenes."""

    batch_size: int = 32
    """Pictures in a micro-batch of one process."""
    size_px: int = 224
    """Side of the pictures."""
    seed: int = 0
    """Which series of scenes; runs that follow each other should see different ones."""
    sources: tuple[str, ...] = ("coco", "sa1b")
    """Objectness heads that are taught in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One run: everything that decides its result. Written beside every checkpoint."""

    stage: Stage
    """What is trained, and on which loss."""
    model: str = "tiny"
    """Name of the architecture, a key of groma.train.recipes.MODELS."""
    data: SceneData = field(default_factory=SceneData)
    """What it is trained on."""
    training: TrainingConfig
    """How: steps, optimizer, schedule."""
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    """Losses of stage "pretrain"."""
    detection: DetectionLossConfig = field(default_factory=DetectionLossConfig)
    """Losses of stage "detect"."""
    encoder_lr_scale: float = 0.0
    """Stage "detect": factor on the learning rate of the encoder; 0 keeps it frozen, as published."""

    def to_dict(self) -> dict[str, Any]:
        """Nested values that survive JSON, without the loop's own part, which the loop records itself."""
        values = asdict(self)
        values.pop("training")
        values["data"]["sources"] = list(self.data.sources)
        return values
