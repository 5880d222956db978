"""Builds the sprite atlas of the procedural scenes from openly licensed emoji packages.

    npm registry -> four packages -> 100 pictures each -> src/groma/assets/scenes/{atlas.json, <style>.webp}

The result is committed, so this script only has to run again when names, styles or sizes change:

    python -m venv /tmp/atlas && /tmp/atlas/bin/pip install pillow numpy resvg-py
    /tmp/atlas/bin/python scripts/build_atlas.py

It needs `npm` (only `npm pack`, which downloads a tarball and runs nothing) and `resvg-py` to draw SVG files;
neither is a dependency of the project. Packages are pinned; `--packages DIR` keeps the tarballs between runs.
"""

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

OUT = Path(__file__).resolve().parents[1] / "src" / "groma" / "assets" / "scenes"
SPRITE_PX = 96  # longer side of a tightly cropped sprite
PITCH_PX = 98  # cells lie this far apart, so that lossy compression does not bleed between them
COLUMNS = 10
DRAW_PX = 384  # SVGs are drawn this large, then cropped and reduced

# Seen in training: animals, plants and food, vehicles, buildings and things.
TRAINING = {
    "dog": "1f415", "cat": "1f408", "rabbit": "1f407", "elephant": "1f418", "giraffe": "1f992",
    "horse": "1f40e", "cow": "1f404", "pig": "1f416", "camel": "1f42b", "turtle": "1f422",
    "snake": "1f40d", "snail": "1f40c", "octopus": "1f419", "crab": "1f980", "whale": "1f433",
    "fish": "1f41f", "penguin": "1f427", "duck": "1f986", "owl": "1f989", "flamingo": "1f9a9",
    "rooster": "1f413", "butterfly": "1f98b", "bee": "1f41d", "spider": "1f577", "frog": "1f438",
    "lion": "1f981", "monkey": "1f412", "dinosaur": "1f996", "palm tree": "1f334", "cactus": "1f335",
    "tulip": "1f337", "sunflower": "1f33b", "mushroom": "1f344", "leaf": "1f341", "apple": "1f34e",
    "banana": "1f34c", "watermelon": "1f349", "pineapple": "1f34d", "strawberry": "1f353",
    "carrot": "1f955", "pizza": "1f355", "burger": "1f354", "donut": "1f369", "cupcake": "1f9c1",
    "ice cream": "1f366", "croissant": "1f950", "pretzel": "1f968", "teapot": "1fad6", "cup": "2615",
    "car": "1f697", "bus": "1f68c", "tractor": "1f69c", "bicycle": "1f6b2", "scooter": "1f6f5",
    "airplane": "2708", "helicopter": "1f681", "rocket": "1f680", "sailing boat": "26f5",
    "train": "1f682", "house": "1f3e0", "castle": "1f3f0", "umbrella": "2602", "key": "1f511",
    "bell": "1f514", "clock": "23f0", "camera": "1f4f7", "telephone": "260e", "television": "1f4fa",
    "laptop": "1f4bb", "light bulb": "1f4a1", "candle": "1f56f", "book": "1f4d6", "hammer": "1f528",
    "chair": "1fa91", "guitar": "1f3b8", "trumpet": "1f3ba", "drum": "1f941", "crown": "1f451",
    "hat": "1f3a9", "dress": "1f457", "boot": "1f462", "balloon": "1f388", "gift": "1f381",
    "snowman": "26c4",
}  # fmt: skip
# Only in the split "test_objects".
HELD_OUT = {
    "shark": "1f988", "parrot": "1f99c", "hedgehog": "1f994", "jellyfish": "1fabc", "avocado": "1f951",
    "taco": "1f32e", "pear": "1f350", "tent": "26fa", "ship": "1f6a2", "lock": "1f512", "anchor": "2693",
    "trophy": "1f3c6", "teddy bear": "1f9f8", "shirt": "1f455", "robot": "1f916", "hourglass": "23f3",
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """One drawing style: where its pictures come from and under which terms."""

    name: str
    package: str
    version: str
    held_out: bool
    licence: str
    licence_url: str
    attribution: str
    source: str


STYLES = (
    Style(
        name="noto",
        package="@iconify-json/noto",
        version="1.2.9",
        held_out=False,
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        attribution="Noto Emoji, Google Inc.",
        source="https://github.com/googlefonts/noto-emoji",
    ),
    Style(
        name="fluent_3d",
        package="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        held_out=False,
        licence="MIT",
        licence_url="https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
        attribution="Fluent Emoji (3D), Copyright (c) Microsoft Corporation",
        source="https://github.com/microsoft/fluentui-emoji",
    ),
    Style(
        name="twemoji",
        package="@twemoji/svg",
        version="15.0.0",
        held_out=False,
        licence="CC-BY-4.0",
        licence_url="https://creativecommons.org/licenses/by/4.0/",
        attribution="Twemoji graphics, Copyright Twitter, Inc and other contributors",
        source="https://github.com/jdecked/twemoji",
    ),
    Style(
        name="fluent_flat",
        package="@lobehub/fluent-emoji-flat",
        version="1.1.0",
        held_out=True,
        licence="MIT",
        licence_url="https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
        attribution="Fluent Emoji (Flat), Copyright (c) Microsoft Corporation",
        source="https://github.com/microsoft/fluentui-emoji",
    ),
)


def fetch(style: Style, packages: Path) -> Path:
    """Downloads a pinned package with `npm pack` (unless it lies there) and returns its unpacked folder."""
    folder = packages / style.name
    if not folder.exists():
        spec = f"{style.package}@{style.version}"
        command = ["npm", "pack", "--silent", "--pack-destination", str(packages), spec]
        tarball = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
        with tarfile.open(packages / tarball) as archive:
            archive.extractall(folder, filter="data")
    return folder / "package"


def draw_svg(text: str) -> Image.Image:
    """SVG source -> RGBA picture, DRAW_PX on a side."""
    png = resvg_py.svg_to_bytes(svg_string=text, width=DRAW_PX, height=DRAW_PX)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def read_iconify(folder: Path, code: str) -> Image.Image:
    """A picture out of an Iconify collection: code point -> icon name -> SVG body."""
    names = json.loads((folder / "chars.json").read_text())
    icons = json.loads((folder / "icons.json").read_text())
    icon = icons["icons"][names.get(code) or names[f"{code}-fe0f"]]
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    return draw_svg(f'{head}viewBox="0 0 {width} {height}">{icon["body"]}</svg>')


def read_picture(folder: Path, code: str) -> Image.Image:
    """The RGBA picture of a code point in an unpacked package."""
    if (folder / "icons.json").exists():
        return read_iconify(folder, code)
    for stem in (code, f"{code}-fe0f"):
        for path in folder.rglob(f"{stem}.*"):
            return draw_svg(path.read_text()) if path.suffix == ".svg" else Image.open(path).convert("RGBA")
    raise SystemExit(f"{folder}: no picture for code point {code}")


def tight_sprite(picture: Image.Image) -> Image.Image:
    """Crops to what is visible and scales the longer side to SPRITE_PX."""
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 24)).getbbox()
    picture = picture.crop(box)
    scale = SPRITE_PX / max(picture.size)
    size = tuple(max(round(side * scale), 1) for side in picture.size)
    return picture.resize(size, Image.Resampling.LANCZOS)


def colours_it_may_be_called(sprite: Image.Image, least_share: float = 0.1) -> list[str]:
    """Colour names that somebody could use for the untinted sprite, by their share of its visible pixels."""
    pixels = np.asarray(sprite, dtype=np.float32).reshape(-1, 4)
    rgb = pixels[pixels[:, 3] > 127, :3] / 255
    value, low = rgb.max(1), rgb.min(1)
    chroma = value - low
    saturation = chroma / np.maximum(value, 1e-6)
    red, green, blue = rgb.T
    safe = np.maximum(chroma, 1e-6)
    hue = np.where(value == red, (green - blue) / safe % 6, np.where(value == green, (blue - red) / safe + 2, 0))
    hue = np.where((value == blue) & (value != red) & (value != green), (red - green) / safe + 4, hue) * 60
    coloured = (saturation > 0.2) & (value > 0.15)
    warm = (hue < 18) | (hue > 340)
    regions = {
        "red": coloured & warm & (saturation > 0.45),
        "orange": coloured & (hue > 12) & (hue < 46) & (value > 0.6),
        "yellow": coloured & (hue > 38) & (hue < 72) & (value > 0.5),
        "green": coloured & (hue > 65) & (hue < 172),
        "cyan": coloured & (hue > 160) & (hue < 208),
        "blue": coloured & (hue > 190) & (hue < 258),
        "purple": coloured & (hue > 240) & (hue < 318),
        "pink": coloured & (((hue > 290) & (hue < 350)) | (warm & (saturation < 0.7) & (value > 0.6))),
        "brown": coloured & (hue > 5) & (hue < 48) & (value < 0.75),
        "gray": (saturation < 0.25) & (value > 0.2) & (value < 0.9),
    }
    return [name for name, mask in regions.items() if mask.mean() >= least_share]


def build_style(style: Style, folder: Path, names: dict[str, str]) -> dict[str, dict]:
    """Writes the WebP sheet of one style; returns name -> place, size and colours of its sprite."""
    rows = -(-len(names) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * PITCH_PX, rows * PITCH_PX))
    sprites = {}
    for index, (name, code) in enumerate(names.items()):
        sprite = tight_sprite(read_picture(folder, code))
        left, top = index % COLUMNS * PITCH_PX, index // COLUMNS * PITCH_PX
        sheet.paste(sprite, (left, top))
        box_xywh_px = [left, top, *sprite.size]
        sprites[name] = {"box_xywh_px": box_xywh_px, "may_be_called": colours_it_may_be_called(sprite)}
    sheet.save(OUT / f"{style.name}.webp", quality=90, alpha_quality=100, method=6)
    return sprites


MIT_LICENCE = """\
## MIT licence of the Fluent Emoji

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation
the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and
to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of
the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS
IN THE SOFTWARE.
"""


def attribution() -> str:
    """The text of ATTRIBUTION.md: who drew the sprites and under which terms they may be used."""
    lines = [
        "# Sprites of the procedural scenes",
        "",
        "The WebP sheets in this folder hold pictures from the emoji sets below, cropped, scaled to 96 px and",
        "packed by `scripts/build_atlas.py`; nothing else was changed. Scenes made from them tint, rotate, mirror",
        "and combine them.",
        "",
        "| sheet | pictures | licence | source | packed from |",
        "|---|---|---|---|---|",
    ]
    for style in STYLES:
        licence = f"[{style.licence}]({style.licence_url})"
        package = f"npm `{style.package}` {style.version}"
        lines.append(f"| `{style.name}.webp` | {style.attribution} | {licence} | {style.source} | {package} |")
    return "\n".join(lines) + "\n\n" + MIT_LICENCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, help="folder that keeps the downloaded packages")
    packages = parser.parse_args().packages or Path(tempfile.mkdtemp())
    packages.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(parents=True, exist_ok=True)
    names = TRAINING | HELD_OUT
    styles = []
    for style in STYLES:
        sprites = build_style(style, fetch(style, packages), names)
        styles.append(vars(style) | {"sheet": f"{style.name}.webp", "sprites": sprites})
        print(f"{style.name}: {len(sprites)} sprites, {(OUT / f'{style.name}.webp').stat().st_size} bytes")
    objects = [{"name": name, "code_point": code, "held_out": name in HELD_OUT} for name, code in names.items()]
    atlas = {"sprite_px": SPRITE_PX, "objects": objects, "styles": styles}
    (OUT / "atlas.json").write_text(json.dumps(atlas, indent=1) + "\n")
    (OUT / "ATTRIBUTION.md").write_text(attribution())


if __name__ == "__main__":
    main()
