"""What defines a run of a stage: plain values, checked where they enter. `recipes` fills them in, `run` runs them."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from groma.errors import InputError
from groma.train.config import TrainingConfig, check_counts, check_numbers, require
from groma.train.settings import (
    DetectionLossConfig,
    ImaginationConfig,
    LanguageConfig,
    LanguageTraining,
    PretrainingConfig,
)

Stage = Literal["pretrain", "detect", "speak", "align", "instruct"]

LANGUAGE_STAGES = ("speak", "align", "instruct")
"""Stages that learn from questions and answers."""

MIXTURE_STAGES = ("detect", "align", "instruct")
"""Stages that learn from annotated pictures; the others know the objects of the scenes."""

QUESTIONS = {
    "refer_name": 1.0,
    "refer_colour": 0.7,
    "refer_attribute": 2.0,
    "refer_relation": 4.0,
    "refer_ordinal": 1.5,
    "locate_all": 1.5,
    "absent": 2.5,
    "describe": 2.0,
    "compare": 0.5,
    "caption": 2.0,
    "caption_down": 2.0,
    "summary": 0.2,
    "count": 0.4,
    "exists": 0.6,
    "colour": 0.4,
    "conversation": 0.7,
}
"""Kind of question -> how often it is drawn. Relations are possible in a quarter of the scenes only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneData:
    """Batches of procedural scenes."""

    batch_size: int = 32
    """Pictures in a micro-batch of one process."""
    size_px: int = 224
    """Side of the pictures."""
    seed: int = 0
    """Which series of scenes; runs that follow each other should see different ones."""
    crop_px: int | None = None
    """Train on one close-up of this side for every object instead of whole scenes; None: scenes."""
    sources: tuple[str, ...] = ("coco", "sa1b")
    """Objectness heads that are taught in turn."""
    kinds: dict[str, float] = field(default_factory=lambda: dict(QUESTIONS))
    """Language stages: kind of question -> weight."""
    questions: int = 8
    """Language stages: questions about each picture, at most."""
    question_tokens: int | None = None
    """Language stages: questions about a picture stop before they have more tokens than this; None: no limit. Rows of
    about the same length waste little on padding."""

    def __post_init__(self) -> None:
        check_counts(self, "batch_size", "size_px", "questions", minimum=1)
        check_counts(self, "seed", minimum=0)
        for name in ("crop_px", "question_tokens"):
            if getattr(self, name) is not None:
                check_counts(self, name, minimum=1)
        require(self, "sources", len(self.sources) > 0, "at least one source")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureData:
    """Batches of annotated pictures: published data sets, or your own. Where `file` is given, no scenes are shown."""

    file: str = ""
    """A mixture's YAML, or your own .jsonl (groma.data.mixture); empty: procedural scenes."""
    validation: str = ""
    """The same, for pictures that are not trained on: each evaluation measures the loss on the same few of them."""
    batch_size: int = 8
    """Pictures in a micro-batch of one process; a batch holds one set."""
    epochs: float = 0.0
    """How often the mixture is gone through: decides training.loop.steps, unless it is 0."""
    seed: int = 0
    """Of the order, and of everything drawn for a sample."""
    workers: int = 2
    """Processes that make batches ahead, for each training process; 0: made when they are needed."""
    chat_format: str = ""
    """How dialogues are written, a key of groma.prompt.chat_format.CHAT_FORMATS; empty: as the model does. Stage 2 as
    published: vicuna_pretrain."""
    jitter: float = 0.0
    """Normal deviation of boxes that questions point at, as a share of their size; published: exact boxes."""
    augment: bool = True
    """Stage "detect": resize, crop and flip pictures as published."""
    look_first: int = 200
    """Samples of each set that are decoded before training starts: a set of which too many are bad is refused."""
    specimens: int = 4
    """Stages "align" and "instruct": pictures that each evaluation answers a question about and draws."""

    def __post_init__(self) -> None:
        check_counts(self, "batch_size", minimum=1)
        check_counts(self, "seed", "workers", "look_first", "specimens", minimum=0)
        check_numbers(self, "epochs", minimum=0)
        check_numbers(self, "jitter", minimum=0, below=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One run: everything that decides its result. Written beside every checkpoint."""

    stage: Stage
    """What is trained, and on which loss."""
    model: str = "tiny"
    """Name of an architecture, a key of groma.train.models.MODELS; empty: that of the first whole model that the run
    starts from, with its tokenizer and picture size."""
    data: SceneData = field(default_factory=SceneData)
    """The scenes it is trained on, if there is no mixture."""
    mixture: MixtureData = field(default_factory=MixtureData)
    """The annotated pictures it is trained on, if there are any."""
    training: TrainingConfig
    """How: steps, optimizer, schedule."""
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    """Losses of stage "pretrain"."""
    detection: DetectionLossConfig = field(default_factory=DetectionLossConfig)
    """Losses of stage "detect"."""
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    """What stage "speak" imagines."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """How stages "align" and "instruct" train."""
    tokenizer: str = ""
    """Language stages: a tokenizer that comes with the package, or a folder; not needed without `model`."""
    first_guess: float | None = None
    """Stage "detect": side of the boxes that a fresh proposer guesses, as a share of the picture's; None: 0.05, as
    published."""
    encoder_lr_scale: float = 0.0
    """Stage "detect": factor on the learning rate of the encoder; 0 keeps it frozen, as published."""

    def __post_init__(self) -> None:
        require(self, "stage", self.stage in get_args(Stage), f"one of {', '.join(get_args(Stage))}")
        check_numbers(self, "encoder_lr_scale", minimum=0)
        if self.stage in LANGUAGE_STAGES and self.model:
            require(self, "tokenizer", bool(self.tokenizer), f"given for stage {self.stage!r}")
        if self.stage != "instruct" and self.language.train != "all":
            raise InputError(
                f'language.train {self.language.train!r} is for stage "instruct": stage {self.stage!r} has no choice.'
            )
        kept, computed = self.language.frozen_precision, self.training.loop.precision
        if kept == "bf16" and computed == "fp32":
            raise InputError(
                f'language.frozen_precision "bf16" needs training.loop.precision "bf16", which is {computed!r}.'
            )
        if self.mixture.file:
            require(self, "stage", self.stage in MIXTURE_STAGES, f"one of {', '.join(MIXTURE_STAGES)} with a mixture")
            require(self, "imitates", not self.imitates, "off with a mixture: imagined tokens are of scenes' objects")

    @property
    def imitates(self) -> bool:
        """Whether region tokens are drawn towards those that stage "speak" imagined."""
        if self.stage in ("align", "instruct"):
            return self.language.imitation > 0
        return self.stage == "pretrain" and self.pretraining.imitation > 0

    @property
    def language_trains(self) -> LanguageTraining:
        """What learns of the language model: stage 2 never trains more than its added rows (paper, section 3.4)."""
        return "added" if self.stage == "align" else self.language.train

    def to_dict(self) -> dict[str, Any]:
        """Nested values that survive JSON, without the loop's own part, which the loop records itself."""
        values = asdict(self)
        values.pop("training")
        values["data"]["sources"] = list(self.data.sources)
        values["language"]["lora"]["targets"] = list(self.language.lora.targets)
        return values
