"""Screenshots of a running server's page.

python scripts/page_screenshots.py http://127.0.0.1:8000 --out docs/page

Needs playwright (pip install playwright) and a Chromium or Chrome: on Debian `apt-get install chromium`.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE_MS = 60_000
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
WINDOWS = {"laptop": (False, (1280, 800)), "dark": (True, (1280, 800)), "phone": (False, (390, 844))}
"""Name of a picture -> dark colours, width and height of the window."""

BOX_PX = (134, 188, 204, 262)
"""The burger of the first example."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is shot."""

    url: Annotated[str, tyro.conf.Positional] = "http://127.0.0.1:8000"
    """Where the server is."""
    out: Path = Path("out/page")
    """Folder for the pictures."""


def find_browser() -> str:
    names = (os.environ.get("GROMA_BROWSER"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("no Chromium or Chrome found: install one, or name it in GROMA_BROWSER")
    return found


def ask(page: "Page", question: str) -> None:
    box = page.get_by_role("textbox", name="Question", exact=True)
    turns = page.get_by_role("log").get_by_role("article")
    before = turns.count()
    box.fill(question)
    box.press("Enter")
    page.wait_for_selector(f'[role="log"] article:nth-of-type({before + 1})[data-status="done"]', state="attached")


def visit(page: "Page", url: str) -> None:
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    page.wait_for_selector("[data-ready]")
    page.get_by_role("button", name="Example scene.png").click()
    page.wait_for_selector('#picture-name[title="scene.png"]', state="attached")
    ask(page, "Describe the image in detail.")


def draw(page: "Page", box_px: tuple[int, int, int, int]) -> None:
    """A box on the picture, with the mouse."""
    frame = page.locator("#canvas").bounding_box()
    assert frame is not None
    scale = frame["width"] / 480  # the example's side
    x1, y1, x2, y2 = (value * scale for value in box_px)
    page.mouse.move(frame["x"] + x1, frame["y"] + y1)
    page.mouse.down()
    page.mouse.move(frame["x"] + x2, frame["y"] + y2, steps=4)
    page.mouse.up()


def main() -> None:
    options = tyro.cli(Options)
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        for name, (dark, size) in WINDOWS.items():
            page = browser.new_page(
                viewport={"width": size[0], "height": size[1]},
                color_scheme="dark" if dark else "light",
                device_scale_factor=2 if name == "phone" else 1,
            )
            visit(page, options.url)
            if name == "laptop":
                draw(page, BOX_PX)
                ask(page, "What is [1]?")
                page.get_by_role("log").get_by_role("button", name="a bicycle", exact=True).hover()
            target = options.out / f"{name}.jpg"
            page.screenshot(path=target, type="jpeg", quality=85)
            print(target)
        browser.close()


if __name__ == "__main__":
    main()
