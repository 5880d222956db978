"""Commands about checkpoints: convert, info."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
        if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise InputError(f"{str(self.out)!r} is there already: give another folder, or remove it first")
        from groma.pretrained import convert

        try:
            convert(self.source, self.out)
        except OSError as error:
            raise InputError(f"{str(self.out)!r} cannot be written: {error.strerror or error}") from None
        if self.json:
            write_json({"written": str(self.out)})
        else:
            write_line(f"written: {self.out}")
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


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _count(part: "nn.Module") -> int:
    """How many parameters it has."""
    return sum(parameter.numel() for parameter in part.parameters())
