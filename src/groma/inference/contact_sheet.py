"""Drawn pictures side by side on one sheet: people look at many at once."""

from collections.abc import Sequence

from PIL import Image

TILE_PX = 480
"""Width of a tile."""
GAP_PX = 16
LETTER_PX = 15
"""Size of the letters in a tile's strip of text."""
BACKGROUND = (225, 225, 225)


def contact_sheet(tiles: Sequence[Image.Image], *, columns: int = 4) -> Image.Image:
    """Tiles of one width in columns, each under the shortest column so far."""
    heights = [GAP_PX] * min(columns, max(1, len(tiles)))
    places: list[tuple[int, int]] = []
    for tile in tiles:
        column = heights.index(min(heights))
        places.append((GAP_PX + column * (TILE_PX + GAP_PX), heights[column]))
        heights[column] += tile.height + GAP_PX
    sheet = Image.new("RGB", (GAP_PX + len(heights) * (TILE_PX + GAP_PX), max(heights)), BACKGROUND)
    for tile, place in zip(tiles, places, strict=True):
        sheet.paste(tile, place)
    return sheet


def stacked(parts: Sequence[Image.Image]) -> Image.Image:
    """Parts of a tile, one under the other."""
    tile = Image.new("RGB", (TILE_PX, sum(part.height for part in parts)))
    y = 0
    for part in parts:
        tile.paste(part, (0, y))
        y += part.height
    return tile
