"""`groma data example` and `groma data published`: what to start from, made-up pictures or the published mixtures."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from groma.cli.arguments import Switch, check_count, check_seed
from groma.cli.output import check_target, save_text, write_json, write_line
from groma.errors import InputError

SPLITS = {False: "example", True: "example_test"}
"""Whether pictures are to test on -> the scenes' split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Write made-up annotated pictures of things that groma-tiny has no names for."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A new folder for pictures, annotations and a mixture's YAML."""
    set: str = "own"
    """In whose format, by the set's name in the catalogue."""
    n: int = 64
    """How many pictures."""
    size_px: int = 224
    """Their side."""
    seed: int = 0
    """Which ones."""
    test: Switch = False
    """Pictures to test on: none of the others' casts appear in them."""
    json: Switch = False
    """Print one JSON value and nothing else."""

    def run(self) -> int:
        """Write."""
        count, seed = check_count(self.n, "--n"), check_seed(self.seed)
        from groma.data.catalogue import CATALOGUE
        from groma.data.scenes.export import PICTURES, export_scenes
        from groma.data.scenes.scene import make_scene
        from groma.storage import write_text

        if self.set not in CATALOGUE:
            raise InputError(f"--set {self.set!r} is not in the catalogue; known are {', '.join(CATALOGUE)}.")
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"{self.out} is there already: give a new or an empty folder.")
        scenes = [make_scene(SPLITS[self.test], index, seed, size_px=self.size_px) for index in range(count)]
        file = export_scenes(scenes, CATALOGUE[self.set].format, self.out)
        pictures = PICTURES
        if file.suffix == ".jsonl":  # found from its own folder, so that it can be given to --data by itself
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            moved = [line | {"image": f"{PICTURES}/{line['image']}"} for line in lines]
            write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in moved))
            pictures = "."
        mixture = f"sets:\n  - set: {self.set}\n    annotations: {file.name}\n    pictures: {pictures}\n"
        write_text(self.out / "mixture.yaml", mixture)
        values = {"annotations": str(file), "mixture": str(self.out / "mixture.yaml"), "pictures": count}
        write_json(values) if self.json else write_line(f"{count} pictures: {file}, {self.out / 'mixture.yaml'}")
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Print the mixture of a stage of the published model, for your folders."""

    stage: Annotated[Literal["detect", "align", "instruct"], tyro.conf.Positional]
    """Of which stage."""
    root: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder that the sets lie in. None: a placeholder, to be filled in."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """Write it to this file instead."""

    def run(self) -> int:
        """Print or write."""
        from groma.data.mixture import PLACEHOLDER, published_mixture

        text = published_mixture(self.stage)
        if self.root is not None:
            text = text.replace(PLACEHOLDER, json.dumps(self.root, ensure_ascii=False))
        if self.out is None:
            write_line(text.rstrip())
            return 0
        check_target(self.out)
        save_text(text, self.out)
        write_line(f"written: {self.out}")
        return 0
