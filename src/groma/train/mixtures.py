"""A mixture of annotated pictures as training sees it: looked at first, then streamed, and what was bad counted.

file -> open sets --look at some of each--> refused, or
     -> plan of steps -> MixtureStream -> batches --count--> log --> refused later, if it turns out worse than it looked
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groma.data.augment import WHOLE, Augmentation
from groma.data.batches import Batch, MicroBatches, Share
from groma.data.check import SetReport, check_mixture
from groma.data.cleaning import FATAL
from groma.data.lessons import DetectionLessons, DialogueLessons
from groma.data.mixture import MixtureConfig, MixtureSet, open_mixture, read_data
from groma.data.plan import MixturePlan
from groma.distributed import World
from groma.errors import InputError
from groma.prompt.chat_format import chat_format
from groma.train.blueprint import Blueprint
from groma.train.mixture_stream import MixtureStream
from groma.train.stage import StageConfig

USED = "used"
"""What the samples that were trained on are counted under, beside the kinds of faults."""

LEAST_SEEN = 1000
"""While training goes on, shares of bad samples are of at least so many: one among the first ten proves nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A mixture with its sets open."""

    config: MixtureConfig
    """What the file says."""
    sets: tuple[MixtureSet, ...]
    """Its sets, in the same order."""

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers, as JSON values: the resolved file, and how large each set was."""
        values = asdict(self.config)
        sets = [told | {"samples": len(one.data)} for told, one in zip(values["sets"], self.sets, strict=True)]
        return values | {"sets": sets}


def open_file(file: str) -> Mixture:
    """Open a mixture's YAML, or your own .jsonl.

    Raises:
        InputError: it or one of its sets cannot be used.
    """
    config = read_data(Path(file))
    return Mixture(config=config, sets=open_mixture(config))


def look_at(mixture: Mixture, config: StageConfig, world: World, tell: Callable[[str], None]) -> None:
    """Decode some samples of each set before anything is trained.

    Args:
        mixture: what is looked at.
        config: says how many.
        world: the first process looks, and all hear of it.
        tell: gets a sentence about each set.

    Raises:
        InputError: a set has a larger share of bad samples than the mixture allows; on every process.
    """
    refusal = ""
    if world.is_main and config.mixture.look_first:
        reports = check_mixture(mixture.config, limit=config.mixture.look_first, seed=config.mixture.seed)
        for report in reports:
            tell(_told(report))
        refusal = _refusal(reports, mixture.config.max_bad_share)
    if refusal := world.gather(refusal)[0]:
        raise InputError(refusal)


def _told(report: SetReport) -> str:
    text = f"{report.name}: {report.samples:,} samples, {report.checked:,} looked at, {report.bad:,} bad"
    faults = ", ".join(f"{kind} {count:,}" for kind, count in report.faults.items())
    return text + (f" ({faults})" if faults else "")


def _refusal(reports: Sequence[SetReport], limit: float) -> str:
    worst = [report for report in reports if report.bad_share > limit]
    told = "; ".join(f"{_told(report)}, e.g. {_example(report)}" for report in worst)
    if not worst:
        return ""
    return f"The mixture allows {limit:.1%} of bad samples (max_bad_share): {told}. See groma data check."


def _example(report: SetReport) -> str:
    return next(report.examples[kind][0] for kind in FATAL if report.examples.get(kind))


def make_stream(config: StageConfig, mixture: Mixture, blueprint: Blueprint, world: World) -> MixtureStream:
    """This process's batches."""
    data = config.mixture
    share = Share(
        rank=world.rank,
        world_size=world.size,
        batch_size=data.batch_size,
        accumulate=config.training.loop.accumulate,
    )
    return MixtureStream(_batches(config, mixture, blueprint, share), workers=data.workers)


def fixed_batches(config: StageConfig, mixture: Mixture, blueprint: Blueprint, count: int) -> list[Batch]:
    """The first batches of a mixture that is not trained on: always the same ones."""
    batches = _batches(config, mixture, blueprint, Share(batch_size=config.mixture.batch_size))
    return [batches[number] for number in range(min(count, batches.plan.steps_per_epoch))]


def steps_of(config: StageConfig, mixture: Mixture, world_size: int) -> int:
    """How many optimizer steps the run takes: what the configuration says, or what its epochs come to."""
    loop, data = config.training.loop, config.mixture
    if not data.epochs:
        return loop.steps
    plan = _plan(config, mixture, data.batch_size * world_size * loop.accumulate)
    return max(1, round(data.epochs * plan.steps_per_epoch))


def _plan(config: StageConfig, mixture: Mixture, samples_per_step: int) -> MixturePlan:
    return MixturePlan(
        [one.data for one in mixture.sets],
        [one.share for one in mixture.sets],
        samples_per_step=samples_per_step,
        seed=config.mixture.seed,
    )


def _batches(config: StageConfig, mixture: Mixture, blueprint: Blueprint, share: Share) -> MicroBatches:
    plan = _plan(config, mixture, share.samples_per_step)
    return MicroBatches(mixture.sets, plan, share, make_lessons(config, blueprint))


def make_lessons(config: StageConfig, blueprint: Blueprint) -> DetectionLessons | DialogueLessons:
    """How the stage learns from samples."""
    if config.stage == "detect":
        augmentation = Augmentation() if config.mixture.augment else WHOLE
        return DetectionLessons(preprocessing=blueprint.preprocessing, augmentation=augmentation)
    return dialogue_lessons(blueprint, chat=config.mixture.chat_format, jitter=config.mixture.jitter)


def dialogue_lessons(blueprint: Blueprint, *, chat: str = "", jitter: float = 0.0) -> DialogueLessons:
    """Lessons of stages 2 and 3 as a model wants them: its tokenizer, chat format, picture size and context.

    Args:
        blueprint: the model.
        chat: name of another chat format than the model's.
        jitter: see DialogueLessons.

    Raises:
        InputError: there is no tokenizer, no such chat format, or no room for text.
    """
    model, tokenizer = blueprint.model, blueprint.speaks()
    room = model.num_image_tokens + 2 * model.selection.max_regions
    context = model.context_tokens
    if context <= room:
        raise InputError(f"The language model's context of {context} tokens is filled by the picture's {room} alone.")
    return DialogueLessons(
        preprocessing=blueprint.preprocessing,
        tokenizer=tokenizer,
        chat_format=chat_format(chat or model.chat_format, tokenizer),
        max_tokens=context - room,
        jitter=jitter,
    )


def counts_of(batch: Batch) -> dict[str, int]:
    """Set and kind -> how often: samples used, and each kind of fault."""
    found = Counter({USED: len(batch)}) + Counter(fault.kind for fault in batch.faults)
    return {f"{batch.set_name}/{kind}": count for kind, count in found.items()}


class Tally:
    """Sums what was counted while training goes on, and ends a run whose data turn out too bad."""

    def __init__(self, max_bad_share: float) -> None:
        """`max_bad_share` is the mixture's."""
        self.max_bad_share = max_bad_share
        self.totals: Counter[str] = Counter()

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Take in a record of the log; the same on every process, so that all end together.

        Raises:
            InputError: too large a share of a set was bad.
        """
        self.totals.update(record.get("counts", {}))
        for name in {key.rpartition("/")[0] for key in self.totals}:
            bad = {kind: self.totals[f"{name}/{kind}"] for kind in FATAL if self.totals[f"{name}/{kind}"]}
            seen = self.totals[f"{name}/{USED}"] + sum(bad.values())
            if sum(bad.values()) > self.max_bad_share * max(seen, LEAST_SEEN):
                kinds = ", ".join(f"{kind} {count:,}" for kind, count in bad.items())
                raise InputError(
                    f"set {name!r}: {sum(bad.values()):,} of {seen:,} samples could not be used ({kinds}), more than "
                    f"max_bad_share {self.max_bad_share:.1%} allows: see groma data check. Checkpoints are unharmed."
                )

    def told(self) -> list[str]:
        """A sentence for each set of which anything was left out or mended."""
        names = sorted({key.rpartition("/")[0] for key in self.totals})
        lines: list[str] = []
        for name in names:
            kinds = {k.rpartition("/")[2]: n for k, n in sorted(self.totals.items()) if k.rpartition("/")[0] == name}
            used = kinds.pop(USED, 0)
            if kinds:
                lines.append(f"{name}: {used:,} samples used; " + ", ".join(f"{k} {n:,}" for k, n in kinds.items()))
        return lines
