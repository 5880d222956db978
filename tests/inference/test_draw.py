"""Drawn answers: every box and label is there, inside, in its colour, whatever picture and font."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from groma.errors import InputError
from groma.inference import draw as drawing
from groma.inference import lettering as letters
from groma.inference.draw import PALETTE, UNNAMED, draw, draw_regions, phrase_colors
from groma.inference.lettering import BLACK, WHITE, Lettering, Span, caption_strip, text_color_on
from groma.inference.result import Box, Entity, GroundedAnswer, Region

GROUND = (120, 125, 130)  # a background that no palette colour equals


def region(region_id: int, box: Box, *, source: str = "proposal", numbers: tuple[int, ...] = ()) -> Region:
    return Region(id=region_id, box_xyxy_px=box, objectness=0.5, source=source, numbers=numbers)


def entities(*phrases: tuple[str, tuple[int, ...]]) -> tuple[str, tuple[Entity, ...]]:
    text, made = "", []
    for phrase, region_ids in phrases:
        start = len(text)
        text += phrase
        made.append(
            Entity(
                phrase=phrase,
                start=start,
                end=len(text),
                region_ids=region_ids,
                score=0.5,
                region_scores=tuple(0.5 for _ in region_ids),
            )
        )
        text += " and "
    return text, tuple(made)


def answer(size: tuple[int, int], regions: list[Region], *phrases: tuple[str, tuple[int, ...]]) -> GroundedAnswer:
    text, made = entities(*phrases)
    return GroundedAnswer(
        text=text,
        entities=made,
        regions=tuple(regions),
        finish_reason="stop",
        raw_text=text,
        image_size_px=size,
        question="What is there?",
    )


def plain(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GROUND)


def has_color(image: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == color).all(-1).any())


@pytest.fixture
def tags(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, int], str]]:
    """Every label that is written: its place and its text."""
    written: list[tuple[tuple[int, int], str]] = []
    original = Lettering.write

    def write(self: Lettering, canvas: Image.Image, place: tuple[int, int], text: str, color: object) -> None:
        assert place[0] >= 0
        assert place[1] >= 0
        assert place[0] + self.width_px(text) <= canvas.width
        assert place[1] + self.line_px <= canvas.height
        written.append((place, text))
        original(self, canvas, place, text, color)

    monkeypatch.setattr(Lettering, "write", write)
    return written


# --- colours -----------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes 2009, severity 1: what dichromats see, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(linear: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ linear.clip(0, 1) / (0.95047, 1.0, 1.08883)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_the_palette_can_be_told_apart_by_all(vision: str):
    srgb = np.array(PALETTE) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = [lab(np.asarray(VISION[vision]) @ color) for color in linear]
    assert len(seen) >= 12
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 15


def test_one_colour_a_phrase():
    _, made = entities(("a dog", (0,)), ("a cat", (1,)), ("A  Dog", (2,)), ("", (3,)), ("", (4,)))
    dog, cat, same_dog, bare, other_bare = phrase_colors(made)
    assert dog == same_dog
    assert len({dog, cat, bare, other_bare}) == 4


def test_letters_contrast_with_their_ground():
    assert text_color_on((240, 228, 66)) == BLACK
    assert text_color_on((34, 34, 153)) == WHITE


# --- boxes and labels --------------------------------------------------------------------------------------


def test_boxes_lie_where_they_belong():
    drawn = np.asarray(draw(plain(800, 600), answer((800, 600), [region(3, (200, 150, 500, 450))], ("a dog", (3,)))))
    color = np.array(PALETTE[0])
    for x, y in ((350, 150), (350, 449), (200, 300), (499, 300)):
        assert (drawn[y, x] == color).all()
    for x, y in ((350, 300), (100, 300), (350, 500), (700, 500)):
        assert (drawn[y, x] == GROUND).all()


def test_the_given_picture_is_not_changed():
    picture = plain(800, 600)
    before = np.asarray(picture).copy()
    draw(picture, answer((800, 600), [region(3, (200, 150, 500, 450))], ("a dog", (3,))))
    np.testing.assert_array_equal(np.asarray(picture), before)


def test_small_pictures_are_magnified_and_large_ones_kept():
    for size, expected in (
        ((64, 48), (640, 480)),
        ((1, 1), (640, 640)),
        ((640, 100), (640, 100)),
        ((900, 30), (900, 30)),
    ):
        assert draw(plain(*size), answer(size, [])).size == expected
    assert draw(plain(640, 480), answer((640, 480), []), width_px=160).size == (160, 120)
    magnified = np.asarray(draw(plain(64, 48), answer((64, 48), [region(0, (16, 12, 48, 36))], ("x", (0,)))))
    assert (magnified[240, 160] == PALETTE[0]).all()


def test_labels_name_phrases_scores_and_numbers(tags: list):
    regions = [region(0, (50, 50, 200, 200)), region(1, (300, 50, 500, 200)), region(7, (50, 300, 200, 400))]
    regions.append(region(9, (400, 300, 500, 400), source="user", numbers=(1,)))
    given_answer = answer((640, 480), regions, ("a  red\ncar", (0, 1)), ("", (1,)))
    draw(plain(640, 480), given_answer)
    assert sorted(text for _, text in tags) == ["[1]", "a red car", "a red car", "r1"]
    tags.clear()
    draw(plain(640, 480), given_answer, show_user_regions=False, show_scores=True)
    assert sorted(text for _, text in tags) == ["a red car 50%", "a red car 50%", "r1 50%"]
    tags.clear()
    drawn = draw(plain(640, 480), given_answer, show_all_regions=True)
    assert sorted(text for _, text in tags) == ["[1]", "a red car", "a red car", "r1", "r7"]
    assert has_color(drawn, UNNAMED)


def test_regions_alone_are_all_drawn(tags: list):
    draw_regions(plain(640, 480), [region(k, (40.0 * k, 10, 40.0 * k + 30, 100)) for k in range(14)])
    assert sorted(text for _, text in tags) == sorted(f"r{k}" for k in range(14))


def test_labels_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch):
    rects: list = []
    original = drawing._tag

    def tag(canvas, mark, boxes, taken, lettering):
        original(canvas, mark, boxes, taken, lettering)
        rects[:] = taken

    monkeypatch.setattr(drawing, "_tag", tag)
    regions = [region(k, (300.0 + k, 200.0 + k, 420.0, 300.0)) for k in range(12)]
    draw(plain(800, 600), answer((800, 600), regions, *((f"thing {k}", (k,)) for k in range(12))))
    assert len(rects) == 12
    assert all(drawing._shared(a, b) == 0 for a, b in itertools.combinations(rects, 2))


def test_user_regions_are_dashed_black_and_white():
    drawn = draw(plain(640, 480), answer((640, 480), [region(0, (100, 100, 400, 400), source="user")]))
    row = np.asarray(drawn)[100, 100:400]
    assert {tuple(pixel) for pixel in row.tolist()} == {BLACK, WHITE}


def test_a_thirteenth_phrase_is_dashed():
    regions = [region(k, (60.0 * k, 10, 60.0 * k + 50, 100)) for k in range(13)]
    phrases = [(f"thing {k}", (k,)) for k in range(13)]
    drawn = np.asarray(draw(plain(800, 600), answer((800, 600), regions, *phrases), width_px=800))
    full, dashed = drawn[40:90, 1], drawn[40:90, 721]
    assert (full == PALETTE[0]).all()
    assert 0 < (dashed == PALETTE[0]).all(-1).sum() < 50


def test_two_phrases_of_one_region_are_both_seen(tags: list):
    drawn = draw(plain(640, 480), answer((640, 480), [region(0, (100, 100, 400, 400))], ("one", (0,)), ("two", (0,))))
    assert sorted(text for _, text in tags) == ["one", "two"]
    column = np.asarray(drawn)[250, 95:125]
    assert (column == PALETTE[0]).all(-1).any()
    assert (column == PALETTE[1]).all(-1).any()


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    corners=st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=6),
    phrase=st.text(max_size=40),
)
def test_any_boxes_and_phrases_can_be_drawn(size: tuple[int, int], corners: list, phrase: str):
    regions = []
    for k, (x1, y1, x2, y2) in enumerate(corners):
        box = (min(x1, x2) * size[0], min(y1, y2) * size[1], max(x1, x2) * size[0], max(y1, y2) * size[1])
        regions.append(region(k, box, source="user" if k % 3 == 2 else "proposal", numbers=(k,)))
    named = answer(size, regions, (phrase, tuple(range(len(corners)))))
    drawn = draw(plain(*size), named, width_px=200, caption=True, show_all_regions=True)
    assert drawn.width == 320
    assert drawn.height > round(200 * size[1] / size[0])


def test_refusals():
    empty = answer((640, 480), [])
    with pytest.raises(InputError, match="picture is 480x640, but the answer is about one of 640x480"):
        draw(plain(480, 640), empty)
    with pytest.raises(InputError, match="'a' names region 7, which is not among"):
        draw_regions(plain(640, 480), [region(0, (9, 9, 99, 99))], entities(("a", (7,)))[1])
    with pytest.raises(InputError, match="width_px is 0"):
        draw(plain(640, 480), empty, width_px=0)
    with pytest.raises(InputError, match=r"1000000x750000 pixels: choose a smaller width"):
        draw(plain(640, 480), empty, width_px=1_000_000)
    with pytest.raises(InputError, match=r"font '/no/such\.ttf' cannot be read"):
        draw(plain(640, 480), answer((640, 480), [region(0, (9, 9, 99, 99))], ("a", (0,))), font="/no/such.ttf")


# --- letters -----------------------------------------------------------------------------------------------


def test_labels_are_shortened_to_fit():
    lettering = Lettering(20)
    whole = "a very long phrase about nothing in particular"
    for width in (400, 200, 60, 30):
        fitted = lettering.fit(whole, width)
        assert lettering.width_px(fitted) <= width
        assert fitted == whole or fitted.endswith("...")
    assert lettering.fit("dog", 400) == "dog"
    assert lettering.fit("dog", 3) == ""
    assert lettering.fit("x" * 100_000, 200).endswith("...")


@pytest.mark.parametrize("text", ["dog", "café Ärger", "猫と犬", "שלום", "tab\tnew\nline\x00", "🐕", "\udcff"])
def test_every_text_leaves_ink(text: str):
    canvas = Image.new("RGB", (400, 60), WHITE)
    Lettering(20).write(canvas, (10, 10), text, BLACK)
    assert (np.asarray(canvas) < 100).any()


def test_a_chosen_font_is_used_at_the_drawing_size():
    font = ImageFont.load_default(size=9)
    assert Lettering(30, font).width_px("dog") == Lettering(30).width_px("dog")
    bitmap = ImageFont.load_default_imagefont()
    assert Lettering(33, bitmap).width_px("dog") == 3 * Lettering(11, bitmap).width_px("dog")


def test_pillow_without_freetype(monkeypatch: pytest.MonkeyPatch, tags: list):
    from PIL._util import DeferredError

    for cached in (letters._default_font, letters._system_font):
        cached.cache_clear()
    monkeypatch.setattr(ImageFont, "core", DeferredError(ImportError("no FreeType")))
    try:
        regions = [region(0, (50, 50, 300, 200)), region(1, (300, 250, 600, 400))]
        drawn = draw(plain(640, 480), answer((640, 480), regions, ("a dog", (0,)), ("猫 café", (1,))), caption=True)
        assert drawn.height > 480
        assert "a dog" in [text for _, text in tags]
        blank = Image.new("RGB", (300, 60), WHITE)
        Lettering(22).write(blank, (5, 5), "猫", BLACK)
        assert (np.asarray(blank) < 100).any()
    finally:
        for cached in (letters._default_font, letters._system_font):
            cached.cache_clear()


# --- caption -----------------------------------------------------------------------------------------------


def test_caption_breaks_lines_within_its_width_and_loses_nothing(tags: list):
    text = "In the picture a red car stands before   a tree.\n\nSo it does: " + "w" * 90
    start = text.index("a red car")
    spans = [Span(start=start, end=start + 9, color=PALETTE[1]), Span(start=start, end=start + 20, color=PALETTE[2])]
    strip = caption_strip(text, spans, 200, Lettering(16), heading="What is there to be seen in this picture?")
    assert strip.width == 200
    written = "".join(piece for _, piece in tags)
    assert "".join(written.split()) == "What is there to be seen in this picture?".replace(" ", "") + "".join(
        text.split()
    )
    assert has_color(strip, PALETTE[1])
    assert has_color(strip, PALETTE[2])


def test_caption_of_nothing():
    assert caption_strip("", [], 100, Lettering(16)).height > 0


def test_draw_puts_the_caption_under_the_picture(tags: list):
    named = answer((640, 480), [region(0, (50, 50, 300, 200))], ("a dog", (0,)))
    bare, captioned = draw(plain(640, 480), named), draw(plain(640, 480), named, caption=True)
    np.testing.assert_array_equal(np.asarray(captioned)[:480], np.asarray(bare))
    assert has_color(captioned.crop((0, 480, *captioned.size)), PALETTE[0])
    assert [text for place, text in tags][-3:] == ["What is there?", "a dog", " and "]
