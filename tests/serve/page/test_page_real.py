"""The page before the real server with groma-tiny: one visit that does everything, and its screenshots.

Screenshots are kept in out/page.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from conftest import FLAGS  # noqa: F401  # the browser is that of the other tests
from groma.image import load_image

SHOTS = Path(__file__).resolve().parents[3] / "out" / "page"
SLOW_MS = 60_000
"""On a busy machine."""


@pytest.fixture(scope="module")
def real_url(browser) -> Iterator[str]:
    """`groma serve`, as a user starts it."""
    command = [sys.executable, "-m", "groma.cli", "serve", "--port", "0", "--log-level", "warning"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        found = re.search(r"serving groma-tiny at (http://127\.0\.0\.1:(\d+))", line)
        assert found, line
        threading.Thread(target=server.stderr.read, daemon=True).start()
        until = time.monotonic() + 120
        while True:
            assert time.monotonic() < until and server.poll() is None
            connection = HTTPConnection("127.0.0.1", int(found[2]))
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.2)
        yield found[1]
        server.terminate()
        assert server.wait(60) == 0


@pytest.fixture
def real_visit(browser, real_url):
    from playwright.sync_api import expect
    from visiting import Visit

    visits = []

    def open_page(*, width=1280, height=800, dark=False, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", **options
        )
        context.set_default_timeout(SLOW_MS)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=real_url)
        visits.append(Visit(page=context.new_page(), url=real_url))
        return visits[-1].open()

    expect.set_options(timeout=SLOW_MS)
    yield open_page
    for visit in visits:
        visit.page.context.close()
    assert [visit.faults for visit in visits] == [[] for _ in visits]


def shoot(visit, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    visit.settle()
    visit.page.screenshot(path=SHOTS / f"{name}.png")


@pytest.mark.timeout(280)
def test_a_visit(real_visit, tmp_path):
    from playwright.sync_api import expect

    visit = real_visit()
    shoot(visit, "empty")
    visit.example()

    # a grounded answer: phrases and regions light up each other
    turn = visit.ask("Describe the image in detail.")
    phrases = turn.get_by_role("button").filter(has_text=re.compile(r"^an? "))
    assert phrases.count() >= 3
    name = str(phrases.nth(1).text_content())
    region = visit.region(name).first
    phrases.nth(1).hover()
    expect(region).to_have_class(re.compile("lit"))
    shoot(visit, "answer")
    visit.page.mouse.move(2, 2)
    x1, y1, x2, y2 = map(int, re.findall(r"\d+", str(region.get_attribute("aria-label")))[:4])
    visit.page.mouse.move(*visit.point((x1 + x2) / 2, (y1 + y2) / 2))
    expect(phrases.nth(1)).to_have_class(re.compile("lit"))

    # a box by mouse, a second turn that points at it
    box = (134.0, 188.0, 204.0, 262.0)
    visit.draw(box)
    turn = visit.ask("What is [1]?")
    assert "burger" in str(turn.text_content())
    body = visit.asked()
    assert body["messages"][-1]["regions"][0] == pytest.approx(list(box), abs=2)
    assert body["messages"][1]["grounding"]["entities"]
    shoot(visit, "box")

    # by keyboard: another box, moved, then deleted
    visit.page.keyboard.press("Escape")
    visit.page.get_by_role("button", name=re.compile("^Add box")).press("Enter")
    expect(visit.boxes).to_have_count(2)
    visit.box(2).focus()
    before = visit.box_px(2)
    visit.page.keyboard.press("ArrowRight")
    assert visit.box_px(2)[0] > before[0]
    visit.page.keyboard.press("Delete")
    expect(visit.boxes).to_have_count(1)

    # without grounding there are no phrases
    visit.page.get_by_role("switch", name="Tie phrases to boxes").uncheck()
    turn = visit.ask("Describe the image in detail.")
    assert visit.asked()["messages"][-1]["grounded"] is False

    # the answer as JSON, the picture as a file
    first = visit.turns.first
    first.click()
    first.get_by_role("button", name="Copy JSON").click()
    expect(visit.page.get_by_text("JSON copied.").first).to_be_attached()
    assert visit.copied_json()["message"]["grounding"]["entities"]
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Download the picture with its boxes").click()
    file = tmp_path / "drawn.png"
    download.value.save_as(file)
    assert min(load_image(file).size) >= 448


@pytest.mark.timeout(280)
def test_proposals_on_a_phone_in_the_dark(real_visit):
    from playwright.sync_api import expect

    visit = real_visit(width=390, height=844, dark=True, has_touch=True, is_mobile=True, device_scale_factor=2)
    visit.example()
    visit.ask("Describe the image in detail.")
    shoot(visit, "phone")
    visit.page.get_by_role("switch", name="Proposals").check()
    proposals = visit.page.locator("#proposal-boxes > *")
    expect(proposals.first).to_be_attached()
    slider = visit.page.get_by_role("slider", name="Objectness at least")
    slider.fill("0")
    many = proposals.count()
    slider.fill("0.9")
    visit.settle()
    assert proposals.count() < many
    shoot(visit, "phone-proposals")
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
