"""Pictures come in by file, drop, paste or example, are sent byte for byte, and are shown upright at any size."""

import base64
import io
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the page is tested with playwright: pip install playwright")
pytest.importorskip("fastapi", reason="the page is tested with a server: pip install fastapi uvicorn")

from PIL import Image
from playwright.sync_api import expect

WAYS = {
    "drop": """([bytes, name]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, {type: "image/png"}));
        for (const kind of ["dragenter", "dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
    }""",
    "paste": """([bytes, name]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, {type: "image/png"}));
        document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
    }""",
}


def picture_sent(reader) -> bytes:
    part = next(part for part in reader.asked()["messages"][0]["content"] if part["type"] == "image_url")
    head, _, data = part["image_url"]["url"].partition(",")
    assert head.startswith("data:image/") and head.endswith(";base64")
    return base64.b64decode(data)


def save(folder: Path, size: tuple[int, int], name: str = "picture.png", mode: str = "RGB", **options) -> Path:
    """A picture whose left half is red and whose right half is blue."""
    picture = Image.new(mode, size, "blue")
    picture.paste("red", (0, 0, max(size[0] // 2, 1), size[1]))
    picture.save(folder / name, **options)
    return folder / name


def test_a_file_is_sent_as_it_is(reader, scene):
    reader.ask("Describe the image in detail.")
    assert picture_sent(reader) == scene.read_bytes()
    assert reader.size_px == (480, 480)
    expect(reader.page.get_by_alt_text("The picture scene.png, 480 by 480 pixels")).to_be_visible()


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_can_be_dropped_and_pasted(visit, scene, way):
    reader = visit()
    reader.page.evaluate(WAYS[way], [base64.b64encode(scene.read_bytes()).decode(), "there.png"])
    expect(reader.page.locator("#picture-name")).to_have_attribute("title", "there.png")
    expect(reader.page.locator("#dropping")).to_be_hidden()
    reader.ask("What is it?")
    assert picture_sent(reader) == scene.read_bytes()


def test_an_example_brings_its_question(visit):
    reader = visit()
    reader.example()
    expect(reader.question).to_have_value("Describe the image in detail.")
    reader.question.press("Enter")
    expect(reader.turns.first).to_have_attribute("data-status", "done")
    assert reader.asked()["messages"][0]["content"][1]["text"] == "Describe the image in detail."


def test_an_example_s_question_gives_way(reader, tmp_path):
    """To what the reader wrote, and to another picture."""
    other = save(tmp_path, (64, 48), "other.png")
    for written, kept in (("", ""), ("Mine?", "Mine?")):
        reader.page.reload()
        reader.page.wait_for_selector("[data-ready]")
        reader.example()
        expect(reader.question).to_have_value("Describe the image in detail.")
        if written:
            reader.question.fill(written)
        reader.choose(other)
        expect(reader.question).to_have_value(kept)


def test_text_can_be_dragged_into_the_question(reader):
    found = reader.page.evaluate(
        """() => {
            const prevented = (kind, target) => {
                const dataTransfer = new DataTransfer();
                dataTransfer.setData(kind, "x");
                const event = new DragEvent("dragover", { dataTransfer, bubbles: true, cancelable: true });
                return !document.querySelector(target).dispatchEvent(event);
            };
            return [["text/plain", "#log"], ["text/uri-list", "#question"], ["text/uri-list", "#stage"]]
                .map((args) => prevented(...args));
        }"""
    )
    assert found == [False, False, True]


def test_a_file_that_is_too_large_is_refused(visit, server, scene):
    server.config["max_upload_bytes"] = 50_000
    reader = visit()
    reader.choose(scene, is_shown=False)
    message = reader.page.get_by_text("the server takes at most 0.1 MB")
    expect(message).to_be_visible()
    expect(reader.page.get_by_role("button", name="Choose a picture")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("notes.png", b"just text", "This is not a picture"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "This is an SVG drawing"),
        ("scan.tif", b"II*\0\x08\0\0\0", "This is a TIFF picture"),
        ("empty.png", b"", "This file is empty"),
        ("cut.png", b"\x89PNG\r\n\x1a\n and nothing else", "is the file damaged?"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_sentence(visit, tmp_path, name, content, sentence):
    reader = visit()
    (tmp_path / name).write_bytes(content)
    reader.choose(tmp_path / name, is_shown=False)
    expect(reader.page.get_by_role("status").get_by_text(sentence)).to_be_visible()
    expect(reader.page.locator("#frame")).to_be_hidden()


@pytest.mark.parametrize("size", [(20, 20), (1, 1), (80, 2400), (3000, 120), (6000, 4000)], ids=str)
def test_pictures_of_any_size(visit, tmp_path, size):
    reader = visit()
    reader.choose(save(tmp_path, size))
    assert reader.size_px == size
    frame = reader.page.locator("#canvas").bounding_box()
    assert min(frame["width"], frame["height"]) >= 100
    assert frame["width"] / frame["height"] == pytest.approx(size[0] / size[1], rel=0.02)
    reader.page.keyboard.press("b")
    expect(reader.box(1)).to_be_focused()
    expect(reader.box(1)).to_be_in_viewport()
    reader.ask("What is [1]?")
    ((x1, y1, x2, y2),) = reader.asked()["messages"][0]["regions"]
    assert 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]
    assert (x1 + x2) / 2 == pytest.approx(size[0] / 2, abs=1)
    assert (y1 + y2) / 2 == pytest.approx(size[1] / 2, abs=1)


def test_boxes_are_in_pixels_of_the_upright_picture(visit, tmp_path):
    """The file is 300 wide and 200 high, to be turned by a quarter: seen, it is 200 wide and 300 high."""
    exif = Image.Exif()
    exif[0x0112] = 6
    reader = visit()
    reader.choose(save(tmp_path, (300, 200), "turned.jpg", exif=exif))
    assert reader.size_px == (200, 300)
    reader.draw((20, 180, 180, 290))
    reader.ask("What is [1]?")
    (box,) = reader.asked()["messages"][0]["regions"]
    assert box == pytest.approx([20, 180, 180, 290], abs=1)
    expect(reader.log.get_by_text("boxes may be off")).to_have_count(0)


def test_transparent_pictures_lie_on_white(visit, tmp_path):
    Image.new("RGBA", (60, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    for dark in (False, True):
        reader = visit(dark=dark)
        reader.choose(tmp_path / "clear.png")
        style = "getComputedStyle(document.getElementById('canvas')).backgroundColor"
        assert reader.page.evaluate(style) == "rgb(255, 255, 255)"


def test_a_moving_picture_stands_still_at_its_first_frame(visit, tmp_path):
    """It would end at blue, but the server sees red."""
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=20)
    reader = visit()
    reader.choose(tmp_path / "moving.gif")
    reader.page.wait_for_timeout(200)
    seen = Image.open(io.BytesIO(reader.page.locator("#picture").screenshot())).convert("RGB")
    assert seen.getpixel((seen.width // 2, seen.height // 2)) == (255, 0, 0)
    reader.ask("What is it?")
    assert picture_sent(reader) == (tmp_path / "moving.gif").read_bytes()


def test_the_server_sees_another_size(visit, server, tmp_path, monkeypatch):
    """Should browser and server ever turn a picture differently, the reader is told."""
    monkeypatch.setattr("page_server._size_px", lambda url: (40, 60))
    reader = visit()
    reader.choose(save(tmp_path, (60, 40)))
    reader.ask("What is it?")
    expect(reader.log.get_by_text("sees this picture as 40 \u00d7 60, this browser as 60 \u00d7 40")).to_be_visible()


def test_a_new_picture_begins_a_new_conversation_that_can_be_undone(reader, tmp_path):
    reader.draw((100, 100, 200, 200))
    reader.ask("What is [1]?")
    reader.choose(save(tmp_path, (64, 48), "other.png"))
    expect(reader.turns).to_have_count(0)
    expect(reader.boxes).to_have_count(0)
    reader.page.get_by_role("button", name="Undo").click()
    expect(reader.turns).to_have_count(1)
    expect(reader.boxes).to_have_count(1)
    assert reader.size_px == (480, 480)
    reader.ask("And what else?")
    assert len(reader.asked()["messages"]) == 3
