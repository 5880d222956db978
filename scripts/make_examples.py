"""Writes the example pictures of the README and of `make demo`: examples/scene.png.

A scene of the split "test", which no training ever sees; the same file every time.

    python scripts/make_examples.py [--out examples]
"""

import argparse
from pathlib import Path

from PIL import Image

from groma.data.scenes.scene import make_scene

INDEX, SEED, SIZE_PX = 8, 2026, 480


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("examples"), help="folder to write to (default: examples)")
    out = parser.parse_args().out
    scene = make_scene("test", INDEX, SEED, size_px=SIZE_PX)
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(out / "scene.png", optimize=True)
    print(f"{out / 'scene.png'}: {SIZE_PX}x{SIZE_PX}, {scene.background} background")
    for entry in scene.objects:
        print(f"  {entry.colour or 'untinted'} {entry.name}, {entry.style}, {entry.box_xyxy_px}")


if __name__ == "__main__":
    main()
