"""Measures a training step of any size on this machine, against the machine's own matrix rate.

python scripts/benchmark_training.py --stage instruct --language 1b --batch 8 --precision bf16 [--json]

Weights are random and the batch is made up, but the model, the objective, the gradient and the optimizer are those of
`groma train`. Model FLOPs are counted by torch in one step (what is computed again under activation checkpointing is
not counted), the matrix rate is measured with one large product in the same precision, and their quotient is the
utilization. What a step waits for (reading data, saving) is not part of it: see docs/data.md for that.
"""

import argparse
import json
import platform
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from groma.data.collate import VisionBatch
from groma.data.dialogues import DialogueBatch, PicturePrompts
from groma.distributed import World
from groma.image import Preprocessing
from groma.model.config import GromaConfig
from groma.model.encoder import ImageEncoder
from groma.model.groma import GromaModel
from groma.model.proposer import RegionProposer
from groma.prompt.render import RenderedPrompt
from groma.prompt.tokens import IGNORE_INDEX, SpecialTokenIds
from groma.train.config import LoopConfig, OptimizerConfig
from groma.train.detection import Detection
from groma.train.gradient import compute_gradient
from groma.train.language import AnswerTraining
from groma.train.models import tiny_config
from groma.train.objective import Objective
from groma.train.optimizer import OptimizerSet
from groma.train.settings import DetectionLossConfig, LanguageConfig

DINOV2_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 518,
}
"""Of the published model (arXiv 2304.07193)."""

LANGUAGES: dict[str, dict[str, Any]] = {
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "intermediate_size": 8192},
    "3b": {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "intermediate_size": 8192},
    "7b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008},
}
"""Llama in several sizes; "tiny" stands for the whole small model."""

GRID = 10
"""Annotated boxes stand in a grid of 10 x 10, so that every picture has about as many regions as it can have."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a step takes."""

    seconds: float
    """Median time of a step."""
    flops: float
    """Floating point operations of a step, counted."""
    tokens: int
    """Tokens of the language model in a step, padding included; 0 in stage detect."""
    pictures: int
    """Pictures of a step."""
    peak_bytes: int
    """Most memory of the device in use; 0 on a CPU."""


def architecture(language: str) -> GromaConfig:
    """The small model, or the published one with a language model of that size."""
    if language == "tiny":
        return tiny_config()
    llama = LANGUAGES[language] | {"num_key_value_heads": LANGUAGES[language]["num_attention_heads"]}
    text = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096}
    return GromaConfig(encoder=DINOV2_LARGE, language=text | llama)


def grid_boxes() -> torch.Tensor:
    """(GRID^2, 4) cxcywh, normalized."""
    centres = (torch.arange(GRID) + 0.5) / GRID
    cy, cx = torch.meshgrid(centres, centres, indexing="ij")
    side = torch.full((GRID * GRID,), 0.9 / GRID)
    return torch.stack([cx.flatten(), cy.flatten(), side, side], dim=1)


def detection(config: GromaConfig, options: argparse.Namespace) -> tuple[Objective, Any]:
    """Stage 1 and a batch of it."""
    torch.manual_seed(0)
    encoder = ImageEncoder(config.encoder, config.proposer.num_encoder_blocks)
    proposer = RegionProposer(config.proposer, config.encoder.hidden_size)
    preprocessing = Preprocessing(size_px=config.image_size)
    objective = Detection(encoder, proposer, preprocessing, config=DetectionLossConfig())
    boxes = tuple(grid_boxes()[:: GRID // 2] for _ in range(options.batch))
    return objective, VisionBatch(images=_pictures(config, options.batch), boxes_cxcywh=boxes, source="coco")


def instruction(config: GromaConfig, options: argparse.Namespace) -> tuple[Objective, Any]:
    """Stage 2 or 3 and a batch of it: one dialogue a picture, half of its text is learned."""
    torch.manual_seed(0)
    vocabulary = config.language.get_text_config().vocab_size
    tokens = SpecialTokenIds.after(vocabulary, num_regions=config.selection.max_regions)
    preprocessing = Preprocessing(size_px=config.image_size)
    objective = AnswerTraining(
        GromaModel(config),
        tokens,
        preprocessing,
        config=LanguageConfig(train="all" if options.stage == "instruct" else "added"),
    )
    words = torch.randint(3, vocabulary, (options.text_tokens,)).tolist()
    ids = (1, tokens.image, tokens.region_list, *words)
    labels = tuple(i if place > len(ids) // 2 else IGNORE_INDEX for place, i in enumerate(ids))
    prompt = RenderedPrompt(token_ids=ids, labels=labels, refer_slots=(), ground_slots=())
    picture = PicturePrompts(prompts=(prompt,), boxes_cxcywh=grid_boxes(), user_boxes_cxcywh=torch.zeros(0, 4))
    batch = DialogueBatch(
        pictures=(picture,) * options.batch,
        images=_pictures(config, options.batch),
        seeds=tuple(range(options.batch)),
        source="made up",
    )
    return objective, batch


def _pictures(config: GromaConfig, count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, config.image_size, config.image_size, 3), dtype=torch.uint8)


def measure(objective: Objective, batch: Any, options: argparse.Namespace, device: torch.device) -> Measured:
    """Time steps of one batch."""
    objective.to(device).train()
    groups = objective.parameter_groups()
    named = [pair for group in groups for pair in group.parameters]
    optimizer = OptimizerSet(groups, OptimizerConfig(lr=1e-5))
    optimizer.set_learning_rates(1.0)
    loop = LoopConfig(steps=1, precision=options.precision)
    tokens: list[int] = []
    if isinstance(objective, AnswerTraining):
        decoder = objective.model.language.base.get_decoder()
        decoder.register_forward_pre_hook(lambda _m, _a, inputs: tokens.append(_positions(inputs)), with_kwargs=True)

    def step(number: int) -> None:
        compute_gradient(objective, [batch], named, config=loop, world=World(), step=number)
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step(1)
    seconds = []
    for number in range(options.warmup + options.steps):
        if number == options.warmup and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        step(number + 2)
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return Measured(
        seconds=median(seconds[options.warmup :]),
        flops=float(counter.get_total_flops()),
        tokens=tokens[-1] if tokens else 0,
        pictures=len(batch),
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    )


def _positions(inputs: dict[str, Any]) -> int:
    embeds = inputs["inputs_embeds"]
    return embeds.shape[0] * embeds.shape[1]


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of one large matrix product, the best of ten."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        began = time.perf_counter()
        left @ right
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and put the figures together."""
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    config = architecture(options.language)
    config.selection.score_threshold = 0.0  # random weights are sure of nothing: keep as many regions as fit
    objective, batch = (detection if options.stage == "detect" else instruction)(config, options)
    rate = matrix_rate(device, options.precision)
    measured = measure(objective, batch, options, device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "stage": options.stage,
        "language": options.language,
        "precision": options.precision,
        "parameters": sum(p.numel() for p in objective.parameters()),
        "trained_parameters": sum(p.numel() for p in objective.parameters() if p.requires_grad),
        "pictures_per_step": measured.pictures,
        "tokens_per_step": measured.tokens,
        "seconds_per_step": measured.seconds,
        "pictures_per_second": measured.pictures / measured.seconds,
        "tokens_per_second": measured.tokens / measured.seconds,
        "model_teraflop_per_step": measured.flops / 1e12,
        "teraflop_per_second": measured.flops / measured.seconds / 1e12,
        "matrix_teraflop_per_second": rate / 1e12,
        "utilization": measured.flops / measured.seconds / rate,
        "peak_gib": measured.peak_bytes / 2**30,
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures a training step against the machine's matrix rate.")
    parser.add_argument("--stage", choices=("detect", "align", "instruct"), default="instruct")
    parser.add_argument("--language", choices=("tiny", *LANGUAGES), default="tiny", help="size of the language model")
    parser.add_argument("--batch", type=int, default=4, help="pictures of a step")
    parser.add_argument("--text-tokens", type=int, default=256, help="tokens of a dialogue beside the picture's")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: a CUDA device if there is one")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and print."""
    options = parse()
    figures = report(options)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:.4g}" if isinstance(value, float) else f"{name:28} {value}")


if __name__ == "__main__":
    main()
