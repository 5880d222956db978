"""The page in a real browser, before a server of its own or, with GROMA_PAGE_URL, before one that runs already."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # the tests are skipped where these are missing
    from page_server import PageServer
    from playwright.sync_api import Browser, Page
    from visiting import Visit

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PATIENCE_MS = 20_000


class OutsideServer:
    """A server that somebody else runs; it answers as it likes."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def reset(self) -> None:
        pass


def find_browser() -> str | None:
    """The browser's program: GROMA_BROWSER, else what Debian and others call it."""
    names = (os.environ.get("GROMA_BROWSER"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


# of a module: Playwright's loop runs in the main thread as long as it is there, and tests of other rooms run their own
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright

    program = find_browser()
    if program is None:
        pytest.skip("no Chromium or Chrome found: install one, or name it in GROMA_BROWSER")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def running_server() -> Iterator[PageServer | OutsideServer]:
    if url := os.environ.get("GROMA_PAGE_URL"):
        yield OutsideServer(url)
        return
    from page_server import PageServer

    with PageServer() as server:
        yield server


@pytest.fixture
def site(running_server: PageServer | OutsideServer) -> PageServer | OutsideServer:
    """Serves the page."""
    running_server.reset()
    return running_server


@pytest.fixture
def server(site: PageServer | OutsideServer) -> PageServer:
    """Serves the page, and answers what the test prescribes."""
    if isinstance(site, OutsideServer):
        pytest.skip("needs answers that are prescribed, not those of the server in GROMA_PAGE_URL")
    return site


@pytest.fixture(scope="module")
def free_pages(browser: Browser) -> dict[str, list[Page]]:
    """Pages that no test uses now, by the kind of their window: a new one costs more than most tests."""
    return {}


@pytest.fixture
def visit(
    browser: Browser, free_pages: dict[str, list[Page]], site: PageServer | OutsideServer
) -> Iterator[Callable[..., Visit]]:
    """Opens the page: `visit(width=390, dark=True)`; afterwards nothing may have gone wrong in it."""
    from visiting import Visit

    visits: list[tuple[str, Visit]] = []

    def new_page(options: dict[str, Any]) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
        return context.new_page()

    def open_page(*, width: int = 1280, height: int = 800, dark: bool = False, **options: Any) -> Visit:
        options |= {"viewport": {"width": width, "height": height}, "color_scheme": "dark" if dark else "light"}
        free = free_pages.setdefault(repr(options), [])
        page = free.pop() if free else new_page(options)
        visits.append((repr(options), Visit(page=page, url=site.url)))
        return visits[-1][1].open()

    yield open_page
    for kind, visit in visits:
        visit.leave()
        free_pages[kind].append(visit.page)
    assert [visit.faults for _, visit in visits] == [[] for _ in visits]


@pytest.fixture
def reader(visit: Callable[..., Visit], scene: Path) -> Visit:
    """The page on a laptop, with the scene on it."""
    reader = visit()
    reader.choose(scene)
    return reader


@pytest.fixture
def scene() -> Path:
    return Path(__file__).resolve().parents[3] / "examples" / "scene.png"
