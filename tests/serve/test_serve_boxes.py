"""Addresses for boxes, with JSON and with forms; state, description and page."""

import json

import pytest
from serving import data_url, png

from groma.image import load_image
from groma.serve.app import EXAMPLES
from small_models import picture

BOXES = [[10, 10, 60, 70], [30, 20, 110, 85]]


def form(**fields):
    """A multipart form; bytes are a file."""
    boundary = "frontier"
    parts = []
    for name, value in fields.items():
        if isinstance(value, bytes):
            head = f'Content-Disposition: form-data; name="{name}"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        else:
            head, value = f'Content-Disposition: form-data; name="{name}"\r\n\r\n', value.encode()
        parts.append(f"--{boundary}\r\n{head}".encode() + value + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def post(server, path, as_form, image=None, **fields):
    image = image or picture(0)
    if not as_form:
        return server.send("POST", path, {"image": data_url(image), **fields})
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
    body, kind = form(image=png(image), **texts)
    return server.send("POST", path, body, **{"Content-Type": kind})


both = pytest.mark.parametrize("as_form", [False, True], ids=["json", "form"])


@both
@pytest.mark.parametrize("all", [False, True])
def test_locate(server, as_form, all):
    status, found, _ = post(server, "/locate", as_form, phrase="the red dog", all=all)
    plain = server.assistant.locate(picture(0), "the red dog", all=all, decoding=server.engine.default_decoding)
    assert status == 200
    assert found == json.loads(json.dumps(plain.to_dict())) | {
        "entities": found["entities"],
        "regions": found["regions"],
    }
    assert [tuple(e["region_ids"]) for e in found["entities"]] == [e.region_ids for e in plain.entities]


@both
def test_describe(server, as_form):
    status, told, _ = post(server, "/describe", as_form, boxes=BOXES)
    assert status == 200
    decoding = server.engine.default_decoding
    texts = [answer.text for answer in server.assistant.describe(picture(0), BOXES, decoding=decoding)]
    assert [answer["text"] for answer in told["descriptions"]] == texts


@both
def test_regions(server, as_form):
    status, told, _ = post(server, "/regions", as_form, min_objectness=0.5)
    assert status == 200 and told["image_size_px"] == [120, 90]
    plain = [r for r in server.assistant.regions(picture(0)) if r.objectness >= 0.5]
    assert [region["id"] for region in told["regions"]] == [region.id for region in plain]
    for region, other in zip(told["regions"], plain, strict=True):
        assert region["box_xyxy_px"] == pytest.approx(list(other.box_xyxy_px), abs=1e-3)


@pytest.mark.parametrize(
    ("path", "fields", "text"),
    [
        ("/locate", {}, "phrase"),
        ("/locate", {"phrase": "  "}, "the phrase is empty"),
        ("/locate", {"phrase": "dog", "every": True}, "there is no field 'every'"),
        ("/describe", {"boxes": []}, "boxes"),
        ("/describe", {"boxes": [[1, 2, 3, "x"]]}, "boxes.0.3"),
        ("/describe", {"boxes": [[50, 50, 10, 10]]}, "box 1"),
        ("/regions", {"min_objectness": 2}, "min_objectness"),
        ("/regions", {"image": "https://example.org/a.png"}, "must be a data URL"),
        ("/regions", {"image": "data:image/png;base64,@@@"}, "not valid base64"),
        ("/regions", {"image": "data:image/png;base64,aGVsbG8="}, "not a picture"),
        ("/regions", {"image": ""}, "missing"),
    ],
)
def test_bad_requests(server, path, fields, text):
    status, told, _ = server.send("POST", path, {"image": data_url(picture(0)), **fields})
    assert status == 400 and text in told["error"]["message"]


def test_forms_that_cannot_be_read(server):
    body, kind = form(phrase="dog")
    status, told, _ = server.send("POST", "/locate", body, **{"Content-Type": kind})
    assert status == 400 and "needs a file in its field image" in told["error"]["message"]
    status, told, _ = server.send("POST", "/locate", b"nothing", **{"Content-Type": "multipart/form-data"})
    assert status == 400 and "form" in told["error"]["message"]


# --- state -----------------------------------------------------------------------------------------------------------


def test_models_health_and_metrics(server):
    status, models, _ = server.send("GET", "/v1/models")
    assert status == 200 and [model["id"] for model in models["data"]] == ["small"]
    assert server.send("GET", "/v1/models/small")[1]["id"] == "small"
    assert server.send("GET", "/v1/models/other")[0] == 404
    assert server.send("GET", "/health")[:2] == (200, {"status": "ready"})
    before = server.send("GET", "/metrics")[1]
    server.send("POST", "/locate", {"image": data_url(picture(77)), "phrase": "dog"})
    after = server.send("GET", "/metrics")[1]

    def value(text, name):
        return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[-1])

    assert value(after, "groma_pictures_encoded_total") == value(before, "groma_pictures_encoded_total") + 1
    for name in ("groma_queue_length", "groma_running", "groma_ready", "groma_picture_cache_bytes"):
        assert value(after, name) >= 0
    for name in ("groma_batch_size", "groma_queue_seconds", "groma_first_token_seconds", "groma_question_seconds"):
        assert value(after, f"{name}_count") > 0
    assert 'groma_tokens_total{kind="said"}' in after and 'outcome="answered"' in after


def test_unknown_addresses_and_methods(server):
    for method, path, wanted in (("GET", "/nothing", 404), ("GET", "/locate", 405), ("POST", "/health", 405)):
        status, told, _ = server.send(method, path)
        assert status == wanted and told["error"]["message"]


def test_the_description_has_bodies_and_examples_that_work(server):
    status, api, _ = server.send("GET", "/openapi.json")
    assert status == 200
    for path in ("/v1/chat/completions", "/locate", "/describe", "/regions"):
        post = api["paths"][path]["post"]
        reference = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = api["components"]["schemas"][reference.rsplit("/", 1)[-1]]
        for example in schema["examples"]:
            status, told, _ = server.send("POST", path, example)
            assert status == 200, told
        assert {"400", "429"} <= set(post["responses"])
    assert "$defs" not in json.dumps(api)


def test_the_page_and_its_files(server):
    status, page, headers = server.send("GET", "/")
    assert status == 200 and "<html" in page
    assert "script-src 'self'" in headers["content-security-policy"]
    status, config, _ = server.send("GET", "/page/config.json")
    assert config["model"] == "small" and config["key_needed"] is False
    assert config["max_regions"] == server.assistant.max_regions
    assert [example["name"] for example in config["examples"]] == list(EXAMPLES)
    for example in config["examples"]:
        status, content, _ = server.send("GET", f"/{example['url']}")
        assert status == 200 and load_image(content).size >= (224, 224)
    assert server.send("GET", "/docs")[0] == 200
    for way in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page//etc/passwd"):
        assert server.send("GET", way)[0] == 404
