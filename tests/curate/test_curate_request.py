"""The request: instructions, examples that alternate, the picture as a data URL, and a key that is all of it."""

import base64
import io
import json
from dataclasses import replace

import pytest
from made_up import quick_recipe
from PIL import Image

from groma.curate.instructions import WORKED_EXAMPLES
from groma.curate.regions import Regions
from groma.curate.request import first_request, next_request, readable
from groma.curate.settings import Asking, PictureSettings
from groma.data.annotation import Passage, Span

PICTURE = Image.radial_gradient("L").convert("RGB")
REGIONS = Regions(
    size_px=(256, 256),
    boxes_xyxy_px=((0.0, 0.0, 50.0, 50.0), (60.0, 0.0, 90.0, 50.0), (100.0, 0.0, 150.0, 50.0)),
    texts=("a dog", "", "cup " * 200),
    captions=(Passage("A dog sees a cup.", (Span(0, 5, (0,)), Span(11, 16, (1, 2)))),),
)
RECIPE = quick_recipe()


def test_roles_alternate_and_end_with_the_user():
    messages = first_request(PICTURE, REGIONS, RECIPE).body["messages"]
    roles = [message["role"] for message in messages]
    assert roles == ["system", *("user", "assistant") * len(WORKED_EXAMPLES), "user"]


def test_the_picture_and_what_is_known():
    picture, text = first_request(PICTURE, REGIONS, RECIPE).body["messages"][-1]["content"]
    head, _, encoded = picture["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert "detail" not in picture["image_url"]
    sent = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert (sent.format, sent.size) == ("JPEG", PICTURE.size)
    lines = text["text"].splitlines()
    assert lines[:3] == ["Regions:", "1: a dog", "2: (no description)"]
    assert lines[3].startswith("3: cup cup") and lines[3].endswith("...") and len(lines[3]) <= 303
    assert lines[5:] == ["Captions:", "- [A dog](1) sees [a cup](2,3)."]


def test_fields():
    body = first_request(PICTURE, REGIONS, RECIPE).body
    assert body["model"] == "test-vision"
    assert body["max_tokens"] == 1500
    assert body["response_format"] == {"type": "json_object"}
    assert "temperature" not in body and "stream" not in body
    asking = Asking(temperature=0.5, json_mode=False, tokens_field="max_completion_tokens", extra='{"top_p": 0.9}')
    other = replace(RECIPE, asking=asking, picture=PictureSettings(detail="high"))
    body = first_request(PICTURE, REGIONS, other).body
    assert body["max_completion_tokens"] == 1500 and "max_tokens" not in body
    assert (body["temperature"], body["top_p"]) == (0.5, 0.9)
    assert "response_format" not in body
    assert body["messages"][-1]["content"][0]["image_url"]["detail"] == "high"


@pytest.mark.parametrize(
    "other",
    [
        first_request(PICTURE.rotate(1), REGIONS, RECIPE),
        first_request(PICTURE, replace(REGIONS, texts=("a cat", "", "")), RECIPE),
        first_request(PICTURE, replace(REGIONS, captions=()), RECIPE),
        first_request(PICTURE, REGIONS, replace(RECIPE, model="another")),
        first_request(PICTURE, REGIONS, replace(RECIPE, asking=Asking(temperature=1.0))),
        next_request(first_request(PICTURE, REGIONS, RECIPE), "x", ["y"], RECIPE),
    ],
    ids=["picture", "texts", "captions", "model", "asking", "next"],
)
def test_whatever_changes_the_request_changes_its_key(other):
    request = first_request(PICTURE, REGIONS, RECIPE)
    assert request.key == first_request(PICTURE.copy(), REGIONS, RECIPE).key
    assert len(request.key) == 64
    assert request.key != other.key


def test_asking_again_names_the_faults():
    first = first_request(PICTURE, REGIONS, RECIPE)
    again = next_request(first, "a bad answer", ["it is bad", "it is short"], RECIPE)
    assert again.body["messages"][: len(first.body["messages"])] == first.body["messages"]
    answer, complaint = again.body["messages"][-2:]
    assert answer == {"role": "assistant", "content": "a bad answer"}
    assert complaint["role"] == "user" and "- it is bad\n- it is short" in complaint["content"]
    assert again.text_tokens > first.text_tokens


def test_the_estimate_covers_the_texts_and_not_the_picture():
    request = first_request(PICTURE, REGIONS, RECIPE)
    characters = len(readable(request))
    assert characters / 4 < request.text_tokens < characters / 2
    assert "(the picture)" in readable(request)
    json.dumps(request.body)
