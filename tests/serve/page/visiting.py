"""A reader of the page: what they do and what they see, in the words of the page."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Dialog, Locator, Page, Request, expect

Box = tuple[float, float, float, float]

BICYCLE: Box = (44, 280, 240, 444)
TURTLE: Box = (290, 258, 388, 335)
KEY: Box = (165, 3, 317, 171)
"""Boxes of things in examples/scene.png, in pixels."""


@dataclass(kw_only=True)
class Visit:
    """One open page.

    Attributes:
        posts: (path, body) of everything that the page posted, in order.
        faults: What must not happen: errors in the console, and requests that leave the server.
        refusals_expected: The server refuses something in this test, which the console tells as an error.
    """

    page: Page
    url: str
    posts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    refusals_expected: bool = False
    _listeners: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._listeners = {
            "console": self._heard,
            "pageerror": lambda error: self.faults.append(f"error: {error}"),
            "request": self._asked,
            "dialog": self._disturbed,
        }
        for event, listener in self._listeners.items():
            self.page.on(event, listener)

    def leave(self) -> None:
        """Makes the page ready for the next visit, as if there had been none."""
        self.page.context.set_offline(False)
        self.page.evaluate("localStorage.clear(); sessionStorage.clear()")
        self.page.mouse.move(0, 0)
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)
        self.page.goto("about:blank")

    def _disturbed(self, dialog: Dialog) -> None:
        if dialog.type == "beforeunload":  # a conversation would be lost: the reader knows
            dialog.accept()
            return
        self.faults.append("a dialog")
        dialog.dismiss()

    def _heard(self, message: ConsoleMessage) -> None:
        is_refusal = message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not (is_refusal and self.refusals_expected):
            self.faults.append(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "blob:", "data:")):
            self.faults.append(f"request to {request.url}")
        if request.method == "POST":
            self.posts.append((request.url.removeprefix(self.url), request.post_data_json))

    def open(self) -> "Visit":
        self.page.goto(f"{self.url}/")
        self.page.wait_for_selector("[data-ready]")
        return self

    # the picture

    def choose(self, file: Path, *, is_shown: bool = True) -> None:
        """Picks a file; waits until it is on the page."""
        self.page.get_by_label("Picture file").set_input_files(file)
        if is_shown:
            expect(self.page.locator("#picture-name")).to_have_attribute("title", file.name)

    def example(self) -> None:
        self.page.get_by_role("button", name="Example scene.png").click()
        expect(self.page.locator("#picture-name")).to_have_attribute("title", "scene.png")

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height that the page says the picture has."""
        width, height = re.findall(r"\d+", str(self.page.locator("#picture").get_attribute("alt")))[-2:]
        return int(width), int(height)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where on the screen a pixel of the picture is."""
        frame = self.page.locator("#canvas").bounding_box()
        assert frame is not None
        width, height = self.size_px
        return frame["x"] + x * frame["width"] / width, frame["y"] + y * frame["height"] / height

    def settle(self) -> None:
        """Waits until what changed is drawn."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    # boxes

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the mouse, from one pixel of the picture to another."""
        mouse = self.page.mouse
        mouse.move(*self.point(*start))
        mouse.down()
        mouse.move(*self.point((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
        mouse.move(*self.point(*end))
        mouse.up()

    def draw(self, box: Box) -> None:
        before = self.boxes.count()
        self.drag(box[:2], box[2:])
        expect(self.boxes).to_have_count(before + 1)
        self.settle()  # then it has the focus

    @property
    def boxes(self) -> Locator:
        return self.page.get_by_role("application", name="Your boxes").get_by_role("button")

    def box(self, number: int) -> Locator:
        application = self.page.get_by_role("application", name="Your boxes")
        return application.get_by_role("button", name=f"Box {number}: pixels")

    def box_px(self, number: int) -> Box:
        """A box as its label tells it to screen readers."""
        self.settle()
        label = self.box(number).get_attribute("aria-label")
        x1, y1, x2, y2 = re.findall(r"\d+", str(label).partition(":")[2])
        return int(x1), int(y1), int(x2), int(y2)

    # the conversation

    @property
    def question(self) -> Locator:
        return self.page.get_by_role("textbox", name="Question", exact=True)

    @property
    def log(self) -> Locator:
        return self.page.get_by_role("log")

    @property
    def turns(self) -> Locator:
        return self.log.get_by_role("article")

    def phrase(self, text: str) -> Locator:
        return self.log.get_by_role("button", name=text, exact=True)

    def region(self, label: str) -> Locator:
        """A region of the answer on the picture, by its phrase."""
        return self.page.get_by_role("group", name="Regions of the answer").get_by_role("button", name=f"{label}: ")

    def send(self, question: str) -> None:
        self.question.fill(question)
        self.question.press("Enter")

    def ask(self, question: str) -> Locator:
        """Asks and waits for the whole answer; returns its turn."""
        before = self.turns.count()
        self.send(question)
        expect(self.turns).to_have_count(before + 1)
        turn = self.turns.nth(before)
        expect(turn).to_have_attribute("data-status", "done")
        return turn

    def asked(self, number: int = -1) -> dict[str, Any]:
        """The body of a question that was sent."""
        return [body for path, body in self.posts if path == "/v1/chat/completions"][number]

    def clipboard(self) -> str:
        return self.page.evaluate("navigator.clipboard.readText()")

    def copied_json(self) -> dict[str, Any]:
        return json.loads(self.clipboard())


def near(box: Box) -> Any:
    """Equal up to the rounding of the screen's pixels."""
    return pytest.approx(list(box), abs=1)


def text_of(message: dict[str, Any]) -> str:
    """The text of a user's message."""
    content = message["content"]
    return content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")
