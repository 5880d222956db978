"""Settings say what is wrong with them."""

import pytest

from groma.curate.settings import Asking, Budget, Line, PictureSettings, Recipe, RegionSettings, Rules
from groma.errors import InputError


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: RegionSettings(nms_iou=1.5), "regions: nms_iou is 1.5, expected a share"),
        (lambda: RegionSettings(least=0), "regions: least is 0, expected 1 or more"),
        (lambda: RegionSettings(least=5, most=4), "least is 5, more than most"),
        (lambda: RegionSettings(most=100), "at most 99"),
        (lambda: PictureSettings(min_side_px=2000), "more than max_side_px"),
        (lambda: PictureSettings(jpeg_quality=100), "expected 1 to 95"),
        (lambda: Rules(min_exchanges=7), "more than max_exchanges"),
        (lambda: Rules(min_phrases=0), "rules: min_phrases is 0"),
        (lambda: Asking(answer_tokens=0), "asking: answer_tokens is 0"),
        (lambda: Asking(picture_tokens=-1), "expected 0 or more"),
        (lambda: Asking(temperature=-0.1), "expected 0 to 2"),
        (lambda: Asking(extra="top_p"), "which is no JSON"),
        (lambda: Asking(extra="[1]"), "expected a JSON object"),
        (lambda: Asking(extra='{"model": "x", "stream": true}'), "must not name model, stream"),
        (lambda: Recipe(model=" "), "give --model or set OPENAI_MODEL"),
        (lambda: Line(concurrency=0), "line: concurrency is 0"),
        (lambda: Line(per_minute=0), "line: per_minute is 0, expected a number above 0"),
        (lambda: Line(timeout_s=float("nan")), "line: timeout_s is nan"),
        (lambda: Budget(max_tokens=-1), "expected 0 or more"),
        (lambda: Budget(price_in=1.0), "both prices"),
        (lambda: Budget(max_money=1.0), "max_money needs the prices"),
    ],
)
def test_what_cannot_be(make, expected):
    with pytest.raises(InputError, match=expected):
        make()


def test_defaults_are_valid():
    assert Recipe(model="x").regions.most == 10
    assert Line().per_minute is None
    assert Budget().max_money is None
