"""Stage 1, detection: the proposer learns to box everything; one objectness head a data source."""

from torch import nn

from groma.data.collate import VisionBatch
from groma.image import Preprocessing
from groma.model.encoder import ImageEncoder
from groma.model.proposer import RegionProposer
from groma.train.detection_loss import DetectionLossConfig, detection_losses, weighted_total
from groma.train.groups import parameter_groups
from groma.train.objective import Losses, Objective, ParameterGroup


class Detection(Objective):
    """Detection losses of the batch's source (paper, section 3.4, "detection pretraining")."""

    def __init__(
        self,
        encoder: ImageEncoder,
        proposer: RegionProposer,
        preprocessing: Preprocessing,
        *,
        config: DetectionLossConfig,
        encoder_lr_scale: float = 0.0,
    ) -> None:
        """`encoder_lr_scale` 0 freezes the encoder as published; a small encoder may go on learning with a factor."""
        super().__init__()
        self.encoder, self.proposer, self.preprocessing = encoder, proposer, preprocessing
        self.config, self.encoder_lr_scale = config, encoder_lr_scale
        encoder.requires_grad_(encoder_lr_scale > 0)

    def train(self, mode: bool = True) -> nn.Module:
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder_lr_scale == 0:
            self.encoder.eval()
        return self

    def weight(self, batch: VisionBatch) -> float:
        """Number of annotated boxes."""
        return float(sum(len(b) for b in batch.boxes_cxcywh))

    def forward(self, batch: VisionBatch, *, total_weight: float) -> Losses:
        """All heads' losses; the terms are unweighted and carry the published names."""
        output = self.proposer(self.encoder(self.preprocessing.normalize(batch.images)))
        terms = detection_losses(output, batch.boxes_cxcywh, batch.source, config=self.config, total_boxes=total_weight)
        if batch.blank:  # a picture that stands for nothing: even "there is no object" must not be learned from it
            terms = {name: value * 0.0 for name, value in terms.items()}
        total = weighted_total(terms, self.config)
        told = {name: value.detach() for name, value in terms.items()}
        if batch.set_name:
            told[f"total/{batch.set_name}"] = total.detach()
        return Losses(total, told)

    def parts(self) -> dict[str, nn.Module]:
        """See Objective."""
        return {"encoder": self.encoder, "proposer": self.proposer}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The proposer, and the encoder where it goes on learning."""
        groups = parameter_groups("proposer", self.proposer)
        if self.encoder_lr_scale > 0:
            groups += parameter_groups("encoder", self.encoder, lr_scale=self.encoder_lr_scale)
        return groups
