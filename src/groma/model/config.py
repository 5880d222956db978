"""Configuration of the model: one nested part for each stop of `image -> ... -> LLM`.

The defaults are the published 7B model's (arXiv 2404.13013, section 3 and appendix A). Nothing else in the
package repeats one of these numbers: a smaller model is another configuration, not other code.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from transformers import AutoConfig, Dinov2Config, LlamaConfig, PreTrainedConfig

Geometry = Literal["released", "corrected"]
Part = TypeVar("Part", bound=PreTrainedConfig)

ENCODERS = ("dinov2", "dinov2_with_registers")
"""What transformers calls the encoders that can be read here."""

NOT_STORED = frozenset({"transformers_version", "stage_names", "out_features", "out_indices"})
"""Values of a part that do not shape it: they belong to the whole, or say what backbones of detectors return."""


class ProposerConfig(PreTrainedConfig):
    """Class-agnostic Deformable DETR on the encoder's features (paper, section 3.1)."""

    model_type = "groma_proposer"
    base_config_key = "proposer"

    d_model: int = 256
    """Width of the proposer."""
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    encoder_ffn_dim: int = 1024
    decoder_ffn_dim: int = 1024
    num_points: int = 4
    """Sampling points a head and level of deformable attention."""
    num_feature_levels: int = 1
    """Pyramid levels, 1 to 4; the published training script uses 1, the paper describes 4."""
    num_queries: int = 300
    """Proposals that the two-stage selection keeps, and learned content embeddings."""
    dropout: float = 0.1
    """Dropout while the proposer trains."""
    box_head_dim: int = 256
    """Hidden width of the box heads; the published code keeps 256 whatever `d_model` is."""
    sources: tuple[str, ...] = ("coco", "sa1b")
    """Objectness heads beside the encoder's own: one for each source of training boxes."""
    num_encoder_blocks: int = 4
    """How many of the encoder's last block outputs are averaged to make the proposer's input."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.sources = tuple(self.sources)
        if not 1 <= self.num_feature_levels <= 4:
            raise ValueError(f"num_feature_levels must be 1 to 4, got {self.num_feature_levels}")
        super().__post_init__(**kwargs)


class RegionEncoderConfig(PreTrainedConfig):
    """RoIAlign over three fused levels, one token a region (paper, section 3.2)."""

    model_type = "groma_region_encoder"
    base_config_key = "region_encoder"

    geometry: str = "corrected"
    """"released": box format and strides as in the published code, needed by the published weights;
    "corrected": both right, the default for new models (docs/deviations.md)."""
    roi_size: int = 14
    """Bins along each side of RoIAlign's output."""
    roi_dim: int = 1024
    """Width of the flattened region before it is projected to the LLM's width."""
    position_hidden_dim: int = 256
    """Hidden width of the coordinate embedding."""
    position_scale: float = 1.0
    """Factor on the coordinate embedding; 1 in published weights, smaller where it would swamp content."""
    num_fuse_steps: int = 5
    """Convolutions, each shared by all levels, that mix neighbouring levels."""
    group_norm_groups: int = 64
    sampling_ratio: int = 2
    """Samples a bin and axis in RoIAlign."""
    upsample: tuple[int, ...] = (4, 2, 1)
    """By how much each level is enlarged, oldest encoder block first; its length is the number of levels."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.upsample = tuple(self.upsample)
        if self.geometry not in ("released", "corrected"):
            raise ValueError(f'geometry must be "released" or "corrected", got {self.geometry!r}')
        super().__post_init__(**kwargs)


class SelectionConfig(PreTrainedConfig):
    """Which candidate boxes become regions (paper, section 3.1; golden conventions, "Region selection")."""

    model_type = "groma_selection"
    base_config_key = "selection"

    nms_iou: float = 0.6
    """A box that overlaps a better one by more than this IoU is dropped."""
    score_threshold: float = 0.15
    """Candidates must score more than this."""
    max_regions: int = 100
    """Regions kept at most, and number of region tokens in the vocabulary."""
    user_score: float = 1.0
    """Score of a box that the user points at."""
    annotated_score: float = 0.2
    """Score of an annotated box that training adds."""
    source_weights: dict[str, float] | None = None
    """Exponent of each head's probability in the objectness; None: coco 0.4, sa1b 0.6."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.source_weights = dict(self.source_weights or {"coco": 0.4, "sa1b": 0.6})
        super().__post_init__(**kwargs)


class GromaConfig(PreTrainedConfig):
    """The whole model. Parts may be given as configurations or as dictionaries; they are held as configurations."""

    model_type = "groma"
    sub_configs: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleMethodOverride]
        "encoder": AutoConfig,
        "proposer": ProposerConfig,
        "selection": SelectionConfig,
        "region_encoder": RegionEncoderConfig,
        "language": AutoConfig,
    }

    if TYPE_CHECKING:  # what the parts are once they are built; transformers checks the other types at run time
        encoder: Dinov2Config = Dinov2Config()
        proposer: ProposerConfig = ProposerConfig()
        selection: SelectionConfig = SelectionConfig()
        region_encoder: RegionEncoderConfig = RegionEncoderConfig()
        language: PreTrainedConfig = LlamaConfig()
    else:
        encoder: dict | PreTrainedConfig | None = None
        proposer: dict | PreTrainedConfig | None = None
        selection: dict | PreTrainedConfig | None = None
        region_encoder: dict | PreTrainedConfig | None = None
        language: dict | PreTrainedConfig | None = None
    image_size: int = 448
    """Side in pixels that every picture is resized to; the encoder's own trained size may differ."""
    chat_format: str = "vicuna"
    """Name of the prompt's format, a key of groma.prompt.chat_format.CHAT_FORMATS."""
    provenance: dict | None = None
    """Where the weights come from: stages, data, seed, commands. Shown by `groma info`."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            encoder: dict[str, Any] | Dinov2Config | None = None,
            proposer: dict[str, Any] | ProposerConfig | None = None,
            selection: dict[str, Any] | SelectionConfig | None = None,
            region_encoder: dict[str, Any] | RegionEncoderConfig | None = None,
            language: dict[str, Any] | PreTrainedConfig | None = None,
            image_size: int = 448,
            chat_format: str = "vicuna",
            provenance: dict[str, Any] | None = None,
            **kwargs: Any,
        ) -> None: ...

    def __post_init__(self, **kwargs: Any) -> None:
        self.encoder = _encoder_part(self.encoder)
        self.proposer = _part(self.proposer, ProposerConfig)
        self.selection = _part(self.selection, SelectionConfig)
        self.region_encoder = _part(self.region_encoder, RegionEncoderConfig)
        self.language = _language_part(self.language)
        super().__post_init__(**kwargs)

    @property
    def num_new_tokens(self) -> int:
        """Token rows beside the base vocabulary: 14 named ones and one for each region number."""
        return 14 + self.selection.max_regions

    @property
    def patch_size(self) -> int:
        """Side of the encoder's patches in pixels."""
        side = self.encoder.patch_size
        if not isinstance(side, int):
            raise ValueError(f"encoder.patch_size must be one number, as patches are squares here, got {side}")
        return side

    @property
    def grid_size(self) -> int:
        """Patches along each side of the resized picture."""
        return self.image_size // self.patch_size

    @property
    def context_tokens(self) -> int:
        """Tokens that the language model reads and says at most; a very large number if it knows no limit."""
        return getattr(self.language.get_text_config(), "max_position_embeddings", None) or 1 << 30

    @property
    def num_image_tokens(self) -> int:
        """Tokens that stand for the picture: one for each 2x2 block of patches."""
        return (self.grid_size // 2) ** 2

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json holds: every value that shapes the model, and none of transformers' general ones.

        Values that equal a default are written all the same: defaults change from release to release.
        """
        values = super().to_diff_dict()
        for name in self.sub_configs:
            part = getattr(self, name).to_diff_dict()
            values[name] = {key: value for key, value in part.items() if key not in NOT_STORED}
        return values


def _part(value: dict[str, Any] | Part | None, kind: type[Part]) -> Part:
    if value is None:
        return kind()
    return kind(**value) if isinstance(value, dict) else value


def _encoder_part(value: dict | PreTrainedConfig | None) -> Any:
    config = _of_its_kind(value or {}, default="dinov2")
    if config.model_type not in ENCODERS:
        raise ValueError(f"encoder is a {config.model_type!r}; known are {', '.join(ENCODERS)}")
    return config


def _language_part(value: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    return _of_its_kind(value or {}, default="llama")


def _of_its_kind(value: dict | PreTrainedConfig, *, default: str) -> PreTrainedConfig:
    """A configuration of the kind that a dictionary names."""
    if isinstance(value, PreTrainedConfig):
        return value
    value = dict(value)
    return AutoConfig.for_model(value.pop("model_type", default), **value)
