"""How the page looks and is reached: widths, light and dark, contrast, keyboard, screen readers, its policy."""

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the page is tested with playwright: pip install playwright")
pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
pytest.importorskip("fastapi", reason="the page is tested with a server: pip install fastapi uvicorn")

from axe_playwright_python.sync_playwright import Axe
from page_server import PAGE, Refuse, Say, entity, scene_answer
from playwright.sync_api import expect

CONTRAST = """() => {
    const pen = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
        .getContext("2d", {willReadFrequently: true});
    const drawn = (color, under) => {
        pen.fillStyle = `rgb(${under.join(",")})`;
        pen.fillRect(0, 0, 1, 1);
        pen.fillStyle = color;
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = (color) => {
        const [r, g, b] = color.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        const chain = [];
        for (let at = node; at; at = at.parentElement) chain.unshift(getComputedStyle(at).backgroundColor);
        return chain.reduce((under, color) => drawn(color, under), [255, 255, 255]);
    };
    const found = [];
    for (const node of document.querySelectorAll("body *:not(svg *)")) {
        const isText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!isText || node.matches(".hidden, .hidden *, .skip, noscript *") || !node.checkVisibility()) continue;
        const under = behind(node);
        const [a, b] = [luminance(drawn(getComputedStyle(node).color, under)), luminance(under)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        found.push([ratio, `${node.tagName}.${node.className} ${node.textContent.trim().slice(0, 30)}`]);
    }
    return found;
}"""

MANY = "".join(f"thing {k} and " for k in range(12))


def many_phrases() -> Say:
    return Say(text=MANY, entities=[entity(MANY, f"thing {k}", [(10, 10, 60 + k, 60)], [k]) for k in range(12)])


def full_page(reader, server, scene):
    """A page with about everything on it."""
    reader.refusals_expected = True
    reader.choose(scene)
    for _ in range(2):
        reader.page.keyboard.press("b")
        expect(reader.boxes.last).to_be_focused()
    server.answers = [scene_answer(), many_phrases(), Refuse(status=400, message="x" * 300)]
    reader.ask("Which is larger, [1] or [2]?")
    reader.ask("What is there? " + "Averyverylongword" * 12)
    reader.send("Once more about [1].")
    expect(reader.turns).to_have_count(3)
    expect(reader.turns.last).to_have_attribute("data-status", "failed")
    reader.page.get_by_role("switch", name="Proposals").check()
    reader.send("What is [9]?")
    reader.turns.nth(1).get_by_role("button", name="Show on picture").click()
    return reader


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844), (320, 568), (1024, 500)], ids=str)
def test_nothing_is_wider_than_the_screen(visit, server, scene, width, height):
    reader = visit(width=width, height=height)
    wide = "[document.documentElement.scrollWidth, document.querySelector('#log').scrollWidth]"
    assert max(reader.page.evaluate(wide)) <= width
    full_page(reader, server, scene)
    page_wide, log_wide = reader.page.evaluate(wide)
    assert page_wide <= width
    assert log_wide <= reader.page.evaluate("document.querySelector('#log').clientWidth")


def test_light_and_dark(visit):
    shade = "getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)[0]"
    light, dark = visit(), visit(dark=True)
    assert light.page.evaluate(shade) > 200
    assert dark.page.evaluate(shade) < 60
    button = light.page.get_by_role("button", name="Dark colours")
    expect(button).to_have_attribute("aria-pressed", "false")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert light.page.evaluate(shade) < 60
    light.open()
    assert light.page.evaluate(shade) < 60
    button.click()
    assert light.page.evaluate(shade) > 200
    assert light.page.evaluate("localStorage.length") == 0  # as the system wants it: nothing to remember


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read(visit, server, scene, dark):
    """AA: 4.5 to 1 for every text, with any phrase lit or not."""
    reader = visit(dark=dark, reduced_motion="reduce")
    found = reader.page.evaluate(CONTRAST)
    full_page(reader, server, scene)
    found += reader.page.evaluate(CONTRAST)
    for k in range(12):
        reader.phrase(f"thing {k}").focus()
        reader.settle()
        found += reader.page.evaluate(CONTRAST)
    assert len(found) > 100
    assert [text for ratio, text in found if ratio < 4.5] == []


def test_everything_has_a_name_and_a_place(visit, server, scene):
    reader = full_page(visit(), server, scene)
    tree = reader.page.context.new_cdp_session(reader.page).send("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "checkbox", "switch", "slider", "textbox", "link", "img", "image", "application", "log"}
    controls |= {"article", "region", "group"}
    nodes = [node for node in tree if not node["ignored"] and node["role"]["value"] in controls]
    assert len(nodes) > 40
    assert [node for node in nodes if not node.get("name", {}).get("value", "").strip()] == []
    for role in ("banner", "main", "log"):
        expect(reader.page.get_by_role(role)).to_have_count(1)
    for name in ("Picture", "Conversation"):
        expect(reader.page.get_by_role("region", name=name)).to_have_count(1)
        expect(reader.page.get_by_role("heading", name=name)).to_have_count(1)


@pytest.mark.parametrize(
    "kind",
    [{}, {"dark": True}, {"width": 390, "height": 844}, {"forced_colors": "active"}, {"width": 320, "height": 568}],
    ids=lambda kind: "-".join(map(str, kind.values())) or "laptop",
)
def test_axe_finds_nothing(visit, server, scene, kind):
    """The rules of axe-core: WCAG A and AA, and good practice; before a picture, and with about everything there."""
    reader = visit(reduced_motion="reduce", **kind)
    found = violations(reader)
    full_page(reader, server, scene)
    assert found + violations(reader) == []


def violations(reader):
    reader.settle()
    ran = Axe().run(reader.page).response
    assert len(ran["passes"]) > 20
    found = [(rule["id"], node["html"][:200]) for rule in ran["violations"] for node in rule["nodes"]]
    if not reader.page.evaluate("matchMedia('(forced-colors: active)').matches"):
        return found
    # the colours that axe reads are not those that the system forces, but for what keeps its own
    return [(rule, html) for rule, html in found if rule != "color-contrast" or 'class="phrase' in html]


def test_ids_are_there_once_and_references_lead_somewhere(visit, server, scene):
    reader = full_page(visit(), server, scene)
    ids = reader.page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))
    used = reader.page.evaluate(
        """["aria-describedby", "aria-labelledby", "for"].flatMap((name) =>
            [...document.querySelectorAll(`[${name}]`)].map((node) => node.getAttribute(name)))"""
    )
    assert set(used) <= set(ids) and len(used) > 12


def test_a_finished_answer_is_announced_once(reader, server):
    announcer = reader.page.locator("#announcer")
    expect(announcer).to_have_text("Picture scene.png, 480 by 480 pixels.")
    reader.page.evaluate("""() => {
        window.told = [];
        new MutationObserver(() => told.push(document.getElementById("announcer").textContent))
            .observe(document.getElementById("announcer"), {childList: true, characterData: true, subtree: true});
    }""")
    answer = scene_answer(step=2, hold_at=50)
    server.answers = [answer]
    reader.send("Describe the image in detail.")
    expect(reader.phrase("a bicycle")).to_be_visible()
    answer.go.set()
    expect(announcer).to_have_text(re.compile("^Answer: The image shows a gray balloon, .* rocket"))
    assert reader.page.evaluate("told") == [
        "Looking.",
        "Answer: The image shows a gray balloon, a bicycle, a burger, a red key, a banana, a cyan turtle and a brown "
        "rocket. 7 phrases are tied to regions.",
    ]
    expect(reader.log).to_have_attribute("aria-live", "off")


def test_a_whole_visit_by_keyboard(visit, server):
    reader = visit()
    keyboard = reader.page.keyboard

    def tab_to(locator):
        for _ in range(30):
            keyboard.press("Tab")
            if locator.evaluate("node => node === document.activeElement"):
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert reader.page.evaluate(outline) != "none" or locator.evaluate("node => !!node.closest('.field')")
                return
        raise AssertionError("the Tab key does not lead there")

    tab_to(reader.page.get_by_role("button", name="Example scene.png"))
    keyboard.press("Enter")
    expect(reader.question).to_have_value("Describe the image in detail.")
    expect(reader.question).to_be_focused()
    keyboard.press("Enter")
    expect(reader.turns.first).to_have_attribute("data-status", "done")
    keyboard.press("Shift+Tab")
    expect(reader.turns.first.get_by_role("button", name="Copy JSON")).to_be_focused()
    for _ in range(9):
        keyboard.press("Shift+Tab")
    expect(reader.phrase("a gray balloon")).to_be_focused()
    expect(reader.region("a gray balloon")).to_have_class(re.compile(r"\blit\b"))
    keyboard.press("Enter")
    expect(reader.phrase("a gray balloon")).to_have_attribute("aria-pressed", "true")


def test_the_focus_is_not_lost(reader, server):
    """What had it goes away, or is let go."""
    page = reader.page
    page.keyboard.press("b")
    expect(reader.box(1)).to_be_focused()
    page.keyboard.press("Escape")
    expect(reader.box(1)).to_be_focused()
    expect(reader.box(1)).to_have_attribute("aria-pressed", "false")
    server.answers = [scene_answer(breaks_off=True)]
    page.get_by_role("button", name="What is in the picture?").press("Enter")
    expect(reader.question).to_be_focused()
    page.get_by_role("button", name="Try again").press("Enter")
    expect(reader.question).to_be_focused()


def test_only_what_does_something_is_a_stop_of_the_tab_key(reader):
    reader.page.get_by_role("button", name="Choose another picture").focus()
    reader.page.keyboard.press("Tab")
    expect(reader.log).to_be_focused()


def test_a_line_at_the_bottom_waits_for_its_reader_and_hides_nothing(reader):
    reader.draw((100, 100, 200, 200))
    reader.page.clock.install()
    reader.ask("What is [1]?")
    reader.page.get_by_role("button", name="New conversation").click()
    undo = reader.page.get_by_role("button", name="Undo")
    line, composer = reader.page.locator(".toast").bounding_box(), reader.page.locator("#composer").bounding_box()
    assert line["y"] + line["height"] <= composer["y"]
    undo.hover()
    reader.page.clock.run_for(60_000)
    expect(undo).to_be_visible()
    reader.question.hover()
    reader.page.clock.run_for(13_000)
    expect(undo).to_have_count(0)


def test_with_forced_colors_a_switch_shows_its_state(visit):
    reader = visit(forced_colors="active")
    switch = reader.page.get_by_role("switch", name="Tie phrases to boxes")
    look = "node => [node, '::after'].map((p) => getComputedStyle(node, p === node ? null : p).backgroundColor).join()"
    before = switch.evaluate(look)
    switch.uncheck()
    assert before != switch.evaluate(look)


def test_motion_is_reduced_where_it_is_wished(visit, server, scene):
    for wish, name in (("reduce", "none"), ("no-preference", "swing")):
        server.answers = [Refuse(status=429, headers={"Retry-After": "9"})]
        reader = visit(reduced_motion=wish)
        reader.refusals_expected = True
        reader.choose(scene)
        reader.send("What is there?")
        expect(reader.turns.first).to_have_attribute("data-status", "queued")
        moving = "getComputedStyle(document.querySelector('.state'), '::before').animationName"
        assert reader.page.evaluate(moving) == name


def test_labels_do_not_hide_each_other(reader, server):
    reader.ask("Describe the image in detail.")
    reader.settle()
    rects = [tag.bounding_box() for tag in reader.page.locator("#tags > .tag").all()]
    assert len(rects) == 7
    for k, a in enumerate(rects):
        for b in rects[:k]:
            width = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
            height = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
            assert min(width, height) <= 1


def test_crowded_labels_are_left_out_until_their_phrase_is_lit(reader, server):
    text = " ".join(f"number{k:03}" for k in range(120))
    entities = [entity(text, f"number{k:03}", [(200, 200, 240 + k / 10, 240)], [k]) for k in range(120)]
    server.answers = [Say(text=text, entities=entities, step=400)]
    reader.ask("How many?")
    reader.settle()
    tags = reader.page.locator("#tags > .tag")
    assert 5 < tags.count() < 60
    missing = next(k for k in range(120) if tags.filter(has_text=f"number{k:03}").count() == 0)
    reader.phrase(f"number{missing:03}").focus()
    expect(tags.filter(has_text=f"number{missing:03} 97%")).to_be_visible()


def test_the_page_needs_nothing_that_its_policy_forbids():
    """No markup from strings, no inline scripts and styles, no address but its own."""
    for file in filter(Path.is_file, PAGE.iterdir()):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), file
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), file
        if file.suffix == ".html":
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\bsrc=)", text), file


def test_the_policy_is_in_force(visit, server):
    """Else the tests of this folder would show nothing."""
    reader = visit()
    blocked = reader.page.evaluate("""() => new Promise((resolve) => {
        document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
        document.head.append(Object.assign(document.createElement("script"), {textContent: "1"}));
    })""")
    assert blocked == "script-src-elem"
    assert any("Content Security Policy" in fault for fault in reader.faults)
    reader.faults.clear()
