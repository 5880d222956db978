"""Command `groma bench`: how fast a model is on this machine, and how fast it could be."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from groma.cli.arguments import Switch, check_seed
from groma.cli.loading import DEFAULT_MODEL, Placement
from groma.cli.output import check_target, save_json, show, write_json, write_line
from groma.errors import InputError

if TYPE_CHECKING:
    from groma.bench.report import Report
    from groma.bench.run import Options
    from groma.inference.assistant import Groma
    from groma.model.config import GromaConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Measure how fast a model answers here, stage by stage, beside what the machine allows."""

    model: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = None
    """A model that comes with the package, a checkpoint folder or a hub name. None: groma-tiny, unless --size."""
    size: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """Instead of a model, random weights: tiny, base, 7b, or the config.json of an architecture."""
    batch_size: int = 8
    """Pictures that are answered about together."""
    repeats: int = 5
    """Measurements of which the median counts."""
    new_tokens: int = 64
    """Tokens of an answer at most."""
    seed: int = 0
    """Draws random weights and the picture."""
    growth: Switch = False
    """Measure how cost grows with regions, batch, pictures and turns, too."""
    json: Switch = False
    """Print one JSON value and nothing else."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write that JSON value to this file as well."""
    placement: Annotated[Placement, tyro.conf.arg(name="")] = field(default_factory=Placement)

    def run(self) -> int:
        """Measure."""
        if self.model is not None and self.size is not None:
            raise InputError(f"give a model or --size, not both: {self.model!r} has a size of its own")
        if self.out is not None:
            check_target(self.out)
        from groma.bench.run import Options

        options = Options(
            batch_size=self.batch_size,
            repeats=self.repeats,
            new_tokens=self.new_tokens,
            growth=self.growth,
            seed=check_seed(self.seed),
        )
        report = self._measured(options)
        if self.out is not None:
            save_json(report.to_dict(), self.out)
        if self.json:
            write_json(report.to_dict())
            return 0
        show(report.tables())
        if self.out is not None:
            write_line(f"written: {self.out}")
        return 0

    def _measured(self, options: "Options") -> "Report":
        from rich.console import Console
        from rich.text import Text

        from groma.bench.run import bench

        with Console(stderr=True).status("loading") as status:
            name = self.size or self.model or DEFAULT_MODEL
            assistant = self._loaded(name, options) if self.size is None else self._random(name, options)
            return bench(
                assistant,
                options,
                model=name,
                weights="checkpoint" if self.size is None else "random",
                tell=lambda what: status.update(Text(f"measuring {what}")),
            )

    def _random(self, size: str, options: "Options") -> "Groma":
        """Random weights of a size."""
        from groma.bench.sizes import check_fits, find_device, find_dtype, random_assistant

        config = _config(size)
        device = find_device(self.placement.device)
        dtype = find_dtype(self.placement.dtype, config, device)
        check_fits(config, dtype, device, what=size, pictures=options.batch_size, new_tokens=options.new_tokens)
        return random_assistant(config, device=device, dtype=dtype, seed=options.seed)

    def _loaded(self, name: str, options: "Options") -> "Groma":
        """A checkpoint, if there is room for it."""
        from groma.bench.sizes import check_fits, find_device, find_dtype
        from groma.pretrained import load_interface

        config = load_interface(name).config
        device = find_device(self.placement.device)
        stored = self.placement.dtype == "stored"  # two bytes a number are the least that files have
        dtype = find_dtype("bfloat16" if stored else self.placement.dtype, config, device)
        check_fits(config, dtype, device, what=name, pictures=options.batch_size, new_tokens=options.new_tokens)
        return self.placement.load(name)


def _config(size: str) -> "GromaConfig":
    """A named size, or the architecture of a config.json."""
    from groma.bench.sizes import size_config
    from groma.convert.own import own_config
    from groma.storage import read_json_object

    path = Path(size).expanduser()
    if path.suffix == ".json":
        return own_config(read_json_object(path))
    return size_config(size)
