"""Mixtures over exported scenes, for tests of everything that reads one."""

from pathlib import Path

from groma.data.catalogue import CATALOGUE
from groma.data.mixture import MixtureConfig, SetConfig
from groma.data.scenes.export import PICTURES, export_scenes
from groma.data.scenes.scene import Scene, make_scene


def some_scenes(count: int = 6, *, size_px: int = 96, seed: int = 43) -> list[Scene]:
    return [make_scene("train", index, seed, size_px=size_px) for index in range(count)]


def exported_set(name: str, scenes: list[Scene], folder: Path, **changes) -> SetConfig:
    """Scenes in the format of a catalogue entry, in a folder of their own."""
    file = export_scenes(scenes, CATALOGUE[name].format, folder / name)
    return SetConfig(set=name, annotations=str(file), pictures=str(folder / name / PICTURES), **changes)


def exported_mixture(names: list[str], scenes: list[Scene], folder: Path, **changes) -> MixtureConfig:
    return MixtureConfig(sets=tuple(exported_set(name, scenes, folder) for name in names), **changes)
