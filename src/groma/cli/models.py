"""Commands about checkpoints: convert, init, export, export-language, info."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from groma.cli.arguments import Switch
from groma.cli.loading import DEFAULT_MODEL, Placement
from groma.cli.output import figures_table, show, write_json, write_line
from groma.errors import InputError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Convert:
    """Turn a checkpoint of the published layout into a folder of this project's own format."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A checkpoint folder or a hub name, of the published layout or of ours."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to make."""
    json: Switch = False
    """Print one JSON value and nothing else."""

    def run(self) -> int:
        """Convert."""
        _check_folder(self.out)
        from groma.pretrained import convert

        with _written(self.out):
            convert(self.source, self.out)
        _tell_written(self.out, as_json=self.json)
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """Put a language model and a DINOv2 together into a model that has still to be trained."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to make; `groma train ... --from OUT` begins there."""
    language: Annotated[str, tyro.conf.arg(metavar="MODEL")]
    """A causal language model of transformers: a folder with its tokenizer, or a hub name."""
    encoder: Annotated[str, tyro.conf.arg(metavar="MODEL")]
    """A DINOv2, with or without registers: a folder, or a hub name."""
    image_size: int = 448
    """Side in pixels that pictures are resized to: a multiple of two patches."""
    max_regions: int = 100
    """Most regions of a picture that get a token of their own."""
    chat_format: str | None = None
    """Name of a chat format. None: the tokenizer's own template, or Vicuna's where it has none."""
    seed: int = 0
    """Draws the weights that are fresh."""
    json: Switch = False
    """Print one JSON value and nothing else."""

    def run(self) -> int:
        """Put it together."""
        _check_folder(self.out)
        from groma.convert.assemble import assemble
        from groma.pretrained import find_checkpoint, save_whole

        made = assemble(
            find_checkpoint(self.language),
            find_checkpoint(self.encoder),
            image_size=self.image_size,
            max_regions=self.max_regions,
            chat=self.chat_format,
            names={"language": self.language, "encoder": self.encoder},
            seed=self.seed,
        )
        with _written(self.out):
            save_whole(made.model, made.tokenizer, made.preprocessing, self.out)
        _tell_written(self.out, as_json=self.json)
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Write a whole model from a model and what later stages made of its parts."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to make."""
    checkpoints: Annotated[
        tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="from", metavar="CHECKPOINT")
    ] = ()
    """First a whole model, such as groma-tiny, then checkpoint folders; of several, later ones win."""
    json: Switch = False
    """Print one JSON value and nothing else."""

    def run(self) -> int:
        """Combine."""
        _check_folder(self.out)
        if not self.checkpoints:
            raise InputError("give a model and checkpoints: groma export OUT --from MODEL --from CHECKPOINT")
        from groma.pretrained import save
        from groma.train.parts import combine

        made = combine(self.checkpoints)
        with _written(self.out):
            save(made, self.out)
        _tell_written(self.out, as_json=self.json)
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportLanguage:
    """Write a model's language model as a plain checkpoint of transformers, which vLLM and others can run."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A model that comes with the package, a checkpoint folder or a hub name."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """The folder to make."""
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = "stored"
    """Type to store the weights in; stored: as in the checkpoint."""
    max_shard_size: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "5GB"
    """A file of weights is at most this large."""
    json: Switch = False
    """Print one JSON value and nothing else."""

    def run(self) -> int:
        """Export."""
        _check_folder(self.out)
        from groma.convert.export import export_language
        from groma.pretrained import DTYPES

        groma = Placement(device="cpu", dtype="stored").load(self.checkpoint)
        with _written(self.out):
            export_language(
                groma.model,
                groma.tokenizer,
                self.out,
                source=Path(self.checkpoint).name if Path(self.checkpoint).is_dir() else self.checkpoint,
                dtype=DTYPES.get(self.dtype),
                max_shard_size=self.max_shard_size,
            )
        _tell_written(self.out, as_json=self.json)
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """Show what a checkpoint is made of: parts, sizes, geometry, provenance."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = DEFAULT_MODEL
    """A model that comes with the package, a checkpoint folder or a hub name."""
    json: Switch = False
    """Print one JSON value and nothing else."""

    def run(self) -> int:
        """Show it."""
        facts = self._facts()
        if self.json:
            write_json(facts)
        else:
            show(figures_table(facts, "model", self.model))
        return 0

    def _facts(self) -> dict[str, Any]:
        """Everything, as plain values."""
        from groma.pretrained import find_checkpoint

        folder = find_checkpoint(self.model)
        model = Placement(device="cpu", dtype="stored").load(self.model).model
        config, language = model.config, model.config.language
        sizes = {str(file.relative_to(folder)): file.stat().st_size for file in _files(folder)}
        parts = {name: _count(part) for name, part in model.named_children()}
        return {
            "folder": str(folder),
            "image_size_px": config.image_size,
            "image_tokens": config.num_image_tokens,
            "max_regions": config.selection.max_regions,
            "geometry": config.region_encoder.geometry,
            "chat_format": config.chat_format,
            "language": language.model_type,
            "vocabulary": {"base": language.vocab_size, "added": config.num_new_tokens},
            "context_tokens": getattr(language, "max_position_embeddings", None),
            "dtype": str(model.dtype).removeprefix("torch."),
            "parameters": {**parts, "total": _count(model)},
            "bytes_on_disk": {**sizes, "total": sum(sizes.values())},
            "provenance": config.provenance,
        }


def _check_folder(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{str(out)!r} is there already: give another folder, or remove it first")


@contextmanager
def _written(out: Path) -> Iterator[None]:
    """What fails when a folder is written becomes one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{str(out)!r} cannot be written: {error.strerror or error}") from None


def _tell_written(out: Path, *, as_json: bool) -> None:
    if as_json:
        write_json({"written": str(out)})
    else:
        write_line(f"written: {out}")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _count(part: "nn.Module") -> int:
    """How many parameters it has."""
    return sum(parameter.numel() for parameter in part.parameters())
